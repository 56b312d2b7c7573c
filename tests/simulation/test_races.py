"""The races that Haven must get right, each run through many interleavings.

Every test sets a scene, lets its moves happen in any order with crashes, duplicates and delays in between, and then says
what must have come of it. `calm_down` checks the invariants after each.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
import sqlalchemy as sa

from events.capacity import HoldMadeFirm, HoldPlaced, HoldRefusal, HoldRefused, HoldReleased
from events.envelope import Event, encode
from events.gateway import (
    AnswerAsk,
    Command,
    CountersignPlacement,
    EraseHousehold,
    ProposePlacement,
    RecordArrival,
    RecordConsent,
    RecordDeparture,
    ReportCapacity,
    WithdrawRequest,
)
from events.log import inbox
from events.log.follower import Follower, SourceWentBack
from events.log.inbox import Delivery, ParkReason
from events.log.schema import events
from events.placement import (
    ArrivalOverdue,
    AskExpired,
    CommandRefused,
    HoldLost,
    HoldReleaseRequested,
    HoldRequested,
    LateAnswerRecorded,
    PlacementConfirmed,
    PlacementCountersigned,
    PlacementProposed,
    ProposalLapse,
    ProposalLapsed,
    Refusal,
    ShelterAsked,
)
from events.vocabulary import (
    Actor,
    ArrivalOutcome,
    ConsentBy,
    ConsentScope,
    Household,
    Role,
    Stage,
    Step,
    Urgency,
    WithdrawalReason,
)
from services.placement.domain.request import Ask, AskStage, HoldStage, Request
from simulation.invariants import Claim
from simulation.scenarios import SEALED
from simulation.world import ByPosition, Snapshot, World

INTERLEAVINGS = 50


@pytest.fixture(params=range(0, INTERLEAVINGS, 10), ids=lambda first: f"seeds-{first}-{first + 9}")
def seeds(request: pytest.FixtureRequest) -> range:
    return range(request.param, request.param + 10)


class Scene:
    """One world with units and, from the stage `at` on, a request of one woman in danger in Belgium."""

    def __init__(self, seed: int, *units: tuple[str, str, int], at: Stage | None = None) -> None:
        self._act_in(World(seed, start=staged(units, at)))

    @classmethod
    def rehearsal(cls, *units: tuple[str, str, int]) -> "Scene":
        scene = cls.__new__(cls)
        scene._act_in(World(0, embedded=True))
        for country, region, beds in units:
            scene.people.add_unit(country, region, beds=beds)
        scene.world.settle()
        return scene

    def _act_in(self, world: World) -> None:
        self.world, self.people = world, world.people

    def open(self, request_id: str = "r1", **wanted: Any) -> str:
        opening = self.people.any_opening(
            **{
                "request_id": request_id,
                "urgency": Urgency.URGENT,
                "danger_country": "BE",
                "danger_zones": (),
                "household": Household(women=1),
                "needs": (),
                "consented_countries": ("LU", "NL"),
                **wanted,
            }
        )
        return self.say(opening, self.people.referrer("BE"))

    def say(self, command: Command, actor: Actor) -> str:
        return self.world.submit(command, actor)

    def request(self, request_id: str = "r1") -> Request:
        return self.world.requests()[request_id]

    def asks(self, request_id: str = "r1") -> list[Ask]:
        return self.request(request_id).open_asks()

    def shelter(self, ask: Ask) -> Actor:
        return self.people.shelter(ask.shelter_id, ask.country)

    def accept(self, ask: Ask, request_id: str = "r1") -> str:
        return self.say(AnswerAsk(request_id=request_id, ask_id=ask.ask_id, rendezvous=SEALED), self.shelter(ask))

    def propose(self, ask: Ask) -> str:
        return self.say(ProposePlacement(request_id="r1", ask_id=ask.ask_id), self.people.coordinator("BE"))

    def countersign(self, proposal: str, country: str = "NL") -> str:
        return self.say(CountersignPlacement(request_id="r1", proposal=proposal), self.people.coordinator(country))

    def withdraw(self) -> str:
        reason = WithdrawalReason.DANGER_PASSED
        return self.say(WithdrawRequest(request_id="r1", reason=reason), self.people.referrer("BE"))

    def consent(self, *, given: bool, scope: ConsentScope = ConsentScope.PLACEMENT, country: str = "NL") -> str:
        word = RecordConsent(request_id="r1", scope=scope, country=country, given=given, by=ConsentBy.HOUSEHOLD)
        return self.say(word, self.people.referrer("BE"))

    def race(self, *moves: Callable[[], Any]) -> None:
        """The moves in any order, with anything in between; then everything is delivered and checked."""
        world = self.world
        for move in world.rng.sample(moves, len(moves)):
            move()
            world.jostle(world.rng.randrange(5))
            if world.rng.random() < 0.3:
                world.now += timedelta(minutes=world.rng.randrange(4))
        world.calm_down()

    def said(self, kind: type, request_id: str | None = "r1") -> list[Any]:
        """What the services said of this kind, oldest first."""
        found = [
            event.data
            for source in ("placement", "capacity")
            for event in self.world.read(source)
            if isinstance(event, Event) and isinstance(event.data, kind)
        ]
        return [data for data in found if request_id is None or data.request_id == request_id]

    def refusal(self, command_id: str) -> Refusal | None:
        return next((said.reason for said in self.said(CommandRefused) if said.command_id == command_id), None)

    def claims(self, request_id: str = "r1") -> list[Claim]:
        """How the request's beds are claimed, by capacity's own account."""
        return [
            hold.claim
            for unit in self.world.checker.units.values()
            for hold in unit.holds.values()
            if hold.request_id == request_id and hold.claim is not Claim.OVER
        ]


@cache
def staged(units: tuple[tuple[str, str, int], ...], at: Stage | None) -> Snapshot:
    """What every interleaving of a race starts from, played once."""
    scene = Scene.rehearsal(*units)
    if at is not None:
        scene.open()
        scene.people.bring("r1", at)
    return scene.world.snapshot()


DUTCH = ("NL", "NL32", 1)
LUXEMBOURGISH = ("LU", "LU00", 3)


@pytest.mark.attack(58)
def test_two_households_and_one_last_bed(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH, LUXEMBOURGISH)
        # Both are told of the last bed before capacity has heard of either.
        placement = next(node for node in scene.world.nodes if node.part.name == "placement")
        scene.open("r1")
        scene.open("r2")
        while len(scene.said(HoldRequested, None)) < 4:
            scene.world.work(placement)
        scene.world.jostle(4)
        scene.world.calm_down()

        wanted = [hold for hold in scene.said(HoldRequested, None) if hold.unit_id == "unit-1"]
        refused = [hold for hold in scene.said(HoldRefused, None) if hold.reason is HoldRefusal.NOT_ENOUGH_BEDS]
        assert len(wanted) == 2
        assert [hold.unit_id for hold in refused] == ["unit-1"]
        loser = refused[0].request_id
        assert {ask.unit_id for ask in scene.asks(loser)} == {"unit-2"}
        assert {ask.unit_id for ask in scene.asks("r1" if loser == "r2" else "r2")} == {"unit-1", "unit-2"}


def test_the_loser_of_the_last_bed_is_asked_about_elsewhere_when_there_is_room(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH)
        scene.open("r1")
        scene.open("r2")
        scene.world.calm_down()
        waiting = next(request for request in scene.world.requests().values() if request.stage is Stage.UNMET_NEED)
        assert waiting.next_step is not None
        assert waiting.next_step.owner is Role.COORDINATOR
        scene.people.add_unit(*LUXEMBOURGISH[:2], beds=1)
        scene.world.jostle(5)
        scene.world.calm_down()
        assert {scene.request(request_id).stage for request_id in ("r1", "r2")} == {Stage.ASKED}


def test_countersigned_as_the_hold_expires() -> None:
    outcomes = set()
    for seed in range(INTERLEAVINGS):
        scene = Scene(seed, DUTCH, LUXEMBOURGISH, at=Stage.PROPOSED)
        proposal, proposal_hash = scene.request().proposal, scene.request().proposal_hash
        assert proposal is not None
        world, until = scene.world, scene.request().holds[proposal.hold_id].until
        world.now = until - timedelta(minutes=3)
        signed = scene.countersign(proposal_hash, proposal.host_country)
        scene.race(
            lambda world=world: world.jostle(2),
            lambda world=world: setattr(world, "now", world.now + timedelta(minutes=3)),
        )
        world.now = until + timedelta(minutes=1)
        world.calm_down()

        firm = [hold for hold in scene.said(HoldMadeFirm) if hold.hold_id == proposal.hold_id]
        lapsed = scene.said(ProposalLapsed)
        kept = scene.said(PlacementCountersigned)
        if firm:
            outcomes.add("confirmed")
            assert [placement.hold_id for placement in scene.said(PlacementConfirmed)] == [proposal.hold_id]
            assert lapsed == []
            assert scene.claims() == [Claim.FIRM]
            continue
        outcomes.add("expired after the signature" if kept else "expired before it")
        assert scene.said(PlacementConfirmed) == []
        assert [lapse.reason for lapse in lapsed] == [ProposalLapse.HOLD_EXPIRED]
        signers = ["coordinator-BE-1"] + [f"coordinator-{proposal.host_country}-1"] * bool(kept)
        assert list(lapsed[0].signers) == signers
        assert (scene.refusal(signed) is None) is bool(kept)
        # It asks again by itself: the shelter that said yes is first in line.
        assert scene.request().stage is Stage.ASKED
        assert proposal.unit_id in {ask.unit_id for ask in scene.asks()}
    assert outcomes >= {"confirmed", "expired after the signature"}


def test_a_release_that_overtakes_its_hold_in_the_transport(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH)
        placement, capacity = _node(scene, "placement"), _node(scene, "capacity")
        scene.open()
        while not scene.said(HoldRequested):
            scene.world.work(placement)
        scene.withdraw()
        while not scene.said(HoldReleaseRequested):
            scene.world.work(placement)
        stream = [event for event in scene.world.read("placement") if event.stream == "relocation_request-r1"]
        copies = scene.world.rng.sample(stream * 2, 2 * len(stream))
        for event in copies:
            capacity.service.consumer.deliver(event)
            scene.world.look()
        scene.world.calm_down()
        assert scene.claims() == []
        assert len(scene.said(HoldPlaced)) + len(scene.said(HoldRefused)) == 1
        assert scene.said(ShelterAsked) == []


def test_a_hold_that_was_released_can_never_be_placed(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH)
        runner, log = _node(scene, "capacity").service.runner, scene.world.logs["capacity"]
        unit = {"hold_id": "hold-1", "unit_id": "unit-1", "request_id": "r1"}
        until = scene.world.now + timedelta(hours=1)
        place = HoldRequested(**unit, shelter_id="shelter-unit-1", country="NL", beds=1, until=until)
        release = HoldReleaseRequested(**unit)
        said = []
        for n, message in enumerate([release, *scene.world.rng.sample([place, release, place, release], 4)]):
            with log.writing() as tx:
                decided = runner.run(
                    tx,
                    "unit-unit-1",
                    message,
                    now=scene.world.now,
                    actor=scene.people.coordinator("NL"),
                    cause_id=f"cause-{n}",
                    correlation_id="r1",
                    facts=None,
                )
            said += [event.data for event in decided.events]
        assert [type(data) for data in said] == [HoldReleased, HoldRefused, HoldRefused]
        assert {data.reason for data in said if isinstance(data, HoldRefused)} == {HoldRefusal.ALREADY_RELEASED}
        assert log.engine.connect().scalar(sa.text("SELECT count(*) FROM bed_claims")) == 0


def test_only_capacity_expires_a_hold_and_only_placement_an_ask(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH, at=Stage.OFFERED)
        world, capacity = scene.world, _node(scene, "capacity")
        hold = scene.request().holds[scene.request().offers()[0].hold_id]
        world.now = hold.until + timedelta(minutes=2)
        capacity.skew = timedelta(minutes=-4)
        world.settle()
        # For placement it is later than the hold runs; capacity has not said so, so it has not happened.
        assert scene.said(HoldLost) == []
        assert scene.request().holds[hold.hold_id].stage is HoldStage.HELD
        capacity.skew = timedelta()
        world.calm_down()
        assert [(lost.hold_id, lost.reason) for lost in scene.said(HoldLost)] == [(hold.hold_id, "expired")]

        ask = scene.asks()[0]
        world.now = ask.deadline - timedelta(minutes=2)
        capacity.skew = timedelta(minutes=10)
        world.settle()
        assert scene.said(AskExpired) == []
        world.now = ask.deadline
        world.settle()
        assert [expired.ask_id for expired in scene.said(AskExpired)] == [ask.ask_id]


def test_a_state_is_the_same_whenever_it_is_read_again(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH, LUXEMBOURGISH, at=Stage.CONFIRMED)
        before = dict(scene.world.checker.states)
        scene.world.now += timedelta(days=400)
        for node in scene.world.nodes:
            node.crash()
            with node.log.writing() as tx:
                for (source, stream), state in before.items():
                    if source == node.part.name:
                        assert node.service.runner.state(tx, stream) == state


def test_a_signature_binds_to_what_was_shown() -> None:
    outcomes = set()
    for seed in range(INTERLEAVINGS):
        scene = Scene(seed, DUTCH, LUXEMBOURGISH, at=Stage.PROPOSED)
        shown, host = scene.request().proposal_hash, scene.request().proposal
        assert host is not None
        signed: list[str] = []
        scene.race(
            lambda s=scene, h=host: s.consent(given=False, country=h.host_country),
            lambda s=scene, h=host, shown=shown, signed=signed: signed.append(s.countersign(shown, h.host_country)),
            lambda s=scene: s.accept(s.asks()[0]) if s.asks() else None,
        )
        kept = scene.said(PlacementCountersigned)
        assert [signature.proposal_hash for signature in kept] in ([], [shown])
        assert scene.request().proposal is None  # whichever came first, they said no to that country
        if not kept:
            outcomes.add("refused")
            assert scene.refusal(signed[0]) is Refusal.PROPOSAL_CHANGED
            # Another proposal now stands; the old page still signs the old one, and it does not count.
            if not scene.request().offers():
                scene.accept(scene.asks()[0])
                scene.world.calm_down()
            scene.propose(scene.request().offers()[0])
            scene.world.calm_down()
            current = scene.request()
            assert current.proposal is not None
            assert current.proposal_hash != shown
            late = scene.countersign(shown, current.proposal.host_country)
            scene.world.calm_down()
            assert scene.refusal(late) is Refusal.PROPOSAL_CHANGED
            assert scene.request().stage is Stage.PROPOSED
        else:
            outcomes.add("signed, then lapsed")
            assert [lapse.reason for lapse in scene.said(ProposalLapsed)] == [ProposalLapse.CONSENT_WITHDRAWN]
    assert outcomes == {"refused", "signed, then lapsed"}


@pytest.mark.parametrize("stage", [Stage.ASKED, Stage.OFFERED, Stage.PROPOSED, Stage.CONFIRMED])
@pytest.mark.parametrize("over", [Stage.WITHDRAWN, Stage.ERASED])
def test_over_while_anything_is_in_flight(stage: Stage, over: Stage) -> None:
    late = 0
    for seed in range(INTERLEAVINGS):
        scene = Scene(seed, DUTCH, LUXEMBOURGISH, at=stage)
        request = scene.request()
        moves: list[Callable[[], Any]] = [lambda s=scene, ask=ask: s.accept(ask) for ask in request.open_asks()]
        moves += [lambda s=scene, ask=ask: s.propose(ask) for ask in request.offers()]
        if request.proposal is not None:
            country = request.proposal.host_country
            moves.append(lambda s=scene, h=request.proposal_hash, c=country: s.countersign(h, c))
        erase = EraseHousehold(request_id="r1")
        if over is Stage.ERASED:
            moves.append(lambda s=scene, erase=erase: s.say(erase, s.people.auditor()))
        else:
            moves.append(scene.withdraw)
        scene.race(*moves)
        request = scene.request()
        assert request.stage is over
        assert scene.claims() == []
        assert not {ask.stage for ask in request.asks.values()} & {AskStage.OPEN, AskStage.ACCEPTED}
        assert {hold.stage for hold in request.holds.values()} == {HoldStage.OVER}
        assert request.next_step is not None
        assert (request.next_step.stage, request.next_step.steps) == (over, ())
        late += len(scene.said(LateAnswerRecorded))
    assert late > 0 or stage is not Stage.ASKED


def test_consent_withdrawn_while_the_hold_is_made_firm() -> None:
    outcomes = set()
    for seed in range(INTERLEAVINGS):
        scene = Scene(seed, DUTCH, LUXEMBOURGISH, at=Stage.PROPOSED)
        proposal, shown = scene.request().proposal, scene.request().proposal_hash
        assert proposal is not None
        country = proposal.host_country
        scene.race(
            lambda s=scene, c=country, h=shown: s.countersign(h, c),
            lambda s=scene, c=country: s.consent(given=False, country=c),
        )
        outcomes.add((bool(scene.said(PlacementCountersigned)), bool(scene.said(PlacementConfirmed))))
        request = scene.request()
        assert request.confirmed is None
        assert request.proposal is None
        assert request.holds[proposal.hold_id].stage is HoldStage.OVER
        assert country not in {ask.country for ask in request.open_asks()}
        assert Claim.FIRM not in scene.claims()
    assert outcomes >= {(False, False), (True, True)}


def test_a_report_from_a_stale_page_moves_no_claimed_bed() -> None:
    outcomes = set()
    for seed in range(INTERLEAVINGS):
        scene = Scene(seed, ("NL", "NL32", 2))
        revision = scene.world.checker.units["unit-1"].revision
        staff = scene.people.shelter("shelter-unit-1", "NL")

        def report(free: int, *, at: Scene = scene, seen: int = revision, by: Actor = staff) -> str:
            return at.say(ReportCapacity(unit_id="unit-1", revision_seen=seen, beds=2, free=free), by)

        scene.race(scene.open, lambda report=report: report(2), lambda report=report: report(0))
        unit = scene.world.checker.units["unit-1"]
        outcomes.add((len(unit.claims), len(unit.free)))
        assert scene.claims() == [Claim.HELD] * len(unit.claims)
        # The right revision, and still a held bed cannot be typed away.
        if unit.claims:
            report(2, seen=unit.revision)
            scene.world.calm_down()
            assert scene.claims() == [Claim.HELD]
            assert len(unit.free) < 2
    assert {claimed for claimed, _ in outcomes} == {0, 1}


def test_a_stale_page_frees_no_occupied_bed(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH, at=Stage.DEPARTED)
        seen = scene.world.checker.units["unit-1"].revision
        staff = scene.people.shelter("shelter-unit-1", "NL")
        scene.race(
            lambda s=scene, p=staff: s.say(RecordArrival(request_id="r1", outcome=ArrivalOutcome.ARRIVED), p),
            lambda s=scene, p=staff, seen=seen: s.say(
                ReportCapacity(unit_id="unit-1", revision_seen=seen, beds=1, free=1), p
            ),
            lambda s=scene, p=staff, seen=seen: s.say(
                ReportCapacity(unit_id="unit-1", revision_seen=seen, beds=0, free=0), p
            ),
        )
        assert scene.claims() == [Claim.OCCUPIED]
        assert scene.world.checker.units["unit-1"].free == set()


@pytest.mark.attack(45)
def test_one_person_never_signs_twice(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH, at=Stage.OFFERED)
        ask = scene.request().offers()[0]
        both = [
            Actor(person="p", role=Role.COORDINATOR, organisation=f"focal-point-{c}", country=c) for c in ("BE", "NL")
        ]
        scene.say(ProposePlacement(request_id="r1", ask_id=ask.ask_id), both[0])
        scene.world.calm_down()
        shown = scene.request().proposal_hash
        referrer = Actor(
            person=scene.people.referrer("BE").person,
            role=Role.COORDINATOR,
            organisation="focal-point-NL",
            country="NL",
        )
        signature = CountersignPlacement(request_id="r1", proposal=shown)
        refused: dict[str, str] = {}
        scene.race(
            lambda s=scene, a=both[1], c=signature, r=refused: r.setdefault("same", s.say(c, a)),
            lambda s=scene, a=referrer, c=signature, r=refused: r.setdefault("referrer", s.say(c, a)),
        )
        assert scene.said(PlacementCountersigned) == []
        assert scene.refusal(refused["same"]) is Refusal.SAME_PERSON
        assert scene.refusal(refused["referrer"]) is Refusal.REFERRER_CANNOT_SIGN
        scene.race(
            lambda s=scene, h=shown: s.countersign(h),
            lambda s=scene, a=both[1], c=signature: s.say(c, a),
        )
        assert len(scene.said(PlacementCountersigned)) == 1
        assert scene.request().countersigner == scene.people.coordinator("NL")


def test_two_offices_propose_at_once(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH, LUXEMBOURGISH, at=Stage.ASKED)
        for ask in scene.asks():
            scene.accept(ask)
        scene.world.settle()
        offers = scene.request().offers()
        moves = [
            lambda s=scene, ask=ask, desk=desk: s.say(
                ProposePlacement(request_id="r1", ask_id=ask.ask_id, override="safety_knowledge"),
                s.people.coordinator("BE", desk),
            )
            for desk, ask in enumerate(offers, 1)
        ]
        scene.race(*moves)
        assert len(offers) == 2
        assert len(scene.said(PlacementProposed)) == 1
        assert scene.claims() == [Claim.HELD]


def upgrade(patch: pytest.MonkeyPatch) -> None:
    """What only the newer release could read, this one can now too."""
    decode = inbox.decode
    patch.setattr(inbox, "decode", lambda record: decode(record.replace(".withdraw.v2", ".withdraw.v1")))


def test_events_of_a_newer_release_wait_and_nothing_is_skipped(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in seeds:
        with monkeypatch.context() as patch:
            scene = Scene(seed, ("NL", "NL32", 4))
            scene.open("r1")
            scene.open("r2")
            scene.world.settle()
            _withdraw_as_a_newer_release(scene)
            scene.consent(given=True, scope=ConsentScope.TRANSPORT)
            answered = scene.accept(scene.asks("r2")[0], "r2")
            scene.world.jostle(5)
            scene.world.settle()

            placement = _node(scene, "placement")
            waiting = [(parked.stream, parked.reason) for parked in placement.service.consumer.parked()]
            stream = "relocation_request-r1"
            assert waiting[0] == (stream, ParkReason.UNREADABLE)
            assert waiting[1] in ((stream, ParkReason.BEHIND), (stream, ParkReason.EARLY))
            assert len(waiting) == 2
            assert scene.request("r1").stage is Stage.ASKED
            assert scene.request("r2").stage is Stage.OFFERED
            assert scene.refusal(answered) is None

            upgrade(patch)
            placement.crash()
            assert placement.service.consumer.retry_parked() == 2
            scene.world.settle()
            assert placement.service.consumer.parked() == []
            assert scene.request("r1").stage is Stage.WITHDRAWN
            assert scene.claims("r1") == []
            assert [said.reason for said in scene.said(CommandRefused)] == [Refusal.WRONG_STAGE]


def test_a_source_that_was_restored_from_a_backup_is_noticed(seeds: range) -> None:
    for seed in seeds:
        scene, backup = Scene(seed, DUTCH, at=Stage.ASKED), Scene(seed, DUTCH, at=Stage.ASKED)
        placement = _node(scene, "placement")
        consumer = placement.service.consumer
        scene.withdraw()
        scene.world.calm_down()
        # The withdrawal is not in the backup; what comes after the restore takes its place in the stream.
        ask = backup.asks()[0]
        answer = AnswerAsk(request_id="r1", ask_id=ask.ask_id, rendezvous=SEALED)
        accepted = backup.world.gateway.find(
            backup.world.submit(answer, backup.shelter(ask), "command-after-the-restore")
        )
        assert accepted is not None
        if isinstance(placement.transport, ByPosition):
            with pytest.raises(SourceWentBack):
                Follower(consumer, {"gateway": backup.world.gateway}, placement.clock).step()
        assert consumer.deliver(accepted) is Delivery.PARKED
        assert [parked.reason for parked in consumer.parked()] == [ParkReason.FORKED]
        assert scene.request().stage is Stage.WITHDRAWN


def test_arrived_before_departed() -> None:
    departures = set()
    for seed in range(INTERLEAVINGS):
        scene = Scene(seed, DUTCH, at=Stage.CONFIRMED)
        for _plan_and_consent in range(2):
            scene.say(*scene.people.proper("r1"))
            scene.world.settle()
        staff = scene.people.shelter("shelter-unit-1", "NL")
        scene.race(
            lambda s=scene: s.say(RecordDeparture(request_id="r1"), s.people.escort()),
            lambda s=scene, p=staff: s.say(RecordArrival(request_id="r1", outcome=ArrivalOutcome.ARRIVED), p),
            lambda s=scene, p=staff: s.say(RecordArrival(request_id="r1", outcome=ArrivalOutcome.ARRIVED), p),
        )
        departures.add(scene.world.types["placement.journey.departed.v1"])
        assert scene.request().stage is Stage.ARRIVED
        assert scene.world.types["placement.journey.arrived.v1"] == 1
        assert scene.world.types["capacity.beds.occupied.v1"] == 1
        assert scene.claims() == [Claim.OCCUPIED]
        assert scene.said(CommandRefused) == []
    assert departures == {0, 1}


@pytest.mark.parametrize("outcome", [ArrivalOutcome.ARRIVED_ELSEWHERE, ArrivalOutcome.NOT_ARRIVED])
def test_who_did_not_come_has_an_owner_and_keeps_the_bed(outcome: ArrivalOutcome, seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH, at=Stage.DEPARTED)
        staff = scene.people.shelter("shelter-unit-1", "NL")
        scene.race(
            lambda s=scene, p=staff, o=outcome: s.say(RecordArrival(request_id="r1", outcome=o), p),
            lambda s=scene: s.say(RecordDeparture(request_id="r1"), s.people.escort()),
        )
        request = scene.request()
        assert request.stage is Stage.ASTRAY
        assert request.next_step is not None
        assert (request.next_step.owner, request.next_step.owner_country) == (Role.COORDINATOR, "BE")
        assert Step.FIND_HOUSEHOLD in request.next_step.steps
        assert scene.claims() == [Claim.FIRM]


@pytest.mark.parametrize("said_no_on_the_road", [False, True])
def test_nobody_arrives(said_no_on_the_road: bool, seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed, DUTCH, at=Stage.DEPARTED)
        journey = scene.request().journey
        assert journey is not None
        if said_no_on_the_road:
            scene.consent(given=False)
            scene.world.settle()
        grace = timedelta(minutes=scene.world.reference.clocks.arrival_grace_minutes)
        scene.world.now = journey.arrival_due + grace - timedelta(minutes=1)
        scene.world.calm_down()
        assert scene.said(ArrivalOverdue) == []
        scene.world.now += timedelta(minutes=2)
        scene.world.jostle(3)
        scene.world.calm_down()
        assert len(scene.said(ArrivalOverdue)) == 1
        step = scene.request().next_step
        assert step is not None
        assert (step.owner, step.owner_country, step.steps[0]) == (Role.COORDINATOR, "BE", Step.FIND_HOUSEHOLD)
        assert step.deadline is not None
        assert step.deadline > scene.world.now
        assert scene.claims() == [Claim.FIRM]


def test_everything_at_once(seeds: range) -> None:
    asked = 0
    for seed in seeds:
        scene = Scene(seed, DUTCH, LUXEMBOURGISH, ("NL", "NL41", 2), ("LU", "LU00", 1), ("NL", "NL11", 6))
        world = scene.world
        scene.people.alarm("BE", 8)
        for _ in range(30):
            world.step()
        asked += world.types["placement.ask.made.v1"]
        world.heal()
        inside = {Stage.ARRIVED, Stage.ASTRAY}
        beds = sum(unit.beds for unit in world.checker.units.values())
        claimed = sum(len(unit.claims) for unit in world.checker.units.values())
        housed = sum(
            request.opened.household.beds
            for request in world.requests().values()
            if request.opened is not None and request.stage in inside
        )
        assert claimed == housed <= beds
    assert asked > 4 * len(seeds)


def _node(scene: Scene, name: str) -> Any:
    return next(node for node in scene.world.nodes if node.part.name == name)


def _withdraw_as_a_newer_release(scene: Scene) -> None:
    """A gateway of the next release, in a rolling upgrade, appends what this release cannot read."""
    world = scene.world
    command = WithdrawRequest(request_id="r1", reason=WithdrawalReason.DANGER_PASSED)
    event = Event(
        id="command-newer",
        source="gateway",
        stream="relocation_request-r1",
        version=2,
        time=world.now,
        actor=scene.people.referrer("BE"),
        correlation_id="r1",
        causation_id="command-newer",
        data=command,
    )
    record = encode(event).replace(".withdraw.v1", ".withdraw.v2")
    row = {"id": event.id, "stream": event.stream, "version": 2, "type": "withdraw.v2", "record": record}
    with world.gateway.writing() as tx:
        tx.connection.execute(sa.insert(events).values(row))
    world.look()
