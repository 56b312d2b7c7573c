"""Placement at work: which messages reach which request, and what placement remembers of the units.

`unit_views` is placement's own memory of what capacity said, one row a unit, written in the transaction that remembers
having heard it. It is a guess about beds and nothing more: whether a hold succeeds, capacity decides.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from events.capacity import (
    CapacityConfirmed,
    CapacityEvent,
    CapacityReported,
    FirmHoldRefused,
    FreshnessChanged,
    HoldExpired,
    HoldMadeFirm,
    HoldPlaced,
    HoldRefused,
    UnitRegistered,
    UnitStandingChanged,
)
from events.envelope import Event
from events.gateway import Command as GatewayCommand
from events.gateway import ConfirmCapacity, RegisterUnit, ReportCapacity
from events.log.decider import Decided, DeciderRunner, timestamp
from events.log.inbox import Consumer
from events.log.store import EventLog, Writing
from events.placement import UnmetNeedRecorded
from events.vocabulary import Freshness, Stage, Urgency
from reference import Reference
from services.placement.domain.matching import UnitFacts
from services.placement.domain.process import PlacementFacts
from services.placement.domain.relocation_request import RelocationRequestDecider
from services.placement.domain.request import Request

metadata = sa.MetaData()

unit_views = sa.Table(
    "unit_views",
    metadata,
    sa.Column("unit_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)

waiting_requests = sa.Table(
    "waiting_requests",
    metadata,
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("urgent", sa.Integer, nullable=False),
    sa.Column("opened_at", sa.Text, nullable=False),
    comment="Requests with an unmet need: woken when a bed changes anywhere, urgent ones first, then who waits longest.",
)

NOT_ABOUT_REQUESTS = (RegisterUnit, ReportCapacity, ConfirmCapacity)
HOLD_OUTCOMES = (HoldPlaced, HoldRefused, HoldExpired, HoldMadeFirm, FirmHoldRefused)
UNIT_FACTS = (UnitRegistered, UnitStandingChanged, FreshnessChanged, CapacityReported, CapacityConfirmed)
ABOUT_REQUESTS = [command for command in GatewayCommand.__subclasses__() if command not in NOT_ABOUT_REQUESTS]

_VIEW_VERSIONS = sa.text("SELECT unit_id, version FROM unit_views ORDER BY unit_id")
_VIEW = sa.text("SELECT facts FROM unit_views WHERE unit_id = :unit_id")
_KEEP_VIEW = sa.text(
    "INSERT INTO unit_views (unit_id, version, facts) VALUES (:unit_id, :version, :facts) "
    "ON CONFLICT (unit_id) DO UPDATE SET version = excluded.version, facts = excluded.facts"
)
_WAIT = sa.text(
    "INSERT INTO waiting_requests (stream, urgent, opened_at) VALUES (:stream, :urgent, :opened_at) "
    "ON CONFLICT (stream) DO NOTHING"
)
_WAIT_NO_MORE = sa.text("DELETE FROM waiting_requests WHERE stream = :stream")
_WAITING = sa.text("SELECT stream FROM waiting_requests ORDER BY urgent DESC, opened_at, stream")

_facts = msgspec.json.Decoder(UnitFacts)


class PlacementWorker:
    """Consumes the gateway's and capacity's logs, and time."""

    def __init__(self, log: EventLog, reference: Reference, clock: Callable[[], datetime]) -> None:
        self.log = log
        self._reference = reference
        self._clock = clock
        self._views: dict[str, tuple[int, UnitFacts]] = {}
        self.runner: DeciderRunner[Request] = DeciderRunner(log, RelocationRequestDecider(), self._remember_waiting)
        self.consumer = Consumer("placement", log, self.handle, (*HOLD_OUTCOMES, *UNIT_FACTS, *ABOUT_REQUESTS))
        log.create_schema(metadata)

    def handle(self, tx: Writing, event: Event) -> None:
        """Lets the request that `event` concerns decide, and remembers what it says about a unit."""
        data = event.data
        if isinstance(data, HOLD_OUTCOMES) or (
            isinstance(data, GatewayCommand) and not isinstance(data, NOT_ABOUT_REQUESTS)
        ):
            stream = f"relocation_request-{data.request_id}"
            self.runner.react(tx, stream, event, now=self._clock(), facts=self._placement_facts(tx))
        elif isinstance(data, UNIT_FACTS):
            self._view_unit(tx, data, event.version)

    def pass_time(self, now: datetime) -> bool:
        """Expires asks, escalates missed deadlines and takes up unmet needs that are due; True when there was one."""
        return self.runner.pass_time(now, facts=self._placement_facts)

    def _placement_facts(self, tx: Writing) -> PlacementFacts:
        return PlacementFacts(reference=self._reference, units=lambda: self._units(tx))

    def _units(self, tx: Writing) -> Iterable[UnitFacts]:
        units = []
        for unit_id, version in tx.connection.execute(_VIEW_VERSIONS):
            known = self._views.get(unit_id)
            if known is None or known[0] != version:
                known = (version, _facts.decode(tx.connection.scalar(_VIEW, {"unit_id": unit_id})))
                tx.after_commit.append(lambda u=unit_id, k=known: self._views.__setitem__(u, k))  # type: ignore[misc]
            units.append(known[1])
        return units

    def _view_unit(self, tx: Writing, data: CapacityEvent, version: int) -> None:
        stored = tx.connection.scalar(_VIEW, {"unit_id": data.unit_id})
        known = _facts.decode(stored) if stored else None
        match data:
            case UnitRegistered(profile=profile):
                facts = UnitFacts(profile=profile)
            case _ if known is None:
                return
            case UnitStandingChanged(free=free):
                facts = msgspec.structs.replace(known, free=free)
            case FreshnessChanged(freshness=freshness):
                facts = msgspec.structs.replace(known, freshness=freshness)
            case _:
                facts = msgspec.structs.replace(known, freshness=Freshness.FRESH)
        tx.connection.execute(
            _KEEP_VIEW,
            {"unit_id": data.unit_id, "version": version, "facts": msgspec.json.encode(facts).decode()},
        )
        tx.after_commit.append(lambda: self._views.__setitem__(data.unit_id, (version, facts)))
        if known is None or facts.free > known.free or facts.freshness is not known.freshness:
            tx.settle()  # who was found no bed for a moment ago waits too
            now, waiting = self._clock(), list(tx.connection.scalars(_WAITING))
            for behind, stream in enumerate(reversed(waiting), start=1):
                # All are due at once, and timers run in order: who comes first asks for the freed bed first.
                self.runner.wake(tx, stream, now - behind * timedelta(microseconds=1))

    def _remember_waiting(self, tx: Writing, decided: Sequence[Decided[Request]]) -> None:
        for one in decided:
            request, found_none = one.state, any(isinstance(event.data, UnmetNeedRecorded) for event in one.events)
            if found_none and request.searching and request.stage is Stage.UNMET_NEED:
                assert request.opened is not None
                assert request.opened_at is not None
                tx.connection.execute(
                    _WAIT,
                    {
                        "stream": one.stream,
                        "urgent": int(request.opened.urgency is Urgency.URGENT),
                        "opened_at": timestamp(request.opened_at),
                    },
                )
            elif one.before.stage is Stage.UNMET_NEED and request.stage is not Stage.UNMET_NEED:
                tx.connection.execute(_WAIT_NO_MORE, {"stream": one.stream})
