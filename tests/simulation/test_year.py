"""A synthetic year through the HTTP API: the promises hold, the numbers add up, and a seed repeats it."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

import reference
from events.vocabulary import BlockReason
from services.gateway.projection import Projection
from simulation.invariants import Invariant, InvariantViolated
from simulation.year import SEALED_TEXTS, START, Beds, Report, UnexpectedAnswer, Year, next_open, run_year

CASES, WEEKS = 600, 1
DATA = reference.load()


def played(seed: int) -> tuple[Report, str]:
    lines: list[str] = []
    return run_year(seed, CASES, lines.append, weeks=WEEKS), "\n".join(lines)


@pytest.fixture(scope="module")
def week() -> tuple[Report, str]:
    """The first week of a busy year, played once for the tests that only look at it."""
    return played(seed=1)


@pytest.fixture
def morning(tmp_path: Path) -> Iterator[Year]:
    """A year in which nothing has happened yet."""
    year = Year(1, CASES, tmp_path, weeks=0)
    year.core.seed(year.node.inventory)
    year.settle()
    yield year
    year.node.stop()


def test_some_are_placed_and_every_promise_holds(week: tuple[Report, str]) -> None:
    report, text = week
    assert report.placed > 0
    assert report.arrived > 0
    assert report.sealed_fields_opened > report.placed
    assert report.learnt_later > 0
    assert report.invariants_checked > 5_000
    assert "0 violations; the read model rebuilt equal to the byte" in text


def test_every_referral_is_counted_once(week: tuple[Report, str]) -> None:
    report, _ = week
    assert report.cases == report.opened + report.refused
    assert report.opened == report.placed + report.withdrawn + report.unmet
    assert report.placed == sum(report.pairs.values())
    assert report.withdrawn == sum(report.withdrawn_because.values())
    assert report.opened - report.placed == sum(report.nearest_miss.values())
    assert report.declined == sum(report.declines.values())
    assert report.asks <= report.holds
    assert report.accepted + report.expired <= report.asks
    for delays in report.delays.values():
        assert all(delay.p50 <= delay.p90 for delay in delays.values())
        assert delays["confirmed"].p50 >= delays["first yes"].p50 if "confirmed" in delays else True


def test_beds_are_as_scarce_as_published(week: tuple[Report, str]) -> None:
    least, usual, most = week[0].occupancy
    assert 0.85 <= least <= usual <= most <= 1


def test_the_report_names_nobody_and_opens_nothing(week: tuple[Report, str]) -> None:
    _, text = week
    assert "synthetic" in text
    assert "assumed" in text.lower()
    codes = [sealed.rpartition(" ")[2] for sealed in SEALED_TEXTS]
    for hidden in (*SEALED_TEXTS, *codes, "-shelter-", "-coordinator-", "-police-", "-escort-"):
        assert hidden not in text


def test_a_seed_repeats_its_year(week: tuple[Report, str]) -> None:
    first, again = week[0], played(seed=1)[0]
    assert msgspec.structs.replace(again, wall_seconds=first.wall_seconds) == first


def test_a_read_model_gone_wrong_fails_the_run_and_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Projection, "rebuild", lambda _self, _logs: ("before", "after"))
    with pytest.raises(InvariantViolated) as failed:
        run_year(7, 30, print, weeks=0)
    assert failed.value.invariant is Invariant.STATE_IS_FOLD
    assert failed.value.seed == 7
    assert failed.value.__notes__ == ["Repeat it with: haven simulate --seed 7 --cases 30"]


def test_a_broken_claims_table_fails_the_run(morning: Year) -> None:
    with morning.core.capacity_log.writing() as tx:
        tx.connection.exec_driver_sql("INSERT INTO bed_claims (unit_id, bed, hold_id) VALUES ('nowhere', 1, 'nobody')")
    with pytest.raises(InvariantViolated) as failed:
        morning.check()
    assert failed.value.invariant is Invariant.ONE_CLAIM_PER_BED


def test_a_refusal_by_the_api_stops_the_year_and_repeats_nothing_that_was_sent(morning: Year) -> None:
    staff = next(account for account in morning.node.accounts if account.organisation == "nl-shelter-01")
    with pytest.raises(UnexpectedAnswer) as refused:
        morning.api.send(staff, "POST", "/asks/no-such-ask/answer", {"accept": True, "rendezvous": SEALED_TEXTS[1]})
    assert refused.value.status == 404
    assert SEALED_TEXTS[1] not in str(refused.value)


def test_staff_never_report_a_bed_that_haven_has_a_claim_on() -> None:
    crowded = Beds(beds=4, others=2, not_ready=[START], because=BlockReason.TURNOVER)
    assert crowded.report(claimed=0) == (1, 1)
    assert crowded.report(claimed=1) == (0, 1)
    # Two are held, and one of those is taken in truth: the most that can be said is that nothing is left.
    assert crowded.report(claimed=2) == (0, 1)
    assert crowded.report(claimed=4) == (0, 0)


def test_people_come_and_go_and_beds_need_their_turnover() -> None:
    rng, now = random.Random(1), START
    unit = Beds(beds=50, others=46, not_ready=[], because=BlockReason.TURNOVER)
    taken = []
    for day in range(364):
        unit.live_a_day(rng, now + timedelta(days=day), claimed=0)
        assert unit.free(0) >= 0
        taken.append(1 - unit.free(0) / unit.beds)
    assert 0.85 < sum(taken) / len(taken) < 1
    assert len(set(taken)) > 3


@pytest.mark.parametrize(
    ("country", "moment", "opens"),
    [
        ("NL", datetime(2027, 1, 8, 15, tzinfo=UTC), datetime(2027, 1, 8, 15, tzinfo=UTC)),
        ("NL", datetime(2027, 1, 8, 16, tzinfo=UTC), datetime(2027, 1, 11, 8, tzinfo=UTC)),
        ("NL", datetime(2027, 1, 11, 3, tzinfo=UTC), datetime(2027, 1, 11, 8, tzinfo=UTC)),
        ("NL", datetime(2027, 7, 5, 3, tzinfo=UTC), datetime(2027, 7, 5, 7, tzinfo=UTC)),
        ("BE", datetime(2027, 1, 9, 2, tzinfo=UTC), datetime(2027, 1, 9, 2, tzinfo=UTC)),
    ],
)
def test_a_desk_opens_by_its_own_clock(country: str, moment: datetime, opens: datetime) -> None:
    assert next_open(DATA.country(country), moment) == opens


def test_a_country_without_published_hours_answers_around_the_clock() -> None:
    quiet = msgspec.structs.replace(DATA.country("NL"), office_hours=())
    sunday_night = datetime(2027, 1, 10, 2, tzinfo=UTC)
    assert next_open(quiet, sunday_night) == sunday_night
