"""The processes of the distributed runtime where no part is needed: told to stop, and why they wait."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from events.envelope import CONTRACTS, Event, decode
from events.key_file import KeyEncryptionKeys
from events.log.decider import DeciderRunner
from events.log.engines import sqlite_engine
from events.log.store import EventLog
from events.sealing import KeyStore
from reference import load
from services.capacity.worker import CapacityWorker
from services.config import Settings, read_settings
from services.gateway.erasure import Eraser
from services.gateway.intake import metadata as intake_metadata
from services.operations.doctor import why_no_database
from services.placement.worker import PlacementWorker
from services.processes import RelayProcess, Work, Worker, _told_to_stop
from tests.events.drafts import NOON
from tests.events.test_contracts import GOLDEN

PATIENCE = 20


def until(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.timeout(PATIENCE)
@pytest.mark.usefixtures("handlers")
def test_a_signal_that_interrupts_whoever_waits_for_it_is_heard() -> None:
    stop = threading.Event()
    with _told_to_stop(stop):
        with stop._cond:  # type: ignore[attr-defined]  # as in `stop.wait`, a moment before and after it waits
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        assert stop.wait(PATIENCE)


def test_a_worker_whose_timers_fail_is_not_ready_until_they_do_not(tmp_path: Path) -> None:
    """A hold that does not expire by itself is a broken promise, and nothing else would show it."""
    settings = read_settings({"HAVEN_KAFKA": "127.0.0.1:1", "HAVEN_DATA_DIR": str(tmp_path)})
    worker = Worker("capacity", settings)
    well = threading.Event()

    def pass_time(_now: object) -> bool:
        if not well.is_set():
            raise KeyError("PLOVER-41")
        return False

    worker.work = Work(EventLog(sqlite_engine(":memory:"), "capacity"), (), "channel", pass_time)
    worker.sweep = SimpleNamespace(problem="", lag={}, rounds=1)  # type: ignore[assignment]
    worker.waits_for = ""
    worker.threads.start("timers", worker._let_time_pass)
    until("it says so", worker.ready)
    assert worker.ready() == {"timers": "no deadline is kept (KeyError); see the log"}
    well.set()
    until("it is well again", lambda: not worker.ready())
    worker.threads.join()


def failed(said: str, sqlstate: str | None = None) -> sa.exc.OperationalError:
    original = RuntimeError(said)
    original.sqlstate = sqlstate  # type: ignore[attr-defined]
    return sa.exc.OperationalError("SELECT 1", {}, original)


def test_who_waits_for_a_database_says_what_keeps_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = sa.make_url(f"postgresql://haven_placement:PLOVER-41@127.0.0.1:{listener.getsockname()[1]}/haven")
        refused = why_no_database(url, failed('password authentication failed for user "haven_placement"'))
        assert "correct haven_placement_password in HAVEN_SECRETS_DIR" in refused
        missing = why_no_database(url, failed('relation "events" does not exist', "42P01"))
        assert "run `haven migrate`" in missing
    gone = why_no_database(url, failed("connection refused"))
    assert "start it, or correct HAVEN_DATABASE" in gone
    assert "PLOVER-41" not in refused + missing + gone


def test_a_relay_without_its_database_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "haven_relay_password").write_text("PLOVER-41")
    (tmp_path / "haven_relay_password").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(database=f"postgresql://127.0.0.1:{port}/haven", kafka="127.0.0.1:1", secrets_dir=tmp_path)
    relay = RelayProcess(settings).relay
    leader, stop = relay._leaders[0], threading.Event()
    leading = threading.Thread(target=leader.run, args=(stop,))
    leading.start()
    until("it says so", lambda: leader.status.problem)
    stop.set()
    leading.join(10)
    reasons = relay.ready()
    assert "start it, or correct HAVEN_DATABASE" in reasons[f"log of {leader.status.source}"]
    assert "PLOVER-41" not in str(reasons)


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What somebody did something about."""
    seen: list[Event] = []
    monkeypatch.setattr(DeciderRunner, "react", lambda _runner, _tx, _stream, event, **_rest: seen.append(event))
    monkeypatch.setattr(PlacementWorker, "_view_unit", lambda _worker, _tx, data, _version: seen.append(data))
    monkeypatch.setattr(KeyStore, "destroy", lambda _keys, subject: seen.append(subject))
    return seen


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("kind", ["placement", "capacity", "eraser"])
def test_a_worker_acts_on_what_it_says_it_acts_on(acted: list[Event], kind: str, name: str) -> None:
    """What it does not, waits for company: a command that waited too would be slow for no reason anybody could see."""
    log = EventLog(sqlite_engine(":memory:"), kind)
    log.create_schema(intake_metadata)
    consumer = {
        "placement": lambda: PlacementWorker(log, load(), lambda: NOON),
        "capacity": lambda: CapacityWorker(log, load(), lambda: NOON),
        "eraser": lambda: Eraser(log, KeyStore(log.engine, KeyEncryptionKeys({}))),
    }[kind]().consumer
    assert consumer.acts_on is not None
    event = decode((GOLDEN / f"{name}.json").read_text())
    assert isinstance(event, Event)
    with log.writing() as tx:
        consumer.handle(tx, event)
    assert bool(acted) == (name in consumer.acts_on)
