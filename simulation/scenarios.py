"""The people of a simulated Haven: mostly sensible, sometimes absurd, now and then all at once.

Everything here is synthetic. People see what placement's log says, perhaps some time ago: what they say is about the page
they had open.
"""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from events.gateway import (
    AnswerAsk,
    Command,
    ConfirmCapacity,
    CountersignPlacement,
    EndPlacement,
    EraseHousehold,
    OpenRelocationRequest,
    PlanJourney,
    ProposePlacement,
    RecordArrival,
    RecordConsent,
    RecordDeparture,
    RecordDetails,
    RegisterUnit,
    ReportCapacity,
    RequestDisclosure,
    WithdrawRequest,
)
from events.vocabulary import (
    AcceptCondition,
    Actor,
    AgeStatus,
    ArrivalOutcome,
    BlockReason,
    ConsentBy,
    ConsentScope,
    DangerZone,
    DeclineReason,
    DisclosureReason,
    EndingReason,
    Group,
    Household,
    Need,
    OverrideReason,
    Role,
    Sealed,
    SealedField,
    SignatureRefusal,
    Stage,
    Track,
    UnitProfile,
    Urgency,
    WithdrawalReason,
)
from services.placement.domain.request import Ask, Request
from simulation.invariants import Claim, Invariant

if TYPE_CHECKING:
    from simulation.world import World

SEALED = Sealed(algorithm="A256GCM", key_id="key-synthetic", box="synthetic")

HOUSEHOLDS = (
    Household(women=1),
    Household(women=1),
    Household(men=1),
    Household(women=1, children_under_6=1),
    Household(women=1, children_6_to_11=1, children_12_to_17=1),
    Household(women=1, men=1, children_under_6=1),
    Household(women=1, age_status=AgeStatus.PRESUMED_MINOR),
    Household(children_12_to_17=1, age_status=AgeStatus.PRESUMED_MINOR),
)


class People:
    """Everybody who uses Haven in one world. They decide with the world's own randomness."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.world = world
        self._rng = rng
        self._countries = sorted(world.reference.countries)
        self.units: dict[str, UnitProfile] = {}
        self._opened = 0
        self._disclosed = 0
        self._households = rng.randrange(1, 5)
        self._meant: list[tuple[Command, Actor]] = []
        """What somebody composed and has not sent yet."""
        self._said: list[tuple[str, Command]] = []

    # Who there is

    def coordinator(self, country: str, desk: int = 1) -> Actor:
        """The focal point of one country; each has several desks."""
        return Actor(
            person=f"coordinator-{country}-{desk}",
            role=Role.COORDINATOR,
            organisation=f"focal-point-{country}",
            country=country,
        )

    def referrer(self, country: str, desk: int = 1) -> Actor:
        return Actor(
            person=f"referrer-{country}-{desk}", role=Role.REFERRER, organisation=f"police-{country}", country=country
        )

    def guardian(self, country: str) -> Actor:
        return Actor(
            person=f"guardian-{country}", role=Role.GUARDIAN, organisation=f"guardians-{country}", country=country
        )

    def shelter(self, shelter_id: str, country: str = "") -> Actor:
        return Actor(person=f"staff-{shelter_id}", role=Role.SHELTER, organisation=shelter_id, country=country)

    def escort(self) -> Actor:
        return Actor(person="escort-1", role=Role.ESCORT, organisation="drivers")

    def auditor(self) -> Actor:
        return Actor(person="auditor-1", role=Role.AUDITOR, organisation="inspectorate")

    def everybody(self) -> list[Actor]:
        """Also people who hold two roles, or one role in two countries."""
        cast = [self.escort(), self.auditor()]
        for country in self._countries:
            cast += [self.coordinator(country), self.coordinator(country, 2), self.guardian(country)]
            cast += [self.referrer(country), self.referrer(country, 2)]
            both = self.coordinator(country)
            cast.append(_as_person(both, "coordinator-abroad"))
            cast.append(_as_person(both, f"referrer-{country}-1"))
        cast += [self.shelter(unit.shelter_id, unit.country) for unit in self.units.values()]
        return cast

    # The beginning

    def add_unit(self, country: str, region: str, *, beds: int, free: int | None = None, **profile: Any) -> str:
        """Registers a unit and has its staff report it; returns its id."""
        unit_id = f"unit-{len(self.units) + 1}"
        accepts = profile.pop("accepts", tuple(Group))
        unit = UnitProfile(
            unit_id=unit_id, shelter_id=f"shelter-{unit_id}", country=country, region=region, accepts=accepts, **profile
        )
        self.units[unit_id] = unit
        register = RegisterUnit(unit_id=unit_id, profile=unit, beds=beds)
        self.world.submit(register, self.coordinator(country))
        free = beds if free is None else free
        report = ReportCapacity(unit_id=unit_id, revision_seen=1, beds=beds, free=free)
        self.world.submit(report, self.shelter(unit.shelter_id, country))
        return unit_id

    def settle_in(self) -> None:
        """A handful of units with few beds, so that people get in each other's way."""
        rng, regions = self._rng, sorted(self.world.reference.regions)
        for n in range(rng.randrange(4, 7)):
            region = rng.choice(regions)
            beds = rng.choice((1, 2, 4, 6))
            self.add_unit(
                self.world.reference.regions[region].country,
                region,
                beds=beds,
                free=rng.randrange(1, beds + 1),
                accepts=tuple(Group) if rng.random() < 0.8 else (Group.WOMEN,),
                track=Track.CHILD if n == 0 else Track.ADULT,
                supports=tuple(Need) if rng.random() < 0.5 else (),
                languages=("en",) if rng.random() < 0.7 else ("fr", "nl"),
                open_at_night=rng.random() < 0.8,
            )

    def know(self, units: dict[str, UnitProfile]) -> None:
        """Units that are registered already."""
        self.units = dict(units)

    # One thing somebody does

    def act(self) -> None:
        """Somebody says something, or sends at last what they composed before."""
        rng = self._rng
        luck = rng.random()
        if self._meant and luck < 0.15:
            self._send(*self._meant.pop(rng.randrange(len(self._meant))))
        elif self._opened < self._households and (luck < 0.3 or not self._opened):
            self.open(self.any_opening(), self.referrer(rng.choice(self._countries), rng.choice((1, 2))))
        elif luck > 0.999:
            self.alarm(rng.choice(self._countries), 3)
        elif luck > 0.93:
            self._say(*self._staff_report())
        elif luck > 0.82:
            self._say(*self._absurd())
        elif luck > 0.79:
            self._ask_to_see()
        else:
            self._advance()

    def alarm(self, country: str, households: int) -> None:
        """A raid: many households of one country at once, all urgent."""
        self.world.tally["alarms"] += 1
        for _ in range(households):
            opening = self.any_opening(danger_country=country, urgency=Urgency.URGENT, danger_zones=(), needs=())
            self.open(opening, self.referrer(country))

    def finish_saying(self) -> None:
        """Everything composed is sent after all."""
        while self._meant:
            self._send(*self._meant.pop())

    def close_everything(self) -> None:
        """Whoever has not left yet is withdrawn, whoever is on the way arrives."""
        for request_id, request in self.world.requests().items():
            if request.opened is None or request.over:
                continue
            if request.stage is Stage.DEPARTED and request.confirmed is not None:
                arrival = RecordArrival(request_id=request_id, outcome=ArrivalOutcome.ARRIVED)
                self._send(arrival, self.shelter(request.confirmed.shelter_id))
            elif request.stage not in (Stage.ARRIVED, Stage.ASTRAY):
                reason = WithdrawalReason.DANGER_PASSED
                origin = self.coordinator(request.opened.danger_country)
                self._send(WithdrawRequest(request_id=request_id, reason=reason), origin)

    def check_closed(self) -> None:
        """After `close_everything`: who is not in a house, or lost on the way to it, has no bed."""
        checker = self.world.checker
        inside = {Stage.ARRIVED, Stage.ASTRAY}
        for request_id, request in self.world.requests().items():
            open_still = request.opened is not None and not request.over and request.stage not in inside
            if open_still:
                checker.violated(Invariant.NOTHING_LOST, request_id, "cannot be closed in", request.stage)
        requests = self.world.requests()
        for unit_id, unit in checker.units.items():
            for hold_id, hold in unit.holds.items():
                if hold.claim is not Claim.OVER and requests[hold.request_id].stage not in inside:
                    checker.violated(Invariant.SERVICES_AGREE, unit_id, "keeps a bed for nobody:", hold_id)

    def open(self, opening: OpenRelocationRequest, referrer: Actor) -> str:
        """Opens a request; returns its id."""
        self._send(opening, referrer)
        return opening.request_id

    def any_opening(self, **wanted: Any) -> OpenRelocationRequest:
        """Some household that needs a bed; `wanted` fixes what matters to the caller."""
        rng, regions = self._rng, sorted(self.world.reference.regions)
        self._opened += 1
        origin = rng.choice(self._countries)
        zones: tuple[DangerZone, ...] = ()
        if rng.random() < 0.3:
            code = rng.choice([*regions, *self._countries])
            zones = (DangerZone(code=code, with_neighbours=rng.random() < 0.5),)
        household = rng.choice(HOUSEHOLDS)
        if rng.random() < 0.03:
            origin, household, zones = rng.choice(
                (
                    ("XX", household, zones),
                    (origin, Household(), zones),
                    (origin, household, _everywhere(self._countries)),
                )
            )
        opening: dict[str, Any] = {
            "request_id": f"request-{self._opened}",
            "urgency": rng.choice(list(Urgency)),
            "danger_country": origin,
            "danger_zones": zones,
            "household": household,
            "needs": (rng.choice(list(Need)),) if rng.random() < 0.1 else (),
            "languages": ("en",),
            "consented_countries": tuple(country for country in self._countries if rng.random() < 0.6),
            "callback": SEALED,
        }
        return OpenRelocationRequest(**{**opening, **wanted})

    # Undisturbed

    def bring(self, request_id: str, stage: Stage) -> None:
        """Everybody does at once what is next, until the request is at `stage`; the world has to be calm."""
        self.world.settle()
        while self.world.requests()[request_id].stage is not stage:
            self.world.submit(*self.proper(request_id))
            self.world.settle()

    def proper(self, request_id: str) -> tuple[Command, Actor]:
        """The next thing on the straight way from an open question to the end of a stay, and who does it."""
        request = self.world.requests()[request_id]
        assert request.opened is not None
        origin = self.coordinator(request.opened.danger_country)
        if request.confirmed is None:
            if request.proposal is not None:
                signature = CountersignPlacement(request_id=request_id, proposal=request.proposal_hash)
                return signature, self.coordinator(request.proposal.host_country)
            if offers := request.offers():
                return ProposePlacement(request_id=request_id, ask_id=offers[0].ask_id), origin
            ask = request.open_asks()[0]
            answer = AnswerAsk(request_id=request_id, ask_id=ask.ask_id, rendezvous=SEALED)
            return answer, self.shelter(ask.shelter_id, ask.country)
        receives = self.shelter(request.confirmed.shelter_id, request.confirmed.host_country)
        if request.stage is Stage.DEPARTED:
            return RecordArrival(request_id=request_id, outcome=ArrivalOutcome.ARRIVED), receives
        if request.stage is Stage.ARRIVED:
            return EndPlacement(request_id=request_id, reason=EndingReason.MOVED_ON), receives
        if request.journey is None:
            due, escort = self.world.now + timedelta(hours=2), self.escort().person
            return PlanJourney(request_id=request_id, escort=escort, arrival_due=due, steps=SEALED), origin
        if not request.has_consent(ConsentScope.TRANSPORT, request.confirmed.host_country):
            return self.consent(request, ConsentScope.TRANSPORT)
        return RecordDeparture(request_id=request_id), self.escort()

    # Sensible

    def next_thing(self, request: Request) -> tuple[Command, Actor] | None:
        """What somebody who owns the next step would do now; None while everybody waits for somebody else."""
        if request.opened is None:
            return None
        rng, request_id = self._rng, request.opened.request_id
        origin = self.coordinator(request.opened.danger_country, rng.choice((1, 2)))
        if request.proposal is not None and rng.random() < 0.04:
            return self.consent(request, rng.choice(list(ConsentScope)), given=False)
        if rng.random() < 0.04:
            return self._any_details(
                request_id, request
            ), request.referrer if rng.random() < 0.5 and request.referrer else origin
        match request.stage:
            case Stage.ASKED:
                return self._answer(request, rng.choice(request.open_asks()))
            case Stage.OFFERED:
                ask = rng.choice(request.offers())
                if rng.random() < 0.1:
                    return self._answer(request, ask)
                override = OverrideReason.SAFETY_KNOWLEDGE if rng.random() < 0.5 else None
                proposal = ProposePlacement(request_id=request_id, ask_id=ask.ask_id, override=override)
                return proposal, self._signer(request, origin)
            case Stage.PROPOSED if request.proposal is not None:
                shown = request.proposal_hash if rng.random() < 0.95 else "0" * 64
                refusal = SignatureRefusal.RISK_IN_REGION if rng.random() < 0.1 else None
                signature = CountersignPlacement(request_id=request_id, proposal=shown, refusal=refusal)
                host = self.coordinator(request.proposal.host_country, rng.choice((1, 2)))
                return signature, self._signer(request, host)
            case Stage.COUNTERSIGNED:
                return self.consent(request, ConsentScope.PLACEMENT)
            case Stage.CONFIRMED if request.journey is None:
                due = self.world.now + timedelta(minutes=rng.randrange(-5, 240))
                escort = self.escort().person
                journey = PlanJourney(request_id=request_id, escort=escort, arrival_due=due, steps=SEALED)
                return journey, origin
            case Stage.CONFIRMED if request.confirmed is not None:
                if not request.has_consent(ConsentScope.TRANSPORT, request.confirmed.host_country):
                    return self.consent(request, ConsentScope.TRANSPORT)
                return RecordDeparture(request_id=request_id), rng.choice((self.escort(), origin))
            case Stage.DEPARTED | Stage.ASTRAY if request.confirmed is not None:
                if request.stage is Stage.ASTRAY and rng.random() < 0.4:
                    return EndPlacement(request_id=request_id, reason=EndingReason.OTHER_SHELTER), origin
                outcome = rng.choice((ArrivalOutcome.ARRIVED, ArrivalOutcome.ARRIVED, *ArrivalOutcome))
                receives = self.shelter(request.confirmed.shelter_id, request.confirmed.host_country)
                return RecordArrival(request_id=request_id, outcome=outcome), receives
            case Stage.ARRIVED if request.confirmed is not None and rng.random() < 0.3:
                receives = self.shelter(request.confirmed.shelter_id, request.confirmed.host_country)
                return EndPlacement(request_id=request_id, reason=rng.choice(list(EndingReason))), receives
        return None

    def consent(self, request: Request, scope: ConsentScope, *, given: bool = True) -> tuple[Command, Actor]:
        """The word of whoever speaks for this household, about the country it was proposed."""
        assert request.opened is not None
        host = request.proposal.host_country if request.proposal else self._rng.choice(self._countries)
        by = request.consent_needed_by()
        origin = request.opened.danger_country
        actor = self.guardian(origin) if by is ConsentBy.GUARDIAN else request.referrer or self.referrer(origin)
        word = RecordConsent(request_id=request.opened.request_id, scope=scope, country=host, given=given, by=by)
        return word, actor

    def _signer(self, request: Request, proper: Actor) -> Actor:
        """Mostly the proper focal point; else somebody who must not sign: an office of theirs does not make them two."""
        rng = self._rng
        luck = rng.random()
        if luck < 0.8:
            return proper
        if luck < 0.9:
            return _as_person(proper, request.proposer.person if request.proposer else "coordinator-abroad")
        if luck < 0.95 and request.referrer is not None:
            return _as_person(proper, request.referrer.person)
        return self.coordinator(rng.choice(self._countries))

    def _answer(self, request: Request, ask: Ask) -> tuple[Command, Actor]:
        rng = self._rng
        assert request.opened is not None
        yes = rng.random() < 0.65
        answer = AnswerAsk(
            request_id=request.opened.request_id,
            ask_id=ask.ask_id,
            decline=None if yes else rng.choice(list(DeclineReason)),
            condition=rng.choice((None, *AcceptCondition)) if yes else None,
            rendezvous=SEALED if yes and rng.random() < 0.9 else None,
        )
        return answer, self.shelter(ask.shelter_id, ask.country)

    def _advance(self) -> None:
        rng = self._rng
        things = [thing for request in self.world.requests().values() if (thing := self.next_thing(request))]
        if not things:
            return
        command, actor = rng.choice(things)
        self._say(command, actor)
        if rng.random() < 0.05:
            # A colleague had the same page open.
            self.world.tally["said by two"] += 1
            self._send(command, self._colleague(actor))

    def _colleague(self, actor: Actor) -> Actor:
        other = self._rng.choice((f"{actor.person}-colleague", "coordinator-abroad"))
        return _as_person(actor, other)

    def _staff_report(self) -> tuple[Command, Actor]:
        rng = self._rng
        unit_id = rng.choice(sorted(self.units))
        unit = self.world.checker.units.get(unit_id)
        staff = self.shelter(self.units[unit_id].shelter_id, self.units[unit_id].country)
        if unit is None:
            return ConfirmCapacity(unit_id=unit_id, revision_seen=0), staff
        seen = unit.revision if rng.random() < 0.8 else rng.randrange(1, unit.revision + 1)
        if rng.random() < 0.4:
            return ConfirmCapacity(unit_id=unit_id, revision_seen=seen), staff
        beds = max(1, unit.beds + rng.choice((-1, 0, 0, 0, 1)))
        left = max(0, beds - len(unit.claims))
        free = rng.randrange(left + 1) if rng.random() < 0.9 else beds
        blocked = rng.randrange(left - free + 1) if free <= left and rng.random() < 0.3 else 0
        report = ReportCapacity(
            unit_id=unit_id,
            revision_seen=seen,
            beds=beds,
            free=free,
            blocked=blocked,
            blocked_because=BlockReason.REPAIR if blocked else None,
        )
        return report, staff

    # Absurd

    def _absurd(self) -> tuple[Command, Actor]:
        """Any command about any request by anybody; some of them make sense all the same."""
        rng = self._rng
        request_id, request = rng.choice([*self.world.requests().items(), ("request-nobody-opened", Request())])
        if rng.random() < 0.06:
            return self.any_opening(request_id=request_id), self.referrer(rng.choice(self._countries))
        if rng.random() < 0.06:
            unit_id = rng.choice(sorted(self.units))
            register = RegisterUnit(unit_id=unit_id, profile=self.units[unit_id], beds=rng.randrange(9))
            return register, self.shelter("shelter-elsewhere")
        if rng.random() < 0.04:
            return ConfirmCapacity(unit_id="unit-nobody-registered", revision_seen=0), self.shelter("shelter-elsewhere")
        makers: tuple[Callable[[str, Request], Command], ...] = (
            self._withdrawal,
            self._any_consent,
            self._any_consent,
            self._any_details,
            self._any_answer,
            self._any_proposal,
            self._any_countersignature,
            self._any_countersignature,
            lambda request_id, _: RecordDeparture(request_id=request_id),
            lambda request_id, _: RecordArrival(request_id=request_id, outcome=rng.choice(list(ArrivalOutcome))),
            lambda request_id, _: EndPlacement(request_id=request_id, reason=rng.choice(list(EndingReason))),
            lambda request_id, _: EraseHousehold(request_id=request_id),
        )
        maker = rng.choice(makers)
        command = maker(request_id, request)
        return command, rng.choice(self._likely(request, command) if rng.random() < 0.6 else self.everybody())

    def _likely(self, request: Request, command: Command) -> list[Actor]:
        """People who might really say this."""
        if request.opened is None:
            return self.everybody()
        if isinstance(command, EraseHousehold):
            return [self.auditor()]
        origin = self.coordinator(request.opened.danger_country)
        people = [origin, _as_person(origin, "coordinator-abroad"), self.guardian(origin.country)]
        if request.referrer is not None:
            people += [request.referrer, _as_person(origin, request.referrer.person)]
        if request.proposal is not None:
            host = self.coordinator(request.proposal.host_country)
            people += [host, _as_person(host, "coordinator-abroad")]
            people += [self.shelter(request.proposal.shelter_id, request.proposal.host_country), self.escort()]
        return people

    def _withdrawal(self, request_id: str, _: Request) -> Command:
        return WithdrawRequest(request_id=request_id, reason=self._rng.choice(list(WithdrawalReason)))

    def _any_consent(self, request_id: str, request: Request) -> Command:
        rng = self._rng
        countries = [request.proposal.host_country] if request.proposal else self._countries
        return RecordConsent(
            request_id=request_id,
            scope=rng.choice(list(ConsentScope)),
            country=rng.choice(countries),
            given=rng.random() < 0.4,
            by=rng.choice(list(ConsentBy)),
        )

    def _any_details(self, request_id: str, request: Request) -> Command:
        """What somebody learnt, or thinks they know better: of the page they have open, or of an older one."""
        rng, today = self._rng, self.world.now.date()
        stands = request.opened.region_of_stay if request.opened else None
        regions = [None, stands, *sorted(self.world.reference.regions)]
        return RecordDetails(
            request_id=request_id,
            version_seen=max(0, request.details_version - rng.choice((0, 0, 0, 1))),
            third_country_national=rng.choice((None, True, False)),
            reflection_started_on=today - timedelta(days=rng.randrange(40)) if rng.random() < 0.5 else None,
            region_of_stay=stands if rng.random() < 0.4 else rng.choice(regions),
        )

    def _any_answer(self, request_id: str, request: Request) -> Command:
        rng = self._rng
        ask_id = rng.choice([*request.asks, "ask-nobody-made"])
        decline = rng.choice((None, *DeclineReason))
        return AnswerAsk(request_id=request_id, ask_id=ask_id, decline=decline)

    def _any_proposal(self, request_id: str, request: Request) -> Command:
        return ProposePlacement(request_id=request_id, ask_id=self._rng.choice([*request.asks, "ask-nobody-made"]))

    def _any_countersignature(self, request_id: str, request: Request) -> Command:
        rng = self._rng
        shown = request.proposal_hash if request.proposal_hash and rng.random() < 0.7 else "0" * 64
        refusal = rng.choice(list(SignatureRefusal)) if rng.random() < 0.2 else None
        return CountersignPlacement(request_id=request_id, proposal=shown, refusal=refusal)

    def _ask_to_see(self) -> None:
        """Somebody who has to do with a request wants to see a sealed field of it, now or too early or too late."""
        rng = self._rng
        requests = [(request_id, request) for request_id, request in self.world.requests().items() if request.opened]
        if not requests:
            return
        request_id, request = rng.choice(requests)
        actor = rng.choice(self._likely(request, RecordDeparture(request_id=request_id)))
        self._disclosed += 1
        wanted = RequestDisclosure(
            request_id=request_id,
            disclosure_id=f"disclosure-{self._disclosed}",
            field=rng.choice(list(SealedField)),
            reason=rng.choice(list(DisclosureReason)),
            recipient=actor.person if rng.random() < 0.95 else "escort-2",
        )
        self._say(wanted, actor)

    # Saying it

    def _say(self, command: Command, actor: Actor) -> None:
        """Now, or later from a page that has grown old."""
        if self._rng.random() < 0.12:
            self._meant.append((command, actor))
        else:
            self._send(command, actor)

    def _send(self, command: Command, actor: Actor) -> None:
        command_id = self.world.submit(command, actor)
        self._said.append((command_id, command))
        if self._rng.random() < 0.05:
            self.world.submit_again(self._rng.choice(self._said)[0])


def _as_person(actor: Actor, person: str) -> Actor:
    """The same office held by another person."""
    return Actor(person=person, role=actor.role, organisation=actor.organisation, country=actor.country)


def _everywhere(countries: list[str]) -> tuple[DangerZone, ...]:
    return tuple(DangerZone(code=country) for country in countries)
