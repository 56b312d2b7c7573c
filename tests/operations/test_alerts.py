"""What Prometheus is told to watch exists, and every alert says what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric

from events.log.engines import sqlite_engine
from events.log.inbox import Consumer
from events.log.store import EventLog
from reference import load
from services.notifications.notifier import Notifier
from services.notifications.queue import RingQueue
from services.operations import metrics
from services.operations.case_metrics import watch_read_model
from services.operations.ring_metrics import watch_notifier
from services.operations.tracing import Tracer
from services.operations.web import observe_requests
from tests.gateway.world import World
from tests.operations.test_metrics import NOW, Receiver, Relay, Status, Sweep

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
CONFIGURATION = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
ALERTS = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
TOLD = {
    "UrgentAskUnanswered",
    "DeadLetters",
    "ConsumerNeverCaughtUp",
    "UnitsNotReported",
    "NobodyPublishes",
    "ProjectionBehind",
    "NobodyIsRung",
}
"""What an operator is promised to be told of."""


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> dict[str, Metric]:
    """Every metric there is, by the names of its samples."""
    world = World(tmp_path_factory.mktemp("metrics") / "data")
    registry = metrics.registry()
    log = EventLog(sqlite_engine(":memory:"), "placement")
    log.create_schema(metrics.dead_letters.metadata)
    consumer = Consumer("gateway.read_model", log, lambda *_: None)
    sweep = Sweep({("gateway.read_model", "haven.gateway"): 0})
    metrics.watch_worker(registry, sweep, [Receiver(consumer)], log.engine, lambda: NOW, has_timers=True)
    metrics.watch_relay(registry, Relay([Status("gateway", 0, 0, True, last_sent_at=NOW)]), lambda: NOW)
    work = metrics.Work(registry)
    work.watch_log(world.log)
    work.watch_consumer(world.core.projection.consumer)
    watch_read_model(registry, world.log.engine, lambda: NOW, load().countries)
    notifier = Notifier(RingQueue(world.log.engine), {}, load().clocks, "", lambda: NOW, lambda: NOW)
    watch_notifier(registry, notifier, lambda: NOW)
    observe_requests(world.node.app, world.log, world.node.gateway.feed, registry, Tracer("haven-test", None, registry))
    world.open()
    return {name: family for family in registry.collect() for name in names_of(family)}


def names_of(family: Metric) -> set[str]:
    return {sample.name for sample in family.samples} | {family.name}


def used(expression: str) -> dict[str, set[str]]:
    """Names of our metrics in an expression, each with the labels it is narrowed by."""
    return {
        name: set(re.findall(r"(\w+)(?:=~|!~|!=|=)", labels or ""))
        for name, labels in re.findall(r"(haven_\w+)(?:\{([^}]*)\})?", expression)
    }


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_metric_and_label_of_an_alert_exists(alert: dict[str, Any], known: dict[str, Metric]) -> None:
    found = used(alert["expr"])
    assert found or "up{" in alert["expr"]
    for name, labels in found.items():
        assert name in known, f"{name} is nowhere counted"
        there = {label for sample in known[name].samples for label in sample.labels}
        assert labels <= there or not known[name].samples, f"{name} has no label {labels - there}"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_is_wrong_and_what_to_do(alert: dict[str, Any]) -> None:
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "remedy"}
    assert all(text.rstrip().endswith((".", ";")) and len(text.split()) >= 5 for text in annotations.values())
    assert alert["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_a_label_an_alert_speaks_of_is_one_it_has(alert: dict[str, Any], known: dict[str, Metric]) -> None:
    spoken = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    grouped = re.findall(r"by \(([^)]*)\)", alert["expr"])
    if grouped:
        allowed = {label.strip() for group in grouped for label in group.split(",")}
    else:
        allowed = {label for name in used(alert["expr"]) for s in known[name].samples for label in s.labels}
        allowed |= {"process", "instance"}
    assert spoken <= allowed


def test_what_operators_are_promised_to_be_told_of_is_there() -> None:
    names = [alert["alert"] for alert in ALERTS]
    assert set(names) >= TOLD
    assert len(set(names)) == len(names)


def test_a_metric_a_remedy_sends_to_exists(known: dict[str, Metric]) -> None:
    named = {name for alert in ALERTS for name in re.findall(r"haven_\w+", alert["annotations"]["remedy"])}
    families = {family.name for family in known.values()}
    assert named
    assert named <= set(known) | families


def test_every_metric_is_ours_has_a_help_text_and_a_unit_where_it_has_one(known: dict[str, Metric]) -> None:
    for family in {family.name: family for family in known.values()}.values():
        assert family.name.startswith("haven_")
        assert len(family.documentation.split()) >= 3, family.name
        if "second" in family.documentation.lower() or "how long" in family.documentation.lower():
            assert family.name.endswith("_seconds"), family.name


def test_the_scrape_is_patient_enough_for_a_process_whose_database_is_silent() -> None:
    seconds = int(CONFIGURATION["global"]["scrape_timeout"].removesuffix("s"))
    assert seconds >= metrics.SCRAPE_SECONDS * 3
    assert seconds <= int(CONFIGURATION["global"]["scrape_interval"].removesuffix("s"))


def test_every_process_is_asked_for_its_metrics() -> None:
    (job,) = CONFIGURATION["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) == {"gateway", "stream", "projection", "placement", "capacity", "relay", "notify"}
    assert CONFIGURATION["rule_files"] == ["alerts.yml"]


def test_the_search_would_see_a_metric_that_is_not_there(known: dict[str, Metric]) -> None:
    assert used('sum(rate(haven_nowhere_total{status=~"5..",x!="y"}[5m]))') == {"haven_nowhere_total": {"status", "x"}}
    assert "haven_nowhere_total" not in known
