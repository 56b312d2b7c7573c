"""What a page weighs with as much on it as a bad night brings: less than 30 KB, and nothing falls off."""

import re

import pytest

from services.gateway.pages.portions import even_share, portion
from tests.gateway.world import AUDITOR, ORIGIN, POLICE, RECEIVING, Who, World
from tests.pages.reader import Reader, words

MANY = 60
HEAVIEST = 30_000


@pytest.fixture(scope="module")
def cases(world: World) -> list[str]:
    """So many open requests, each with three asks; one shelter has been asked about all of them."""
    return [world.open() for _ in range(MANY)]


PAGES = (
    *(
        (ORIGIN, path)
        for path in (
            "/board",
            "/board?wall=1",
            "/asks",
            "/requests",
            "case",
            "case/shortlist",
            "case/timeline",
            "/regions",
        )
    ),
    *((RECEIVING, path) for path in ("/places", "/asks", "/requests", "ask")),
    *(
        (POLICE, path)
        for path in ("/requests/new", "/requests", "case", "case/timeline", "/sessions", "/help", "/help/paper")
    ),
    (AUDITOR, "/audit"),
    (AUDITOR, "/audit?purpose=lawfulness_check"),
)


@pytest.mark.parametrize("language", ["de", "fr"])  # the longest words
@pytest.mark.parametrize(("who", "path"), PAGES, ids=lambda one: one.role if isinstance(one, Who) else one)
def test_no_page_is_heavier_than_a_phone_can_load(
    world: World, cases: list[str], who: Who, path: str, language: str
) -> None:
    reader = Reader(world, who, language)
    if path.startswith("/audit?"):
        for _ in range(15):  # a board that somebody watches
            Reader(world, ORIGIN).get("/board")
        world.later(seconds=1)
    if path == "ask":
        found = re.search(r'href="(/asks/[^"]+)"', reader.get("/asks").text)
        assert found
        path = found[1]
    answer = reader.get(path.replace("case", f"/requests/{cases[0]}"))
    assert answer.status_code == 200
    assert len(answer.data) < HEAVIEST, f"{len(answer.data)} bytes"


def all_of(reader: Reader, path: str, what: str) -> list[str]:
    """What the pages of a list show, one after the other."""
    found: list[str] = []
    for _ in range(MANY):
        if not path:
            break
        page = reader.get(path).text
        found += re.findall(what, page)
        following = re.search(r'href="(/(?:board|asks)\?[^"]+)"[^>]* rel="next"', page)
        path = following[1].replace("&amp;", "&") if following else ""
    return found


def test_every_case_is_on_the_board_in_its_place(world: World, cases: list[str]) -> None:
    reader = Reader(world, ORIGIN)
    page = reader.get("/board")
    lane = re.search(r'href="/board\?lane=(\w+)"', page.text)
    assert lane
    assert f"({MANY})" in words(page)
    seen = all_of(reader, f"/board?lane={lane[1]}", r'id="case-(\w+)"')
    assert sorted(seen) == sorted(cases)
    assert re.findall(r'id="case-(\w+)"', page.text) == seen[: len(re.findall(r'id="case-', page.text))], (
        "the most pressing first"
    )


def test_a_lane_that_is_shown_alone_stays_alone_when_something_moves(world: World, cases: list[str]) -> None:
    assert cases
    page = Reader(world, ORIGIN).get("/board?lane=shelters&from=18").text
    assert 'hx-get="/board?lane=shelters&amp;from=18"' in page


def test_every_household_that_waits_for_an_answer_is_there(world: World, cases: list[str]) -> None:
    reader = Reader(world, RECEIVING)
    asks = all_of(reader, "/asks", r'href="(/asks/(?!\?)[^"]+)" role')
    assert len(asks) == len(set(asks)) == MANY
    assert f"{MANY} households wait" in words(reader.get("/asks"))


@pytest.mark.parametrize("nonsense", ["-1", "60", "99999999999", "x", "²", "1.5", ""])
def test_a_portion_that_is_not_there_is_the_first(nonsense: str) -> None:
    assert portion(list(range(60)), 20, nonsense).shown == list(range(20))


def test_portions_follow_each_other_to_the_end() -> None:
    whole = list(range(45))
    first = portion(whole, 20)
    second = portion(whole, 20, str(first.following))
    third = portion(whole, 20, str(second.following))
    assert [*first.shown, *second.shown, *third.shown] == whole
    assert third.following == 0
    assert portion([], 20).following == 0


@pytest.mark.parametrize(
    ("lengths", "most", "share"),
    [([60, 0, 0], 18, 18), ([60, 60], 18, 9), ([60, 2, 1], 18, 15), ([3, 3], 18, 3), ([9] * 30, 18, 1), ([], 18, 0)],
)
def test_lanes_share_a_page_evenly(lengths: list[int], most: int, share: int) -> None:
    assert even_share(lengths, most) == share
