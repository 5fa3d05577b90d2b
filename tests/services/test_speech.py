import json
from pathlib import Path

import pytest

from backend.config import SettingsError
from backend.services.speech import load


def test_built_in_engines_that_clone_have_no_timbres() -> None:
    engines = load(None)
    assert {name for name, engine in engines.items() if engine["clone"]} == {"sovits", "cosyvoice"}
    for engine in engines.values():
        assert (engine["timbres"] is None) is engine["clone"]
        assert (engine["cur_timbre"] is None) is engine["clone"]


def test_file_replaces_the_built_in_engines(tmp_path: Path) -> None:
    file = tmp_path / "engines.json"
    plain = {"full_name": "x", "clone": False, "timbres": ["a"], "cur_timbre": "a"}
    file.write_text(json.dumps({"x": plain, "y": plain | {"clone": True}}))
    assert load(file) == {"x": plain, "y": plain | {"clone": True, "timbres": None, "cur_timbre": None}}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b'{"a": []}', b"\xff\xfe", b'{"token": {}}'])
def test_file_that_holds_something_else_names_the_setting(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "engines.json"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="GATEWAY_TTS_MODELS"):
        load(file)


def test_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_TTS_MODELS"):
        load(tmp_path / "none.json")
