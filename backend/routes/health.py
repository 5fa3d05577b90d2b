"""Whether the gateway lives, and whether it can work. Nobody signs in for this, so it tells little."""

from flask import Blueprint

from backend.context import gateway
from backend.operations import Raw, operation
from backend.responses import GatewayResponse, answer
from backend.schemas.health import Alive, Ready
from backend.shortcut import direct

SERVICE = "avatar-gateway"

health = Blueprint("health", __name__, url_prefix="/api")


@health.get("/ping")
@operation(
    "Say pong.",
    tag="health",
    answers={200: Raw(("text/plain",), {"type": "string", "const": "pong"})},
    access="anyone",
)
@direct
async def ping() -> GatewayResponse:
    return GatewayResponse("pong", mimetype="text/plain")


@health.get("/health")
@operation("Tell that the process lives.", tag="health", answers={200: Alive}, access="anyone")
@direct
async def live() -> GatewayResponse:
    return answer({"status": "ok", "service": SERVICE})


@health.get("/health/detailed")
@operation(
    "Tell whether the gateway can work; 503 when its store is away.",
    tag="health",
    answers={200: Ready, 503: Ready},
    access="anyone",
)
@direct
async def ready() -> GatewayResponse:
    report = await gateway().readiness.report()
    content = {"status": report.status, "service": SERVICE, "checks": dict(report.checks)}
    return answer(content, 200 if report.store_is_up else 503)
