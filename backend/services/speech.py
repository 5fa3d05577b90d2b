"""Speech engines, as the avatar form offers them."""

import json
from pathlib import Path
from typing import Any

from backend.config import SettingsError
from backend.services.names import RESERVED

BUILT_IN = Path(__file__).with_name("speech_models.json")

Models = dict[str, dict[str, Any]]


def load(file: Path | None) -> Models:
    """Read the engines by short name. Engines that clone a voice have no ready-made timbres.

    Raises SettingsError when the file cannot be read or holds something else.
    """
    try:
        models = json.loads((file or BUILT_IN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"GATEWAY_TTS_MODELS: cannot be read as JSON ({type(exc).__name__})") from exc
    if not isinstance(models, dict) or not all(isinstance(model, dict) for model in models.values()):
        raise SettingsError("GATEWAY_TTS_MODELS: needs a JSON object of objects, one for each engine")
    if RESERVED in models:
        raise SettingsError(f"GATEWAY_TTS_MODELS: an engine cannot be called {RESERVED}")
    return {name: _shown(model) for name, model in models.items()}


def _shown(model: dict[str, Any]) -> dict[str, Any]:
    return {**model, "timbres": None, "cur_timbre": None} if model.get("clone") else model
