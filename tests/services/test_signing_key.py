import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backend.config import Settings, SettingsError, load
from backend.services.signing_key import load_key
from tests.support.tokens import KEY

ROOT = Path(__file__).parents[2]


def keyed(folder: Path, key: str | None = None) -> Settings:
    return load({}, None, gateway_instance_dir=folder, jwt_secret_key=key)


def test_key_of_the_settings_wins_and_makes_no_file(tmp_path: Path) -> None:
    assert load_key(keyed(tmp_path, KEY)) == KEY
    assert list(tmp_path.iterdir()) == []


def test_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    key = load_key(keyed(tmp_path / "instance"))
    assert len(key) == 64
    assert load_key(keyed(tmp_path / "instance")) == key
    assert [path.name for path in (tmp_path / "instance").iterdir()] == ["jwt.key"]
    assert stat.S_IMODE((tmp_path / "instance" / "jwt.key").stat().st_mode) == 0o600


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from backend.config import load;"
        "from backend.services.signing_key import load_key; sys.stdin.readline();"
        "print(load_key(load({}, None, gateway_instance_dir=Path(sys.argv[1]))))"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    keys = {worker.communicate(timeout=60)[0].strip() for worker in workers}
    assert keys == {load_key(keyed(tmp_path))}


def test_key_file_that_others_can_read_is_closed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = load_key(keyed(tmp_path))
    (tmp_path / "jwt.key").chmod(0o644)
    assert load_key(keyed(tmp_path)) == key
    assert stat.S_IMODE((tmp_path / "jwt.key").stat().st_mode) == 0o600
    assert "could be read by others (mode 644)" in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff" * 40])
def test_unusable_key_file_stops_the_start_without_showing_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jwt.key").write_bytes(content)
    (tmp_path / "jwt.key").chmod(0o600)
    with pytest.raises(SettingsError, match="JWT_SECRET_KEY") as caught:
        load_key(keyed(tmp_path))
    assert "too short" not in str(caught.value)


def test_instance_folder_that_is_a_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("")
    with pytest.raises(SettingsError, match="JWT_SECRET_KEY"):
        load_key(keyed(tmp_path / "instance"))
