"""The student's avatar: list, start, video call, switch; and the tutor's page about avatars."""

import asyncio

import pytest

from backend import errors
from backend.demo.faults import Switch
from tests.contract.page import Page, connected
from tests.contract.stage import Scene
from tests.support.frontend import FILM, form_of, refused
from tests.support.instance import OFFER

OPTION = {"timeout": "30000"}


@pytest.mark.asyncio
async def test_list_has_an_object_for_every_name_and_no_stray_key(student: Page) -> None:
    answer = await student.axios("GET", "/api/avatar/list", params=OPTION)
    avatars = answer.json()
    assert len(avatars) > 1
    for avatar in avatars.values():
        assert isinstance(avatar["description"], str)
        assert isinstance(avatar["status"], str)
    assert student.token not in (None, "")


@pytest.mark.asyncio
async def test_option_object_in_the_query_changes_nothing(student: Page) -> None:
    for path in ("/api/avatar/list", "/api/tts/models"):
        plain = await student.axios("GET", path)
        stray = await student.axios("GET", path, params=OPTION)
        assert (stray.status_code, stray.json()) == (200, plain.json())


@pytest.mark.asyncio
async def test_name_of_a_first_visit_starts_an_avatar_that_is_there(scene: Scene, student: Page) -> None:
    names = (await student.axios("GET", "/api/avatar/list", params=OPTION)).json()
    assert "test_yongen" not in names
    answer = await student.fetch("POST", "/api/avatar/start", data={"avatar_name": "test_yongen"})
    assert answer.status_code == 200
    running = (await scene.served.http.get(f"{scene.world.manager_url}/avatar/list")).json()["data"]
    assert [info["real_avatar_name"] for info in running] == [next(iter(names))]


@pytest.mark.asyncio
async def test_multipart_and_urlencoded_starts_are_one_connection(scene: Scene, student: Page) -> None:
    by_axios = await student.axios("POST", "/api/avatar/start", files={"avatar_name": (None, "Ada Demo")})
    by_fetch = await student.fetch("POST", "/api/avatar/start", data={"avatar_name": "Ada Demo"})
    assert (by_axios.status_code, by_fetch.status_code) == (200, 200)
    assert by_axios.json()["is_new_instance"] is True
    assert by_fetch.json()["is_new_instance"] is False
    running = (await scene.served.http.get(f"{scene.world.manager_url}/avatar/list")).json()["data"]
    assert [info["connections"] for info in running] == [1]


@pytest.mark.asyncio
async def test_switching_lets_go_of_the_former_avatar(scene: Scene, student: Page) -> None:
    names = list((await student.axios("GET", "/api/avatar/list")).json())[:2]
    await connected(student, names[0])
    await student.axios("POST", "/api/avatar/start", files={"avatar_name": (None, names[1])})
    await connected(student, names[1])
    counted: list[tuple[str, int]] = []
    async with asyncio.timeout(10):
        while counted != [(names[1], 1)]:  # the manager is told beside the answers
            running = (await scene.served.http.get(f"{scene.world.manager_url}/avatar/list")).json()["data"]
            counted = [(info["real_avatar_name"], info["connections"]) for info in running]


@pytest.mark.asyncio
async def test_many_starts_at_once_are_one(scene: Scene, student: Page) -> None:
    answers = await asyncio.gather(
        *(student.fetch("POST", "/api/avatar/start", data={"avatar_name": "Ada Demo"}) for _ in range(8))
    )
    assert {answer.status_code for answer in answers} == {200}
    running = (await scene.served.http.get(f"{scene.world.manager_url}/avatar/list")).json()["data"]
    assert [info["connections"] for info in running] == [1]


@pytest.mark.asyncio
async def test_names_that_a_shell_or_a_path_would_read_are_refused(scene: Scene, student: Page) -> None:
    before = scene.world.ledger("manager").calls
    for name in ("../x", "a;b", "$(id)", "a/b", "-rf", ".", "a\x00b", "x" * 65, "a\nb", "`id`", "token"):
        answer = await student.fetch("POST", "/api/avatar/start", data={"avatar_name": name})
        assert (name, answer.status_code) == (name, 400)
    refused(await student.fetch("POST", "/api/avatar/start", data={"avatar_name": "Nobody"}), 404)
    assert scene.world.ledger("manager").calls == before


@pytest.mark.asyncio
async def test_signalling_leads_nowhere_but_to_the_callers_own_avatar(
    scene: Scene, student: Page, tutor: Page
) -> None:
    await connected(student)
    refused(await tutor.fetch("POST", "/api/webrtc/offer", json=OFFER), 409, "conflict")
    for path in ("/api/webrtc/echo", "/api/webrtc/index.html", "/api/webrtc/"):
        assert (await student.fetch("GET", path)).status_code == 404
    nobody = await scene.page().fetch("POST", "/api/webrtc/offer", json=OFFER)
    refused(nobody, 401, "not_authenticated")


@pytest.mark.asyncio
async def test_full_instance_is_a_503_and_not_an_answer_without_sdp(scene: Scene, student: Page) -> None:
    await student.fetch("POST", "/api/avatar/start", data={"avatar_name": "Ada Demo"})
    await scene.world.control.put(Switch("instance", "code-1"))
    refused(await student.fetch("POST", "/api/webrtc/offer", json=OFFER), 503, "upstream_busy")


@pytest.mark.asyncio
async def test_avatar_that_has_gone_is_an_error_with_words_and_starting_again_helps(
    scene: Scene, student: Page
) -> None:
    await connected(student)
    running = (await scene.served.http.get(f"{scene.world.manager_url}/avatar/list")).json()["data"]
    stop = {"avatar_id": running[0]["avatar_id"]}
    await scene.served.http.post(f"{scene.world.manager_url}/avatar/stop", json=stop)
    assert (await student.fetch("POST", "/api/webrtc/offer", json=OFFER)).status_code in (502, 503)
    await connected(student)


@pytest.mark.asyncio
async def test_every_failure_of_a_service_is_told_in_words_that_the_page_shows(
    scene: Scene, student: Page
) -> None:
    for fault in ("reset", "500", "garbage", "refuse"):
        await scene.world.control.put(Switch("manager", fault))
        answer = await student.axios("POST", "/api/avatar/start", files={"avatar_name": (None, "Ada Demo")})
        assert answer.status_code in (502, 503), fault
        shown = refused(answer, answer.status_code)
        assert student.alerts[-1].shown == shown["msg"]
        await scene.world.control.clear()


@pytest.mark.asyncio
async def test_preview_is_a_picture_with_the_length_and_type_it_has(student: Page) -> None:
    answer = await student.axios("POST", "/api/avatar/preview", files={"avatar_name": (None, "Ada Demo")})
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")
    assert {"content-encoding", "transfer-encoding"}.isdisjoint(answer.headers)


@pytest.mark.asyncio
async def test_only_tutors_make_and_delete_avatars(scene: Scene, student: Page, tutor: Page) -> None:
    film = {"prompt_face": ("face.mp4", FILM, "video/mp4")}
    form = {name: (None, value) for name, value in form_of("New One").items()}
    refused(await student.axios("POST", "/api/avatar/add", files=form | film), 403, "not_allowed")
    refused(await student.axios("POST", "/api/avatar/delete", files={"name": (None, "Ada Demo")}), 403)
    # The page shows words of its own for this status.
    assert student.alerts[-1].shown is None
    added = await tutor.axios("POST", "/api/avatar/add", files=form | film)
    assert added.json()["status"] == "success"
    assert "New One" in (await tutor.axios("GET", "/api/avatar/list", params=OPTION)).json()
    gone = await tutor.axios("POST", "/api/avatar/delete", files={"name": (None, "New One")})
    assert gone.json()["status"] == "success"
    assert "New One" not in (await tutor.axios("GET", "/api/avatar/list", params=OPTION)).json()


def test_slow_service_is_a_504_with_the_word_that_the_page_looks_for() -> None:
    """The page calls it still running when the words have `timeout` in small letters."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    late = [kind for kind in kinds if issubclass(kind, errors.GatewayError) and kind.status == 504]
    assert len(late) >= 4
    for kind in late:
        assert "timeout" in kind.default_msg
