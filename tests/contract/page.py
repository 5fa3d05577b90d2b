"""One tab of the existing frontend: what its two ways of calling send, keep and trip over."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.instance import OFFER

PAGE_PORT = 3000
ALL_METHODS = ("GET", "POST", "PUT", "DELETE")


class PageBroke(AssertionError):
    """The page would have thrown, or shown something that nobody meant."""


@dataclass
class Alert:
    """What a person gets to see instead of the fixed words for 403, 404 and 500."""

    status: int
    shown: str | None


@dataclass
class Page:
    """A tab at `http://<host>:3000`; `token` is what its local storage holds."""

    http: httpx.AsyncClient
    token: str | None = None
    signed_out: bool = False
    alerts: list[Alert] = field(default_factory=list)
    preflights: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://{self.http.base_url.host}:{PAGE_PORT}"

    async def axios(self, method: str, path: str, **what: Any) -> httpx.Response:
        """A call by axios: time stamp, token if there is one, and interceptors that look at the answer."""
        headers = {
            "Accept": "application/json, text/plain, */*",
            "X-Request-Time": str(int(time.time() * 1000)),
        }
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        response = await self._send(method, path, headers, what)
        self._intercept(response)
        return response

    async def fetch(self, method: str, path: str, **what: Any) -> httpx.Response:
        """A call by fetch: the token as it is stored, also when there is none."""
        headers = {"Authorization": f"Bearer {'null' if self.token is None else self.token}"}
        return await self._send(method, path, headers | what.pop("headers", {}), what)

    async def login(self, email: str, password: str) -> None:
        answer = await self.axios("POST", "/api/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["token"]
        self.signed_out = False

    async def ask(self, question: str, session_id: object) -> "Conversation":
        """Send a question and read the answer as the page does: read by read, nothing carried over."""
        heard = Conversation()
        form = {"message": (None, question), "session_id": (None, str(session_id))}
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        await self.preflight("POST", "/api/chat/stream", "authorization")
        request = self.http.build_request(
            "POST", "/api/chat/stream", files=form, headers=headers | {"Origin": self.origin}
        )
        response = await self.http.send(request, stream=True)
        try:
            heard.status, heard.headers = response.status_code, response.headers
            self._readable(response)
            if response.status_code == 200:
                async for read in response.aiter_raw():
                    heard.take(read)
                heard.closed = True
        finally:
            await response.aclose()
        return heard

    async def preflight(self, method: str, path: str, names: str) -> None:
        """Ask as a browser does before a call; fails when the browser would not make it."""
        asked = {
            "Origin": self.origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": names,
        }
        self.preflights.append(names)
        answer = await self.http.options(path, headers=asked)
        headers = answer.headers
        if answer.status_code not in (200, 204):
            raise PageBroke(f"preflight of {method} {path}: {answer.status_code}")
        if headers.get("access-control-allow-origin") != self.origin:
            raise PageBroke(f"preflight of {method} {path}: origin {self.origin} is not allowed")
        allowed = {
            name.strip().lower() for name in headers.get("access-control-allow-headers", "").split(",")
        }
        methods = {name.strip() for name in headers.get("access-control-allow-methods", "").split(",")}
        if not set(names.split(",")) <= allowed or method not in methods:
            raise PageBroke(f"preflight of {method} {path}: {allowed}, {methods}")

    async def _send(
        self, method: str, path: str, headers: dict[str, str], what: dict[str, Any]
    ) -> httpx.Response:
        names = sorted(name.lower() for name in headers if name.lower() != "accept")
        if "json" in what or headers.get("Content-Type") == "application/json":
            names = sorted({*names, "content-type"})
        if names:
            await self.preflight(method, path, ",".join(names))
        response = await self.http.request(method, path, headers=headers | {"Origin": self.origin}, **what)
        self._readable(response)
        return response

    def _readable(self, response: httpx.Response) -> None:
        if response.headers.get("access-control-allow-origin") != self.origin:
            raise PageBroke(f"{response.request.url.path}: the page may not read this answer")

    def _intercept(self, response: httpx.Response) -> None:
        is_json = response.headers.get("content-type", "").startswith("application/json")
        content = response.json() if is_json and response.content else ""
        if response.status_code < 400:
            if content is None:
                raise PageBroke(f"{response.request.url.path}: null")
            if isinstance(content, dict) and content.get("token"):
                self.token = content["token"]
            return
        msg = content.get("msg") if isinstance(content, dict) else None
        if msg is not None and not isinstance(msg, str):
            raise PageBroke(f"{response.request.url.path}: msg is no text")
        fixed = response.status_code in (403, 404, 500)
        self.alerts.append(Alert(response.status_code, None if fixed else msg or "Request failed"))
        if response.status_code == 401:
            self.token, self.signed_out = None, True


@dataclass
class Conversation:
    """What the page makes of an answer: only whole `data: ` lines within one read count."""

    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    text: str = ""
    finished: bool = False
    closed: bool = False
    lost: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def take(self, read: bytes) -> None:
        for line in read.decode("utf-8", "replace").split("\n"):
            line = line.rstrip("\r")
            if not line or line.startswith(":"):
                continue
            if not line.startswith("data: "):
                self.lost.append(line)
                continue
            try:
                event = json.loads(line[6:])
            except ValueError:
                self.lost.append(line)
                continue
            self.events.append(event)
            self.text += event.get("chunk") or ""
            self.finished = self.finished or event.get("status") == "finished"


async def connected(page: Page, name: str = "Ada Demo") -> int:
    """What the video button does; returns the session number."""
    started = await page.fetch("POST", "/api/avatar/start", data={"avatar_name": name})
    assert started.status_code == 200, started.text
    assert isinstance(started.json()["is_new_instance"], bool)
    offered = await page.fetch("POST", "/api/webrtc/offer", json=OFFER)
    assert offered.status_code == 200, offered.text
    assert offered.json()["type"] == "answer"
    assert isinstance(offered.json()["sdp"], str)
    session = offered.json()["sessionid"]
    assert isinstance(session, int)
    return session


async def opened(page: Page, title: str = "New Chat") -> int:
    answer = await page.axios("POST", "/api/chat/new", json={"title": title})
    assert answer.status_code == 201, answer.text
    session = answer.json()["session_id"]
    assert session
    return int(session)


async def messages(page: Page, session_id: int) -> list[tuple[str, str]]:
    answer = await page.axios("GET", "/api/message/list", params={"session_id": session_id})
    assert answer.status_code == 200, answer.text
    return [(message["role"], message["content"]) for message in answer.json()]
