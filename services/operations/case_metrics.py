"""What the read model says about the cases as a whole: how many stand where, who waits for how long, how old reports are.

Read by the projection, whose role sees every row; numbers and times only. What such numbers could give away, and why the port
they are read on is internal, says docs/adr/0023.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from events.envelope import wire_name
from events.log.engines import reading
from events.placement import ShelterAsked
from events.vocabulary import Freshness, Stage, Urgency
from services.gateway.read_model import moment_key
from services.operations.metrics import Asked

CLOSED = (Stage.REFUSED, Stage.WITHDRAWN, Stage.ENDED, Stage.ERASED)
"""Stages that nobody has to do anything about any more."""
OPEN = tuple(stage for stage in Stage if stage not in CLOSED)
PAGE = 2000
MOST_CHANGES = 20_000
"""More than that since the last scrape, and everything is looked at again."""

_OPEN_ASKS = """
    SELECT {view} ->> 'urgency' AS urgency, count(*), min(t.moment) FROM asks a
    JOIN requests r ON r.request_id = a.request_id
    LEFT JOIN trail t ON t.case_id = a.request_id AND t.type = :asked AND {detail} ->> 'ask_id' = a.ask_id
    WHERE a.state = 'open' GROUP BY 1
"""
_PAGE = """
    SELECT request_id, {view} ->> 'stage' AS stage, {view} ->> 'deadline' AS deadline FROM requests
    WHERE request_id > :after ORDER BY request_id LIMIT :limit
"""
_CHANGED = """
    SELECT request_id, {view} ->> 'stage' AS stage, {view} ->> 'deadline' AS deadline FROM requests WHERE request_id IN
    (SELECT subject FROM changes WHERE kind = 'relocation_request' AND seq > :after AND seq <= :until)
"""
_LAST_CHANGE = sa.text("SELECT coalesce(max(seq), 0) FROM changes")
_UNITS = (
    "SELECT {view} ->> 'country' AS country, {view} ->> 'freshness' AS freshness, count(*) FROM units GROUP BY 1, 2"
)


def watch_read_model(
    metrics: CollectorRegistry, engine: sa.Engine, now: Callable[[], datetime], countries: Mapping[str, object]
) -> None:
    """Registers the metrics of the read model. `engine` sees every row (`haven_projection`), `now` is the clock deadlines are
    set by, `countries` are those of the reference data: a country without a unit counts as 0, not as nothing."""

    cases = _OpenCases()

    def read() -> list[Metric]:
        with reading(engine) as connection:
            return [*_asks(connection, now()), *cases.metrics(connection, now()), _units(connection, countries)]

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


class _OpenCases:
    """Stage and deadline of every open request, kept from one scrape to the next: closed ones are many and never change again,
    so all of them are looked at once and afterwards only what moved."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, str | None]] = {}
        self._seen: int | None = None

    def metrics(self, connection: sa.Connection, now: datetime) -> list[Metric]:
        self._catch_up(connection)
        counts = Counter(stage for stage, _deadline in self._open.values())
        late = sum(deadline is not None and deadline < moment_key(now) for _stage, deadline in self._open.values())
        requests = GaugeMetricFamily(
            "haven_open_requests", "Relocation requests by stage; unmet_need: no shelter was found", labels=["stage"]
        )
        for stage in OPEN:
            requests.add_metric([stage], counts[stage])
        return [
            requests,
            GaugeMetricFamily("haven_requests_past_deadline", "Open requests whose deadline has passed", value=late),
        ]

    def _catch_up(self, connection: sa.Connection) -> None:
        last = int(connection.scalar(_LAST_CHANGE) or 0)  # first: what moves meanwhile is looked at again the next time
        if self._seen is None or not 0 <= last - self._seen <= MOST_CHANGES:
            self._open.clear()  # begun anew, restored from a backup, or rebuilt
            after = ""
            while page := connection.execute(_query(connection, _PAGE), {"after": after, "limit": PAGE}).all():
                self._remember(page)
                after = page[-1].request_id
        else:
            self._remember(connection.execute(_query(connection, _CHANGED), {"after": self._seen, "until": last}).all())
        self._seen = last

    def _remember(self, rows: Sequence[sa.Row[Any]]) -> None:
        for row in rows:
            if row.stage in OPEN:
                self._open[row.request_id] = row.stage, row.deadline
            else:
                self._open.pop(row.request_id, None)


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
