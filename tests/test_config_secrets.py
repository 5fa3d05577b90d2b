"""Settings with a password in them, which no message and no log shows."""

from pathlib import Path

import pytest

from backend.app import create_app
from backend.config import SettingsError, load
from tests.support.environment import SECRET, problem
from tests.support.gateway import settings_for


@pytest.mark.parametrize("name", ["JWT_SECRET_KEY", "DATABASE_URL", "REDIS_URL", "SMTP_URL"])
def test_secrets_are_never_printed(name: str) -> None:
    scheme = {"REDIS_URL": "redis", "SMTP_URL": "smtp"}.get(name, "postgresql")
    place = {"REDIS_URL": "db/1", "SMTP_URL": "db"}.get(name, "db/gateway")
    value = f"{scheme}://gateway:{SECRET}{SECRET}@{place}"
    settings = load({name: value}, None)
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert SECRET not in problem(**{name: value, "PORT": "x"})


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@mail.example",
        f"smtp://user:{SECRET}/more@mail.example",
        f"smtp://user:{SECRET}#more@mail.example",
        f"smtp://user:{SECRET}@mail.example:port",
        f"smtp://user:{SECRET}@mail.example:0",
        f"smtp://user:{SECRET}@mail.example/path",
        f"smtp://user:{SECRET}@",
        f"smtp://[{SECRET}",
        f"smtp://{SECRET}@mail.example",
        f"smtp://user:{SECRET} {SECRET}@mail.example",
        SECRET,
    ],
)
def test_a_mail_server_that_is_none_is_refused_without_showing_its_password(url: str) -> None:
    said = problem(SMTP_URL=url)
    assert said.startswith("SMTP_URL: needs ")
    assert SECRET not in said


@pytest.mark.parametrize("url", ["smtp://mail", "smtp://u:p%40ss@mail.example:25", "smtps://u:p@[::1]:465"])
def test_mail_servers_that_are_some(url: str) -> None:
    assert load({"SMTP_URL": url}, None).smtp_url is not None


@pytest.mark.parametrize(
    "sender", ["nobody", "a b@c.de", "a@b\r\nBcc: c@d.ef", "Name <a@b.co>", "a@b@c.de", ".a@b.co", "a@-b.co"]
)
def test_a_sender_that_could_be_another_header_is_refused(sender: str) -> None:
    assert problem(GATEWAY_MAIL_FROM=sender).startswith(
        "GATEWAY_MAIL_FROM: needs the form name@place.example"
    )


def test_a_database_of_another_kind_is_refused_without_showing_its_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        create_app(settings_for(tmp_path, database_url=f"mysql://u:{SECRET}@db/x"))
    assert "DATABASE_URL" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:p%40ss@10.0.0.1:6380/15",
        "rediss://user:pw@redis.example:6379/0?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
        "redis://[::1]:6379",
    ],
)
def test_address_of_a_redis_is_taken(url: str) -> None:
    found = load({"REDIS_URL": f" {url} "}, None).redis_url
    assert found is not None
    assert found.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        f"localhost:6379/{SECRET}",
        f"http://:{SECRET}@localhost:6379/0",
        f"redis://:{SECRET}@:6379/0",
        f"redis://:{SECRET}@localhost:port/0",
        f"redis://:{SECRET}@localhost:70000/0",
        f"redis://:{SECRET}@localhost/database",
        f"redis://:{SECRET}@localhost/0#x",
        # Any of the client's own options would do away with the limits on waiting.
        f"redis://:{SECRET}@localhost/0?socket_timeout=600",
        f"redis://:{SECRET}@[::1/0",
    ],
)
def test_bad_address_of_a_redis_is_named_without_showing_it(url: str) -> None:
    told = problem(REDIS_URL=url)
    assert told.startswith("REDIS_URL: ")
    assert SECRET not in told
