"""Profile pictures: changing the own one, and showing anybody's to `img` elements, which carry no token."""

from flask import Blueprint

from backend.context import body, caller, gateway, inbound
from backend.operations import Raw, operation
from backend.responses import GatewayResponse, answer
from backend.schemas.user import PictureForm, PictureStored
from backend.services.headers import first
from backend.services.picture_form import FORM_BYTES
from backend.shortcut import direct

pictures = Blueprint("pictures", __name__)

# A name never shows anything else; a day later a deleted one is gone from caches, too.
CACHING = b"public, max-age=86400, immutable"


@pictures.post("/api/user/avatar")
@operation(
    "Replace the own picture.",
    tag="user",
    form=PictureForm,
    answers={200: PictureStored},
    errors=(400, 408, 413, 507),
    description="One still frame of at most 512 x 512 pixels is kept, and nothing else of the upload.",
)
@direct
async def change_picture() -> GatewayResponse:
    principal = await caller()
    content_type = first(inbound().headers, b"content-type") or b""
    url = await gateway().pictures.replace(principal, body(FORM_BYTES), content_type)
    return answer({"msg": "Your picture was saved.", "avatar_url": url})


@pictures.get("/static/avatars/<file_name>")
@operation(
    "Show a profile picture.",
    tag="static",
    access="anyone",
    answers={200: Raw(("image/jpeg", "image/png")), 304: None},
    errors=(404,),
)
@direct
async def picture(file_name: str) -> GatewayResponse:
    tag = f'"{file_name[:32]}"'
    content, content_type = await gateway().pictures.of(file_name)
    known = first(inbound().headers, b"if-none-match") or b""
    if _named(tag, known.decode("latin-1")):
        response = GatewayResponse(status=304)
    else:
        response = GatewayResponse(content, mimetype=content_type)
        response.put(b"x-content-type-options", b"nosniff")
        response.put(b"content-security-policy", b"default-src 'none'; sandbox")
    response.put(b"etag", tag.encode("ascii"))
    response.put(b"cache-control", CACHING)
    return response


def _named(tag: str, known: str) -> bool:
    """RFC 9110 section 13.1.2: weak comparison, `*` stands for whatever there is."""
    offered = {part.strip().removeprefix("W/") for part in known.split(",")}
    return tag in offered or "*" in offered
