"""Whether the gateway lives, and whether it can work. Nobody signs in for this, so it tells little."""

from flask import Blueprint

from backend.context import gateway
from backend.responses import GatewayResponse, answer
from backend.shortcut import direct

SERVICE = "avatar-gateway"

health = Blueprint("health", __name__, url_prefix="/api")


@health.get("/ping")
@direct
async def ping() -> GatewayResponse:
    return GatewayResponse("pong", mimetype="text/plain")


@health.get("/health")
@direct
async def live() -> GatewayResponse:
    return answer({"status": "ok", "service": SERVICE})


@health.get("/health/detailed")
@direct
async def ready() -> GatewayResponse:
    report = await gateway().readiness.report()
    content = {"status": report.status, "service": SERVICE, "checks": dict(report.checks)}
    return answer(content, 200 if report.store_is_up else 503)
