"""The synthetic year of referrals."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import msgspec
import pytest

import reference
from events.gateway import OpenRelocationRequest
from events.vocabulary import AgeStatus, DeclineReason, Need, Sealed, Urgency
from simulation.referrals import Referral, referrals

DATA = reference.load()
START = datetime(2027, 1, 1, 12, tzinfo=UTC)
YEAR = list(referrals(1, 4000, START, DATA))
ASKS = [ask for referral in YEAR for ask in referral.behaviour.asks]


def share(cases: Iterable[bool]) -> float:
    found = list(cases)
    assert found
    return sum(found) / len(found)


def local(referral: Referral) -> datetime:
    return DATA.country(referral.danger_country).local_time(referral.at)


def adults_alone() -> list[Referral]:
    return [r for r in YEAR if r.household.beds == 1 and r.household.age_status is AgeStatus.ADULT]


def test_a_seed_gives_the_same_year_whatever_else_uses_chance() -> None:
    random.seed(1)
    first = list(referrals(7, 50, START, DATA))
    random.seed(2)
    assert list(referrals(7, 50, START, DATA)) == first
    assert list(referrals(8, 50, START, DATA)) != first


def test_shelters_and_households_are_the_same_in_every_process() -> None:
    program = (
        "import hashlib, msgspec, reference, simulation.inventory, simulation.referrals, datetime;"
        "data = reference.load(); start = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC);"
        "drawn = simulation.inventory.synthetic_inventory(7, data), [*simulation.referrals.referrals(7, 50, start, data)];"
        "print(hashlib.sha256(msgspec.json.encode(drawn)).hexdigest())"
    )
    root = Path(reference.__file__).parent.parent
    # Sets of text are ordered by the hash seed: whoever draws from one gets another year in another process.
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": str(root), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("cases", [0, 1, 300])
def test_there_are_as_many_as_were_asked_for(cases: int) -> None:
    assert len(list(referrals(3, cases, START, DATA))) == cases


def test_they_come_in_order_within_a_year_of_the_start() -> None:
    moments = [referral.at for referral in YEAR]
    assert moments == sorted(moments)
    assert moments[0] >= START
    assert moments[-1] < START + timedelta(days=366)
    assert {moment.tzinfo for moment in moments} == {UTC}


def test_every_referral_is_one_that_the_gateway_would_accept() -> None:
    callback = Sealed(algorithm="none", key_id="key", box="AA")
    opening = {
        "type": "gateway.relocation_request.open.v1",
        "request_id": "r1",
        "callback": msgspec.to_builtins(callback),
    }
    for referral in YEAR:
        fields = msgspec.to_builtins(referral)
        del fields["at"], fields["behaviour"]
        assert fields.keys() | opening.keys() == {*OpenRelocationRequest.__struct_fields__, "type"}
        command = msgspec.convert(fields | opening, OpenRelocationRequest)
        assert command.household == referral.household


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_seed_danger_lies_where_somebody_else_can_help(seed: int) -> None:
    for referral in referrals(seed, 100, START, DATA):
        others = DATA.countries.keys() - {referral.danger_country}
        assert set(referral.consented_countries) <= others
        assert referral.region_of_stay in DATA.regions_of(referral.danger_country)
        assert {zone.code for zone in referral.danger_zones} <= DATA.regions.keys()
        assert 1 <= referral.household.beds <= 5


def test_the_countries_share_the_year_as_their_bed_needs_do() -> None:
    assert share(r.danger_country == "NL" for r in YEAR) == pytest.approx(0.53, abs=0.03)
    assert share(r.danger_country == "BE" for r in YEAR) == pytest.approx(0.38, abs=0.03)
    assert share(r.danger_country == "LU" for r in YEAR) == pytest.approx(0.09, abs=0.02)


def test_most_come_in_daytime_and_few_at_night() -> None:
    hours = [local(referral).hour for referral in YEAR]
    assert share(7 <= hour < 20 for hour in hours) == pytest.approx(0.80, abs=0.03)
    assert share(hour >= 23 or hour < 7 for hour in hours) == pytest.approx(0.05, abs=0.015)


def test_the_weekend_is_quiet() -> None:
    assert share(local(r).isoweekday() > 5 for r in YEAR) == pytest.approx(0.15, abs=0.02)


def test_luxembourgs_year_is_a_few_bursts_and_the_others_are_steady() -> None:
    def busiest_tenth(country: str) -> float:
        year = [r for r in referrals(5, 1000, START, DATA) if r.danger_country == country]
        weeks = Counter((r.at - START).days // 7 for r in year)
        return sum(number for _, number in weeks.most_common(5)) / len(year)

    assert busiest_tenth("LU") > 0.35
    assert busiest_tenth("NL") < 0.2


def test_one_in_five_is_urgent() -> None:
    assert share(r.urgency is Urgency.URGENT for r in YEAR) == pytest.approx(0.2, abs=0.02)


def test_households_are_mostly_one_adult() -> None:
    assert share(r.household.age_status is AgeStatus.PRESUMED_MINOR for r in YEAR) == pytest.approx(0.075, abs=0.025)
    families = [r.household.children > 0 and r.household.age_status is AgeStatus.ADULT for r in YEAR]
    assert share(families) == pytest.approx(0.10, abs=0.02)
    assert 0.5 <= share(r.household.women == 1 for r in adults_alone()) <= 0.7


def test_a_presumed_minor_comes_without_adults_and_their_guardian_is_asked_later() -> None:
    minors = [r for r in YEAR if r.household.age_status is AgeStatus.PRESUMED_MINOR]
    assert {(r.household.women, r.household.men, r.consented_countries) for r in minors} == {(0, 0, ())}


def test_needs_fit_the_household_that_has_them() -> None:
    assert [r for r in YEAR if Need.PREGNANCY_CARE in r.needs and not r.household.women] == []
    assert [r for r in YEAR if Need.INFANT_CARE in r.needs and not r.household.children_under_6] == []
    assert {need for r in YEAR for need in r.needs} == set(Need)
    assert share(not r.needs for r in YEAR) > 0.4


def test_everybody_speaks_something_and_many_no_local_language() -> None:
    assert min(len(r.languages) for r in YEAR) == 1
    assert [r for r in YEAR if len(set(r.languages)) != len(r.languages)] == []
    local_speakers = (bool(set(r.languages) & set(DATA.country(r.danger_country).languages)) for r in YEAR)
    assert 0.2 <= share(local_speakers) <= 0.4


def test_some_danger_reaches_over_its_neighbours_and_over_the_border() -> None:
    zones = [(referral.danger_country, zone) for referral in YEAR for zone in referral.danger_zones]
    assert share(zone.with_neighbours for _, zone in zones) == pytest.approx(0.5, abs=0.03)
    abroad = [(country, zone.code) for country, zone in zones if not zone.code.startswith(country)]
    assert len(abroad) / len(YEAR) == pytest.approx(0.10, abs=0.02)
    assert [code for country, code in abroad if code not in DATA.neighbours(country)] == []


def test_consent_is_to_all_to_one_or_not_asked_yet() -> None:
    given = Counter(len(r.consented_countries) for r in YEAR if r.household.age_status is AgeStatus.ADULT)
    assert given[2] / given.total() == pytest.approx(0.6, abs=0.03)
    assert given[1] / given.total() == pytest.approx(0.25, abs=0.03)


def test_only_third_country_nationals_reflect_and_their_period_still_runs() -> None:
    started = [r for r in YEAR if r.reflection_started_on is not None]
    assert {r.third_country_national for r in started} == {True}
    assert {r.third_country_national for r in YEAR} == {True, False, None}
    for referral in started:
        begun, today = referral.reflection_started_on, local(referral).date()
        assert begun is not None
        assert begun <= today <= DATA.country(referral.danger_country).reflection_end(begun)


def test_sixty_percent_of_asks_lead_nowhere_for_the_published_reasons() -> None:
    failed = [ask for ask in ASKS if ask.decline or not ask.household_agrees]
    assert len(failed) / len(ASKS) == pytest.approx(0.60, abs=0.01)
    no_space = {DeclineReason.NO_SPACE, DeclineReason.NOT_STAFFED, DeclineReason.REPORT_WAS_WRONG}
    assert share(ask.decline in no_space for ask in failed) == pytest.approx(0.40, abs=0.01)
    assert share(ask.decline is None for ask in failed) == pytest.approx(0.35, abs=0.01)


def test_every_reason_to_decline_occurs() -> None:
    assert {ask.decline for ask in ASKS} == {None, *DeclineReason}


@pytest.mark.parametrize("urgency", Urgency)
def test_most_shelters_answer_in_time_and_some_do_not(urgency: Urgency) -> None:
    limit = timedelta(minutes=DATA.clocks.of(urgency).ask_minutes)
    asks = [ask for r in YEAR if r.urgency is urgency for ask in r.behaviour.asks]
    assert 0.1 <= share(ask.answered_after > limit for ask in asks) <= 0.25
    assert min(ask.answered_after for ask in asks) > timedelta()


def test_a_stay_is_five_months_and_for_two_thirds_three_to_nine() -> None:
    days = [r.behaviour.stay.total_seconds() / 86_400 for r in YEAR]
    assert median(days) == pytest.approx(152, abs=8)
    assert share(91 <= stay <= 274 for stay in days) == pytest.approx(0.68, abs=0.04)
