"""A proxy of Starlette and httpx on uvicorn."""

# The usual answer to "asynchronous reverse proxy in Python": one client, bodies streamed, uvloop and
# httptools below.

import contextlib
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.peers import HOP_BY_HOP, NOT_PASSED

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=200)


def application(upstream: str) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=upstream, limits=LIMITS, timeout=60, trust_env=False) as client:
            app.state.client = client
            yield

    return Starlette(routes=[Route("/{rest:path}", forward, methods=METHODS)], lifespan=lifespan)


async def forward(request: Request) -> StreamingResponse:
    client: httpx.AsyncClient = request.app.state.client
    headers = request.headers
    has_body = "content-length" in headers or "transfer-encoding" in headers
    call = client.build_request(
        request.method,
        httpx.URL(path=request.url.path, query=request.url.query.encode()),
        headers=[(name, value) for name, value in headers.items() if name not in NOT_PASSED],
        content=request.stream() if has_body else None,
    )
    answer = await client.send(call, stream=True)
    response = StreamingResponse(
        answer.aiter_raw(), status_code=answer.status_code, background=BackgroundTask(answer.aclose)
    )
    response.raw_headers = [
        (name.lower(), value) for name, value in answer.headers.raw if name.decode().lower() not in HOP_BY_HOP
    ]
    return response


if __name__ == "__main__":
    uvicorn.run(
        application(sys.argv[2]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
