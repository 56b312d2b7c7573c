"""Haven under a scheduler that does its worst: whole worlds, one number each."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pytest

from events.capacity import CapacityContract
from events.log.decider import DeciderRunner
from events.log.inbox import Consumer, Delivery
from events.placement import PlacementContract, Refusal, Rule
from events.vocabulary import Stage
from services.capacity import worker as capacity_worker
from services.capacity.domain import unit
from services.capacity.worker import CapacityWorker
from services.placement.domain import matching, policies, process, relocation_request
from services.placement.domain.request import Request
from services.placement.worker import PlacementWorker
from simulation.invariants import Invariant, InvariantViolated
from simulation.world import replay_command, run, simulate

STEPS = 30
CHUNK = 50


@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_no_seed_breaks_a_promise(first: int) -> None:
    summary = run(range(first, first + CHUNK), STEPS)
    assert summary.seeds == CHUNK
    for happened in ("crashes", "duplicates", "reordered", "parked early"):
        assert summary.tally[happened] > CHUNK, happened


def test_the_simulation_reaches_every_event_and_every_stage() -> None:
    summary = run(range(10_000, 10_100), 2 * STEPS)
    said = {cls.__struct_config__.tag for cls in (*get_args(PlacementContract), *get_args(CapacityContract))}
    assert said - summary.types.keys() == set()
    assert set(Stage) - summary.stages == set()
    assert set(map(str, Invariant)) - summary.checked.keys() == set()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_gives_the_same_logs_in_another_process_too(seed: int) -> None:
    program = f"from simulation.world import simulate; print(simulate({seed}, {STEPS}).digest())"
    # Another hash seed orders every set another way: nothing that is decided may depend on it.
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == simulate(seed, STEPS).digest()


def test_another_seed_gives_other_logs() -> None:
    assert simulate(1, 5).digest() != simulate(2, 5).digest()


def test_the_summary_says_what_happened() -> None:
    lines = run(range(3), STEPS).lines()
    assert lines[0] == f"3 seeds x {STEPS} steps"
    assert {line.partition(":")[0] for line in lines} >= {"requests", "confirmed", "arrivals", "I1 checked"}


# Whether the simulation would notice: each of these bugs must be caught.


def forget_what_was_consumed(patch: pytest.MonkeyPatch) -> None:
    """Every duplicate is handled again."""
    take = Consumer._take

    def careless(self: Consumer, tx: Any, memory: Any, incoming: Any) -> Delivery:
        delivery = take(self, tx, memory, incoming)
        if delivery is Delivery.DUPLICATE:
            self.handle(tx, incoming)
        return delivery

    patch.setattr(Consumer, "_take", careless)


def skip_an_event_of_a_batch(patch: pytest.MonkeyPatch) -> None:
    """The cursor moves over an event that nobody took."""
    deliver = Consumer.deliver_batch
    patch.setattr(
        Consumer,
        "deliver_batch",
        lambda self, batch: deliver(self, [*batch[:-2], batch[-1]] if len(batch) > 4 else batch),
    )


def write_no_claims(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(capacity_worker, "_claim_beds", lambda _tx, _decided: None)


def hold_the_same_bed_twice(patch: pytest.MonkeyPatch) -> None:
    """The domain takes a held bed for free: the primary key of the claims table has to refuse."""
    evolve = unit.UnitDecider.evolve

    def generous(self: unit.UnitDecider, state: unit.Unit, event: Any) -> unit.Unit:
        after = evolve(self, state, event)
        return msgspec.structs.replace(after, free=state.free) if isinstance(event.data, unit.HoldPlaced) else after

    patch.setattr(unit.UnitDecider, "evolve", generous)


def let_no_hold_expire(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unit, "_pass_time", lambda _unit, _context: [])


def make_firm_what_ran_out(patch: pytest.MonkeyPatch) -> None:
    make_firm = unit._make_firm
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)

    def late(state: unit.Unit, request: Any, context: Any) -> Any:
        return make_firm(state, request, type(context)(**{**vars(context), "now": long_ago}))

    patch.setattr(unit, "_make_firm", late)


def count_stale_reports(patch: pytest.MonkeyPatch) -> None:
    report = unit._report
    patch.setattr(
        unit,
        "_report",
        lambda state, command, context: report(
            state, msgspec.structs.replace(command, revision_seen=state.revision), context
        ),
    )


def swallow_what_handling_raises(patch: pytest.MonkeyPatch) -> None:
    for worker in (CapacityWorker, PlacementWorker):

        def swallow(self: Any, tx: Any, event: Any, handle: Any = worker.handle) -> None:
            try:
                handle(self, tx, event)
            except Exception:  # noqa: BLE001 - the bug itself
                return

        patch.setattr(worker, "handle", swallow)


def keep_the_state_of_what_never_committed(patch: pytest.MonkeyPatch) -> None:
    run_decider = DeciderRunner.run

    def hasty(self: DeciderRunner[Any], tx: Any, stream: str, message: Any, **why: Any) -> Any:
        decided = run_decider(self, tx, stream, message, **why)
        tx.after_commit.pop()()
        return decided

    patch.setattr(DeciderRunner, "run", hasty)


def without(patch: pytest.MonkeyPatch, rule: str, refusal: Refusal) -> None:
    """One refusal of one policy becomes a yes."""
    original = getattr(policies, rule)
    patch.setattr(policies, rule, lambda *facts: None if (said := original(*facts)) is refusal else said)


def let_one_person_sign_twice(patch: pytest.MonkeyPatch) -> None:
    without(patch, "may_countersign", Refusal.SAME_PERSON)


def let_any_country_countersign(patch: pytest.MonkeyPatch) -> None:
    without(patch, "may_countersign", Refusal.NOT_YOUR_COUNTRY)


def let_the_referrer_sign(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policies, "_not_the_referrer", lambda _request, _actor: None)


def sign_something_else_than_was_shown(patch: pytest.MonkeyPatch) -> None:
    countersign = relocation_request.countersign
    patch.setattr(
        relocation_request,
        "countersign",
        lambda request, command, context: countersign(
            request, msgspec.structs.replace(command, proposal=request.proposal_hash), context
        ),
    )


def ask_nobody_for_consent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Request, "has_consent", lambda _self, _scope, _country: True)


def show_sealed_fields_at_any_time(patch: pytest.MonkeyPatch) -> None:
    without(patch, "may_see_sealed_field", Refusal.WRONG_STAGE)


def keep_the_beds_of_the_withdrawn(patch: pytest.MonkeyPatch) -> None:
    close = process._close_what_no_longer_stands
    patch.setattr(
        process,
        "_close_what_no_longer_stands",
        lambda request: () if request.stage is Stage.WITHDRAWN else close(request),
    )


def name_no_next_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(process, "_say_who_is_next", lambda _request, _context: ())


def place_in_danger(patch: pytest.MonkeyPatch) -> None:
    anywhere = {**matching.HARD_RULES, Rule.NOT_IN_DANGER_COUNTRY: lambda _search, _unit: True}
    patch.setattr(matching, "HARD_RULES", anywhere)


def place_children_among_adults(patch: pytest.MonkeyPatch) -> None:
    anywhere = {**matching.HARD_RULES, Rule.CHILD_TRACK_FOR_PRESUMED_MINORS: lambda _search, _unit: True}
    patch.setattr(matching, "HARD_RULES", anywhere)


BUGS: dict[Callable[[pytest.MonkeyPatch], None], set[Invariant]] = {
    forget_what_was_consumed: {Invariant.NOTHING_LOST, Invariant.EFFECTS_ONCE},
    skip_an_event_of_a_batch: {Invariant.NOTHING_LOST},
    write_no_claims: {Invariant.ONE_CLAIM_PER_BED},
    hold_the_same_bed_twice: {Invariant.ONE_CLAIM_PER_BED, Invariant.NOTHING_LOST, Invariant.STATE_IS_FOLD},
    let_no_hold_expire: {Invariant.NOTHING_AFTER_EXPIRY},
    make_firm_what_ran_out: {Invariant.NOTHING_AFTER_EXPIRY},
    count_stale_reports: {Invariant.ONLY_THE_ENTITLED},
    swallow_what_handling_raises: {Invariant.NOTHING_LOST, Invariant.EFFECTS_ONCE, Invariant.SERVICES_AGREE},
    keep_the_state_of_what_never_committed: {Invariant.STATE_IS_FOLD, Invariant.NOTHING_LOST},
    let_one_person_sign_twice: {Invariant.ONLY_THE_ENTITLED},
    let_any_country_countersign: {Invariant.ONLY_THE_ENTITLED},
    let_the_referrer_sign: {Invariant.ONLY_THE_ENTITLED},
    sign_something_else_than_was_shown: {Invariant.ONLY_THE_ENTITLED},
    ask_nobody_for_consent: {Invariant.ONLY_THE_ENTITLED},
    show_sealed_fields_at_any_time: {Invariant.NOTHING_AFTER_EXPIRY},
    keep_the_beds_of_the_withdrawn: {Invariant.SERVICES_AGREE},
    name_no_next_step: {Invariant.NOTHING_LOST},
    place_in_danger: {Invariant.ONLY_THE_ENTITLED},
    place_children_among_adults: {Invariant.ONLY_THE_ENTITLED},
}
ENOUGH = 300
"""Worlds within which each of these bugs shows; most show in the first few."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_simulation_would_notice(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(0, 1)  # the first mornings are built before the bug
    bug(monkeypatch)
    with pytest.raises(InvariantViolated) as caught:
        run(range(ENOUGH), STEPS)
    violated = caught.value
    print(f"seed {violated.seed}: {violated}"[:300])
    assert violated.invariant in BUGS[bug]
    assert violated.__notes__[-1].endswith(replay_command(violated.seed, STEPS))
