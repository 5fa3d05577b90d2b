import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.security import generate_password_hash

from backend.services.former_hashes import fits, former

METHODS = ["scrypt", "scrypt:1024:8:1", "pbkdf2", "pbkdf2:sha256:1000", "pbkdf2:sha512:10", "pbkdf2:sha1:10"]


@pytest.mark.parametrize("method", METHODS)
def test_former_hash_fits_its_password_and_no_other(method: str) -> None:
    hashed = generate_password_hash("correct horse 电池", method)
    assert former(hashed)
    assert fits(hashed, "correct horse 电池".encode())
    assert not fits(hashed, "correct horse 电".encode())
    assert not fits(hashed, b"")


@pytest.mark.parametrize(
    "hashed",
    [
        "",
        "scrypt:",
        "pbkdf2:",
        "scrypt:32768:8:1$salt$",
        "scrypt:3:8:1$salt$" + "0" * 128,
        "scrypt:0:8:1$salt$" + "0" * 128,
        "scrypt:9999999:99:99$salt$" + "0" * 128,
        "scrypt:1024:8:1$salt$" + "0" * 127,
        "pbkdf2:sha256:0$salt$" + "0" * 64,
        "pbkdf2:sha256:99999999999$salt$" + "0" * 64,
        "pbkdf2:md5:1000$salt$" + "0" * 32,
        "pbkdf2:sha256:1000$salt$" + "g" * 64,
        "pbkdf2:sha256:1000$$" + "0" * 64,
        "sha256$salt$" + "0" * 64,
        "plain$$password",
    ],
)
def test_hash_that_makes_no_sense_fits_nothing(hashed: str) -> None:
    assert not fits(hashed, b"password")


@given(st.text(max_size=60), st.binary(max_size=10))
def test_no_text_can_fail(hashed: str, password: bytes) -> None:
    assert not fits(hashed, password)
    assert not fits(f"pbkdf2:sha256:1$salt${hashed}", password)
