"""Any text at all, as a setting, is a value or is told the form."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from backend.config import Settings, SettingsError, load
from tests.support.environment import problem


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_any_ordered_pair_of_ports_is_a_range(one: int, other: int) -> None:
    first, last = sorted((one, other))
    assert load({"AVATAR_INSTANCE_PORTS": f" {first} - {last} "}, None).avatar_instance_ports == (first, last)
    if first < last:
        assert "lower one first" in problem(AVATAR_INSTANCE_PORTS=f"{last}-{first}")


any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def read_or_refused(name: str, text: str) -> Settings | str:
    try:
        return load({name: text}, None)
    except SettingsError as error:
        return str(error)


@given(any_text | st.from_regex(r"[0-9 -]{1,12}", fullmatch=True))
def test_any_text_is_a_port_range_or_is_told_the_form(text: str) -> None:
    result = read_or_refused("AVATAR_INSTANCE_PORTS", text)
    if isinstance(result, str):
        assert result.startswith("AVATAR_INSTANCE_PORTS: needs")
    else:
        first, last = result.avatar_instance_ports
        assert 1 <= first <= last <= 65535


bases = st.sampled_from(["", "/", "/base", "/a/b/"])
hosts = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,8})?", fullmatch=True)


@given(
    st.sampled_from(["http", "https"]),
    hosts,
    st.integers(1, 65535),
    bases,
)
def test_urls_lose_their_last_slash_and_nothing_else(scheme: str, host: str, port: int, path: str) -> None:
    url = f"{scheme}://{host}:{port}{path}"
    assert load({"LLM_URL": url}, None).llm_url == (url.rstrip("/"),)
    assert load({"AVATAR_SERVICE_URL": f"{url}, {url}"}, None).avatar_service_url == (url.rstrip("/"),) * 2


@given(any_text.map(lambda text: "http://" + text) | any_text)
def test_any_text_is_a_plain_url_or_is_told_the_form(text: str) -> None:
    result = read_or_refused("LLM_URL", text)
    if isinstance(result, str):
        assert result.startswith("LLM_URL: ")
        assert len(result.splitlines()) == 1
    else:
        assert all(re.fullmatch(r"https?://[\x21-\x7e]+", url) for url in result.llm_url)


@given(any_text | st.recursive(st.none() | st.integers() | any_text, st.lists).map(json.dumps))
def test_any_text_is_a_list_of_mounts_or_is_told_the_form(text: str) -> None:
    result = read_or_refused("GATEWAY_MOUNTS", text)
    assert result.startswith("GATEWAY_MOUNTS") if isinstance(result, str) else result.gateway_mounts == ()
