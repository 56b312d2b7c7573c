"""A night at the embedded node: an urgent request, a shelter that sleeps, a focal point that is rung and phones, an answer, and
silence. Everything is real but the time: the services, the queue, Apprise, the gateways that are asked and the pages."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services import cli
from services.config import Settings
from tests.gateway import world as worlds
from tests.gateway.world import CALLBACK, HOST, NEIGHBOUR, ORIGIN, RECEIVING, RENDEZVOUS, STEPS, World
from tests.notifications.receivers import Gateway, a_gateway
from tests.pages.reader import Reader, words

NIGHT = datetime(2026, 11, 26, 2, 5, tzinfo=UTC)
"""Five past three in the three countries."""
SECRETS = (CALLBACK, RENDEZVOUS, STEPS, "PLOVER-41", "CURLEW-77", "DUNLIN-13")


def the_file(**gateways: Gateway) -> str:
    return "\n".join(
        f"""
        [organisations.{name.replace("_", "-")}]
        role = "{"shelter" if "shelter" in name else "coordinator"}"
        country = "{name[:2].upper()}"
        language = "{language}"
        quiet_hours = "22:00-07:00"
        channels = {{ phone = "{gateway.address}" }}
        """
        for (name, gateway), language in zip(gateways.items(), ("nl", "en", "nl", "fr"), strict=True)
    )


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[World, dict[str, Gateway]]]:
    names = ("nl_shelter_01", "nl_shelter_02", "nl_coordinator", "be_coordinator")
    listening = ExitStack()
    gateways = {name: listening.enter_context(a_gateway()) for name in names}
    file = tmp_path / "notify.toml"
    file.write_text(the_file(**gateways))
    file.chmod(0o600)
    monkeypatch.setattr(worlds, "START", NIGHT)
    monkeypatch.setattr(worlds, "Settings", lambda **given: Settings(**{"notify_file": str(file)} | given))
    monkeypatch.setattr("services.notifications.notifier.LOOK_SECONDS", 0.05)
    world = World(tmp_path / "data")
    assert world.node.notifier is not None
    stop = threading.Event()
    ringing = threading.Thread(target=world.node.notifier.run, args=(stop,))
    ringing.start()
    with listening:
        yield world, gateways
    stop.set()
    ringing.join(20)
    assert not ringing.is_alive()
    world.node.stop()


def until(what: str, is_so: Callable[[], object]) -> None:
    ends = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


def nothing_more(gateways: dict[str, Gateway]) -> bool:
    before = {name: len(gateway.texts) for name, gateway in gateways.items()}
    time.sleep(0.6)  # a dozen looks
    return before == {name: len(gateway.texts) for name, gateway in gateways.items()}


def test_an_urgent_request_wakes_a_shelter_then_a_focal_point_and_an_answer_lets_them_sleep(
    night: tuple[World, dict[str, Gateway]], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    world, gateways = night
    shelter, neighbour = gateways["nl_shelter_01"], gateways["nl_shelter_02"]
    host, origin = gateways["nl_coordinator"], gateways["be_coordinator"]
    url = world.node.settings.url
    waits, still = f"Er wacht iets op u. {url}/asks", f"Something waits for you. {url}/asks"
    call = f"Iemand antwoordt niet. Kijk alstublieft wie u moet bellen. {url}/board"

    asked_at = world.now
    request_id = world.open()
    until("both shelters are rung", lambda: shelter.texts == [waits] and neighbour.texts == [still])
    assert nothing_more(gateways)
    assert "Calls to make" not in words(Reader(world, HOST).get("/board"))

    # One says no, the other sleeps on.
    no = {"accept": False, "decline": "no_space"}
    world.ask(NEIGHBOUR, "POST", f"/asks/{world.ask_to(request_id, NEIGHBOUR)}/answer", no)
    world.later(minutes=10)
    until("who sleeps is rung again", lambda: shelter.texts == [waits] * 2)
    assert nothing_more(gateways)
    assert (len(neighbour.texts), host.texts) == (1, [])

    world.later(minutes=10)
    until("the focal point is rung", lambda: host.texts == [call])
    board = words(Reader(world, HOST).get("/board"))
    assert "Phone nl-shelter-01" in board
    assert f"Asked: {asked_at + timedelta(hours=1):%d/%m/%Y, %H:%M}. It does not answer." in board
    assert "Haven rings nobody" not in board

    # They phone, and the shelter answers.
    world.done(world.say_yes(request_id))
    assert "Phone nl-shelter-01" not in words(Reader(world, HOST).get("/board"))
    choose = f"Quelque chose vous attend. {url}/board"
    until("the origin's focal point has a choice", lambda: origin.texts == [choose])
    world.done(world.propose(request_id))
    sign = f"Er wacht iets op u. {url}/board"
    until("the host's focal point has to sign", lambda: host.texts == [call, sign])
    world.done(world.countersign(request_id))
    until("the journey has to be planned", lambda: len(origin.texts) == 2 or world.later(minutes=1))
    world.done(world.plan_journey(request_id))
    world.done(world.consent(request_id))
    world.done(world.depart(request_id))
    world.done(world.arrive(request_id))
    world.later(hours=3)
    assert nothing_more(gateways)
    assert (shelter.texts, neighbour.texts) == ([waits] * 2, [still])
    assert world.node.ready() == {}

    # Whatever went out, and whatever was said here, tells nobody what it was about.
    printed = capfd.readouterr()
    sent = b"".join(raw for gateway in gateways.values() for raw in gateway.raw).decode()
    lines = caplog.text + printed.out + printed.err
    view = world.view(request_id)
    for secret in (*SECRETS, request_id, *view["asks"], "women", "BE21", "BE35", "shelter-0", "urgent", "arriv"):
        assert secret not in sent.replace("Authorization: Basic", ""), secret
    for secret in (*SECRETS, "127.0.0.1:", "/hook", waits, call):
        assert secret not in lines.replace(url, ""), secret


def test_a_gateway_that_hangs_all_night_keeps_nobody_else_asleep(
    night: tuple[World, dict[str, Gateway]],
) -> None:
    world, gateways = night
    gateways["nl_shelter_01"].hold.set()
    request_id = world.open()
    until("the neighbour is rung", lambda: gateways["nl_shelter_02"].texts)
    assert gateways["nl_shelter_01"].texts == []
    world.later(minutes=20)
    until("the focal point is rung", lambda: gateways["nl_coordinator"].texts)
    assert world.done(world.get(ORIGIN, "/call-list"))["calls"]
    world.done(world.say_yes(request_id, RECEIVING))


def test_a_node_with_a_file_that_is_wrong_does_not_start_and_shows_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "notify.toml"
    file.write_text(
        '[organisations.nl-coordinator]\nrole = "coordinator"\nchannels = { duty = "json://CURLEW-77@h" }\n'
    )
    file.chmod(0o600)
    monkeypatch.setenv("HAVEN_NOTIFY_FILE", str(file))
    monkeypatch.setenv("HAVEN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HAVEN_SCENE", "none")
    told = CliRunner().invoke(cli.app, ["run"])
    assert told.exit_code == 2
    assert "HAVEN_NOTIFY_FILE: organisation nl-coordinator: country must be one of BE, NL, LU." in told.output
    assert "CURLEW-77" not in told.output
