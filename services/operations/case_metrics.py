"""What the read model says about the cases as a whole: how many stand where, who waits for how long, how old reports are.

Read by the projection, whose role sees every row; numbers and times only. What such numbers could give away, and why the port
they are read on is internal, says docs/adr/0023.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from events.envelope import wire_name
from events.placement import ShelterAsked
from events.vocabulary import Freshness, Stage, Urgency
from services.gateway.read_model import moment_key
from services.operations.metrics import Asked

CLOSED = (Stage.REFUSED, Stage.WITHDRAWN, Stage.ENDED, Stage.ERASED)
"""Stages that nobody has to do anything about any more."""
OPEN = tuple(stage for stage in Stage if stage not in CLOSED)

_OPEN_ASKS = """
    SELECT {view} ->> 'urgency' AS urgency, count(*), min(t.moment) FROM asks a
    JOIN requests r ON r.request_id = a.request_id
    LEFT JOIN trail t ON t.case_id = a.request_id AND t.type = :asked AND {detail} ->> 'ask_id' = a.ask_id
    WHERE a.state = 'open' GROUP BY 1
"""
_STAGES = """
    SELECT {view} ->> 'stage' AS stage, count(*), sum(CASE WHEN {view} ->> 'deadline' < :now THEN 1 ELSE 0 END)
    FROM requests GROUP BY 1
"""
_UNITS = (
    "SELECT {view} ->> 'country' AS country, {view} ->> 'freshness' AS freshness, count(*) FROM units GROUP BY 1, 2"
)


def watch_read_model(
    metrics: CollectorRegistry, engine: sa.Engine, now: Callable[[], datetime], countries: Mapping[str, object]
) -> None:
    """Registers the metrics of the read model. `engine` sees every row (`haven_projection`), `now` is the clock deadlines are
    set by, `countries` are those of the reference data: a country without a unit counts as 0, not as nothing."""

    def read() -> list[Metric]:
        with engine.connect() as connection:
            return [*_asks(connection, now()), *_requests(connection, now()), _units(connection, countries)]

    metrics.register(Asked("haven_read_model_up", read))


def _asks(connection: sa.Connection, now: datetime) -> list[Metric]:
    rows = connection.execute(_query(connection, _OPEN_ASKS), {"asked": wire_name(ShelterAsked)}).all()
    found = {urgency: (count, oldest) for urgency, count, oldest in rows}
    asks = GaugeMetricFamily("haven_open_asks", "Shelters asked that have not answered", labels=["urgency"])
    waits = GaugeMetricFamily(
        "haven_oldest_open_ask_seconds",
        "How long the shelter that waits longest has not answered; 0 if none is asked",
        labels=["urgency"],
    )
    for urgency in Urgency:
        count, oldest = found.get(urgency, (0, None))
        asks.add_metric([urgency], count)
        seconds = (now - datetime.fromisoformat(oldest)).total_seconds() if oldest else 0.0
        waits.add_metric([urgency], max(0.0, seconds))
    return [asks, waits]


def _requests(connection: sa.Connection, now: datetime) -> list[Metric]:
    rows = connection.execute(_query(connection, _STAGES), {"now": moment_key(now)}).all()
    counts = {stage: count for stage, count, _late in rows}
    requests = GaugeMetricFamily(
        "haven_open_requests", "Relocation requests by stage; unmet_need: no shelter was found", labels=["stage"]
    )
    for stage in OPEN:
        requests.add_metric([stage], counts.get(stage, 0))
    late = sum(late for stage, _count, late in rows if stage in OPEN)
    return [
        requests,
        GaugeMetricFamily("haven_requests_past_deadline", "Open requests whose deadline has passed", value=late),
    ]


def _units(connection: sa.Connection, countries: Mapping[str, object]) -> Metric:
    counts = {
        (country, freshness): count for country, freshness, count in connection.execute(_query(connection, _UNITS))
    }
    units = GaugeMetricFamily(
        "haven_units", "Units by country and age of their last report", labels=["country", "freshness"]
    )
    for country in countries:
        for freshness in Freshness:
            units.add_metric([country, freshness], counts.get((country, freshness), 0))
    return units


def _query(connection: sa.Connection, template: str) -> sa.TextClause:
    # Both databases read a member with ->>; PostgreSQL wants to be told that the text is a document.
    document = "CAST({} AS jsonb)" if connection.dialect.name == "postgresql" else "{}"
    return sa.text(template.format(view=document.format("view"), detail=document.format("t.detail")))
