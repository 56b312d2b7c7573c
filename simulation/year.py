"""A synthetic year: every referral goes through the HTTP API of an embedded node, and people answer as they might.

Nobody in here is real. The services run their real code on real files; simulated are the clock and the people. It takes
no threads: the services get their turns when something was committed or a timer is due, and no time passes meanwhile.

`simulation.referrals` draws who needs a bed and how each shelter answers, `simulation.inventory` the shelters; what else a
year needs is assumed here. No statistic of relocations between the three countries was ever published: the figures tell
how Haven behaves under a load, not how many people need it.
"""

import base64
import heapq
import math
import random
import tempfile
import time as process_time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from itertools import count
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import sqlalchemy as sa

from events.capacity import HoldExpired, HoldPlaced
from events.envelope import Event, UnreadableEvent
from events.gateway import FieldDisclosed, OpenRelocationRequest
from events.key_file import load_or_create_key_file
from events.log.decider import DeciderRunner
from events.placement import (
    ArrivalRecorded,
    AskAccepted,
    AskDeclined,
    AskExpired,
    DeadlineMissed,
    DetailsRecorded,
    PlacementConfirmed,
    PlacementEnded,
    ProposalLapsed,
    Rejection,
    RelocationRequestOpened,
    RelocationRequestRefused,
    RequestWithdrawn,
    ShelterAsked,
    ShortlistDrawn,
)
from events.sealing import KeyStore, key_store_engine
from events.vocabulary import (
    ArrivalOutcome,
    BlockReason,
    ConsentBy,
    ConsentScope,
    DeclineReason,
    DisclosureReason,
    EndingReason,
    Freshness,
    Role,
    SealedField,
    SignatureRefusal,
    Stage,
    Step,
    Urgency,
    WithdrawalReason,
)
from reference import Country
from services.capacity.worker import bed_claims
from services.config import Settings
from services.gateway.principals import Account
from services.gateway.read_model import AVAILABILITY
from services.node import Node
from services.placement.domain.matching import HARD_RULES, UnitFacts
from services.placement.domain.request import OVER
from services.placement.worker import unit_views
from simulation.invariants import Checker, Invariant, InvariantViolated, audit
from simulation.inventory import OCCUPANCY, SyntheticUnit
from simulation.referrals import DAYS, STAY_MEDIAN, STAY_SPREAD, AskBehaviour, Referral, referrals

_Choice = TypeVar("_Choice")

Json = dict[str, Any]
Act = Callable[[], object]

START = datetime(2027, 1, 4, tzinfo=UTC)
"""A Monday."""
WEEKS = DAYS // 7

MORNING = time(8)
LATE, LATE_AT_WEEKEND = 0.05, 0.25
"""How often a shelter skips its daily word on capacity, by local day (assumed)."""
FULL_SAID_EVERY = 2
"""Days between two words on a unit that is full and stays so (assumed)."""
LEVEL = sum(OCCUPANCY) / 2
"""Occupancy that people from outside Haven would keep up alone: the middle of what is published."""
LEAVES_A_DAY = timedelta(days=1) / (STAY_MEDIAN * math.exp(STAY_SPREAD**2 / 2))
"""Of beds that others have; they stay as long as those whom Haven placed (assumed)."""
TAKEN_A_DAY = LEAVES_A_DAY * LEVEL / (1 - LEVEL)
"""Of free beds, by others: what keeps LEVEL."""
TURNOVER = timedelta(hours=30)
"""Until a bed is ready again, or staffed again (assumed)."""

DESK = {Urgency.URGENT: timedelta(minutes=10), Urgency.STANDARD: timedelta(minutes=45)}
"""Median until somebody at a focal point gets to it; standard requests wait for office hours first (assumed)."""
DESK_SPREAD = 0.8
LEARNT_AFTER = timedelta(hours=2)
"""Until more is known of a household whose request was urgent, from when the offices are open (assumed)."""
LEARNT = ("third_country_national", "reflection_started_on", "region_of_stay")
HOST_REFUSES = 0.03
"""Of proposals (assumed)."""
NO_TO_THE_JOURNEY = 0.02
"""Of households, when asked again before they leave (assumed)."""
JOURNEY_AFTER = {Urgency.URGENT: timedelta(hours=5), Urgency.STANDARD: timedelta(hours=26)}
"""From the plan to the arrival due (assumed)."""
DRIVE = timedelta(hours=4)
"""How long before that they leave (assumed)."""
LATE_ON_THE_WAY, LOST_ON_THE_WAY = 0.08, 0.02
"""More than the hour of grace late; never seen there (assumed)."""
SEARCHED_FOR = timedelta(days=7)
"""After which a placement whose household never came is ended (assumed)."""
RECONSIDERS_AFTER, RECONSIDERS = timedelta(days=2), 0.5
"""Of households that said no to every country: how many say yes to one after all; the others withdraw (assumed)."""
PATIENCE = {Urgency.URGENT: timedelta(days=4), Urgency.STANDARD: timedelta(days=21)}
PATIENCE_SPREAD = 0.7
"""Median until a household that was offered nothing is helped in its own country or gives up (assumed)."""
GIVES_UP = {
    WithdrawalReason.PLACED_ELSEWHERE: 0.7,
    WithdrawalReason.CONTACT_LOST: 0.15,
    WithdrawalReason.DANGER_PASSED: 0.15,
}
"""Assumed."""
LEAVES_FOR = {EndingReason.MOVED_ON: 0.6, EndingReason.OTHER_SHELTER: 0.2, EndingReason.RETURNED: 0.2}
"""Assumed."""

CALLBACK = "synthetic callback: ask the desk for code WREN-19"
RENDEZVOUS = "synthetic rendezvous: platform clock, code TEAL-52"
STEPS = "synthetic steps: two cars, code ROOK-88"
SEALED_TEXTS = (CALLBACK, RENDEZVOUS, STEPS)

TOKEN_SECONDS = 200.0
TIMERS_MAY_LAG = timedelta(minutes=2)
SEARCHING = frozenset({Stage.OPENED, Stage.SHORTLISTED, Stage.ASKED, Stage.UNMET_NEED})
NO_BED = frozenset({DeclineReason.NO_SPACE, DeclineReason.REPORT_WAS_WRONG})


class UnexpectedAnswer(Exception):
    """The API refused what it should take: a bug, there or here. Names the route and the problem, never what was sent."""

    def __init__(self, method: str, path: str, status: int, title: str) -> None:
        self.status = status
        super().__init__(f"{method} {path}: {status} {title}")


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took, over the cases it happened to."""

    cases: int
    p50: timedelta
    p90: timedelta


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a synthetic year. `cases` = `refused` + `placed` + `withdrawn` + `unmet`."""

    seed: int
    cases: int
    """Referrals sent in by the end."""
    opened: int
    refused: int
    """At the door."""
    placed: int
    """Confirmed, and not withdrawn after."""
    arrived: int
    ended: int
    withdrawn: int
    unmet: int
    """Still open at the end, without a confirmed bed."""
    withdrawn_because: dict[str, int]
    ruled_out_by: dict[str, int]
    """Of the last search of every case that was never placed: units by the first rule they failed."""
    nearest_miss: dict[str, int]
    """The same cases, each by the first failed rule of the unit that came furthest."""
    asks: int
    accepted: int
    declined: int
    expired: int
    """Asks nobody answered in time."""
    declines: dict[str, int]
    delays: dict[str, dict[str, Delay]]
    """Urgency, then what: from opening to the first ask, the first yes, the confirmation."""
    holds: int
    holds_expired: int
    bed_days_wasted: float
    """Bed-days that holds kept from others before they ran out."""
    proposals_lapsed: dict[str, int]
    deadlines_missed: int
    sealed_fields_opened: int
    learnt_later: int
    """Times that something was added to a request, or put right."""
    pairs: dict[str, int]
    """Confirmed placements by country of danger and host country."""
    occupancy: tuple[float, float, float]
    """Least, mean and most of all days: share of beds that somebody has or that are not ready."""
    most_asks_of_one_unit: int
    """For one household."""
    most_events_of_a_case: int
    events: dict[str, int]
    """By service."""
    invariants_checked: int
    wall_seconds: float

    def lines(self) -> Iterator[str]:
        """The report for people. Everything in it is a count or a duration."""
        yield f"A synthetic year, seed {self.seed}: every household, shelter and person is made up."
        yield from ASSUMED
        yield ""
        yield f"{'referrals':32} {self.cases:6}"
        for name in ("refused", "placed", "withdrawn", "unmet", "arrived", "ended"):
            share = getattr(self, name) / max(self.cases, 1)
            yield f"  {NAMES.get(name, name):30} {getattr(self, name):6}  {share:4.0%}"
        yield ""
        yield f"{'time from opening to':32} {'cases':>6} {'p50':>9} {'p90':>9}"
        for urgency, delays in self.delays.items():
            for what, delay in delays.items():
                yield f"  {urgency + ', ' + what:30} {delay.cases:6} {_spell(delay.p50):>9} {_spell(delay.p90):>9}"
        yield ""
        yield f"{'asks':32} {self.asks:6}  said yes {self.accepted}, no {self.declined}, nothing {self.expired}"
        yield f"{'holds':32} {self.holds:6}  ran out {self.holds_expired}: {self.bed_days_wasted:.0f} bed-days wasted"
        yield f"{'deadlines missed':32} {self.deadlines_missed:6}"
        yield f"{'sealed fields opened':32} {self.sealed_fields_opened:6}"
        yield f"{'learnt after the opening':32} {self.learnt_later:6}"
        yield f"{'most asks of one unit':32} {self.most_asks_of_one_unit:6}  for one household"
        yield f"{'most events of a case':32} {self.most_events_of_a_case:6}"
        for title, counts in (
            ("placed from -> to", self.pairs),
            ("shelters declined", self.declines),
            ("withdrawn", self.withdrawn_because),
            ("proposals lapsed", self.proposals_lapsed),
            ("never placed: the nearest unit failed", self.nearest_miss),
            ("never placed: units by first failed rule", self.ruled_out_by),
            ("events", self.events),
        ):
            yield ""
            yield title
            for name, number in counts.items():
                yield f"  {name:38} {number:6}"
        least, usual, most = self.occupancy
        yield ""
        yield f"beds taken or not ready: {usual:.0%} of all on average, {least:.0%} to {most:.0%}"
        yield f"{self.invariants_checked} checks of invariants, 0 violations; the read model rebuilt equal to the byte"
        yield f"{self.wall_seconds:.0f} s"


ASSUMED = (
    "Assumed, since nobody publishes it: that every case must cross a border (15 to 60 a year are likely), when desks and",
    "shelters get to things, how long households wait, journeys, turnover, late reports. From published figures: how many",
    "referrals, beds and free beds there are, how often shelters and households say no, how long people stay.",
)
NAMES = {"refused": "refused at the door", "unmet": "open without a bed at the end"}


def run_year(seed: int, cases: int, say: Callable[[str], None], *, weeks: int = WEEKS) -> Report:
    """Plays a year of `cases` referrals, or its first `weeks`, says how it went and returns it.

    The same arguments give the same report, but for `wall_seconds`. Raises InvariantViolated or UnexpectedAnswer, with the
    command that repeats it.
    """
    began = process_time.monotonic()
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own in there, and nothing real in it
    with tempfile.TemporaryDirectory(prefix="haven-year-", dir=memory if memory.is_dir() else None) as folder:
        year = Year(seed, cases, Path(folder), weeks)
        try:
            year.play()
            checker, logs = year.check()
        except (InvariantViolated, UnexpectedAnswer) as failure:
            failure.add_note(f"Repeat it with: haven simulate --seed {seed} --cases {cases}")
            raise
        finally:
            year.node.stop()
    report = _report(year, checker, logs, process_time.monotonic() - began)
    for line in report.lines():
        say(line)
    return report


class Api:
    """The node's HTTP API without a network, used with real tokens."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._client = node.app.test_client()
        self._tokens: dict[str, tuple[str, float]] = {}
        self._keys = count(1)
        self.waiting = False
        """Somebody waits for the outcome of what they sent: the services must get their turns before the answer."""
        self.unheard = False
        """Something was sent whose outcome nobody waited for."""

    def read(self, account: Account, path: str) -> Json:
        return self._send(account, "GET", path)

    def send(
        self, account: Account, method: str, path: str, body: Json, *, wait: bool = True, if_match: int | None = None
    ) -> Json:
        """What became of it; with `wait` false, only that it was received. Raises UnexpectedAnswer."""
        headers = {"Idempotency-Key": f"synthetic-{next(self._keys)}"} if method == "POST" else {}
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        if wait:
            headers["Prefer"] = "wait=1"
        self.waiting = wait
        self.unheard |= not wait
        try:
            return self._send(account, method, path, body, headers)
        finally:
            self.waiting = False

    def _send(
        self,
        account: Account,
        method: str,
        path: str,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        answer = self._client.open(
            f"/api/v1{path}",
            method=method,
            json=body,
            base_url=self._node.settings.url,
            headers={**(headers or {}), "Authorization": f"Bearer {self._token(account)}"},
        )
        document: Json = answer.get_json()
        if answer.status_code >= 300:
            raise UnexpectedAnswer(method, path, answer.status_code, str(document["title"]))
        return document

    def _token(self, account: Account) -> str:
        token, until = self._tokens.get(account.username, ("", 0.0))
        if process_time.monotonic() < until:  # tokens live in real time, whatever the year's clock says
            return token
        credentials = f"{account.client_id}:{self._node.logins[account.username]}"
        answer = self._client.post(
            "/oauth/token",
            base_url=self._node.settings.url,
            data={"grant_type": "client_credentials"},
            headers={"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()},
        )
        token = str(answer.get_json()["access_token"])
        self._tokens[account.username] = (token, process_time.monotonic() + TOKEN_SECONDS)
        return token


@dataclass
class Beds:
    """What is so in one unit, whatever its staff reported."""

    beds: int
    others: int
    """Beds of people whom Haven did not place."""
    not_ready: list[datetime]
    """Per bed, until when."""
    because: BlockReason = BlockReason.TURNOVER

    def free(self, claimed: int) -> int:
        """Less than nothing when Haven holds a bed that somebody else has by now."""
        return self.beds - self.others - len(self.not_ready) - claimed

    def live_a_day(self, rng: random.Random, now: datetime, claimed: int) -> None:
        """Beds become ready, others leave, others come."""
        self.not_ready = [until for until in self.not_ready if until > now]
        leaving = sum(rng.random() < LEAVES_A_DAY for _ in range(self.others))
        self.others -= leaving
        self.close(leaving, now, BlockReason.TURNOVER)
        self.others += sum(rng.random() < TAKEN_A_DAY for _ in range(self.free(claimed)))

    def close(self, beds: int, now: datetime, because: BlockReason) -> None:
        if beds:
            self.not_ready += [now + TURNOVER] * beds
            self.because = because

    def report(self, claimed: int) -> tuple[int, int]:
        """Free and blocked beds as staff would say it: never more than the beds Haven has no claim on."""
        blocked = min(len(self.not_ready), self.beds - claimed)
        return max(0, min(self.free(claimed), self.beds - claimed - blocked)), blocked


@dataclass
class Case:
    """One referral and what the people around it remember."""

    referral: Referral
    rng: random.Random
    request_id: str = ""
    asked: dict[str, AskBehaviour] = field(default_factory=dict)
    """Ask to how it will be answered."""
    next: tuple[object, ...] = ()
    """What was to be done when last looked at."""

    @property
    def urgency(self) -> Urgency:
        return self.referral.urgency

    def about(self, some: timedelta, spread: float) -> timedelta:
        return some * self.rng.lognormvariate(0, spread)

    @property
    def is_minor(self) -> bool:
        return self.referral.household.is_headed_by_minor

    @property
    def speaker(self) -> ConsentBy:
        return ConsentBy.GUARDIAN if self.is_minor else ConsentBy.HOUSEHOLD


class Year:
    """One node, its clock, and everybody who uses it."""

    def __init__(self, seed: int, cases: int, folder: Path, weeks: int = WEEKS) -> None:
        self.seed = seed
        self.now = START
        self.ends = START + timedelta(weeks=weeks)
        _keys_of_the_seed(seed, folder)
        self.node = Node(
            Settings(data_dir=folder, inventory_seed=seed, requests_per_minute=0, beds_at_once=0),
            clock=lambda: self.now,
        )
        self.core = self.node.core
        self.reference = self.core.reference
        self.api = Api(self.node)
        self.rng = random.Random(f"{seed} shelters")
        self.beds = {unit.profile.unit_id: _beds(unit) for unit in self.node.inventory}
        self.occupancy: list[float] = []
        self.cases: dict[str, Case] = {}
        self.heard = 0
        self._order = count()
        self._agenda: list[tuple[datetime, int, Act]] = []
        self._settling = False
        self.core.gateway_log.listeners.append(lambda: self.settle() if self.api.waiting else None)
        for number, referral in enumerate(referrals(seed, cases, START, self.reference)):
            if referral.at < self.ends:
                self._at(referral.at, self._open, Case(referral, random.Random(f"{seed} case {number}")))

    def play(self) -> None:
        """Everything that happens, in order, until the year ends."""
        self.core.seed(self.node.inventory)
        self.settle()
        for days in range((self.ends - START).days + 1):
            today = START + timedelta(days=days)
            for country in self.reference.countries.values():
                self._at(datetime.combine(today, MORNING, ZoneInfo(country.timezone)), self._morning, country)
            self._at(today + timedelta(hours=12), self._count_beds)
        while self._agenda and self._agenda[0][0] < self.ends:
            moment, _, act = self._agenda[0]
            due = self._next_timer()
            if due is not None and due < moment:
                self.now = max(self.now, due)
                self.settle()
            else:
                heapq.heappop(self._agenda)
                self.now = max(self.now, moment)
                act()
                if self._agenda and self._agenda[0][0] <= self.now:
                    continue  # what happens at one moment the services hear of together
                if self.api.unheard:
                    self.settle()
                    self.api.unheard = False
            self._listen()
        self.now = self.ends
        self.settle()

    def settle(self) -> None:
        """Gives every service its turns, as its thread would. Not again from inside a turn: that commits, too."""
        if self._settling:
            return
        self._settling = True
        try:
            self.core.settle()
        finally:
            self._settling = False

    def check(self) -> tuple[Checker, dict[str, list[Event]]]:
        """Every promise over everything that happened. Raises InvariantViolated."""
        logs = {
            source: _read(self.core.logs[source].read_all(limit=10_000_000))
            for source in ("gateway", "capacity", "placement")
        }
        runners: dict[str, DeciderRunner[Any]] = {
            "placement": self.core.placement.runner,
            "capacity": self.core.capacity.runner,
        }
        checker = audit(
            self.reference, {name: runner.decider for name, runner in runners.items()}, logs, seed=self.seed
        )
        for source, stream in checker.states:
            with self.core.logs[source].writing() as tx:
                checker.state_is(source, stream, runners[source].state(tx, stream))
        with self.core.capacity_log.engine.connect() as connection:
            columns = bed_claims.c.unit_id, bed_claims.c.bed, bed_claims.c.hold_id
            checker.claims_are((row[0], row[1], row[2]) for row in connection.execute(sa.select(*columns)))
        for consumer in self.core.consumers:
            if parked := consumer.parked():
                checker.violated(Invariant.NOTHING_LOST, consumer.name, "never handled", parked)
        checker.healed(self.now, self._views(), TIMERS_MAY_LAG)
        before, after = self.core.projection.rebuild(self.core.logs)
        if before != after:
            checker.violated(Invariant.STATE_IS_FOLD, "the read model was", before, "and rebuilt is", after)
        return checker, logs

    def _views(self) -> dict[str, tuple[int, Freshness]]:
        with self.core.placement_log.engine.connect() as connection:
            rows = connection.execute(sa.select(unit_views.c.unit_id, unit_views.c.facts)).all()
        views = {unit_id: msgspec.json.decode(facts, type=UnitFacts) for unit_id, facts in rows}
        return {unit_id: (view.free, view.freshness) for unit_id, view in views.items()}

    # Time

    def _at(self, moment: datetime, act: Callable[..., object], *about: Any) -> None:
        heapq.heappush(self._agenda, (moment.astimezone(UTC), next(self._order), lambda: act(*about)))

    def _next_timer(self) -> datetime | None:
        due = (runner.next_due() for runner in (self.core.placement.runner, self.core.capacity.runner))
        return min((moment for moment in due if moment is not None), default=None)

    def _at_desk(self, case: Case, country: str) -> datetime:
        """When a focal point gets to it: at once for urgent requests, in office hours for the others."""
        opens = self.now
        if case.urgency is not Urgency.URGENT:
            opens = next_open(self.reference.country(country), self.now)
        return opens + case.about(DESK[case.urgency], DESK_SPREAD)

    # Who there is

    def _account(self, role: Role, country: str) -> Account:
        return next(a for a in self.node.accounts if a.role is role and a.country == country)

    def _staff(self, shelter_id: str) -> Account:
        return next(a for a in self.node.accounts if a.role is Role.SHELTER and a.organisation == shelter_id)

    # Shelters

    def _morning(self, country: Country) -> None:
        """Every shelter of a country looks at its beds and, most days, says how they are."""
        today = country.local_time(self.now)
        late = LATE_AT_WEEKEND if today.isoweekday() > 5 else LATE
        for shelter_id in dict.fromkeys(u.profile.shelter_id for u in self.node.inventory):
            staff = self._staff(shelter_id)
            if self.reference.countries[staff.country] is not country:
                continue
            units = self._units(staff)
            for unit in units:
                self.beds[unit["unit_id"]].live_a_day(self.rng, self.now, _claimed(unit))
            if self.rng.random() >= late:
                self._say_capacity(staff, units, also_full=today.toordinal() % FULL_SAID_EVERY == 0)

    def _count_beds(self) -> None:
        units = self.core.read_model.units([AVAILABILITY])
        free = sum(max(0, self.beds[unit["unit_id"]].free(_claimed(unit))) for unit in units)
        self.occupancy.append(1 - free / sum(unit["beds"] for unit in units))

    def _units(self, staff: Account) -> list[Json]:
        units: list[Json] = self.api.read(staff, f"/shelters/{staff.organisation}/units")["units"]
        return units

    def _say_capacity(self, staff: Account, units: Sequence[Json], *, also_full: bool) -> None:
        """What changed is reported, and the rest confirmed in one go. Nobody waits for the outcome."""
        unchanged = []
        for unit in units:
            unit_id = unit["unit_id"]
            truth = self.beds[unit_id]
            free, blocked = truth.report(_claimed(unit))
            if (free, blocked) == (unit["free"], unit["blocked"]):
                if free or also_full:
                    unchanged.append({"unit_id": unit_id, "revision_seen": unit["revision"]})
                continue
            report: Json = {"beds": truth.beds, "free": free, "blocked": blocked}
            if blocked:
                report["blocked_because"] = truth.because
            path = f"/shelters/{staff.organisation}/units/{unit_id}/capacity"
            self.api.send(staff, "PUT", path, report, wait=False, if_match=unit["revision"])
        if unchanged:
            path = f"/shelters/{staff.organisation}/capacity-confirmations"
            self.api.send(staff, "POST", path, {"units": unchanged}, wait=False)

    # Cases

    def _open(self, case: Case) -> None:
        said = msgspec.to_builtins(case.referral)
        del said["at"], said["behaviour"]
        referrer = self._account(Role.REFERRER, case.referral.danger_country)
        # A minute is not enough for everything, and nothing of this is needed in it.
        later = {name: said.pop(name) for name in LEARNT} if case.urgency is Urgency.URGENT else {}
        opened = self.api.send(referrer, "POST", "/relocation-requests", {**said, "callback": CALLBACK})
        case.request_id = opened["request_id"]
        self.cases[case.request_id] = case
        self._at(self.now + case.about(PATIENCE[case.urgency], PATIENCE_SPREAD), self._lose_patience, case)
        if later:
            country = self.reference.country(case.referral.danger_country)
            self._at(next_open(country, self.now) + LEARNT_AFTER, self._learn, case, later)

    def _learn(self, case: Case, said: Json) -> None:
        """Whoever opened it says what they know by now; where they are, as long as that is of use."""
        referrer = self._account(Role.REFERRER, case.referral.danger_country)
        view = self._read(case, referrer)
        if view["stage"] in OVER:
            return
        if view["stage"] in (Stage.DEPARTED, Stage.ASTRAY, Stage.ARRIVED):
            said = {**said, "region_of_stay": view["region_of_stay"]}
        self._do(case, referrer, "details", {"version_seen": 0, **said})

    def _listen(self) -> None:
        """Whatever moved may concern somebody. The simulation looks for itself here; people read before they act."""
        moved: dict[str, None] = {}
        model = self.core.read_model
        while changes := model.changes(self.heard, model.last_change(), ()):
            self.heard = changes[-1].seq
            moved |= {change.subject: None for change in changes if change.kind == "relocation_request"}
        for request_id in moved:
            case = self.cases[request_id]
            view = self.core.read_model.request(request_id, [f"coordinator:{case.referral.danger_country}"])
            assert view is not None
            self._look(case, view)

    def _look(self, case: Case, view: Json) -> None:
        """Shelters that are asked something new will answer, and whoever is next will get to it."""
        for ask in view["asks"].values():
            if ask["ask_id"] not in case.asked:
                behaviours = case.referral.behaviour.asks
                case.asked[ask["ask_id"]] = behaviour = behaviours[len(case.asked) % len(behaviours)]
                self._at(self.now + behaviour.answered_after, self._answer, case, ask, behaviour)
        proposal_hash = view["proposal"] and view["proposal"]["hash"]
        known, case.next = case.next, (view["stage"], *view["next_steps"], proposal_hash)
        if case.next != known and view["next_steps"]:
            self._plan(case, view, Step(view["next_steps"][0]))

    def _plan(self, case: Case, view: Json, step: Step) -> None:
        origin, host = case.referral.danger_country, view["host_country"]
        match step:
            case Step.PROPOSE_PLACEMENT:
                self._at(self._at_desk(case, origin), self._choose_offer, case)
            case Step.COUNTERSIGN_PLACEMENT:
                self._at(self._at_desk(case, host), self._countersign, case, host)
            case Step.RECORD_CONSENT | Step.RECORD_GUARDIAN_CONSENT:
                self._at(self._at_desk(case, origin), self._ask_for_consent, case)
            case Step.PLAN_JOURNEY:
                self._at(self._at_desk(case, origin), self._plan_journey, case)
            case Step.RECORD_DEPARTURE:
                arrival_due = datetime.fromisoformat(view["journey"]["arrival_due"])
                self._at(max(self.now, arrival_due - DRIVE), self._depart, case, arrival_due)
            case Step.FIND_HOUSEHOLD if view["stage"] == Stage.ASTRAY:
                self._at(self.now + SEARCHED_FOR, self._end, case, host, EndingReason.LEFT_WITHOUT_NOTICE)
            case Step.END_PLACEMENT:
                reason = _draw(case.rng, LEAVES_FOR)
                self._at(self.now + case.referral.behaviour.stay, self._end, case, host, reason)

    def _answer(self, case: Case, ask: Json, behaviour: AskBehaviour) -> None:
        """Staff answer what still waits for them; who says that there is no bed then puts the report right."""
        staff = self._staff(ask["shelter_id"])
        if ask["ask_id"] not in {waiting["ask_id"] for waiting in self.api.read(staff, "/asks")["asks"]}:
            return
        truth = self.beds[ask["unit_id"]]
        unit = self.api.read(staff, f"/shelters/{ask['shelter_id']}/units/{ask['unit_id']}/capacity")
        decline = behaviour.decline
        if truth.free(_claimed(unit)) < 0:
            decline = DeclineReason.REPORT_WAS_WRONG
        answer = {"accept": False, "decline": decline} if decline else {"accept": True, "rendezvous": RENDEZVOUS}
        self.api.send(staff, "POST", f"/asks/{ask['ask_id']}/answer", answer)
        if decline not in NO_BED and decline is not DeclineReason.NOT_STAFFED:
            return
        units = self._units(staff)
        claimed = next(_claimed(unit) for unit in units if unit["unit_id"] == ask["unit_id"])
        beds = min(case.referral.household.beds, max(0, truth.free(claimed)))
        if decline in NO_BED:
            truth.others += beds
        else:
            truth.close(beds, self.now, BlockReason.STAFFING)
        self._say_capacity(staff, units, also_full=False)

    def _choose_offer(self, case: Case) -> None:
        """The coordinator calls the household about the best offer, and signs if they agree."""
        origin = self._origin(case)
        view = self._read(case, origin)
        if Step.PROPOSE_PLACEMENT not in view["next_steps"]:
            return
        offers = {ask["unit_id"]: ask for ask in view["asks"].values() if ask["state"] == "accepted"}
        ranked = [c["unit_id"] for c in view["shortlist"]["candidates"] if c["unit_id"] in offers]
        offer = offers[ranked[0]] if ranked else next(iter(offers.values()))
        if not case.is_minor:
            self._disclose(case, origin, SealedField.CALLBACK, DisclosureReason.CALL_BACK)
            if not self._agrees_to_place(case, view, offer["country"], offer["ask_id"]):
                return
        self._do(case, origin, "proposal", {"ask_id": offer["ask_id"]})

    def _agrees_to_place(self, case: Case, view: Json, country: str, ask_id: str) -> bool:
        """Takes down what the household, or a child's guardian, says to a place. A no to it can only be written down as a
        no to its country."""
        agrees = case.asked[ask_id].household_agrees
        said = {
            code: view["consents"].get(f"{ConsentScope.PLACEMENT}/{code}/{case.speaker}") for code in self._abroad(case)
        }
        if said[country] is not agrees:
            self._consent(case, ConsentScope.PLACEMENT, country, agrees)
        if not agrees and all(given is False for given in {**said, country: False}.values()):
            self._at(self.now + RECONSIDERS_AFTER, self._reconsider, case)
        return agrees

    def _reconsider(self, case: Case) -> None:
        if self._read(case, self._origin(case))["stage"] not in SEARCHING:
            return
        if case.rng.random() < RECONSIDERS:
            self._consent(case, ConsentScope.PLACEMENT, case.rng.choice(self._abroad(case)), True)
        else:
            self._withdraw(case, WithdrawalReason.HOUSEHOLD_CHANGED_MIND)

    def _ask_for_consent(self, case: Case) -> None:
        """To the place, of a child's guardian; to the journey, of everybody."""
        view = self._read(case, self._origin(case))
        if view["stage"] == Stage.COUNTERSIGNED:
            self._agrees_to_place(case, view, view["host_country"], view["proposal"]["ask_id"])
        elif view["stage"] == Stage.CONFIRMED:
            agrees = case.rng.random() >= NO_TO_THE_JOURNEY
            self._consent(case, ConsentScope.TRANSPORT, view["host_country"], agrees)
            if not agrees:
                self._withdraw(case, WithdrawalReason.HOUSEHOLD_CHANGED_MIND)

    def _countersign(self, case: Case, country: str) -> None:
        host = self._account(Role.COORDINATOR, country)
        view = self._seen(case, host)
        if view is None or Step.COUNTERSIGN_PLACEMENT not in view["next_steps"] or not view["proposal"]:
            return
        signature = {"proposal_hash": view["proposal"]["hash"]}
        if case.rng.random() < HOST_REFUSES:
            signature["refusal"] = case.rng.choice(list(SignatureRefusal))
        self._do(case, host, "countersignature", signature)

    def _plan_journey(self, case: Case) -> None:
        origin = self._origin(case)
        if Step.PLAN_JOURNEY not in self._read(case, origin)["next_steps"]:
            return
        due = self.now + JOURNEY_AFTER[case.urgency]
        journey = {"escort": self._escort(case).person, "arrival_due": due.isoformat(), "steps": STEPS}
        self._do(case, origin, "journey", journey)

    def _depart(self, case: Case, arrival_due: datetime) -> None:
        escort = self._escort(case)
        view = self._seen(case, escort)
        if view is None or Step.RECORD_DEPARTURE not in view["next_steps"]:
            return
        for sealed in (SealedField.RENDEZVOUS, SealedField.JOURNEY):
            self._disclose(case, escort, sealed, DisclosureReason.DRIVE_JOURNEY)
        self._do(case, escort, "departure", {})
        luck = case.rng.random()
        outcome = ArrivalOutcome.NOT_ARRIVED if luck < LOST_ON_THE_WAY else ArrivalOutcome.ARRIVED
        late = timedelta(hours=3) if luck < LOST_ON_THE_WAY + LATE_ON_THE_WAY else timedelta(minutes=-20)
        self._at(arrival_due + late, self._arrive, case, outcome)

    def _arrive(self, case: Case, outcome: ArrivalOutcome) -> None:
        shelter_id = self._read(case, self._origin(case))["proposal"]["shelter_id"]
        self._do(case, self._staff(shelter_id), "arrival", {"outcome": outcome})

    def _end(self, case: Case, country: str, reason: EndingReason) -> None:
        host = self._account(Role.COORDINATOR, country)
        view = self._read(case, host)
        self._do(case, host, "end", {"reason": reason})
        if view["stage"] == Stage.ARRIVED:
            self.beds[view["proposal"]["unit_id"]].close(case.referral.household.beds, self.now, BlockReason.TURNOVER)

    def _lose_patience(self, case: Case) -> None:
        """Who was not offered anything by now is helped at home, or is gone."""
        stage = Stage(self._read(case, self._origin(case))["stage"])
        if stage in SEARCHING:
            self._withdraw(case, _draw(case.rng, GIVES_UP))
        elif stage in (Stage.OFFERED, Stage.PROPOSED, Stage.COUNTERSIGNED):
            self._at(self.now + timedelta(days=1), self._lose_patience, case)

    # What people send

    def _abroad(self, case: Case) -> list[str]:
        return [code for code in self.reference.countries if code != case.referral.danger_country]

    def _origin(self, case: Case) -> Account:
        return self._account(Role.COORDINATOR, case.referral.danger_country)

    def _escort(self, case: Case) -> Account:
        return self._account(Role.ESCORT, case.referral.danger_country)

    def _read(self, case: Case, account: Account) -> Json:
        return self.api.read(account, f"/relocation-requests/{case.request_id}")

    def _seen(self, case: Case, account: Account) -> Json | None:
        """The request, or None when it is out of this account's sight: the placement came to nothing."""
        try:
            return self._read(case, account)
        except UnexpectedAnswer as answer:
            if answer.status != 404:
                raise
            return None

    def _do(self, case: Case, account: Account, what: str, body: Json) -> None:
        self.api.send(account, "POST", f"/relocation-requests/{case.request_id}/{what}", body)

    def _consent(self, case: Case, scope: ConsentScope, country: str, given: bool) -> None:
        origin = case.referral.danger_country
        account = self._account(Role.GUARDIAN, origin) if case.is_minor else self._origin(case)
        body = {"scope": scope, "country": country, "given": given, "by": case.speaker}
        self._do(case, account, "consent", body)

    def _disclose(self, case: Case, account: Account, sealed: SealedField, reason: DisclosureReason) -> None:
        self._do(case, account, "disclosures", {"field": sealed, "reason": reason, "recipient": account.person})

    def _withdraw(self, case: Case, reason: WithdrawalReason) -> None:
        self._do(case, self._origin(case), "withdrawal", {"reason": reason})


def _keys_of_the_seed(seed: int, folder: Path) -> None:
    """Request ids are keyed with the node's own secret, and the lottery of equal units with request ids: a node that drew
    its keys itself would give another year every time."""
    rng = random.Random(f"{seed} keys")
    engine = key_store_engine(f"sqlite:///{folder / 'keys.sqlite'}")
    keys = KeyStore(engine, load_or_create_key_file(folder / "key-file", rng.randbytes), rng.randbytes)
    keys.create_schema()
    keys.digest_key("any")  # the first one makes the secret that all are derived from
    engine.dispose()


def next_open(country: Country, moment: datetime) -> datetime:
    """The first moment from `moment` on at which one of the country's bodies answers. A country that publishes no hours
    answers around the clock."""
    zone = ZoneInfo(country.timezone)
    today = country.local_time(moment).date()
    openings = [moment] if not country.office_hours else []
    for day in (today + timedelta(days=days) for days in range(8)):
        for hours in country.office_hours:
            if day.isoweekday() in hours.days:
                opens = datetime.combine(day, hours.opens or time.min, zone).astimezone(UTC)
                next_day = datetime.combine(day + timedelta(days=1), time.min, zone)
                closes = datetime.combine(day, hours.closes, zone) if hours.closes else next_day
                if moment < closes:
                    openings.append(max(moment, opens))
    return min(openings)


def _beds(unit: SyntheticUnit) -> Beds:
    return Beds(
        beds=unit.beds,
        others=unit.beds - unit.free - unit.blocked,
        not_ready=[START + TURNOVER] * unit.blocked,
        because=unit.blocked_because or BlockReason.TURNOVER,
    )


def _claimed(unit: Json) -> int:
    """Beds of a unit, as the API shows it, that Haven holds or placed somebody in."""
    return int(unit["held"] + unit["occupied"])


def _draw(rng: random.Random, shares: Mapping[_Choice, float]) -> _Choice:
    return rng.choices(list(shares), list(shares.values()))[0]


def _read(log: Iterable[tuple[int, Event | UnreadableEvent]]) -> list[Event]:
    return [event for _, event in log if isinstance(event, Event)]


# The report


@dataclass
class _Story:
    """One case as placement's events tell it."""

    opened_at: datetime
    urgency: Urgency
    origin: str
    reached: dict[str, datetime] = field(default_factory=dict)
    """When it first came as far as each of MILESTONES."""
    units_asked: Counter[str] = field(default_factory=Counter)
    events: int = 0
    rejected: tuple[Rejection, ...] = ()
    """Every unit, by the last search that left nobody to ask."""


MILESTONES = {ShelterAsked: "first ask", AskAccepted: "first yes", PlacementConfirmed: "confirmed"}


@dataclass
class _Figures:
    """What the events of a year add up to."""

    stories: dict[str, _Story] = field(default_factory=dict)
    happened: Counter[type] = field(default_factory=Counter)
    declines: Counter[str] = field(default_factory=Counter)
    withdrawals: Counter[str] = field(default_factory=Counter)
    lapses: Counter[str] = field(default_factory=Counter)
    arrived: set[str] = field(default_factory=set)
    held: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    wasted: timedelta = timedelta()

    def see(self, event: Event) -> None:
        data = event.data
        self.happened[type(data)] += 1
        match data:
            case RelocationRequestOpened():
                self.stories[event.stream] = _Story(event.time, data.urgency, data.danger_country)
            case HoldPlaced():
                self.held[data.hold_id] = event.time, len(data.beds)
            case HoldExpired():
                since, beds = self.held[data.hold_id]
                self.wasted += (event.time - since) * beds
        if event.stream in self.stories and event.source == "placement":
            self._tell(self.stories[event.stream], event)

    def _tell(self, story: _Story, event: Event) -> None:
        story.events += 1
        match event.data:
            case ShelterAsked(unit_id=unit_id):
                story.units_asked[unit_id] += 1
            case AskDeclined(reason=reason):
                self.declines[reason] += 1
            case ShortlistDrawn(candidates=candidates, rejected=rejected):
                story.rejected = () if candidates else rejected
            case ProposalLapsed(reason=reason):
                self.lapses[reason] += 1
            case RequestWithdrawn(reason=reason):
                self.withdrawals[reason] += 1
            case ArrivalRecorded(outcome=ArrivalOutcome.ARRIVED):
                self.arrived.add(event.stream)
        if milestone := MILESTONES.get(type(event.data)):
            story.reached.setdefault(milestone, event.time)

    def delays(self) -> dict[str, dict[str, Delay]]:
        found: dict[str, dict[str, Delay]] = {}
        for urgency in Urgency:
            stories = [story for story in self.stories.values() if story.urgency is urgency]
            for milestone in MILESTONES.values():
                took = [story.reached[milestone] - story.opened_at for story in stories if milestone in story.reached]
                if took:
                    found.setdefault(urgency, {})[milestone] = _delay(took)
        return found


def _report(year: Year, checker: Checker, logs: Mapping[str, Sequence[Event]], seconds: float) -> Report:
    figures = _Figures()
    for log in logs.values():
        for event in log:
            figures.see(event)
    happened, stories = figures.happened, figures.stories
    ends = {stream: checker.states["placement", stream] for stream in stories}
    withdrawn = {stream for stream, end in ends.items() if end.stage is Stage.WITHDRAWN}
    placed = {stream for stream, end in ends.items() if end.confirmed is not None} - withdrawn
    never = [story for stream, story in stories.items() if stream not in placed]
    pairs = Counter(f"{stories[stream].origin} -> {ends[stream].confirmed.host_country}" for stream in placed)
    return Report(
        seed=year.seed,
        cases=happened[OpenRelocationRequest],
        opened=len(stories),
        refused=happened[RelocationRequestRefused],
        placed=len(placed),
        arrived=len(figures.arrived),
        ended=happened[PlacementEnded],
        withdrawn=len(withdrawn),
        unmet=len(stories) - len(placed) - len(withdrawn),
        withdrawn_because=_most_first(figures.withdrawals),
        ruled_out_by=_most_first(Counter(str(unit.failed[0]) for story in never for unit in story.rejected)),
        nearest_miss=_most_first(Counter(_nearest_miss(story) for story in never)),
        asks=happened[ShelterAsked],
        accepted=happened[AskAccepted],
        declined=happened[AskDeclined],
        expired=happened[AskExpired],
        declines=_most_first(figures.declines),
        delays=figures.delays(),
        holds=happened[HoldPlaced],
        holds_expired=happened[HoldExpired],
        bed_days_wasted=figures.wasted / timedelta(days=1),
        proposals_lapsed=_most_first(figures.lapses),
        deadlines_missed=happened[DeadlineMissed],
        sealed_fields_opened=happened[FieldDisclosed],
        learnt_later=happened[DetailsRecorded],
        pairs=_most_first(pairs),
        occupancy=(min(year.occupancy), mean(year.occupancy), max(year.occupancy)),
        most_asks_of_one_unit=max((max(s.units_asked.values(), default=0) for s in stories.values()), default=0),
        most_events_of_a_case=max((story.events for story in stories.values()), default=0),
        events={source: len(log) for source, log in logs.items()},
        invariants_checked=checker.checked.total(),
        wall_seconds=seconds,
    )


def _nearest_miss(story: _Story) -> str:
    """The rule that stopped the unit that came furthest, in the order of the rules."""
    if not story.rejected:
        return "still being asked"
    rules = list(HARD_RULES)
    return str(max((unit.failed[0] for unit in story.rejected), key=rules.index))


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(((str(name), number) for name, number in counts.items()), key=lambda pair: (-pair[1], pair[0])))


def _delay(took: Sequence[timedelta]) -> Delay:
    seconds = [one.total_seconds() for one in took]
    ninth = quantiles(seconds, n=10, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return Delay(cases=len(took), p50=timedelta(seconds=round(median(seconds))), p90=timedelta(seconds=round(ninth)))


def _spell(delay: timedelta) -> str:
    minutes = round(delay / timedelta(minutes=1))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} d"
