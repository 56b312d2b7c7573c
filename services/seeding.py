"""Giving a new installation the synthetic shelters it is tried out with."""

import logging
from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from events.envelope import Contract, Event, derived_id, system_actor
from events.gateway import RegisterUnit, ReportCapacity
from events.log.errors import DuplicateEvent
from events.log.store import ANY_VERSION, EventLog
from simulation.inventory import SyntheticUnit

logger = logging.getLogger(__name__)


_REGISTERED = sa.text("SELECT stream FROM events WHERE type = :type")


class OtherUnitsHere(Exception):
    """An invented shelter beside real ones would be asked for a real household."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} units are registered here that are not of this inventory. Synthetic shelters are never put beside "
            "others: use another database or data directory, or the HAVEN_INVENTORY_SEED it was made with."
        )


class SomebodyWorksHere(Exception):
    """More is in the log than the inventory, and the inventory is not whole: it was never an installation for trying out."""

    def __init__(self) -> None:
        super().__init__(
            "People or programs have worked with this installation, and it has no synthetic shelters. Invented ones would be asked for "
            "real households, and nothing can be taken out of a log again: use another database to try Haven out."
        )


def seed_for_trying_out(gateway_log: EventLog, inventory: Iterable[SyntheticUnit], now: datetime) -> None:
    """The same as `seed` where nobody has done anything yet, or where the inventory is whole already. Raises SomebodyWorksHere, or
    OtherUnitsHere."""
    inventory = list(inventory)
    ours = {event_id for unit in inventory for event_id in _event_ids(unit)}
    with gateway_log.engine.connect() as connection:
        there = set(connection.scalars(_KNOWN, {"ids": list(ours)}))
        # An append that is under way now is seen neither here nor there; people are let in when this has ended.
        if there != ours and connection.scalar(_ANYTHING_ELSE, {"ids": list(ours)}):
            raise SomebodyWorksHere
    seed(gateway_log, inventory, now)


_KNOWN = sa.text("SELECT id FROM events WHERE id IN :ids").bindparams(sa.bindparam("ids", expanding=True))
_ANYTHING_ELSE = sa.text("SELECT 1 FROM events WHERE id NOT IN :ids LIMIT 1").bindparams(
    sa.bindparam("ids", expanding=True)
)


def seed(gateway_log: EventLog, inventory: Iterable[SyntheticUnit], now: datetime) -> None:
    """Registers the units and their first report; a second time, or after a crash, adds what is missing. Raises OtherUnitsHere
    when units are registered that are not of this inventory."""
    inventory = list(inventory)
    _refuse_beside_others(gateway_log, {f"unit-{unit.profile.unit_id}" for unit in inventory})
    for unit in inventory:
        profile = unit.profile
        commands: list[Contract] = [
            RegisterUnit(unit_id=profile.unit_id, profile=profile, beds=unit.beds),
            ReportCapacity(
                unit_id=profile.unit_id,
                revision_seen=1,
                beds=unit.beds,
                free=unit.free,
                blocked=unit.blocked,
                blocked_because=unit.blocked_because,
            ),
        ]
        for command in commands:
            _append_once(gateway_log, f"unit-{profile.unit_id}", command, now)


def _refuse_beside_others(log: EventLog, streams: set[str]) -> None:
    with log.engine.connect() as connection:
        registered = set(connection.scalars(_REGISTERED, {"type": str(RegisterUnit.__struct_config__.tag)}))
    if others := registered - streams:
        raise OtherUnitsHere(len(others))


def _event_ids(unit: SyntheticUnit) -> tuple[str, ...]:
    return tuple(_event_id(f"unit-{unit.profile.unit_id}", command) for command in (RegisterUnit, ReportCapacity))


def _event_id(stream: str, command: type[Contract]) -> str:
    return derived_id("synthetic inventory", stream, command.__name__)


def _append_once(log: EventLog, stream: str, command: Contract, now: datetime) -> None:
    event_id = _event_id(stream, type(command))
    draft = Event(
        id=event_id,
        source="gateway",
        stream=stream,
        time=now,
        actor=system_actor("gateway"),
        correlation_id=stream,
        causation_id=event_id,
        data=command,
    )
    try:
        log.append([draft], ANY_VERSION)
    except DuplicateEvent:
        logger.debug("inventory already known stream=%s", stream)
