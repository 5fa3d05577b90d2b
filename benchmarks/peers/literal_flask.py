"""Hypercorn, asgiref's WsgiToAsgi, a Flask async view and httpx, put together as their manuals say."""

# The plain combination that this gateway replaces: asgiref's adapter serves one request at a time.

import sys

import httpx
from asgiref.wsgi import WsgiToAsgi
from flask import Flask, Response, request

from benchmarks import hypercorn_server
from benchmarks.peers import HOP_BY_HOP, NOT_PASSED


def application(upstream: str) -> Flask:
    app = Flask(__name__)
    client = httpx.AsyncClient(base_url=upstream, timeout=60, trust_env=False)

    @app.route("/<path:rest>", methods=["GET", "POST"])
    async def forward(rest: str) -> Response:
        answer = await client.request(
            request.method,
            f"/{rest}",
            params=request.query_string,
            headers=[(name, value) for name, value in request.headers if name.lower() not in NOT_PASSED],
            content=request.get_data(),
        )
        headers = [(name, value) for name, value in answer.headers.items() if name not in HOP_BY_HOP]
        return Response(answer.content, answer.status_code, headers)

    return app


if __name__ == "__main__":
    adapted = WsgiToAsgi(application(sys.argv[2]))  # type: ignore[no-untyped-call]
    hypercorn_server.serve(adapted, int(sys.argv[1]))
