import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.app import create_app
from backend.config import Settings, SettingsError
from backend.demo.faults import Switch
from backend.demo.world import World
from tests.support.frontend import Frontend, good
from tests.support.gateway import serving


@pytest.mark.asyncio
async def test_engines_have_what_the_avatar_form_reads(student: Frontend, world: World) -> None:
    await world.control.put(Switch("catalogue", "refuse"))
    engines = good(await student.get("/api/tts/models"))
    assert set(engines) == {"edgeTTS", "tacotron", "sovits", "cosyvoice"}
    for engine in engines.values():
        assert {"full_name", "clone", "license", "status", "timbres", "cur_timbre"} <= set(engine)
        if engine["clone"]:
            assert (engine["timbres"], engine["cur_timbre"]) == (None, None)
        else:
            assert engine["cur_timbre"] in engine["timbres"]
    assert [name for name, engine in engines.items() if engine["clone"]] == ["sovits", "cosyvoice"]
    assert engines["cosyvoice"]["full_name"] == "CosyVoice2"


@pytest.mark.asyncio
async def test_file_of_ones_own_replaces_the_engines(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    file = tmp_path / "engines.json"
    mine = {"full_name": "我的", "clone": True, "timbres": ["a"], "cur_timbre": "a"}
    file.write_text(json.dumps({"mine": mine}))
    async with serving(settings(gateway_tts_models=file)) as served:
        student = Frontend(served.http, await served.token())
        assert good(await student.get("/api/tts/models")) == {
            "mine": {"full_name": "我的", "clone": True, "timbres": None, "cur_timbre": None}
        }


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"token": {}}', None])
def test_file_that_cannot_be_used_stops_the_start(
    settings: Callable[..., Settings], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "engines.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match="GATEWAY_TTS_MODELS"):
        create_app(settings(gateway_tts_models=file))
