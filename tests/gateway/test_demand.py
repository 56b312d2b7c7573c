"""The yearly figures: what a request is counted as, when its year is out, and that no two looks tell more than one."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from events.envelope import Event, system_actor
from events.placement import (
    PlacementConfirmed,
    ProposalLapse,
    ProposalLapsed,
    RelocationRequestOpened,
    RequestWithdrawn,
    UnmetNeedRecorded,
)
from events.vocabulary import DangerZone, Household, Stage, Urgency, WithdrawalReason
from services.gateway.demand import (
    _MISSING_BY_RULE,
    ALL,
    FIRST_YEAR,
    FOLLOWED,
    NOTHING_MISSING,
    QUARTERS,
    SEVERAL,
    TABLES,
    ZONE,
    Counted,
    Missing,
    Waited,
    _cells_of,
    counted_after,
    counted_at_opening,
    figures_of,
    last_published,
    partitions_of,
    published_from,
)
from services.gateway.suppression import THRESHOLD, hidden
from services.placement.domain.matching import HARD_RULES
from tests.gateway.test_suppression import adds_up, alternatives, determined, read_by_a_stranger
from tests.gateway.world import ABROAD, AUDITOR, HOST, ORIGIN, POLICE, Json, Who, World, is_problem

REFERENCE = reference.load()
OPENED_AT = datetime(2027, 3, 15, 12, tzinfo=UTC)


def an_opening(*zones: str, country: str = "BE") -> RelocationRequestOpened:
    return RelocationRequestOpened(
        request_id="r-1",
        urgency=Urgency.URGENT,
        danger_country=country,
        danger_zones=tuple(DangerZone(code=zone) for zone in zones),
        household=Household(women=1),
        needs=(),
        languages=(),
        consented_countries=(),
        third_country_national=None,
        reflection_started_on=None,
        reflection_ends_on=None,
        region_of_stay=None,
        sealed_callback="e-1",
    )


def later(data: Any, **after: float) -> Event:
    return Event(
        id="e",
        source="placement",
        stream="relocation_request-r-1",
        time=OPENED_AT + timedelta(**after),
        actor=system_actor("placement"),
        correlation_id="r-1",
        causation_id="e",
        data=data,
    )


def confirmed(host: str = "NL", **after: float) -> Event:
    names = {"proposal_hash": "h", "unit_id": "u", "shelter_id": "s", "hold_id": "o"}
    return later(PlacementConfirmed(request_id="r-1", host_country=host, **names), **after)


def lapsed(**after: float) -> Event:
    lapse = ProposalLapsed(request_id="r-1", proposal_hash="h", reason=ProposalLapse.CONSENT_WITHDRAWN, signers=())
    return later(lapse, **after)


def unmet(*rules: str, **after: float) -> Event:
    return later(UnmetNeedRecorded(request_id="r-1", failed_rules=dict.fromkeys(rules, 2), declines={}), **after)


def counted(*events: Event) -> Counted:
    found = counted_at_opening(an_opening("BE21"), OPENED_AT)
    for event in events:
        found = counted_after(found, event, OPENED_AT)
    return found


# What a request is counted as


@pytest.mark.parametrize(
    ("zones", "region"),
    [
        (["BE21"], "BE21"),
        (["BE21", "NL41"], "BE21"),
        (["BE21", "BE10"], SEVERAL),
        (["BE"], SEVERAL),
        (["NL41"], SEVERAL),
        ([], SEVERAL),
    ],
)
def test_a_region_counts_where_it_is_the_only_one_in_the_country_of_danger(zones: list[str], region: str) -> None:
    assert counted_at_opening(an_opening(*zones), OPENED_AT).region == region


@pytest.mark.parametrize(
    ("at", "quarter"),
    [
        (datetime(2026, 12, 31, 22, 59, 59, tzinfo=UTC), "2026Q4"),
        (datetime(2026, 12, 31, 23, 0, tzinfo=UTC), "2027Q1"),
        (datetime(2027, 6, 30, 21, 59, tzinfo=UTC), "2027Q2"),
        (datetime(2027, 6, 30, 22, 0, tzinfo=UTC), "2027Q3"),
    ],
)
def test_a_year_and_its_quarters_begin_at_midnight_in_brussels(at: datetime, quarter: str) -> None:
    assert counted_at_opening(an_opening(), at).quarter == quarter


@pytest.mark.parametrize(
    ("after", "waited"),
    [
        (timedelta(hours=23, minutes=59), Waited.DAY),
        (timedelta(days=1), Waited.THREE_DAYS),
        (timedelta(days=3), Waited.WEEK),
        (timedelta(days=7), Waited.THIRTY_DAYS),
        (FOLLOWED - timedelta(microseconds=1), Waited.THIRTY_DAYS),
        (FOLLOWED, ""),
    ],
)
def test_the_wait_ends_when_the_placement_is_certain(after: timedelta, waited: str) -> None:
    found = counted(confirmed(seconds=after.total_seconds()))
    assert (found.waited, found.host) == (waited, "NL" if waited else "")


def test_a_placement_that_lapsed_or_was_withdrawn_is_none_and_the_next_one_counts() -> None:
    assert counted(confirmed(hours=5), lapsed(hours=6)).host == ""
    again = counted(confirmed("NL", hours=5), lapsed(hours=6), confirmed("LU", days=4))
    assert (again.host, again.waited) == ("LU", Waited.WEEK)
    gone = later(RequestWithdrawn(request_id="r-1", reason=WithdrawalReason.DANGER_PASSED), days=2)
    assert counted(confirmed(hours=5), gone).host == ""


def test_after_thirty_days_nothing_moves_it() -> None:
    assert counted(confirmed(hours=5), lapsed(days=30)).host == "NL"
    assert counted(unmet("meets_needs", days=30)).missing == NOTHING_MISSING


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (["not_in_danger_country"], Missing.SAFE_PLACE),
        (["not_in_danger_country", "adult_track_for_adults"], Missing.HOUSEHOLD_ACCEPTED),
        (["country_not_refused", "accepts_household"], Missing.CONSENT),
        (["meets_needs", "not_in_danger_country"], Missing.SUPPORT),
        (["capacity_is_known", "meets_needs"], Missing.REPORT),
        (["keeps_household_together", "capacity_is_known"], Missing.SPACE),
        (["open_now", "keeps_household_together"], Missing.OPENING_HOURS),
        (["not_tried_before", "open_now"], Missing.YES),
        ([], Missing.SAFE_PLACE),
        (["a_rule_of_tomorrow"], Missing.SAFE_PLACE),
    ],
)
def test_what_was_missing_is_what_the_closest_units_lacked(rules: list[str], missing: Missing) -> None:
    assert counted(unmet(*rules, hours=1)).missing == missing


def test_the_first_search_without_a_bed_says_what_was_missing() -> None:
    assert counted(unmet("meets_needs", hours=1), unmet("not_tried_before", hours=2)).missing == Missing.SUPPORT


def test_every_hard_rule_stands_for_something_missing_in_the_order_of_the_rules() -> None:
    assert list(_MISSING_BY_RULE) == list(HARD_RULES)
    assert list(dict.fromkeys(_MISSING_BY_RULE.values())) == list(Missing)


# When they are out


@pytest.mark.parametrize(
    ("now", "year"),
    [
        (datetime(2026, 11, 26, tzinfo=UTC), 2025),
        (datetime(2026, 1, 31, tzinfo=UTC), 2024),
        (datetime(2027, 1, 31, 22, 59, tzinfo=UTC), 2025),
        (datetime(2027, 1, 31, 23, 0, tzinfo=UTC), 2026),
        (datetime(2028, 1, 31, tzinfo=UTC), 2026),
    ],
)
def test_a_year_is_out_from_the_first_of_february(now: datetime, year: int) -> None:
    assert last_published(now) == year


@pytest.mark.parametrize("year", range(FIRST_YEAR, FIRST_YEAR + 30))
def test_the_last_request_of_a_year_has_been_followed_to_its_end_a_day_before(year: int) -> None:
    last = datetime(year + 1, 1, 1, tzinfo=ZONE) - timedelta(microseconds=1)
    assert published_from(year) - last.astimezone(UTC) >= FOLLOWED + timedelta(days=1)


# What is published


def some_counted() -> st.SearchStrategy[list[tuple[Counted, int]]]:
    def of(country: str) -> st.SearchStrategy[Counted]:
        hosts = [other for other in REFERENCE.countries if other != country]
        placed = st.tuples(st.sampled_from(hosts), st.sampled_from(list(Waited)))
        return st.builds(
            lambda quarter, region, missing, host: Counted(
                quarter=f"2027{quarter}", country=country, region=region, missing=missing, host=host[0], waited=host[1]
            ),
            st.sampled_from(QUARTERS),
            st.sampled_from([SEVERAL, *REFERENCE.regions_of(country)]),
            st.sampled_from([NOTHING_MISSING, *Missing]),
            st.one_of(st.just(("", "")), placed),
        )

    one = st.sampled_from(list(REFERENCE.countries)).flatmap(of)
    return st.lists(st.tuples(one, st.sampled_from([1, 2, 5, 10, 11, 40, 200])), max_size=25)


@settings(max_examples=150, deadline=None)
@given(some_counted())
@pytest.mark.attack(62)
def test_no_figure_is_small_and_each_table_adds_up_or_hides_two(found: list[tuple[Counted, int]]) -> None:
    for figures in figures_of(found, REFERENCE):
        own = [(one, count) for one, count in found if one.country == figures.country]
        total = sum(count for _, count in own)
        assert figures.requests == (total if total >= THRESHOLD else None)
        for table in TABLES:
            values = list(getattr(figures, table).values())
            whole = figures.placed["yes"] if table in ("host", "waited") else figures.requests
            assert all(value >= THRESHOLD for value in values if value is not None)
            if whole is None:
                assert set(values) == {None}, table
            elif None in values:
                assert values.count(None) > 1, table
            else:
                assert sum(values) == whole, table


@settings(max_examples=100, deadline=None)
@given(some_counted(), some_counted())
def test_no_country_s_figures_say_anything_of_another_s(
    one: list[tuple[Counted, int]], other: list[tuple[Counted, int]]
) -> None:
    def of(country: str, *found: list[tuple[Counted, int]]) -> object:
        return next(f for f in figures_of(itertools.chain(*found), REFERENCE) if f.country == country)

    for country in REFERENCE.countries:
        elsewhere = [(a, count) for a, count in other if a.country != country]
        assert of(country, one) == of(country, one, elsewhere)


@settings(max_examples=60, deadline=None)
@given(some_counted())
def test_nothing_hidden_can_be_reckoned_back_from_all_tables_of_a_country_together(
    found: list[tuple[Counted, int]],
) -> None:
    """For each hidden count, eleven countries with other numbers there of whom the same would be published. Whatever the tables
    add up to, there are requests that add up to it: the tables share nothing but their wholes."""
    for country in REFERENCE.countries:
        tree = partitions_of(country, REFERENCE)
        counts = dict.fromkeys((ALL, *(part for table in tree for part in table.parts)), 0)
        for one, requests in found:
            if one.country == country:
                for cell in _cells_of(one):
                    counts[cell] += requests
        assert determined(tree, hidden(counts, tree)) == set()
        seen = read_by_a_stranger(counts, tree, THRESHOLD)
        for cell, shown in seen:
            if shown is None:
                others = list(alternatives(counts, tree, cell))
                assert all(adds_up(other, tree) for other in others)
                assert all(read_by_a_stranger(other, tree, THRESHOLD) == seen for other in others)
                assert len({other[cell] for other in others}) >= THRESHOLD


def test_nobody_is_placed_where_the_danger_is() -> None:
    for figures in figures_of([], REFERENCE):
        assert figures.host.keys() == REFERENCE.countries.keys() - {figures.country}
        assert figures.region.keys() == {SEVERAL, *REFERENCE.regions_of(figures.country)}


# In the gateway


@dataclass(frozen=True)
class Year:
    """A world of its own, since time passes in it: twelve households placed in the Netherlands, twelve without a bed."""

    world: World
    requests: list[str]


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Year]:
    world = World(tmp_path_factory.mktemp("year"))
    placed = [world.bring_to(Stage.CONFIRMED) for _ in range(12)]
    yield Year(world, placed + [world.bring_to(Stage.UNMET_NEED) for _ in range(12)])
    world.node.stop()


def read(world: World, query: str = "", who: Who = ORIGIN) -> Json:
    return world.done(world.get(who, f"/demand{query}"))


def test_of_the_running_year_nothing_is_published(year: Year) -> None:
    world = year.world
    assert read(world) == {
        "year": None,
        "years": [],
        "next": {"year": 2026, "published_from": "2027-02-01T00:00:00+01:00"},
        "threshold": 11,
        "followed_days": 30,
        "countries": [],
    }
    for asked in ("2026", "2025", "2027", "26", "2026 ", "٢٠٢٦", "20260", "2026Q4"):
        assert is_problem(world.get(ORIGIN, f"/demand?year={asked}"), 400)["field"] == "year"


def test_every_request_is_counted_once_and_never_by_its_name(year: Year) -> None:
    rows = year.world.core.read_model.counted(2026)
    assert sum(count for _, count in rows) == 24
    assert year.world.core.read_model.counted(2027) == []
    said = msgspec.json.encode(rows).decode()
    assert not any(request_id in said for request_id in year.requests)


@pytest.mark.attack(62)
def test_the_figures_of_a_year_are_out_in_february_and_never_change(year: Year) -> None:
    """Whatever happens to a household after its thirty days, or to its data, and whoever looks: not even an erasure, which
    would tell by the difference who it was."""
    world = year.world
    world.now = published_from(2026) - timedelta(seconds=1)
    world.core.settle()
    assert read(world)["year"] is None
    world.now += timedelta(seconds=1)
    first = read(world)
    assert (first["year"], first["years"], first["next"]["year"]) == (2026, [2026], 2027)
    belgium = next(one for one in first["countries"] if one["country"] == "BE")
    assert belgium["requests"] == 24
    assert belgium["placed"] == {"yes": 12, "no": 12}
    assert belgium["host"] == {"NL": None, "LU": None}
    assert belgium["missing"][NOTHING_MISSING] is None
    assert belgium["quarter"] == dict.fromkeys(QUARTERS)
    for one in first["countries"]:
        if one["country"] != "BE":
            assert {value for table in TABLES for value in one[table].values()} == {None}
    for request_id in year.requests[::5]:
        world.done(world.erase(request_id))
    world.later(days=3)
    assert read(world) == first
    assert read(world, "?year=2026", AUDITOR) == first
    assert read(world, who=HOST) == first
    before, after = world.core.projection.rebuild(world.core.logs)
    assert before == after
    assert read(world) == first


@pytest.mark.parametrize("stage", [Stage.CONFIRMED, Stage.ENDED])
def test_an_erasure_within_the_thirty_days_undoes_nothing_either(world: World, stage: Stage) -> None:
    """Of a placement that lapses with it neither."""
    request_id = world.bring_to(stage)
    before = world.view(request_id)["counted"]
    assert before["host"] == "NL"
    world.done(world.erase(request_id))
    assert world.view(request_id)["counted"] == before


def test_nobody_is_shown_what_their_own_case_is_counted_as(world: World) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    for who in (POLICE, ORIGIN, HOST):
        assert "counted" not in world.done(world.read(who, request_id))


def test_a_token_without_the_scope_or_a_role_without_figures_reads_none(world: World) -> None:
    is_problem(world.get(replace(ORIGIN, scopes="availability:read"), "/demand"), 403)
    for who in (POLICE, ABROAD):
        is_problem(world.get(who, "/demand"), 403)


def test_a_view_from_before_requests_were_counted_does_not_stop_the_projection(world: World) -> None:
    """After an upgrade, until the read model is rebuilt."""
    request_id = world.bring_to(Stage.OFFERED)
    with world.log.writing() as tx:
        tx.connection.exec_driver_sql(
            "UPDATE requests SET view = json_remove(view, '$.counted') WHERE request_id = ?", (request_id,)
        )
    world.done(world.propose(request_id))
    assert world.view(request_id)["stage"] == Stage.PROPOSED
    world.core.projection.rebuild(world.core.logs)
    assert world.view(request_id)["counted"]["quarter"] == "2026Q4"
