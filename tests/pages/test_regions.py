"""The map of regions and the yearly figures, as people see them."""

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import reference
from events.vocabulary import Stage
from services.gateway.demand import published_from
from services.gateway.pages.regions import State, by_country, regions_of
from tests.gateway.world import AUDITOR, ESCORT, GUARDIAN, HOST, INVENTORY, ORIGIN, POLICE, RECEIVING, World
from tests.pages.reader import Reader, words

REFERENCE = reference.load()
LANGUAGES = ("nl", "fr", "de", "en")


def a_row(region: str = "NL32", track: str = "adult", **counts: int) -> dict[str, Any]:
    """As the API answers; a unit that is not counted among those that are old is up to date."""
    units = {f"units_{name}": counts.get(name, 0) for name in ("fresh", "ageing", "overdue", "not_reported")}
    return {
        "country": region[:2],
        "region": region,
        "track": track,
        "free_certain": counts.get("certain", 0),
        "free_uncertain": counts.get("uncertain", 0),
        "units": sum(units.values()),
        **units,
    }


@pytest.mark.parametrize(
    ("rows", "state", "number", "look"),
    [
        ([], State.NO_UNIT, "–", ""),  # noqa: RUF001
        ([a_row(fresh=1)], State.FULL, "0", ""),
        ([a_row(fresh=1, certain=1)], State.FREE, "1", "some"),
        ([a_row(ageing=1, certain=2)], State.FREE, "2", "some"),
        ([a_row(fresh=1, certain=2), a_row(track="child", fresh=1, certain=1)], State.FREE, "3", "many"),
        ([a_row(overdue=1, uncertain=4)], State.UNSURE, "4?", ""),
        ([a_row(overdue=1)], State.UNSURE, "0?", ""),
        ([a_row(not_reported=1)], State.NOT_REPORTED, "?", "unknown"),
        ([a_row(fresh=2, not_reported=1)], State.NOT_REPORTED, "?", "unknown"),
        ([a_row(overdue=1, not_reported=1)], State.NOT_REPORTED, "?", "unknown"),
        ([a_row(overdue=1, not_reported=1, uncertain=2)], State.UNSURE, "2?", ""),
        ([a_row(fresh=1, overdue=1, not_reported=1, certain=1, uncertain=2)], State.FREE, "1", "some"),
    ],
)
def test_a_tile_says_what_can_be_relied_on(rows: list[dict[str, Any]], state: State, number: str, look: str) -> None:
    region = next(one for one in regions_of(rows, REFERENCE, "BE") if one.code == "NL32")
    assert (region.state, region.number, region.look) == (state, number, look)


def test_what_is_old_or_missing_never_has_the_colour_of_free() -> None:
    for old in ("overdue", "not_reported"):
        for uncertain in (0, 1, 9):
            (region,) = (
                one for one in regions_of([a_row(**{old: 2, "uncertain": uncertain})], REFERENCE, "BE") if one.tracks
            )
            assert region.look not in ("some", "many")
            assert "?" in region.number


def test_every_region_is_there_and_ours_come_first() -> None:
    found = regions_of([], REFERENCE, "NL")
    assert [one.code for one in found] == list(REFERENCE.tiles)
    assert [(country, len(regions)) for country, regions in by_country(found, REFERENCE, "NL")] == [
        ("NL", 12),
        ("BE", 11),
        ("LU", 1),
    ]


@pytest.mark.parametrize(
    ("counts", "ours", "phoned"),
    [
        ({"fresh": 1}, "NL", False),
        ({"overdue": 1}, "NL", True),
        ({"fresh": 1, "not_reported": 1}, "NL", True),
        ({"not_reported": 1}, "BE", False),
    ],
)
def test_only_our_own_regions_are_to_be_phoned(counts: dict[str, int], ours: str, phoned: bool) -> None:
    (region,) = (one for one in regions_of([a_row(**counts)], REFERENCE, ours) if one.tracks)
    assert region.is_to_be_phoned is phoned


# The page


def tiles_of(page: str) -> dict[str, tuple[str, str]]:
    """By region: what its link is called, and what is written on it."""
    (map_,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    found = {}
    for link in ET.fromstring(map_).iter("a"):
        found[link.attrib["href"][1:]] = (
            link.attrib["aria-label"],
            " ".join(text.text or "" for text in link.iter("text")),
        )
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_map_and_table_say_the_same_of_every_region(world: World, language: str) -> None:
    page = Reader(world, HOST, language).get("/regions").get_data(as_text=True)
    tiles = tiles_of(page)
    assert tiles.keys() == REFERENCE.regions.keys()
    for code, (name, written) in tiles.items():
        assert name.startswith(written), "who speaks to the page says what is written on it"
        assert page.count(f'id="{code}"') == 1, "the tile leads somewhere"
        assert REFERENCE.tiles[code].label in written
        assert re.search(r"\d|\?|–", written)  # noqa: RUF001


def test_the_map_is_plain_svg_without_style_and_without_geography(world: World) -> None:
    page = Reader(world, HOST).get("/regions").get_data(as_text=True)
    (map_,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert not re.search(r"\sstyle=|<style|<image|<path|<script|https?:", map_)
    assert len(page.encode()) < 30_000


def test_it_says_how_many_beds_can_be_relied_on_and_what_to_do_about_the_others(world: World) -> None:
    host = Reader(world, HOST)
    tiles = tiles_of(host.get("/regions").get_data(as_text=True))
    assert tiles["NL32"][1] == "NL-NH 240 free"
    assert tiles["NL11"][1] == "NL-GR – not in Haven"  # noqa: RUF001
    assert "Call first" not in words(host.get("/regions"))
    world.later(hours=36)
    answer = host.get("/regions")
    assert tiles_of(answer.get_data(as_text=True))["NL32"][1] == "NL-NH 240? unsure"
    said = words(answer)
    assert "North Holland (NL-NH) Call first" in said
    assert "Adult protection: 120 beds perhaps free" in said
    assert "Report overdue: 2 units" in said
    assert "Province of Antwerp (BE-VAN) Adult protection: 100 beds perhaps free" in said
    world.later(hours=48)
    answer = host.get("/regions")
    assert tiles_of(answer.get_data(as_text=True))["NL32"] == (
        "NL-NH ? no report: North Holland",
        "NL-NH ? no report",
    )
    assert "Not reported: 2 units" in words(answer)


@pytest.mark.attack(39)
def test_nobody_can_tell_from_it_which_shelter_has_the_beds(world: World) -> None:
    """Not even where a region has one alone: no id of a shelter or unit, and no minute of a report."""
    for who in (ORIGIN, HOST):
        page = Reader(world, who).get("/regions").get_data(as_text=True)
        for unit in INVENTORY:
            assert unit.profile.shelter_id not in page
            assert unit.profile.unit_id not in page
        standing = page[page.index('id="standing"') :]
        assert len(re.findall(r"\d\d:\d\d", standing)) == 1, "the time of the page and no other"


def test_a_page_that_is_open_is_given_what_stands_now_and_nothing_else(world: World) -> None:
    host = Reader(world, HOST)
    part = host.get("/regions", headers={"HX-Request": "true"}).get_data(as_text=True)
    assert part.startswith('<div id="standing"')
    assert "<html" not in part
    assert part.count("<svg") == 1
    whole = host.get("/regions").get_data(as_text=True)
    assert 'hx-get="/regions"' in whole
    assert "live.js" in whole


@pytest.mark.parametrize("who", [POLICE, RECEIVING, GUARDIAN, ESCORT, AUDITOR])
def test_only_focal_points_see_the_map(world: World, who: Any) -> None:
    assert Reader(world, who).get("/regions").status_code == 403


# The figures


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which a year goes by: twelve placed and twelve not."""
    world = World(tmp_path_factory.mktemp("year"))
    for stage in (Stage.CONFIRMED, Stage.UNMET_NEED) * 12:
        world.bring_to(stage)
    yield world
    world.node.stop()


@pytest.mark.parametrize("who", [POLICE, RECEIVING, GUARDIAN, ESCORT])
def test_only_focal_points_and_auditors_read_the_figures(world: World, who: Any) -> None:
    assert Reader(world, who).get("/demand").status_code == 403


def test_of_the_running_year_the_page_says_when_it_will_be_out(year: World) -> None:
    said = words(Reader(year, ORIGIN).get("/demand"))
    assert "The figures of no year are out yet." in said
    assert "The figures of 2026 will be here on 1 February 2027." in said
    assert "Placed within" not in said


def test_a_year_that_is_over_is_shown_with_its_small_counts_hidden(year: World) -> None:
    year.now = published_from(2026)
    year.core.settle()
    for who in (ORIGIN, HOST, AUDITOR):
        before = year.log.head()
        answer = Reader(year, who).get("/demand")
        said = words(answer)
        assert "Figures of 2026" in said
        assert "All 24 x x" in said
        assert "Placed within 30 days 12 x x" in said
        assert "Netherlands x – x" in said  # noqa: RUF001
        assert "Several regions, or the whole country x" in said
        assert len(answer.get_data()) < 30_000
        assert [event.data.resource for event in year.appended_since(before)] == ["demand"]


def test_a_year_that_is_not_out_is_no_page(year: World) -> None:
    for asked in ("2031", "last", ""):
        assert Reader(year, AUDITOR).get("/demand", query_string={"year": asked}).status_code == 400


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_figures_can_be_read_in_every_language(year: World, language: str) -> None:
    answer = Reader(year, AUDITOR, language).get("/demand?year=2026")
    assert answer.status_code == 200
    assert len(answer.get_data()) < 30_000
