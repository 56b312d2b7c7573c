"""The scene a visitor finds: what is in it, that it is made whole or not at all, and that it lives without getting in the way."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from events.envelope import Event
from events.gateway import Command, FieldDisclosed, RecordConsulted
from events.vocabulary import Freshness, Role, Stage
from reference import load
from services.capacity.worker import bed_claims
from services.config import Settings
from services.first_look import FILES, LedNode, make_scene
from services.gateway.access import present_request
from services.gateway.pages.board import Lane, lane_of
from services.gateway.principals import SCOPES_OF_ROLE, Principal
from services.gateway.read_model import AVAILABILITY, ReadModel
from services.gateway.routing import ON_BEHALF_OF
from services.node import SCENE_MADE, SCENE_MAKING, DataDirectory, DataDirectoryTaken
from simulation.invariants import audit
from simulation.scene.cast import CALLBACK, RENDEZVOUS, STEPS, Cast, NotDone, is_colleague
from simulation.scene.life import LOOKED_AT_FOR, OVER
from simulation.scene.stories import STORIES
from tests.gateway.world import GUARDIAN, ORIGIN, POLICE, Who, somebody
from tests.journeys.process import HAVEN, RunningNode, environment

pytestmark = pytest.mark.timeout(900)
"""Hours of a scene are seconds of work, and many on a machine that is busy with other tests."""
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
NIGHT = datetime(2026, 11, 29, 1, 30, tzinfo=UTC)
"""A Sunday, when many units take nobody in."""
COUNTRIES = ("BE", "NL", "LU")
ALL_LANES = frozenset(Lane)
AT_FIRST = [story for story in STORIES if story.opened_ago]
"""The others begin when somebody watches."""
Json = dict[str, Any]


def settings_in(folder: Path, seed: int = 2026) -> Settings:
    return Settings(data_dir=folder / "data", inventory_seed=seed)


def make(folder: Path, now: datetime = NOON, seed: int = 2026) -> Settings:
    settings = settings_in(folder, seed)
    assert make_scene(settings, lambda: now, random_bytes=Random(seed).randbytes)
    return settings


@pytest.fixture(scope="module")
def at_noon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the scene, to copy: making it takes seconds."""
    settings = make(tmp_path_factory.mktemp("noon"))
    DataDirectory(settings.data_dir).release()  # takes it in
    return settings.data_dir


@pytest.fixture
def settings(at_noon: Path, tmp_path: Path) -> Settings:
    """Of a node that the scene was made for, and that nobody has visited yet."""
    shutil.copytree(at_noon, tmp_path / "data")
    return settings_in(tmp_path)


@contextmanager
def opened(settings: Settings, now: datetime = NOON) -> Iterator[LedNode]:
    led = LedNode(settings, now)
    try:
        yield led
    finally:
        led.node.stop()


@pytest.fixture(scope="module")
def scene(at_noon: Path) -> Iterator[LedNode]:
    """The scene as a visitor finds it, for tests that only look."""
    folder = at_noon.parent.parent / "looked-at"
    shutil.copytree(at_noon, folder / "data")
    with opened(settings_in(folder)) as led:
        yield led


def views(led: LedNode) -> list[Json]:
    return led.core.read_model.requests([f"coordinator:{country}" for country in COUNTRIES], None, 1000)


def of(led: LedNode, name: str) -> Json:
    """The newest case of a story."""
    story = next(story for story in STORIES if story.name == name)
    return next(view for view in views(led) if story.is_told_by(view))


def lanes(led: LedNode, country: str) -> set[Lane]:
    """The lanes of a country's board in which there is something, as its coordinator sees it."""
    who = somebody(Role.COORDINATOR, country, f"{country.lower()}-coordinator")
    known = led.core.read_model.requests([f"coordinator:{country}"], None, 1000)
    principal: Any = who
    found = {lane_of(present_request(view, principal), country, led.now) for view in known}
    return {lane for lane in found if lane is not None}


def promises_hold(led: LedNode) -> None:
    """Every invariant of the simulation over all that happened, and a rebuilt read model that is equal to the byte."""
    runners: dict[str, Any] = {"placement": led.core.placement.runner, "capacity": led.core.capacity.runner}
    logs = {
        source: [event for _, event in led.core.logs[source].read_all(limit=1_000_000)]
        for source in ("gateway", "capacity", "placement")
    }
    checker = audit(load(), {name: runner.decider for name, runner in runners.items()}, logs)
    with led.core.capacity_log.engine.connect() as connection:
        columns = bed_claims.c.unit_id, bed_claims.c.bed, bed_claims.c.hold_id
        checker.claims_are((row[0], row[1], row[2]) for row in connection.execute(sa.select(*columns)))
    assert [consumer.parked() for consumer in led.core.consumers] == [[]] * 4
    before, after = led.core.projection.rebuild(led.core.logs)
    assert before == after


# What is in it


@pytest.mark.parametrize("country", COUNTRIES)
def test_each_lane_of_each_board_has_something_in_it(scene: LedNode, country: str) -> None:
    assert lanes(scene, country) == set(Lane)


def test_every_story_is_where_a_visitor_meets_it(scene: LedNode) -> None:
    found = {story.name: of(scene, story.name)["stage"] for story in STORIES if not story.is_for_who_watches}
    assert found == {story.name: story.rests_at for story in STORIES if not story.is_for_who_watches}
    assert [view["missed_deadlines"] for view in views(scene)] == [0] * len(AT_FIRST)


def test_no_two_stories_can_be_taken_for_each_other() -> None:
    told = {(story.origin, story.urgency, story.language, str(story.household)) for story in STORIES}
    assert len(told) == len({story.name for story in STORIES}) == len(STORIES)


def test_there_is_something_to_see_for_every_role(scene: LedNode) -> None:
    model = scene.core.read_model
    for party in ("referrer:be-police-antwerp", "guardian:BE", "escort:synthetic.be-escort-1"):
        assert model.requests([party], None, 10), party
    asked = {ask["shelter_id"] for view in views(scene) for ask in view["asks"].values() if ask["state"] == "open"}
    assert len(asked) >= 3
    (girl,) = model.requests(["guardian:BE"], None, 10)
    assert girl["next_steps"] == ["record_guardian_consent"]
    assert of(scene, "not there when they should be")["next_steps"][0] == "find_household"
    assert "declined" in {ask["state"] for ask in of(scene, "mother and child, one shelter said no")["asks"].values()}


def test_in_each_country_a_shelter_is_to_be_phoned(scene: LedNode) -> None:
    late = [unit for unit in scene.core.read_model.units([AVAILABILITY]) if unit["freshness"] == Freshness.OVERDUE]
    assert {unit["country"] for unit in late} == set(COUNTRIES)
    assert {unit["country"] for unit in late if unit["free"]} == set(COUNTRIES)


def test_the_trail_tells_who_did_what_and_why(scene: LedNode) -> None:
    events = [event for _, event in scene.core.gateway_log.read_all(limit=10_000) if isinstance(event, Event)]
    assert {event.actor.role for event in events} >= set(Role) - {Role.AUDITOR, Role.GUARDIAN}
    assert sum(isinstance(event.data, FieldDisclosed) for event in events) >= 8
    assert sum(isinstance(event.data, RecordConsulted) for event in events) >= 30
    assert all(is_colleague(event.actor.person) or event.actor.role is Role.SYSTEM for event in events)
    assert max(event.time for event in events) <= NOON
    assert sum(isinstance(event.data, Command) for event in events) > 100


def test_what_is_sealed_is_sealed_in_a_scene_too(scene: LedNode) -> None:
    files = [path.read_bytes() for path in scene.node.directory.path.iterdir() if path.is_file()]
    for text in (CALLBACK, RENDEZVOUS, STEPS):
        assert not any(text.encode() in content for content in files)


def test_every_promise_holds_over_a_scene(scene: LedNode) -> None:
    promises_hold(scene)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "now"), [(1, NIGHT), (2, NOON), (3, NIGHT)])
def test_whatever_the_inventory_and_the_hour_the_scene_is_whole(tmp_path: Path, seed: int, now: datetime) -> None:
    with opened(make(tmp_path, now, seed), now) as led:
        assert {country: lanes(led, country) for country in COUNTRIES} == dict.fromkeys(COUNTRIES, ALL_LANES)
        assert [of(led, story.name)["stage"] for story in STORIES if not story.is_for_who_watches] == [
            story.rests_at for story in STORIES if not story.is_for_who_watches
        ]


@pytest.mark.slow
def test_the_same_seed_and_the_same_keys_make_the_same_scene(scene: LedNode, tmp_path: Path) -> None:
    with opened(make(tmp_path)) as again:
        assert views(again) == views(scene)


# Whole or not at all


def whole(data_dir: Path) -> None:
    """The databases hold a scene, all of it and once."""
    with sqlite3.connect(data_dir / "gateway.sqlite") as gateway:
        (requests,) = gateway.execute("SELECT count(*) FROM requests").fetchone()
        (opened_at,) = gateway.execute("SELECT max(opened_at) FROM requests").fetchone()
    assert requests == len(AT_FIRST)
    assert opened_at
    assert not (data_dir / SCENE_MAKING).exists()
    assert not (data_dir / SCENE_MADE).exists()


def test_a_scene_is_made_once(settings: Settings) -> None:
    whole(settings.data_dir)
    before = (settings.data_dir / "gateway.sqlite").read_bytes()
    assert not make_scene(settings, lambda: NOON)
    assert (settings.data_dir / "gateway.sqlite").read_bytes() == before


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_added_where_there_is_something(tmp_path: Path, name: str) -> None:
    settings = settings_in(tmp_path)
    settings.data_dir.mkdir()
    (settings.data_dir / name).touch()
    assert not make_scene(settings, lambda: NOON)
    assert {path.name for path in settings.data_dir.iterdir()} == {name, "lock"}


def test_where_no_scene_was_made_nobody_acts(tmp_path: Path) -> None:
    with opened(settings_in(tmp_path)) as led:
        led.core.seed(led.node.inventory)
        led.go_on(NOON + timedelta(days=2))
        assert views(led) == []
        events = [event for _, event in led.core.gateway_log.read_all(limit=10_000) if isinstance(event, Event)]
        assert not any(is_colleague(event.actor.person) for event in events)


def test_a_scene_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LedNode, "go_on", fail)
    settings = settings_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        make_scene(settings, lambda: NOON)
    assert {path.name for path in settings.data_dir.iterdir()} == {"lock"}


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    directory = DataDirectory(settings.data_dir)
    with pytest.raises(DataDirectoryTaken):
        make_scene(settings, lambda: NOON)
    directory.release()
    assert {path.name for path in settings.data_dir.iterdir()} == {"lock"}


@pytest.mark.parametrize("moved", range(len(FILES) + 1))
def test_a_node_cut_off_while_it_takes_the_scene_in_goes_on_with_that(
    tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    settings.data_dir.mkdir()
    made = settings.data_dir / SCENE_MADE
    made.mkdir()
    for number, name in enumerate(FILES):
        ((settings.data_dir if number < moved else made) / name).write_text(name)
    DataDirectory(settings.data_dir).release()
    assert {name: (settings.data_dir / name).read_text() for name in FILES} == {name: name for name in FILES}
    assert not made.exists()


@pytest.mark.slow
def test_a_node_that_is_killed_while_it_makes_the_scene_makes_it_whole_the_next_time(tmp_path: Path) -> None:
    rng = Random(20261126)
    kills = 0
    node = RunningNode(tmp_path, speed=1, scene="still")
    for pause in (0.8, *(rng.uniform(1.0, 5.0) for _ in range(5))):
        process = subprocess.Popen(
            [*HAVEN, "run"], env=environment(**node.settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ends = time.monotonic() + 60
        while not node.data_dir.exists() and time.monotonic() < ends:
            time.sleep(0.02)
        time.sleep(pause)
        process.kill()
        process.wait()
        kills += 1
    with node:
        assert node.stop() == 0
    whole(node.data_dir)
    assert kills == 6


# It lives


def an_hour_of(led: LedNode) -> Iterator[None]:
    for _ in range(4):
        led.go_on(led.now + timedelta(minutes=15))
        yield


@pytest.mark.slow
def test_two_days_later_each_lane_still_has_something_in_it(settings: Settings) -> None:
    with opened(settings) as led:
        for _ in range(48):
            for _ in an_hour_of(led):
                seen = {country: lanes(led, country) for country in COUNTRIES}
                assert seen == dict.fromkeys(COUNTRIES, ALL_LANES), led.now
        alive = [view for view in views(led) if view["stage"] not in (Stage.ENDED, Stage.WITHDRAWN)]
        assert len(alive) < 3 * len(STORIES)
        assert len(views(led)) < 12 * len(STORIES)
        promises_hold(led)


def visitor(led: LedNode, who: Who, method: str, path: str, body: Json | None = None) -> Json:
    """What a visitor does. Each has a login, and so is somebody else than the scene's people."""
    principal = Principal(
        person=who.person,
        role=who.role,
        organisation=who.organisation,
        country=who.country,
        scopes=SCOPES_OF_ROLE[who.role],
        client_id=who.person,
        token_id="visitor",
        issued_at=datetime.now(UTC),
        authenticated_at=datetime.now(UTC),
        acr="",
        confirmation=None,
    )
    answer = led.node.app.test_client().open(
        f"/api/v1{path}",
        method=method,
        json=body,
        base_url=led.node.settings.url,
        headers={"Idempotency-Key": uuid4().hex},
        environ_overrides={ON_BEHALF_OF: principal},
    )
    assert answer.status_code < 300, answer.get_json()
    led.core.settle()
    document: Json = answer.get_json()
    return document


def acted_on(led: LedNode, request_id: str, since: datetime) -> list[str]:
    """What the scene's people did in a case since then."""
    log = led.core.gateway_log
    events = [event for event in log.read_stream(f"relocation_request-{request_id}") if isinstance(event, Event)]
    return [type(event.data).__name__ for event in events if is_colleague(event.actor.person) and event.time > since]


@pytest.mark.slow
def test_a_case_in_which_a_visitor_took_a_step_is_theirs(settings: Settings) -> None:
    with opened(settings) as led:
        girl = of(led, "a girl whose guardian must speak")
        word = {"scope": "placement", "country": "NL", "given": True, "by": "guardian"}
        visitor(led, GUARDIAN, "POST", f"/relocation-requests/{girl['request_id']}/consent", word)
        led.go_on(NOON + timedelta(hours=2))
        assert acted_on(led, girl["request_id"], NOON) == []
        next_girl = of(led, "a girl whose guardian must speak")
        assert next_girl["request_id"] != girl["request_id"], "another one waits for the next visitor"
        assert next_girl["stage"] == Stage.COUNTERSIGNED
        promises_hold(led)


def test_of_what_is_over_the_people_of_a_scene_look_at_each_storys_last_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few seconds, for as long as the node runs: of what is over there is more every day."""
    with opened(settings) as led:
        many: list[Json] = []
        alone: list[Json | None] = []
        requests, request = ReadModel.requests, ReadModel.request
        monkeypatch.setattr(ReadModel, "requests", lambda *said, **more: many.extend(requests(*said, **more)) or many)
        monkeypatch.setattr(ReadModel, "request", lambda *said: alone.append(request(*said)) or alone[-1])
        assert led.life.due(led.now)
        assert many
        assert not [view for view in many if view["stage"] in OVER]
        assert len(alone) <= len(STORIES)
        assert all(view and view["stage"] in OVER for view in alone)


def test_a_case_that_is_kept_and_not_shown_yet_is_not_opened_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(settings) as led:
        led.go_on(NOON + timedelta(minutes=1))
        life = led.life
        before = len(life.touched.story_of)
        monkeypatch.setattr(ReadModel, "requests", lambda *_, **__: [])
        monkeypatch.setattr(ReadModel, "request", lambda *_: None)
        names = {story.name for story in STORIES if life.touched.told[story.name]}
        assert names
        assert not {name for _, name, _ in life.due(led.now)} & names
        assert len(life.touched.story_of) == before


def test_a_case_that_a_visitor_opened_is_never_touched(settings: Settings) -> None:
    with opened(settings) as led:
        body = STORIES[4].opening | {"callback": "synthetic: the desk"}
        theirs = visitor(led, POLICE, "POST", "/relocation-requests", body)["request_id"]
        led.go_on(NOON + timedelta(hours=3))
        assert acted_on(led, theirs, NOON - timedelta(days=1)) == []


@pytest.mark.slow
def test_while_a_visitor_looks_at_a_case_nobody_else_acts_in_it(settings: Settings) -> None:
    with opened(settings) as led:
        urgent = of(led, "tonight from Belgium")["request_id"]
        board = "/relocation-requests?limit=50"
        visitor(led, ORIGIN, "GET", board)
        visitor(led, ORIGIN, "GET", f"/relocation-requests/{urgent}")
        for _ in range(11):
            led.go_on(led.now + timedelta(minutes=5))
            visitor(led, ORIGIN, "GET", board)
        assert acted_on(led, urgent, NOON) == []
        led.go_on(NOON + LOOKED_AT_FOR + timedelta(hours=1))
        assert acted_on(led, urgent, NOON) != []


@pytest.mark.slow
def test_whoever_watches_sees_something_move_every_few_minutes_and_nobody_acts_for_nobody(settings: Settings) -> None:
    def acts(led: LedNode) -> int:
        events = [event for _, event in led.core.gateway_log.read_all(limit=100_000) if isinstance(event, Event)]
        return sum(isinstance(event.data, Command) and is_colleague(event.actor.person) for event in events)

    with opened(settings) as led:
        before = acts(led)
        for _ in range(12):
            for path in ("/relocation-requests?limit=50", "/call-list"):  # as the board does
                visitor(led, ORIGIN, "GET", path)
            led.go_on(led.now + timedelta(minutes=5))
        watched = acts(led) - before
        assert watched >= 20
        led.go_on(led.now + timedelta(hours=2))
        before = acts(led)
        led.go_on(led.now + timedelta(hours=1))
        assert acts(led) - before < watched


@pytest.mark.slow
def test_after_a_week_away_the_scene_comes_back_within_the_quarter_of_an_hour(settings: Settings) -> None:
    later = NOON + timedelta(days=7)
    with opened(settings, later) as led:
        led.go_on(later + timedelta(minutes=15))
        found = {country: lanes(led, country) for country in COUNTRIES}
        # An overdue arrival takes three hours to be overdue; everything else is back.
        assert all(seen >= set(Lane) - {Lane.FOLLOW_UP} for seen in found.values()), found
        promises_hold(led)


def test_people_who_are_refused_try_again_later_and_not_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(settings) as led:
        tries: list[datetime] = []

        def refuse(*_: object) -> None:
            tries.append(led.now)
            raise NotDone("POST answer", 503, "not now")

        monkeypatch.setattr(Cast, "step", refuse)
        led.go_on(NOON + timedelta(minutes=60))
        assert 0 < len(tries) < 12 * len(STORIES)


def test_the_people_of_a_scene_have_no_login(scene: LedNode) -> None:
    assert not [name for name in scene.node.logins if is_colleague(name)]
    assert not [account for account in scene.node.accounts if is_colleague(account.person)]
