"""The catalogue of avatars, which the real system calls the live server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from backend.demo.answers import Answer, as_detail, as_json
from backend.demo.forms import Form, read_form
from backend.demo.portrait import portrait
from backend.demo.probes import PROBES
from backend.demo.service import QUICK_SECONDS, Latency, Routes
from backend.demo.wire import Exchange

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
# Enough for every add of a test or a demo; older records go first.
ADDS_KEPT = 1000

# No avatar is called test_yongen, the name the old video button asks for.
AVATARS = (
    ("Tutor One", "Explains step by step and asks back", "EdgeTTS", "MuseTalk"),
    ("Ada Demo", "Computing, from punched cards to proofs", "EdgeTTS", "MuseTalk"),
    ("Prof Chen", "Physics with examples from the kitchen", "CosyVoice2", "MuseTalk"),
    ("Mei Lin", "Mandarin and English conversation", "CosyVoice2", "Wav2Lip"),
    ("Leo Park", "Algebra at a walking pace", "SoVITS", "Wav2Lip"),
    ("Sara_Okafor", "Biology and exam practice", "Tacotron2", "SyncNet"),
)

TTS_MODELS: dict[str, dict[str, object]] = {
    "edgeTTS": {"full_name": "EdgeTTS", "clone": False, "license": "MIT", "status": "active"},
    "tacotron": {"full_name": "Tacotron2", "clone": False, "license": "BSD-3-Clause", "status": "active"},
    "sovits": {"full_name": "SoVITS", "clone": True, "license": "MIT", "status": "active"},
    "cosyvoice": {"full_name": "CosyVoice2", "clone": True, "license": "Apache-2.0", "status": "active"},
}

Avatar = dict[str, object]


class Catalogue:
    """Lists, shows, adds and deletes avatars, in memory."""

    def __init__(self, latency: Latency, list_form: bool) -> None:
        self._latency = latency
        self._list_form = list_form
        self._avatars: dict[str, Avatar] = {name: _avatar(*rest) for name, *rest in AVATARS}
        self.adds: deque[dict[str, object]] = deque(maxlen=ADDS_KEPT)

    def __repr__(self) -> str:
        return f"<Catalogue {len(self._avatars)} avatars>"

    def routes(self) -> Routes:
        return {
            **PROBES,
            ("GET", "/avatar/get_avatars"): self.list,
            ("POST", "/avatar/preview"): _with_form(self.preview),
            ("POST", "/avatar/add"): _with_form(self.add),
            ("POST", "/avatar/delete"): _with_form(self.delete),
            ("GET", "/tts/models"): _tts_models,
            ("GET", "/health"): _health,
        }

    async def list(self, exchange: Exchange) -> Answer:
        await asyncio.sleep(QUICK_SECONDS)
        names_only = self._list_form or exchange.query.get("form") == "list"
        return as_json({"status": "success", "avatars": [*self._avatars] if names_only else self._avatars})

    async def preview(self, form: Form) -> Answer:
        name = form.fields.get("avatar_name")
        if name is None:
            return _field_required("avatar_name")
        if name not in self._avatars:
            return as_detail(f"Avatar {name} not found", 404)
        await self._latency.wait()
        return Answer(headers=((b"content-type", b"image/png"),), body=portrait(name))

    async def add(self, form: Form) -> Answer:
        name, face = form.fields.get("name"), form.files.get("prompt_face")
        if name is None or face is None:
            return _field_required("name" if name is None else "prompt_face")
        if not name.strip() or not face.filename or not face.size:
            return as_detail("The name or the video is empty", 400)
        if not face.filename.lower().endswith(VIDEO_SUFFIXES):
            return as_detail("Unsupported video format", 400)
        self.adds.append(form.record())
        await self._latency.wait()
        self._avatars[name] = _avatar_from(form.fields)
        path = f"avatars/{name}/image.png"
        return as_json({"status": "success", "message": f"Avatar {name} created", "image_path": path})

    async def delete(self, form: Form) -> Answer:
        name = form.fields.get("name")
        if name is None:
            return _field_required("name")
        if self._avatars.pop(name, None) is None:
            return as_json({"status": "error", "message": f"Avatar {name} does not exist"})
        return as_json({"status": "success", "message": f"Avatar {name} deleted"})


def _with_form(act: Callable[[Form], Awaitable[Answer]]) -> Callable[[Exchange], Awaitable[Answer]]:
    async def handler(exchange: Exchange) -> Answer:
        try:
            form = await read_form(exchange)
        except ValueError:
            return as_detail("There was an error parsing the body", 400)
        return await act(form)

    return handler


def _avatar(description: str, tts_model: str, avatar_model: str) -> Avatar:
    return {
        "tts_model": tts_model,
        "timbre": "default",
        "avatar_model": avatar_model,
        "description": description,
        "support_clone": tts_model in ("CosyVoice2", "SoVITS"),
        "avatar_blur": False,
        "created_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "status": "active",
    }


def _avatar_from(fields: dict[str, str]) -> Avatar:
    tts_model, avatar_model = fields.get("tts_model", "EdgeTTS"), fields.get("avatar_model", "MuseTalk")
    return {
        **_avatar(fields.get("description", ""), tts_model, avatar_model),
        "timbre": fields.get("timbre", "default"),
        "support_clone": fields.get("support_clone") == "true",
        "avatar_blur": fields.get("avatar_blur") == "true",
    }


def _field_required(name: str) -> Answer:
    missing = {"type": "missing", "loc": ["body", name], "msg": "Field required", "input": None}
    return as_json({"detail": [missing]}, 422)


async def _tts_models(exchange: Exchange) -> Answer:
    return as_json(TTS_MODELS)


async def _health(exchange: Exchange) -> Answer:
    return as_json({"status": "running", "service": "live-server"})
