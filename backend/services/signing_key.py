"""The key that signs tokens: given by a setting, or made once and kept where only its owner reads it."""

import logging
import os
import secrets
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from backend.config import Settings, SettingsError

log = logging.getLogger(__name__)


def load_key(settings: Settings) -> str:
    """The signing key: JWT_SECRET_KEY, else the one in `jwt.key` of the instance folder, made at first need.

    Raises SettingsError when the file cannot be used.
    """
    if settings.jwt_secret_key is not None:
        return settings.jwt_secret_key.get_secret_value()
    path = settings.gateway_instance_dir / "jwt.key"
    try:
        if not path.exists():
            _create_key(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            log.warning("%s could be read by others (mode %o), now only by its owner", path, mode)
            path.chmod(0o600)
        key = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"JWT_SECRET_KEY: not set, and {path} cannot be used ({exc})") from exc
    if len(key) < 32:
        raise SettingsError(f"JWT_SECRET_KEY: not set, and {path} holds less than 32 characters")
    return key


def _create_key(path: Path) -> None:
    """Write beside, then link: whoever comes first wins, and nobody ever sees half a key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
