"""What is counted, that it is right, and that a database that does not answer hides nothing and hangs nobody."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from events.envelope import CONTRACTS
from events.kafka import dead_letters
from events.kafka.dead_letters import dead_letters as letters_table
from events.log.decider import timestamp
from events.log.engines import sqlite_engine
from events.log.inbox import Consumer, ParkReason
from events.log.schema import parked, timers
from events.log.store import EventLog
from events.vocabulary import Freshness, Stage, Urgency
from services.operations import case_metrics, metrics
from services.operations.case_metrics import CLOSED, watch_read_model
from services.operations.patience import NoAnswer, Patience
from services.operations.tracing import Tracer
from services.operations.web import observe_requests
from tests.events.drafts import an_event
from tests.gateway.world import CALLBACK, POLICE, PREFIX, RECEIVING, World

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MAY_BE_LABELS = {
    "consumer",
    "country",
    "freshness",
    "le",
    "log",
    "method",
    "reason",
    "route",
    "stage",
    "state",
    "status",
} | {
    "topic",
    "type",
    "urgency",
}


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Each sample as Prometheus reads it, `name{label=value,…}` to value."""
    read = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            read[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return read


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "data")


@pytest.fixture
def registry() -> CollectorRegistry:
    return metrics.registry()


# Cases


def watch_cases(world: World, registry: CollectorRegistry) -> None:
    watch_read_model(registry, world.core.projection.log.engine, lambda: world.now, world.core.reference.countries)


def test_requests_are_counted_by_where_they_stand_and_every_open_stage_is_named(world, registry) -> None:
    watch_cases(world, registry)
    world.bring_to(Stage.ASKED)
    world.bring_to(Stage.UNMET_NEED)
    world.bring_to(Stage.WITHDRAWN)
    said = samples(registry)
    assert said["haven_read_model_up"] == 1
    assert said["haven_open_requests{stage=asked}"] == 1
    assert said["haven_open_requests{stage=unmet_need}"] == 1
    named = {name for name in said if name.startswith("haven_open_requests")}
    assert named == {f"haven_open_requests{{stage={stage}}}" for stage in Stage if stage not in CLOSED}


def test_the_oldest_open_ask_is_as_old_as_the_shelter_has_kept_silent(world, registry) -> None:
    watch_cases(world, registry)
    assert samples(registry)["haven_oldest_open_ask_seconds{urgency=urgent}"] == 0
    first = world.open()
    world.later(minutes=7)
    world.open()
    world.later(minutes=3)
    said = samples(registry)
    assert said["haven_oldest_open_ask_seconds{urgency=urgent}"] == 600
    assert said["haven_oldest_open_ask_seconds{urgency=standard}"] == 0
    asked = said["haven_open_asks{urgency=urgent}"]
    assert asked > 2
    world.withdraw(first)
    said = samples(registry)
    assert said["haven_oldest_open_ask_seconds{urgency=urgent}"] == 180, "a closed ask is not waited for"
    assert said["haven_open_asks{urgency=urgent}"] < asked


def test_a_request_is_late_once_its_deadline_has_passed_and_not_before(world, registry) -> None:
    watch_cases(world, registry)
    request_id = world.bring_to(Stage.OFFERED)
    world.bring_to(Stage.ENDED)
    deadline = datetime.fromisoformat(world.view(request_id)["deadline"])
    world.now = deadline - timedelta(seconds=1)
    assert samples(registry)["haven_requests_past_deadline"] == 0
    world.now = deadline + timedelta(seconds=1)
    assert samples(registry)["haven_requests_past_deadline"] == 1


def test_what_moved_since_the_last_scrape_is_counted_anew(world, registry) -> None:
    watch_cases(world, registry)
    request_id, other = world.open(), world.open()
    assert samples(registry)["haven_open_requests{stage=asked}"] == 2
    world.done(world.say_yes(request_id))
    said = samples(registry)
    assert said["haven_open_requests{stage=asked}"] == 1
    assert said["haven_open_requests{stage=offered}"] == 1
    world.withdraw(other)
    assert samples(registry)["haven_open_requests{stage=asked}"] == 0


def test_what_is_kept_between_scrapes_equals_what_is_there(world, monkeypatch) -> None:
    kept, fresh = metrics.registry(), metrics.registry()
    watch_cases(world, kept)
    monkeypatch.setattr(case_metrics, "PAGE", 2)
    for stage in (Stage.ASKED, Stage.CONFIRMED, Stage.ENDED, Stage.UNMET_NEED, Stage.ERASED, Stage.DEPARTED):
        world.bring_to(stage)
        samples(kept)
    watch_cases(world, fresh)
    assert samples(kept) == samples(fresh)
    assert sum(count for name, count in samples(fresh).items() if name.startswith("haven_open_requests")) == 4


@pytest.mark.parametrize("how", ["rebuilt", "restored"])
def test_a_read_model_that_was_made_anew_is_counted_anew(world, registry, monkeypatch, how: str) -> None:
    watch_cases(world, registry)
    world.bring_to(Stage.ASKED)
    before = samples(registry)
    if how == "rebuilt":
        monkeypatch.setattr(case_metrics, "MOST_CHANGES", 3)
        world.core.projection.rebuild(world.core.logs)
    else:
        with world.core.projection.log.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM changes WHERE seq > 1")
            connection.exec_driver_sql("DELETE FROM requests")
    after = samples(registry)
    stage = "haven_open_requests{stage=asked}"
    assert (before[stage], after[stage]) == (1, 1 if how == "rebuilt" else 0)


def test_units_are_counted_by_country_and_age_of_report(world, registry) -> None:
    watch_cases(world, registry)
    said = samples(registry)
    units = {name: count for name, count in said.items() if name.startswith("haven_units{")}
    assert len(units) == len(world.core.reference.countries) * len(Freshness)
    assert sum(units.values()) == 5
    assert said["haven_units{country=NL,freshness=fresh}"] == 3
    world.later(days=30)
    said = samples(registry)
    assert said["haven_units{country=NL,freshness=fresh}"] == 0
    assert said["haven_units{country=NL,freshness=not_reported}"] == 3


def test_no_label_holds_an_id_a_person_or_an_organisation(world, registry) -> None:
    work = metrics.Work(registry)
    for log in world.core.logs.values():
        work.watch_log(log)
    for consumer in world.core.consumers:
        work.watch_consumer(consumer)
    watch_cases(world, registry)
    observe_requests(world.node.app, world.log, world.node.gateway.feed, registry, Tracer("haven-test", None))
    request_id = world.bring_to(Stage.DEPARTED)
    world.send(None, "GET", f"/{CALLBACK}")
    world.send(None, "BREW", f"{PREFIX}/relocation-requests")
    world.send(POLICE, "GET", f"{PREFIX}/relocation-requests/{request_id}?x={CALLBACK}")
    text = generate_latest(registry).decode()
    for secret in (request_id, CALLBACK, "synthetic.", RECEIVING.organisation, POLICE.organisation, "BREW", "PLOVER"):
        assert secret not in text
    labels = {name for family in text_string_to_metric_families(text) for s in family.samples for name in s.labels}
    assert labels <= MAY_BE_LABELS
    types = set(re.findall(r'type="([^"]+)"', text))
    assert types
    assert types <= set(CONTRACTS)


# Work


def test_what_is_appended_and_handled_is_counted_once_it_is_committed(world, registry) -> None:
    work = metrics.Work(registry)
    work.watch_log(world.log)
    work.watch_consumer(world.core.placement.consumer)
    world.open()
    said = samples(registry)
    assert said["haven_events_appended_total{log=gateway,type=gateway.relocation_request.open.v1}"] == 1
    assert said["haven_handling_failures_total{consumer=placement}"] == 0
    handled = said["haven_events_handled_total{consumer=placement}"]
    assert handled == said["haven_handling_duration_seconds_count{consumer=placement}"] > 1
    event = world.appended_since(0)[-1]
    with suppress(ZeroDivisionError), world.core.placement_log.writing() as tx:
        world.core.placement.consumer.handle(tx, event)
        raise ZeroDivisionError
    assert samples(registry)["haven_events_handled_total{consumer=placement}"] == handled, "rolled back, not handled"


def test_a_handler_that_raises_is_counted_and_raises_still(tmp_path, registry) -> None:
    log = EventLog(sqlite_engine(str(tmp_path / "log.db")), "placement")
    log.create_schema()

    def refuse(*_: object) -> None:
        raise KeyError(CALLBACK)

    consumer = Consumer("placement", log, refuse)
    metrics.Work(registry).watch_consumer(consumer)
    with pytest.raises(KeyError):
        consumer.deliver(an_event("unit-1", 1))
    said = samples(registry)
    assert said["haven_handling_failures_total{consumer=placement}"] == 1
    assert said["haven_events_handled_total{consumer=placement}"] == 0


# A worker


@dataclass
class Sweep:
    lag: dict[tuple[str, str], int] = field(default_factory=dict)
    problem: str = ""
    rounds: int = 0

    def round(self) -> int:
        self.rounds += 1
        return 0


@dataclass
class Receiver:
    consumer: Consumer
    problem: str = ""


@pytest.fixture
def worker_log(tmp_path: Path) -> Iterator[EventLog]:
    engine = sqlite_engine(str(tmp_path / "worker.db"))
    log = EventLog(engine, "placement")
    log.create_schema(dead_letters.metadata)
    yield log
    engine.dispose()


def test_a_worker_says_how_far_behind_it_is_and_what_lies_aside(worker_log, registry) -> None:
    consumer = Consumer("placement", worker_log, lambda *_: None)
    sweep = Sweep({("placement", "haven.gateway"): 3, ("placement", "haven.capacity"): 0})
    receiver = Receiver(consumer)
    metrics.watch_worker(registry, sweep, [receiver], worker_log.engine, lambda: NOW, has_timers=True)
    said = samples(registry)
    assert said["haven_worker_database_up"] == 1
    assert said["haven_consumer_lag_messages{consumer=placement,topic=haven.gateway}"] == 3
    assert said["haven_dead_letters{consumer=placement,state=given_up}"] == 0
    assert said["haven_dead_letters{consumer=placement,state=retrying}"] == 0
    assert said["haven_timer_overdue_seconds"] == 0
    assert said["haven_consumer_waiting{consumer=placement}"] == 0

    sweep.lag = {("placement", "haven.gateway"): 0}
    receiver.problem = "OperationalError"
    with worker_log.engine.begin() as connection:
        for number, given_up in enumerate((None, timestamp(NOW), timestamp(NOW))):
            row = {column.name: "x" for column in letters_table.columns if not column.nullable}
            row |= {
                "id": str(number),
                "consumer": "placement",
                "partition": 0,
                "position": number,
                "version": 1,
                "tries": 1,
            }
            connection.execute(sa.insert(letters_table), {**row, "given_up_at": given_up})
        waiting = {"consumer": "placement", "source": "gateway", "stream": "s", "record": "{}"}
        connection.execute(sa.insert(parked), [{**waiting, "version": 3, "reason": ParkReason.EARLY}])
        connection.execute(sa.insert(timers), [{"stream": "s", "due_at": timestamp(NOW - timedelta(seconds=90))}])
        connection.execute(sa.insert(timers), [{"stream": "t", "due_at": timestamp(NOW + timedelta(days=1))}])
    said = samples(registry)
    assert said["haven_consumer_lag_messages{consumer=placement,topic=haven.gateway}"] == 0
    assert said["haven_dead_letters{consumer=placement,state=given_up}"] == 2
    assert said["haven_dead_letters{consumer=placement,state=retrying}"] == 1
    assert said["haven_parked_events{consumer=placement,reason=early}"] == 1
    assert said["haven_timer_overdue_seconds"] == 90
    assert said["haven_consumer_waiting{consumer=placement}"] == 1


def test_a_sweep_ages_until_a_round_succeeds(worker_log, registry, monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    sweep = Sweep()
    metrics.watch_worker(registry, sweep, [], worker_log.engine, lambda: NOW, has_timers=False)
    now[0] += 40
    assert samples(registry)["haven_sweep_age_seconds"] == 40
    sweep.problem = "KafkaConnectionError"
    sweep.round()
    assert samples(registry)["haven_sweep_age_seconds"] == 40, "a round that failed is none"
    sweep.problem = ""
    assert sweep.round() == 0
    assert sweep.rounds == 2
    assert samples(registry)["haven_sweep_age_seconds"] == 0
    assert "haven_timer_overdue_seconds" not in samples(registry)


# The relay


@dataclass
class Status:
    source: str
    position: int
    head: int
    leading: bool
    sent_total: int = 0
    failed_total: int = 0
    last_sent_at: datetime | None = None


@dataclass
class Relay:
    logs: list[Status]

    def status(self) -> list[Status]:
        return self.logs


def test_the_relay_says_how_far_each_log_is_published(registry) -> None:
    sent = NOW - timedelta(seconds=5)
    relay = Relay([Status("gateway", 40, 44, True, 40, 2, sent), Status("placement", 0, 0, False)])
    metrics.watch_relay(registry, relay, lambda: NOW)
    said = samples(registry)
    assert said["haven_relay_up"] == 1
    assert said["haven_relay_position{log=gateway}"] == 40
    assert said["haven_relay_head_position{log=gateway}"] == 44
    assert said["haven_relay_lag_events{log=gateway}"] == 4
    assert said["haven_relay_leading{log=gateway}"] == 1
    assert said["haven_relay_leading{log=placement}"] == 0
    assert said["haven_relay_sent_total{log=gateway}"] == 40
    assert said["haven_relay_failures_total{log=gateway}"] == 2
    assert said["haven_relay_last_sent_age_seconds{log=gateway}"] == 5
    assert "haven_relay_last_sent_age_seconds{log=placement}" not in said


def test_the_relay_itself_is_what_is_read() -> None:
    """The protocol fits the class that is meant."""
    from events.kafka.relay import LogStatus

    assert {name for name in vars(metrics.LogStatus) if not name.startswith("_")} <= set(LogStatus.__dataclass_fields__)


# Who does not answer


def test_a_database_that_fails_is_said_to_be_down_and_gives_no_old_numbers(world, registry) -> None:
    watch_cases(world, registry)
    world.open()
    assert samples(registry)["haven_read_model_up"] == 1
    with world.core.projection.log.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE requests RENAME TO elsewhere")
    said = samples(registry)
    assert said["haven_read_model_up"] == 0
    assert not [
        name for name in said if name.startswith(("haven_open", "haven_oldest", "haven_units", "haven_requests"))
    ]


def test_a_database_that_hangs_costs_one_thread_and_a_bounded_time(registry) -> None:
    go_on, asked = threading.Event(), []

    def hang() -> list:
        asked.append(1)
        go_on.wait(30)
        return [GaugeMetricFamily("haven_late", "late", value=1)]

    registry.register(metrics.Asked("haven_late_up", hang, seconds=0.05))
    began = time.monotonic()
    for _ in range(5):
        assert samples(registry)["haven_late_up"] == 0
    assert time.monotonic() - began < 10
    assert len(asked) == 1, "nobody asks again while one is still asking"
    go_on.set()
    deadline = time.monotonic() + 10
    while samples(registry)["haven_late_up"] == 0:
        assert time.monotonic() < deadline
    assert samples(registry)["haven_late"] == 1


def test_a_question_is_shared_by_all_who_wait_for_its_answer() -> None:
    asked, go_on = [], threading.Event()

    def ask() -> int:
        asked.append(1)
        go_on.wait(10)
        return len(asked)

    patience, answers = Patience(ask, 10), []
    threads = [threading.Thread(target=lambda: answers.append(patience.answer())) for _ in range(4)]
    for thread in threads:
        thread.start()
    while not asked:
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 4
    assert len(asked) < 4
    assert patience.answer() == len(asked), "the next one is a question of its own"


def test_impatience_says_how_long_it_waited() -> None:
    go_on = threading.Event()
    with pytest.raises(NoAnswer, match=r"no answer within 0\.01 s"):
        Patience(lambda: go_on.wait(10), 0.01).answer()
    go_on.set()


def test_what_asking_raised_is_raised_to_whoever_asked() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Patience(fail, 10).answer()


# HTTP


def test_requests_are_counted_by_rule_and_streams_while_they_are_open(world, registry) -> None:
    observe_requests(world.node.app, world.log, world.node.gateway.feed, registry, Tracer("haven-test", None))
    request_id = world.open()
    world.done(world.read(POLICE, request_id))
    world.send(None, "GET", f"{PREFIX}/relocation-requests/{request_id}")
    said = samples(registry)
    read = "method=GET,route=/api/v1/relocation-requests/{request_id}"
    assert said["haven_http_requests_total{method=POST,route=/api/v1/relocation-requests,status=201}"] == 1
    assert said[f"haven_http_requests_total{{{read},status=200}}"] == 1
    assert said[f"haven_http_requests_total{{{read},status=401}}"] == 1
    assert said[f"haven_http_request_duration_seconds_count{{{read}}}"] == 2
    stream = world.send(POLICE, "GET", f"{PREFIX}/stream", buffered=False)
    assert samples(registry)["haven_http_open_streams"] == 1
    stream.close()
    assert samples(registry)["haven_http_open_streams"] == 0


def test_every_urgency_is_named_even_when_nobody_waits(world, registry) -> None:
    watch_cases(world, registry)
    said = samples(registry)
    assert all(f"haven_open_asks{{urgency={urgency}}}" in said for urgency in Urgency)
