"""An environment that the settings' reader refuses, and a secret in it that nobody may see."""

import pytest

from backend.config import SettingsError, load

SECRET = "s3cr3t-that-nobody-may-see"


def problem(**environ: str) -> str:
    """What the settings' reader says about an environment."""
    with pytest.raises(SettingsError) as caught:
        load(environ, None)
    return str(caught.value)
