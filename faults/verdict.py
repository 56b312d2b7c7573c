"""What must be true after everything was broken: read past every right, from the logs and tables themselves.

The books are kept here once more and share no code with the services (but for the invariants of the simulation, which are
asked too): what one of them gets wrong the other sees.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from deploy.process import PartFailed
from events.capacity import BedsVacated, HoldExpired, HoldPlaced, HoldRefused, HoldReleased
from events.envelope import Event, UnreadableEvent, decode
from events.gateway import Command, ConfirmCapacity, RegisterUnit, ReportCapacity
from events.kafka import topics
from events.log.decider import Decider
from events.log.engines import postgresql_engine
from events.log.store import EventLog
from events.placement import HoldRequested
from events.vocabulary import Role
from faults.client import Journal, NoAnswer
from faults.site import SPEED, Site
from reference import load
from services.capacity.domain.unit import UnitDecider
from services.clock import clock_of
from services.gateway.projection import Projection, projection_log
from services.migrate import latest
from services.placement.domain.matching import UnitFacts
from services.placement.domain.relocation_request import RelocationRequestDecider
from simulation.invariants import InvariantViolated, audit

SOURCES = ("gateway", "capacity", "placement")
"""In which `audit` wants them."""
CONSUMERS = {
    "placement": ("placement", ("gateway", "capacity")),
    "capacity": ("capacity", ("gateway", "placement")),
    "gateway.read_model": ("gateway", ("gateway", "capacity", "placement")),
    "gateway.eraser": ("gateway", ("placement",)),
}
"""Each consumer: the schema of its memory, and the logs it follows."""
SCHEMAS = ("gateway", "placement", "capacity")
STANDSTILL_SECONDS = 10.0
CALM_SECONDS = 180.0
TRIES = 6
PATIENCE = timedelta(seconds=30 * SPEED)
"""How late a timer may be, in the exercise's time: half a minute of real time."""


@dataclass(frozen=True)
class Finding:
    """Something that must not be. `lost` and `doubled` say how many things it counts for."""

    check: str
    detail: str
    lost: int = 0
    doubled: int = 0


@dataclass
class Verdict:
    findings: list[Finding] = field(default_factory=list)
    acknowledged: int = 0
    events: int = 0

    @property
    def lost(self) -> int:
        return sum(finding.lost for finding in self.findings)

    @property
    def doubled(self) -> int:
        return sum(finding.doubled for finding in self.findings)

    @property
    def checks(self) -> list[str]:
        """Which checks found something."""
        return list(dict.fromkeys(finding.check for finding in self.findings))


@dataclass(frozen=True)
class Snapshot:
    """All logs and tables at one moment."""

    logs: Mapping[str, Sequence[Event | UnreadableEvent]]
    heads: Mapping[str, int]
    claims: set[tuple[str, int, str]]
    views: Mapping[str, tuple[int, Any]]
    parked: list[str]
    dead_letters: list[tuple[str, str, int, int, str]]
    """Consumer, topic, partition, offset, reason."""
    told: Mapping[str, tuple[str, int, int]]
    """The dead letters that the relay says it has told of: topic, partition and offset by id."""
    untold: list[str]
    """Those it has not told of yet."""
    cursors: Mapping[tuple[str, str], int]
    relayed: Mapping[str, dict[str, int]]
    trail: int

    def events(self, source: str) -> Iterator[Event]:
        return (event for event in self.logs[source] if isinstance(event, Event))


def judge(site: Site, seconds: float = CALM_SECONDS) -> Verdict:
    """The verdict, after people have finished and everything was heard, for which there are `seconds` each. What is only on
    its way then gets some more."""
    verdict = Verdict()
    try:
        site.calm_down(seconds)
        _until_taken(site)
    except (PartFailed, NoAnswer) as failure:
        verdict.findings.append(Finding("the runtime comes to rest", str(failure), lost=1))
    verdict.findings += [Finding("every client is answered", failure, lost=1) for failure in site.load.failures]
    snapshot = take(site)
    found = list(look(site, snapshot))
    for _ in range(TRIES):
        if not found:
            break
        time.sleep(1)
        snapshot = take(site)
        found = list(look(site, snapshot))
    verdict.acknowledged = len(site.journal.command_ids)
    verdict.events = sum(map(len, snapshot.logs.values()))
    verdict.findings += found
    verdict.findings += rebuilt(site)
    return verdict


def take(site: Site) -> Snapshot:
    with site.stack.administrator.connect() as raw:
        connection = raw.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            return _read(connection)


def _read(connection: sa.Connection) -> Snapshot:
    def rows(query: str) -> Sequence[Any]:
        return connection.exec_driver_sql(query).all()

    logs, heads = {}, {}
    for source in SOURCES:
        found = rows(f"SELECT position, record FROM {source}.events ORDER BY position")  # noqa: S608 - our own names
        logs[source] = [decode(record) for _, record in found]
        heads[source] = found[-1][0] if found else 0
    views = {unit_id: msgspec.json.decode(facts, type=UnitFacts) for unit_id, facts in rows(_VIEWS)}
    return Snapshot(
        logs=logs,
        heads=heads,
        claims={(row[0], row[1], row[2]) for row in rows("SELECT unit_id, bed, hold_id FROM capacity.bed_claims")},
        views={unit_id: (facts.free, facts.freshness) for unit_id, facts in views.items()},
        parked=[" ".join(map(str, row)) for schema in SCHEMAS for row in rows(_PARKED.format(schema))],
        dead_letters=[tuple(row) for schema in SCHEMAS for row in rows(_DEAD_LETTERS.format(schema))],
        told={row[0]: tuple(row[1:]) for schema in SCHEMAS for row in rows(_TOLD.format(schema))},
        untold=[row[0] for schema in SCHEMAS for row in rows(_UNTOLD.format(schema))],
        cursors={(row[0], row[1]): row[2] for schema in SCHEMAS for row in rows(_CURSORS.format(schema))},
        relayed={schema: {row[0]: row[1] for row in rows(_RELAYED.format(schema))} for schema in SCHEMAS},
        trail=rows("SELECT count(*) FROM gateway.trail")[0][0],
    )


_VIEWS = "SELECT unit_id, facts FROM placement.unit_views"
_PARKED = "SELECT consumer, source, stream, version, reason FROM {}.parked"
_DEAD_LETTERS = "SELECT consumer, topic, partition, position, reason FROM {}.dead_letters"
_TOLD = "SELECT id, topic, partition, position FROM {}.dead_letters WHERE published_at IS NOT NULL"
_UNTOLD = "SELECT id FROM {}.dead_letters WHERE given_up_at IS NOT NULL AND published_at IS NULL"
_CURSORS = "SELECT consumer, source, position FROM {}.cursors"
_RELAYED = "SELECT topic, position FROM {}.relay_cursors"


def look(site: Site, snapshot: Snapshot) -> Iterator[Finding]:
    """Every check over one snapshot."""
    yield from promises(snapshot, site.journal)
    yield from outcomes(snapshot)
    yield from holds(snapshot)
    yield from beds(snapshot)
    yield from invariants(site, snapshot)
    yield from set_aside(site, snapshot)
    yield from transport(site, snapshot)
    said = sum(map(len, snapshot.logs.values()))
    if snapshot.trail != said:
        missing, more = max(0, said - snapshot.trail), max(0, snapshot.trail - said)
        yield Finding("every event is in the trail once", f"{snapshot.trail} of {said}", missing, more)


def promises(snapshot: Snapshot, journal: Journal) -> Iterator[Finding]:
    """Every acknowledged command is in the gateway's log; every intent is there once."""
    log = {event.id: event for event in snapshot.events("gateway") if isinstance(event.data, Command)}
    for command_id in journal.command_ids.keys() - log.keys():
        yield Finding("every acknowledged command is in the log", command_id, lost=1)
    for what in journal.answered_otherwise:
        yield Finding("a repeated intent is answered as the first time", what, doubled=1)
    # Every client repeats until it is answered: what nobody was told of was done under a second id.
    uncertain = Counter(journal.uncertain)
    for event in log.values():
        if event.id in journal.command_ids or event.actor.role is Role.SYSTEM:
            continue
        known = event.stream if uncertain[event.stream] else ""
        if uncertain[known]:
            uncertain[known] -= 1
        else:
            yield Finding("every intent is in the log once", f"{event.id} on {event.stream}", doubled=1)


def outcomes(snapshot: Snapshot) -> Iterator[Finding]:
    """Every command was decided about, once."""
    decided: Counter[tuple[str, str, str]] = Counter()
    last: dict[tuple[str, str], str] = {}
    for source in ("capacity", "placement"):
        for event in snapshot.events(source):
            key = (source, event.stream)
            if last.get(key) != event.causation_id:
                decided[source, event.stream, event.causation_id] += 1
                last[key] = event.causation_id
    for event in snapshot.events("gateway"):
        if isinstance(event.data, Command):
            about_units = isinstance(event.data, RegisterUnit | ReportCapacity | ConfirmCapacity)
            times = decided["capacity" if about_units else "placement", event.stream, event.id]
            if times != 1:
                what = f"{times} outcomes of {event.id} on {event.stream}"
                yield Finding("every command has one outcome", what, lost=times == 0, doubled=max(0, times - 1))
    doubled = {cause: times for (_, _, cause), times in decided.items() if times > 1}
    if doubled:
        yield Finding("a cause takes effect once", str(list(doubled)[:3]), doubled=len(doubled))


def holds(snapshot: Snapshot) -> Iterator[Finding]:
    """Every hold that was asked for was answered, once."""
    answers: Counter[str] = Counter()
    for event in snapshot.events("capacity"):
        if isinstance(event.data, HoldPlaced | HoldRefused):
            answers[event.data.hold_id] += 1
    for event in snapshot.events("placement"):
        if isinstance(event.data, HoldRequested):
            times = answers.pop(event.data.hold_id, 0)
            if times != 1:
                what = f"{times} answers to hold {event.data.hold_id}"
                yield Finding("every hold has one answer", what, lost=times == 0, doubled=max(0, times - 1))
    if answers:
        yield Finding("every hold has one answer", f"nobody asked for {list(answers)[:3]}", doubled=len(answers))


def beds(snapshot: Snapshot) -> Iterator[Finding]:
    """No bed has two claims at any moment, and the claims table says what the events say."""
    claimed: dict[tuple[str, int], str] = {}
    beds_of: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for event in snapshot.events("capacity"):
        match event.data:
            case HoldPlaced(unit_id=unit_id, hold_id=hold_id, beds=beds):
                for bed in beds:
                    if (unit_id, bed) in claimed:
                        what = f"bed {bed} of {unit_id}: {hold_id} and {claimed[unit_id, bed]}"
                        yield Finding("no bed has two claims", what, doubled=1)
                    claimed[unit_id, bed] = hold_id
                    beds_of[hold_id].append((unit_id, bed))
            case HoldReleased(hold_id=hold_id) | HoldExpired(hold_id=hold_id) | BedsVacated(hold_id=hold_id):
                for place in beds_of.pop(hold_id, ()):
                    if claimed.get(place) == hold_id:
                        del claimed[place]
    said = {(unit_id, bed, hold_id) for (unit_id, bed), hold_id in claimed.items()}
    if said != snapshot.claims:
        what = f"only in the events: {said - snapshot.claims}; only in the table: {snapshot.claims - said}"
        yield Finding("the claims table says what the events say", what)


def invariants(site: Site, snapshot: Snapshot) -> Iterator[Finding]:
    """What the simulation checks, over all three logs (simulation/invariants.py)."""
    reference = load()
    rhythms = {code: country.rhythm for code, country in reference.countries.items()}
    deciders: dict[str, Decider[Any]] = {"placement": RelocationRequestDecider(), "capacity": UnitDecider(rhythms)}
    now: datetime = clock_of(site.stack.settings)()
    try:
        checker = audit(reference, deciders, snapshot.logs)
        checker.claims_are(snapshot.claims)
        checker.acknowledged(site.journal.command_ids)
        checker.healed(now, snapshot.views, PATIENCE)
    except InvariantViolated as violated:
        yield Finding(f"invariant {violated.invariant} {violated.invariant.name.lower()}", violated.detail[:400])
    except ValueError as failure:
        yield Finding("no effect comes before its cause", str(failure))


def set_aside(site: Site, snapshot: Snapshot) -> Iterator[Finding]:
    """Nothing waits, and nothing was given up but what was put there to be given up."""
    if snapshot.parked:
        yield Finding("nothing is parked", f"{len(snapshot.parked)}: {snapshot.parked[:3]}", lost=len(snapshot.parked))
    known = site.poison | site.old_poison
    letters = {(consumer, (topic, part, at)) for consumer, topic, part, at, _ in snapshot.dead_letters}
    odd = [letter for letter in snapshot.dead_letters if letter[1:4] not in known]
    if odd:
        yield Finding("no message is given up", f"{len(odd)}: {odd[:3]}", lost=len(odd))
    layout = site.stack.settings.layout
    for consumer, (_, follows) in CONSUMERS.items():
        heard = {layout.topic(source) for source in follows}
        missing = [it for it in site.poison if it[0] in heard and (consumer, it) not in letters]
        if missing:
            what = f"{consumer} has none for {missing[:3]}"
            yield Finding("what is no event becomes a dead letter", what, lost=len(missing))
    # What was put into a topic before it was wiped was told of in one that is gone too.
    here = {letter for letter, place in snapshot.told.items() if place in site.poison - site.old_poison}
    silent = [*snapshot.untold, *(here - site.told())]
    if silent:
        yield Finding("every dead letter is told of", f"{len(silent)}: {silent[:3]}", lost=len(silent))


def transport(site: Site, snapshot: Snapshot) -> Iterator[Finding]:
    """The relay has published everything, and every consumer has taken everything."""
    settings = site.stack.settings
    layout = settings.layout
    ids = topics.check(settings.broker("haven_relay"), layout)
    for source, head in snapshot.heads.items():
        at = snapshot.relayed[source].get(ids[layout.topic(source)], 0)
        if at < head:
            yield Finding("the relay is at the head of each log", f"{source}: {at} of {head}", lost=1)
    for what, left in not_taken(site, snapshot.cursors).items():
        yield Finding("every consumer is at the end of its topics", f"{what}: {left} left", lost=left)


def not_taken(site: Site, cursors: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Messages that a consumer has not taken yet, by consumer and partition, where there are any."""
    settings = site.stack.settings
    layout = settings.layout
    ids = topics.check(settings.broker("haven_relay"), layout)
    left = {
        f"{consumer} in {topic}/{partition}": end - cursors.get((consumer, f"{ids[topic]}/{partition}"), 0)
        for (topic, partition), end in site.places().items()
        for consumer, (_, follows) in CONSUMERS.items()
        if topic in map(layout.topic, follows)
    }
    return {what: count for what, count in left.items() if count > 0}


def _until_taken(site: Site) -> None:
    """Returns when every consumer is at the end of its topics, or none has moved for a while: copies of old messages leave no
    other trace."""
    least, since = -1, time.monotonic()
    while time.monotonic() - since < STANDSTILL_SECONDS:
        with site.database.connect() as connection:
            rows = [row for schema in SCHEMAS for row in connection.exec_driver_sql(_CURSORS.format(schema))]
        left = sum(not_taken(site, {(row[0], row[1]): row[2] for row in rows}).values())
        if not left:
            return
        if left < least or least < 0:
            least, since = left, time.monotonic()
        time.sleep(0.5)


def rebuilt(site: Site) -> Iterator[Finding]:
    """The read model, built anew from the logs under its own role as `haven rebuild` does, is the same to the byte."""
    settings = site.stack.settings
    url = settings.database_url("haven_projection")
    logs = {source: EventLog(postgresql_engine(url, source, None), source) for source in SOURCES}
    with ExitStack() as held:
        # Frozen, so that nothing is said meanwhile: a hold that ran out would be in the second read model alone.
        for worker in site.stack.wrapped():
            if worker.kind in ("projection", "placement", "capacity"):
                held.enter_context(site.in_hand(worker))
                held.callback(worker.resume)
                worker.pause()
        projection = Projection(projection_log(postgresql_engine(url, answer_within=None), latest()))
        before, after = projection.rebuild(logs)
        if before != after:
            yield Finding("the read model is what a rebuild makes", f"{before[:12]} became {after[:12]}")
        for log in (*logs.values(), projection.log):
            log.engine.dispose()
