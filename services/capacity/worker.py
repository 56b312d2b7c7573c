"""Capacity at work: which messages reach which unit, and the claims table that makes a double hold impossible.

`bed_claims` has one row per bed that somebody has, with the bed as its primary key. It is written in the transaction
that appends the event, so even with every check of the domain switched off the second claim on a bed is refused by the
database and the whole decision with it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from events.capacity import BedsVacated, HoldExpired, HoldPlaced, HoldReleased
from events.envelope import Event
from events.gateway import ConfirmCapacity, RegisterUnit, ReportCapacity
from events.log.decider import Decided, DeciderRunner
from events.log.inbox import Consumer
from events.log.store import EventLog, Writing
from events.placement import (
    ArrivalRecorded,
    FirmHoldRequested,
    HoldReleaseRequested,
    HoldRequested,
    PlacementEnded,
)
from reference import Reference
from services.capacity.domain.unit import Unit, UnitDecider

metadata = sa.MetaData()

bed_claims = sa.Table(
    "bed_claims",
    metadata,
    sa.Column("unit_id", sa.Text, primary_key=True),
    sa.Column("bed", sa.Integer, primary_key=True),
    sa.Column("hold_id", sa.Text, nullable=False, index=True),
    comment="One row per bed that a hold or a household has: the primary key is the promise.",
)

HEARD = (
    RegisterUnit,
    ReportCapacity,
    ConfirmCapacity,
    HoldRequested,
    HoldReleaseRequested,
    FirmHoldRequested,
    ArrivalRecorded,
    PlacementEnded,
)
"""What capacity acts on; everything else in the logs it follows is remembered as seen and left alone."""

_CLAIM = sa.insert(bed_claims)
_GIVE_BACK = sa.delete(bed_claims).where(bed_claims.c.hold_id == sa.bindparam("the_hold"))


class CapacityWorker:
    """Consumes the gateway's and placement's logs, and time."""

    def __init__(self, log: EventLog, reference: Reference, clock: Callable[[], datetime]) -> None:
        self.log = log
        self._clock = clock
        rhythms = {code: country.rhythm for code, country in reference.countries.items()}
        self.runner: DeciderRunner[Unit] = DeciderRunner(log, UnitDecider(rhythms), _claim_beds)
        self.consumer = Consumer("capacity", log, self.handle, HEARD)
        log.create_schema(metadata)

    def handle(self, tx: Writing, event: Event) -> None:
        """Lets the unit that `event` concerns decide."""
        if isinstance(event.data, HEARD):
            self.runner.react(tx, f"unit-{event.data.unit_id}", event, now=self._clock())

    def pass_time(self, now: datetime) -> bool:
        """Expires holds and ages reports that are due; True when there was one."""
        return self.runner.pass_time(now)


def _claim_beds(tx: Writing, decided: Sequence[Decided[Unit]]) -> None:
    changes: list[tuple[sa.Executable, dict[str, Any]]] = []
    for event in (event for one in decided for event in one.events):
        match event.data:
            case HoldPlaced(unit_id=unit_id, hold_id=hold_id, beds=beds):
                changes += [(_CLAIM, {"unit_id": unit_id, "bed": bed, "hold_id": hold_id}) for bed in beds]
            case HoldReleased(hold_id=hold_id) | HoldExpired(hold_id=hold_id) | BedsVacated(hold_id=hold_id):
                changes.append((_GIVE_BACK, {"the_hold": hold_id}))
    # In the order of the events: a bed that is given back may be claimed by the next.
    for statement, rows in groupby(changes, key=itemgetter(0)):
        tx.connection.execute(statement, [row for _, row in rows])
