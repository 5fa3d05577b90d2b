"""The existing frontend's side of the wire: its headers, its forms, and what it expects of an error."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

# What no answer may show: places, programs and exceptions behind the gateway.
INTERNAL = (
    "Traceback",
    "/srv/",
    "10.1.2.3",
    "127.0.0.1",
    "localhost",
    "line 41",
    "Error(",
    "Exception",
    "UpstreamBroken",
    "UpstreamGarbage",
    "reqwest",
    "httpx",
    "sqlalchemy",
    "sqlite",
    "内部错误",
)
ERROR_FIELDS = {"msg", "code", "request_id", "retryable"}

# Enough of a film and of a recording for everyone who looks at the first bytes only.
FILM = b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 16
VOICE = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(64)


@dataclass
class Frontend:
    """One signed-in tab; `token` None sends what axios sends then, which is no header at all."""

    http: httpx.AsyncClient
    token: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        known = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return {
            "Accept": "application/json, text/plain, */*",
            "X-Request-Time": str(int(time.time() * 1000)),
            **known,
        }

    async def get(self, path: str) -> httpx.Response:
        """axios.get, whose options end up in the query by mistake."""
        return await self.http.get(path, params={"timeout": "30000"}, headers=self.headers)

    async def json(self, path: str, content: Any = None) -> httpx.Response:
        return await self.http.post(path, json={} if content is None else content, headers=self.headers)

    async def new_chat(self, title: str = "New Chat") -> int:
        answer = await self.json("/api/chat/new", {"title": title})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["session_id"])

    async def messages(self, chat_id: int) -> list[tuple[str, str]]:
        """What was said in a conversation, as role and content."""
        listing = {"session_id": str(chat_id)}
        rows = good(await self.http.get("/api/message/list", params=listing, headers=self.headers))
        return [(row["role"], row["content"]) for row in rows]

    async def multipart(self, path: str, **fields: str) -> httpx.Response:
        """axios.post of a FormData without files."""
        parts = {name: (None, value) for name, value in fields.items()}
        return await self.http.post(path, files=parts, headers=self.headers)

    async def urlencoded(self, path: str, **fields: str) -> httpx.Response:
        """fetch of URLSearchParams."""
        return await self.http.post(path, data=fields, headers=self.headers)

    async def add(self, fields: dict[str, str], **files: Any) -> httpx.Response:
        """The tutor's form for a new avatar: text fields first, then files as (file name, content)."""
        texts = {name: (None, value) for name, value in fields.items()}
        return await self.http.post("/api/avatar/add", files=texts | files, headers=self.headers)


# `Frontend.multipart` or `Frontend.urlencoded`
Send = Callable[..., Awaitable[httpx.Response]]


def form_of(name: str = "New One") -> dict[str, str]:
    """The text fields of the tutor's form as the frontend fills them, without a voice."""
    return {
        "name": name,
        "avatar_blur": "false",
        "support_clone": "null",
        "timbre": "zh-CN-XiaoxiaoNeural",
        "ref_text": "你好, welcome",
        "tts_model": "CosyVoice2",
        "avatar_model": "MuseTalk",
        "prompt_voice": "",
    }


def refused(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Check that an answer is an error that the frontend can show, and return it."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/json"
    shown: dict[str, Any] = response.json()
    further = {"position"} if shown["code"] == "no_free_place" else set()
    assert set(shown) == ERROR_FIELDS | further
    assert isinstance(shown["msg"], str)
    assert shown["msg"]
    assert isinstance(shown["retryable"], bool)
    assert shown["request_id"] == response.headers["x-request-id"]
    assert shown["code"] == (code or shown["code"])
    if status == 504:
        # The frontend looks for this word, in small letters, and then says that the work goes on.
        assert "timeout" in shown["msg"]
    hidden(response)
    return shown


def hidden(response: httpx.Response, *further: str) -> None:
    """Check that an answer shows nothing of what is behind the gateway."""
    # The caller's own origin comes back to the caller.
    own = ("date", "access-control-allow-origin", "timing-allow-origin")
    everything = response.text + "".join(f"{k}: {v}\n" for k, v in response.headers.items() if k not in own)
    assert [word for word in (*INTERNAL, *further) if word in everything] == []


def good(response: httpx.Response) -> Any:
    """Check a success that the frontend's interceptors will not trip over, and return its JSON."""
    assert response.status_code == 200, (response.status_code, response.text)
    content = response.json()
    assert content is not None
    assert not (isinstance(content, dict) and "token" in content)
    return content
