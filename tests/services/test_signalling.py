import pytest

from backend.errors import MethodNotAllowed, NotFound
from backend.services.forwarding import MEGABYTE, Inbound
from backend.services.headers import NO_CREDENTIALS, Origin
from backend.services.signalling import ALLOWED, Signalling

ORIGIN = Origin("192.0.2.7", "http", b"gateway.test", "1.1", "0123456789abcdef")


class Nobody:
    """Stands where nothing may be asked."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"asked for {name}")


def test_allowed_calls_are_the_seven_of_the_instances_and_health() -> None:
    assert {path: method for path, (method, _) in ALLOWED.items()} == {
        "offer": "POST",
        "human": "POST",
        "humanaudio": "POST",
        "interrupt_talk": "POST",
        "is_speaking": "POST",
        "record": "POST",
        "set_audiotype": "POST",
        "health": "GET",
    }


def test_only_recordings_may_be_large_and_no_credentials_pass() -> None:
    for path, (_, rules) in ALLOWED.items():
        assert (rules.max_body > MEGABYTE) is (path == "humanaudio")
        assert rules.passage == NO_CREDENTIALS


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("POST", "", NotFound),
        ("POST", "offer/", NotFound),
        ("POST", "Offer", NotFound),
        ("GET", "webrtcapi.html", NotFound),
        ("POST", "../offer", NotFound),
        ("GET", "offer", MethodNotAllowed),
        ("HEAD", "health", MethodNotAllowed),
        ("POST", "health", MethodNotAllowed),
        ("DELETE", "human", MethodNotAllowed),
    ],
)
async def test_other_calls_are_refused_before_anyone_is_asked(
    method: str, path: str, error: type[Exception]
) -> None:
    nobody = Nobody()
    signalling = Signalling(nobody, nobody)  # type: ignore[arg-type]
    inbound = Inbound(method, b"/api/webrtc/" + path.encode(), b"", (), None, ORIGIN)
    with pytest.raises(error):
        await signalling.call(inbound, 1, path)
