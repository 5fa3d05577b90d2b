import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.redaction import HIDDEN, MOST_CHARACTERS, Redaction

redact = Redaction()
# What is hidden begins in a way that nothing around it does: it cannot be found there by chance.
words = st.text(string.ascii_letters + string.digits, min_size=8, max_size=40).map("Q9{}".format)
around = st.text(max_size=60).filter(lambda text: "?" not in text)
base64 = st.text(string.ascii_letters + string.digits + "_-", min_size=12, max_size=60).map("Q9{}".format)


@given(around, base64, base64, base64, around)
def test_a_signed_token_never_shows(before: str, head: str, body: str, mark: str, after: str) -> None:
    told = redact(f"{before} eyJ{head}.{body}.{mark} {after}")
    for part in (head, body, mark):
        assert part not in told or part in before + after


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BASIC"])
@given(value=base64)
def test_a_credential_never_shows(scheme: str, value: str) -> None:
    assert value not in redact(f"sent Authorization: {scheme} {value}, and more")
    assert value not in redact(f"{scheme} {value}")


KEYS = [
    "password",
    "new_password",
    "Password",
    "token",
    "access_token",
    "api_key",
    "secret",
    "set-cookie",
    "pwd",
]
FORMS = [
    '{{"{key}": "{value}", "name": "x"}}',
    "{{'{key}': '{value}'}}",
    "{key}={value}&name=x",
    "{key}='{value}' name",
    "{key}: {value}",
    '{key} = "{value}"',
    "f({key}=b'{value}')",
]


@pytest.mark.parametrize("form", FORMS)
@given(key=st.sampled_from(KEYS), value=words)
def test_the_value_of_a_secret_key_never_shows(form: str, key: str, value: str) -> None:
    told = redact(form.format(key=key, value=value))
    assert value not in told
    assert HIDDEN in told


@given(st.text(max_size=30).filter(lambda text: '"' not in text and "\\" not in text), around)
def test_a_quoted_password_never_shows_whatever_is_in_it(value: str, after: str) -> None:
    marked = f"begin{value}end"
    assert marked not in redact(f'{{"password": "{marked}"}} {after}')


@given(around, words, st.sampled_from(["@", "%40"]), words, around)
def test_an_e_mail_address_never_shows(before: str, name: str, at: str, host: str, after: str) -> None:
    told = redact(f"{before} {name}{at}{host}.example.com {after}")
    assert f"{name}{at}" not in told
    assert name not in told or name in before + after


def test_an_address_in_chinese_text_never_shows() -> None:
    assert "bob" not in redact("用户bob@example.com已登录")
    assert "小明" not in redact("邮箱 小明@例子.中国")


@given(
    st.text(string.ascii_lowercase, min_size=1),
    st.text(string.ascii_uppercase + string.digits + "=&%+-._~?/'", max_size=40).map("Q9{}".format),
)
def test_a_query_string_never_shows(path: str, query: str) -> None:
    assert query not in redact(f"GET /api/{path}?{query} HTTP/1.1")
    assert query not in redact(f"http://127.0.0.1:8606/{path}?{query} failed")


@given(words, words)
def test_a_password_in_an_address_never_shows(user: str, password: str) -> None:
    told = redact(f"cannot reach postgresql+psycopg://{user}:{password}@db.internal/gateway")
    assert password not in told


@given(words, around)
def test_what_the_settings_call_secret_never_shows(secret: str, text: str) -> None:
    told = Redaction([secret])(f"{text}{secret}{text}")
    assert secret not in told or secret in text


@pytest.mark.parametrize(
    "text",
    [
        "worker 4711 ended with -9 after 3.2 s",
        "502 POST /api/webrtc/<path:path> after 0.100 s, 0 bytes in, 141 out, upstream_refused by upstream",
        "workers do not start: giving up",
        'File "/opt/gateway/backend/app.py", line 7, in view',
        "is it there? nobody knows",
        "",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "piece",
    ["/", "?", "a?", "a@", "@", "token", "password=", '"', "\\", "eyJ.", "://", "%40", "a", " ", "'\\"],
)
def test_hostile_lines_cost_no_time_to_speak_of(piece: str) -> None:
    began = time.thread_time()
    redact(piece * (2 * MOST_CHARACTERS // len(piece)))
    assert time.thread_time() - began < 2


def test_endless_lines_are_cut() -> None:
    assert len(redact("x" * 10_000_000)) < MOST_CHARACTERS + 100
