"""fastapi-proxy-lib, a ready-made reverse proxy for FastAPI, on uvicorn."""

# The library as its manual shows it, with an httpx client that keeps enough connections.

import sys

import httpx
import uvicorn
from fastapi_proxy_lib.fastapi.app import reverse_http_app

LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=200)

if __name__ == "__main__":
    uvicorn.run(
        reverse_http_app(
            httpx.AsyncClient(limits=LIMITS, timeout=60, trust_env=False), base_url=sys.argv[2] + "/"
        ),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
