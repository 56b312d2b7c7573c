"""One address, through the real Apprise, to real servers on this machine; and nothing of it in any log."""

import email
import email.policy
import io
import logging
import time
import warnings
from contextlib import nullcontext

import pytest

from services.notifications.channels import BadAddress, Channel, NotTaken
from tests.notifications.receivers import a_gateway, a_mail_server

TEXT = "Er wacht iets op u. https://haven.example/asks"
SECRET = "CURLEW-77"


def test_a_message_reaches_a_gateway_over_http() -> None:
    with a_gateway() as gateway:
        Channel(gateway.address).send(TEXT)
        (body,) = gateway.bodies
    assert (body["title"], body["message"], body["attachments"]) == ("Haven", TEXT, [])


@pytest.mark.attack(63)
def test_a_message_is_a_mail_whose_subject_says_nothing() -> None:
    with a_mail_server() as server:
        Channel(
            f"mailto://127.0.0.1:{server.port}?smtp=127.0.0.1&from=haven@haven.example&to=desk@shelter.example"
        ).send(TEXT)
        ((recipients, raw),) = server.mails
    mail = email.message_from_string(raw, policy=email.policy.default)
    assert recipients == ["desk@shelter.example"]
    assert mail["Subject"] == "Haven"
    body = mail.get_body(("plain",))
    assert body is not None
    assert body.get_content().strip() == TEXT
    assert "apprise" not in raw.lower()


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_gateway_that_says_no_has_not_taken_it(status: int) -> None:
    with a_gateway() as gateway:
        gateway.answers = status
        with pytest.raises(NotTaken):
            Channel(gateway.address).send(TEXT)


@pytest.mark.attack(55)
def test_a_gateway_cannot_send_us_elsewhere() -> None:
    with a_gateway() as gateway:
        gateway.answers = 307
        with pytest.raises(NotTaken):
            Channel(gateway.address).send(TEXT)
        assert gateway.asked == 1


def test_nobody_there_is_not_taken() -> None:
    with a_gateway() as gateway:
        address = gateway.address
    with pytest.raises(NotTaken):
        Channel(address).send(TEXT)


def test_a_gateway_that_hangs_costs_a_bounded_time_and_one_thread() -> None:
    with a_gateway() as gateway:
        gateway.hold.set()
        channel = Channel(gateway.address + "?rto=50")
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(NotTaken, match="Hangs"):
                channel.send(TEXT, seconds=0.2)
        assert time.monotonic() - began < 2
        assert gateway.asked == 1
        gateway.hold.clear()
        gateway.release.set()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                channel.send(TEXT)
                break
            except NotTaken:
                time.sleep(0.05)
        assert gateway.texts[-1] == TEXT


BAD = [
    "nonsense",
    "",
    "file:///etc/passwd",
    "http://127.0.0.1/",
    "include /etc/passwd",
    f"json://user:{SECRET}@127.0.0.1, json://elsewhere",
    f"jsons://user:{SECRET}@127.0.0.1?verify=no",
    f"tgram://{SECRET}",
]


@pytest.mark.parametrize("address", BAD)
def test_an_address_that_cannot_be_used_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(BadAddress) as refused:
        Channel(address)
    assert SECRET not in str(refused.value)
    assert not address or address not in str(refused.value)


@pytest.mark.parametrize("answers", [200, 500, 307, 0])
@pytest.mark.attack(63)
def test_nothing_of_an_address_or_a_text_is_logged_or_printed(
    answers: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also with every logger as talkative as it can be, as somebody who looks for a fault may make them."""
    said = io.StringIO()
    listening = logging.StreamHandler(said)
    root = logging.getLogger()
    root.addHandler(listening)
    level, root.level = root.level, logging.NOTSET
    try:
        with a_gateway() as gateway, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            gateway.answers = answers or 200
            channel = Channel(gateway.address if answers else f"json://user:{SECRET}@127.0.0.1:1/hook")
            with nullcontext() if answers == 200 else pytest.raises(NotTaken) as refused:
                channel.send(TEXT)
            for bad in BAD:
                with pytest.raises(BadAddress):
                    Channel(bad)
    finally:
        root.removeHandler(listening)
        root.level = level
    assert not refused or (SECRET not in repr(refused.value) and refused.value.__context__ is None)
    printed = capfd.readouterr()
    everything = said.getvalue() + caplog.text + printed.out + printed.err + str([str(one.message) for one in warned])
    for secret in (SECRET, TEXT, "127.0.0.1", "/hook"):
        assert secret not in everything
    assert repr(channel) == "Channel(json)"
