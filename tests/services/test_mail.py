import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import MailUnavailable, Overloaded, StoreUnavailable
from backend.services.mail import Letter, Mail, Outcome
from backend.services.mail_server import Server, mailable
from tests.support.gateway import settings_for
from tests.support.mail import Mailbox, receiving
from tests.support.peer import until
from tests.support.ports import free_port
from tests.support.tls import Certificate, certificate

SENDER = "gateway@school.example"
QUICK = (0.01, 0.01)


class TakenBack(list[str]):
    """Which letters were given up, and what became of each."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: list[Outcome] = []

    def letter(self, to: str = "ann@school.example", worth_seconds: float = 300) -> Letter:
        async def ended(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            if outcome != "delivered":
                self.append(to)

        return Letter(to, "Your code", "Code: 123456\n\nZeile 2, 第二行", worth_seconds, ended)


@contextlib.asynccontextmanager
async def sending(server: Server | None, **over: Any) -> AsyncIterator[Mail]:
    mail = Mail(server, SENDER, **({"pauses_seconds": QUICK} | over))
    await mail.start()
    try:
        yield mail
    finally:
        await mail.aclose()


def at(mailbox: Mailbox, scheme: str = "smtp", login: str = "") -> Server:
    return Server.at(f"{scheme}://{login}127.0.0.1:{mailbox.port}")


def serving(made: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    return context


async def settled(mail: Mail) -> None:
    await until(lambda: mail.waiting == 0, 20)


def post(mail: Mail, letter: Letter) -> None:
    with mail.place() as take:
        take(letter)


@pytest.mark.asyncio
async def test_letter_arrives_as_it_was_written() -> None:
    async with receiving() as mailbox, sending(at(mailbox)) as mail:
        post(mail, TakenBack().letter())
        arrived = await mailbox.mail()
        assert mailbox.envelopes == [(SENDER, ["ann@school.example"])]
        assert (arrived["From"], arrived["To"]) == (SENDER, "ann@school.example")
        assert arrived["Subject"] == "Your code"
        assert arrived["Auto-Submitted"] == "auto-generated"
        assert arrived["Date"]
        assert arrived["Message-ID"].endswith("@school.example>")
        assert arrived.get_content().replace("\r\n", "\n") == "Code: 123456\n\nZeile 2, 第二行\n"


@pytest.mark.asyncio
async def test_smtps_is_encrypted_from_the_first_byte(tmp_path: Path) -> None:
    context = serving(certificate(tmp_path))
    async with receiving(tls=context) as mailbox, sending(at(mailbox, "smtps")) as mail:
        post(mail, TakenBack().letter())
        await mailbox.mail()


@pytest.mark.asyncio
async def test_starttls_is_used_where_it_is_offered_and_the_password_goes_after_it(tmp_path: Path) -> None:
    login = "gateway:p%40ss%2Fword@"
    async with (
        receiving(starttls=serving(certificate(tmp_path)), login=True) as mailbox,
        sending(at(mailbox, login=login)) as mail,
    ):
        post(mail, TakenBack().letter())
        await mailbox.mail()
        assert mailbox.encrypted == [True]
        assert mailbox.users == [("gateway", "p@ss/word")]


@pytest.mark.asyncio
async def test_password_may_go_in_the_clear_to_this_machine_and_a_wrong_one_is_tried_once() -> None:
    taken_back = TakenBack()
    async with receiving(login=True) as mailbox:
        for password in ("p%40ss%2Fword", "wrong"):
            async with sending(at(mailbox, login=f"gateway:{password}@")) as mail:
                post(mail, taken_back.letter())
                await settled(mail)
        assert len(mailbox.mails) == 1
        assert set(mailbox.users) == {("gateway", "p@ss/word"), ("gateway", "wrong")}
        assert taken_back == ["ann@school.example"]


@pytest.mark.asyncio
async def test_certificate_that_nobody_vouches_for_is_refused_elsewhere_than_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken_back = TakenBack()
    trusting_nobody = ssl.create_default_context()
    async with (
        receiving(starttls=serving(certificate(tmp_path))) as mailbox,
        sending(at(mailbox), trusted=trusting_nobody) as mail,
    ):
        post(mail, taken_back.letter())
        await settled(mail)
        assert mailbox.mails == []
        assert taken_back == ["ann@school.example"]
    assert "not delivered" in caplog.text


@pytest.mark.asyncio
async def test_trusted_certificate_is_accepted(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    async with (
        receiving(starttls=serving(made)) as mailbox,
        sending(at(mailbox), trusted=made.context()) as mail,
    ):
        post(mail, TakenBack().letter())
        await mailbox.mail()
        assert mailbox.encrypted == [True]


@pytest.mark.asyncio
async def test_password_is_not_sent_in_the_clear_to_another_machine(caplog: pytest.LogCaptureFixture) -> None:
    taken_back = TakenBack()
    async with receiving(login=True, host="127.0.0.2") as mailbox:
        elsewhere = Server("127.0.0.2", mailbox.port, False, "gateway", "p@ss/word")
        assert not elsewhere.here
        async with sending(elsewhere) as mail:
            post(mail, taken_back.letter())
            await settled(mail)
        assert mailbox.connections == 1
        assert mailbox.users == []
    assert "STARTTLS" in caplog.text
    assert taken_back == ["ann@school.example"]


@pytest.mark.asyncio
async def test_server_that_is_busy_is_tried_again() -> None:
    taken_back = TakenBack()
    async with receiving() as mailbox, sending(at(mailbox)) as mail:
        mailbox.refusals += ["451 later", "421 later still"]
        post(mail, taken_back.letter())
        await mailbox.mail()
        assert mailbox.tried == 3
        assert taken_back == []


@pytest.mark.asyncio
async def test_refused_letter_is_taken_back_without_another_attempt(caplog: pytest.LogCaptureFixture) -> None:
    taken_back = TakenBack()
    async with receiving() as mailbox, sending(at(mailbox)) as mail:
        mailbox.refusals.append("550 no ann@school.example here")
        post(mail, taken_back.letter())
        await settled(mail)
        assert mailbox.tried == 1
        assert taken_back.outcomes == ["refused"]
        post(mail, taken_back.letter("bob@school.example"))
        await mailbox.mail()
    assert "550" in caplog.text
    # Neither whom it was for nor what was in it.
    assert "ann@" not in caplog.text
    assert "123456" not in caplog.text


@pytest.mark.asyncio
async def test_server_that_is_away_is_tried_a_few_times(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.mail")
    taken_back = TakenBack()
    async with sending(Server.at(f"smtp://127.0.0.1:{free_port()}")) as mail:
        post(mail, taken_back.letter())
        await settled(mail)
    assert taken_back == ["ann@school.example"]
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert said == ["mail not delivered yet", "mail not delivered yet", "mail not delivered"]


@pytest.mark.asyncio
async def test_letter_that_would_come_too_late_is_not_tried_again() -> None:
    taken_back = TakenBack()
    async with sending(Server.at(f"smtp://127.0.0.1:{free_port()}"), pauses_seconds=(3600,)) as mail:
        post(mail, taken_back.letter(worth_seconds=60))
        await settled(mail)
    assert taken_back == ["ann@school.example"]


@pytest.mark.asyncio
async def test_attempt_at_a_server_that_hangs_ends() -> None:
    taken_back = TakenBack()
    async with receiving() as mailbox, sending(at(mailbox), attempt_seconds=0.1) as mail:
        mailbox.go.clear()
        post(mail, taken_back.letter())
        await settled(mail)
        assert taken_back == ["ann@school.example"]
        assert mailbox.mails == []


@pytest.mark.asyncio
async def test_letters_beyond_the_places_are_turned_away_until_one_is_free() -> None:
    async with receiving() as mailbox, sending(at(mailbox), places=2) as mail:
        mailbox.go.clear()
        for name in ("a", "b"):
            post(mail, TakenBack().letter(f"{name}@school.example"))
        with pytest.raises(Overloaded) as caught, mail.place():
            raise AssertionError
        assert caught.value.retry_after_seconds
        mailbox.go.set()
        await mailbox.mail(2)
        await settled(mail)
        post(mail, TakenBack().letter("c@school.example"))
        await mailbox.mail(3)


@pytest.mark.asyncio
async def test_place_without_a_letter_is_free_again() -> None:
    async with receiving() as mailbox, sending(at(mailbox), places=1) as mail:
        with mail.place():
            assert mail.waiting == 1
        with contextlib.suppress(KeyError), mail.place():
            raise KeyError
        assert mail.waiting == 0


@pytest.mark.asyncio
async def test_stopping_delivers_what_is_queued() -> None:
    async with receiving() as mailbox:
        async with sending(at(mailbox), flush_seconds=60) as mail:
            for number in range(20):
                post(mail, TakenBack().letter(f"u{number}@school.example"))
        assert len(mailbox.mails) == 20


@pytest.mark.asyncio
async def test_stopping_ends_in_time_and_takes_back_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    taken_back = TakenBack()
    async with receiving() as mailbox:
        mailbox.go.clear()
        async with sending(at(mailbox), flush_seconds=0.1) as mail:
            for number in range(20):
                post(mail, taken_back.letter(f"u{number}@school.example"))
            await until(lambda: mailbox.tried > 0, 20)
        assert set(taken_back.outcomes) == {"left"}
        assert sorted(taken_back) == sorted(f"u{number}@school.example" for number in range(20))
        with pytest.raises(MailUnavailable), mail.place():
            raise AssertionError
    assert "20 mails undelivered" in caplog.text


@pytest.mark.asyncio
async def test_stopping_ends_though_a_cancellation_was_swallowed() -> None:
    begun = asyncio.Event()

    async def swallowing(outcome: Outcome) -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

    async with receiving() as mailbox:
        mailbox.refusals.append("550 no")
        async with asyncio.timeout(30), sending(at(mailbox), flush_seconds=0.05) as mail:
            post(mail, Letter("ann@school.example", "s", "t", 300, swallowing))
            await begun.wait()


@pytest.mark.asyncio
async def test_letter_that_was_taken_is_not_taken_back_though_the_server_keeps_silent_then() -> None:
    taken_back = TakenBack()
    async with receiving() as mailbox:
        mailbox.bye.clear()
        async with sending(at(mailbox), flush_seconds=0.1) as mail:
            post(mail, taken_back.letter())
            await mailbox.mail()
            # The answer to it is read, and the farewell is under way.
            await until(lambda: not mail.undelivered, 20)
            assert mail.waiting == 1
        assert taken_back.outcomes == ["delivered"]
        assert len(mailbox.mails) == 1


@pytest.mark.asyncio
async def test_letter_that_cannot_be_taken_back_stops_no_sender(caplog: pytest.LogCaptureFixture) -> None:
    async def away(outcome: Outcome) -> None:
        raise StoreUnavailable

    async with receiving() as mailbox, sending(at(mailbox)) as mail:
        for number in range(20):
            mailbox.refusals.append("550 no")
            post(mail, Letter(f"u{number}@school.example", "s", "t", 300, away))
        await settled(mail)
        post(mail, TakenBack().letter())
        await mailbox.mail()
    assert "store_unavailable" in caplog.text


@pytest.mark.asyncio
async def test_letter_that_would_be_another_header_is_never_sent(caplog: pytest.LogCaptureFixture) -> None:
    taken_back = TakenBack()
    async with receiving() as mailbox, sending(at(mailbox)) as mail:
        for to in ("a@b.co\r\nBcc: c@d.ef", "a@b.co, c@d.ef", "A <a@b.co>"):
            post(mail, taken_back.letter(to))
        await settled(mail)
        assert len(taken_back) == 3
        assert mailbox.tried == 0
    assert "not delivered" in caplog.text


@pytest.mark.asyncio
async def test_nothing_is_sent_before_the_start_nor_without_a_server(tmp_path: Path) -> None:
    unstarted = Mail.of(settings_for(tmp_path, smtp_url="smtp://mail.school.example"))
    for mail in (unstarted, Mail.of(settings_for(tmp_path, host="0.0.0.0"))):
        with pytest.raises(MailUnavailable), mail.place():
            raise AssertionError
        await mail.aclose()


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail", Server("mail", 587, False, None, None)),
        ("smtps://mail", Server("mail", 465, True, None, None)),
        ("smtp://u:p%40s%3A@mail:25/", Server("mail", 25, False, "u", "p@s:")),
        ("smtp://[::1]:25", Server("::1", 25, False, None, None)),
    ],
)
def test_server_is_read_from_its_url(url: str, server: Server) -> None:
    assert Server.at(url) == server
    assert "p@s:" not in repr(server)


@pytest.mark.parametrize(
    "address", ["a@b.co", "a.b+c@school.example", "o'neil@x-y.example", "ann@xn--fsqu00a.example"]
)
def test_addresses_that_mail_can_go_to(address: str) -> None:
    assert mailable(address)


@given(
    st.text(alphabet="ab.@ ,;:<>()[]\"'\\\r\n\t\x00%ä", max_size=12).map(lambda text: f"a{text}@b{text}.co")
)
def test_no_address_means_two_or_another_header(address: str) -> None:
    if mailable(address):
        assert address.isascii()
        assert not set(address) & set(' ,;:<>()[]"\\\r\n\t\x00')
        assert address.count("@") == 1


@pytest.mark.asyncio
async def test_cancelled_wait_for_a_place_leaves_none_taken() -> None:
    async with receiving() as mailbox, sending(at(mailbox), places=1) as mail:

        async def leaving() -> None:
            with mail.place():
                await asyncio.sleep(3600)

        task = asyncio.create_task(leaving())
        await until(lambda: mail.waiting == 1, 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert mail.waiting == 0
