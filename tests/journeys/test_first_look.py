"""The first two minutes: what `haven run` says on an empty directory, and where each of its links leads."""

import http.cookiejar
import re
import sqlite3
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest

from events.vocabulary import Role
from services.gateway.pages.entrance import FIRST_PAGE
from services.gateway.principals import GUESTS
from simulation.scene.stories import STORIES
from tests.journeys.process import RunningNode
from tests.journeys.test_killed_node import invariants_hold

COLUMNS = 80
SEEN = {
    Role.REFERRER: "On the way",
    Role.SHELTER: "Answer by",
    Role.COORDINATOR: "Needs a choice by us (1)",
    Role.GUARDIAN: "1 child of 12 to 17",
    Role.ESCORT: "On the way",
    Role.AUDITOR: "Audit trail",
}
"""Something that is on the first page of each role."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with RunningNode(tmp_path_factory.mktemp("first look"), speed=1, scene="still") as node:
        yield node


def greeting(node: RunningNode) -> list[str]:
    return node.output.read_text().splitlines()


def logins(node: RunningNode) -> list[tuple[str, str, str, str, str]]:
    """Role, country, user name, password and link, as they are printed."""
    lines = greeting(node)
    found = []
    for line, link in pairwise(lines):
        if (said := line.split()) and link.strip().startswith(f"{node.url}/sign-in?as="):
            role, country, name, password = said
            found.append((role, country, name, password, link.strip()))
    return found


def test_there_is_a_login_and_a_link_for_each_role_and_both_sides_of_a_border(node: RunningNode) -> None:
    roles = [(role, country) for role, country, *_ in logins(node)]
    assert {role for role, _ in roles} == set(Role) - {Role.SYSTEM}
    assert {country for role, country in roles if role == Role.COORDINATOR} == {"BE", "NL"}
    assert len(roles) == len(GUESTS)


def test_the_greeting_is_read_in_a_narrow_terminal(node: RunningNode) -> None:
    data_dir = str(node.data_dir)  # that of a test is longer than anybody's
    assert [line for line in greeting(node) if len(line.replace(data_dir, "data")) > COLUMNS] == []
    assert len(greeting(node)) <= 24


@pytest.mark.parametrize("number", range(len(GUESTS)))
def test_each_link_and_its_login_lead_to_something_to_see(node: RunningNode, number: int) -> None:
    role, _, name, password, link = logins(node)[number]
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    browser.addheaders = [("Accept", "text/html"), ("Accept-Language", "en")]
    form = browser.open(link)
    page = form.read().decode()
    assert f'value="{name}"' in page
    csrf = re.search(r'name="csrf"[^>]*value="(\w+)"', page)
    assert csrf
    sent = urllib.parse.urlencode({"username": name, "password": password, "csrf": csrf[1]}).encode()
    browser.open(urllib.request.Request(form.url, sent, {"Origin": node.url})).read()
    first = browser.open(f"{node.url}/")
    assert urllib.parse.urlsplit(first.url).path == FIRST_PAGE[Role(role)]
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", first.read().decode())).split())
    assert SEEN[Role(role)] in text, text[:2000]


def test_the_second_start_finds_the_scene_and_makes_no_other(node: RunningNode) -> None:
    assert node.stop() == 0
    node.output.unlink()
    node.start()
    assert not any("Making" in line for line in greeting(node))
    with sqlite3.connect(node.data_dir / "gateway.sqlite") as gateway:
        (cases,) = gateway.execute("SELECT count(*) FROM requests").fetchone()
    assert cases == len([story for story in STORIES if story.opened_ago])


def test_an_exercise_has_a_scene_too_and_its_people_keep_up(tmp_path: Path) -> None:
    with RunningNode(tmp_path, speed=60, scene="living") as node:
        assert any("EXERCISE" in line for line in greeting(node))
        time.sleep(12)  # two beats: ten minutes of the exercise
        node.wait_until_ready()
        begun = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - begun < 15
        assert "paused" not in node.output.read_text()
    assert invariants_hold(node.data_dir) >= 2


def test_without_a_scene_there_are_the_logins_all_the_same(tmp_path: Path) -> None:
    with RunningNode(tmp_path, speed=1) as node:
        assert len(logins(node)) == len(GUESTS)
        assert "Making" not in node.output.read_text()
