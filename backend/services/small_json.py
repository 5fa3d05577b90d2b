"""JSON that is read whole before anything else happens."""

import json
from typing import Any

from backend.errors import BadRequest
from backend.services.streams import ByteStream, small_body


async def small_json(body: ByteStream | None, limit: int) -> dict[str, Any]:
    """Read a JSON object. Raises BadRequest, TooLarge and UploadStalled."""
    return json_object(await small_body(body, limit))


def json_object(content: bytes) -> dict[str, Any]:
    """Raises BadRequest."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise BadRequest("Please send JSON.") from exc
    if not isinstance(fields, dict):
        raise BadRequest("Please send a JSON object.")
    return fields
