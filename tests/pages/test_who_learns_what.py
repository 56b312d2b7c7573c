"""Who may learn which fact of a case, at which stage: one table, against everything that the API and the pages show anybody.

A fact is recognised by a canary: a value that stands for it and for nothing else. Somebody learns it if the canary is anywhere in what
any GET route, or any page, answers them about the case. Routes and pages come from their registries, so a new one is searched too.

The table says what the rules say (docs/glossary.md, docs/adr/0013-disclosure.md), not what the code does:
 - a referrer follows its own cases and never learns which shelter, nor who else works on them;
 - the focal point of origin sees all of a case but what is sealed; the one that is asked, its own shelters and what it has to sign;
 - a shelter learns who would come and with which needs, never from where, and nothing about other shelters;
 - an escort learns the journey, a guardian the case of a minor without the house, an auditor what is in the trail;
 - whatever is sealed is in no answer to a GET; whoever is not named here learns nothing, not even that the case exists.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.vocabulary import AcceptCondition, Need, OverrideReason, Role, Stage, Urgency
from services.gateway.api import RULES
from services.gateway.pages import PAGES
from services.gateway.pages.words import TABLES as WORDS
from services.gateway.pages.words_of_cases import case_code
from services.gateway.routing import PREFIX
from tests.gateway import world as gateway_world
from tests.gateway.test_every_route_is_guarded import knows
from tests.gateway.world import (
    ABROAD,
    AUDITOR,
    CALLBACK,
    COLLEAGUE,
    ESCORT,
    EVERYBODY,
    GUARDIAN,
    HOST,
    HOST_GUARDIAN,
    INVENTORY,
    NEIGHBOUR,
    ORIGIN,
    OTHER_HOST,
    POLICE,
    RECEIVING,
    RENDEZVOUS,
    SAME_PERSON,
    STEPS,
    Json,
    Who,
    World,
)
from tests.pages.reader import Reader

# The rules ------------------------------------------------------------------------------------------------------------------

COLUMNS: Mapping[str, tuple[Who, ...]] = {
    "referrer": (POLICE, COLLEAGUE),
    "origin": (ORIGIN,),
    "host": (HOST, SAME_PERSON),  # of the country whose shelter says yes
    "third": (OTHER_HOST,),  # of another country that is asked
    "shelter": (RECEIVING,),
    "next door": (NEIGHBOUR,),
    "abroad": (ABROAD,),
    "escort": (ESCORT,),
    "guardian": (GUARDIAN, HOST_GUARDIAN),
    "auditor": (AUDITOR,),
}
"""Everybody else of EVERYBODY learns nothing at all."""

SIGHT = """
fact                     referrer  origin  host  third  shelter  next door  abroad  escort  guardian  auditor

that it exists           a         a       a     a      a        a          a       a       a         a
stage                    a         a       a     a      a        a          a       a       a         a
deadline                 a         a       a     a      a        a          a       a       a         a
urgency                  a         a       a     a      a        a          a       .       a         a
who moves                a         a       a     a      a        a          a       .       a         a
needs                    a         a       a     a      a        a          a       .       a         a
languages                a         a       a     a      a        a          a       .       a         a
country of danger        a         a       a     a      .        .          .       .       a         a
danger zones             a         a       a     a      .        .          .       .       .         a
region of stay           a         a       a     a      .        .          .       .       .         a
third-country national   a         a       a     a      .        .          .       .       .         a
reflection began         a         a       a     a      .        .          .       .       A         a
reflection ends          a         a       a     a      .        .          .       .       a         a
what stood before        a         a       a     a      .        .          .       .       .         a
whose word that is       o         o       A     A      .        .          .       .       .         .
consents                 a         a       a     a      .        .          .       .       a         a
referring organisation   .         A       A     A      .        .          .       .       .         a
who referred             .         A       .     .      .        .          .       .       .         a
host country             a         a       a     .      .        .          .       a       a         a
this shelter is asked    .         a       q     .      A        .          .       .       .         a
next door is asked       .         a       w     .      .        A          .       .       .         a
abroad is asked          .         a       .     a      .        .          A       .       .         a
condition of the yes     .         a       p     .      a        .          .       .       .         a
proposal                 .         a       a     .      .        .          .       .       .         a
why not the first        .         a       a     .      .        .          .       .       .         a
who signed first         .         A       A     .      .        .          .       .       .         a
who signed second        .         A       A     .      .        .          .       .       .         a
shortlist                .         a       .     .      .        .          .       .       .         a
arrival due              a         a       a     .      a        .          .       a       .         a
who drives               .         a       a     .      .        .          .       A       .         a
what happened            a         a       a     a      .        .          .       .       a         a
who looked, by name      .         A       .     .      .        .          .       .       .         a
ids of events            .         A       .     .      .        .          .       .       .         A
sealed callback          .         .       .     .      .        .          .       .       .         .
sealed rendezvous        .         .       .     .      .        .          .       .       .         .
sealed steps             .         .       .     .      .        .          .       .       .         .
ciphertext               .         .       .     .      .        .          .       .       .         .
"""
"""`a`: by the API, and on a page. `A`: by the API alone. `.`: nowhere. The others differ on pages: `w` while shelters are asked, `p` from
the proposal on, `q` but for the time in which the yes waits for it, `o` until the case is over. Each only as long as they may know of the case (`knows`) and
once there is such a fact (`there_is`)."""

THE_WAY = (
    Stage.ASKED,
    Stage.OFFERED,
    Stage.PROPOSED,
    Stage.COUNTERSIGNED,
    Stage.CONFIRMED,
    Stage.DEPARTED,
    Stage.ASTRAY,
    Stage.ARRIVED,
    Stage.ENDED,
)
OFF_THE_WAY = (Stage.UNMET_NEED, Stage.REFUSED, Stage.WITHDRAWN, Stage.ERASED)
SINCE: Mapping[str, Stage] = {
    "condition of the yes": Stage.OFFERED,
    "host country": Stage.PROPOSED,
    "proposal": Stage.PROPOSED,
    "why not the first": Stage.PROPOSED,
    "who signed first": Stage.PROPOSED,
    "who signed second": Stage.COUNTERSIGNED,
    "arrival due": Stage.DEPARTED,
    "who drives": Stage.DEPARTED,
}
"""From which stage on there is such a fact; from the first one, if it is not named."""
OF_EVERY_CASE = {
    "that it exists",
    "stage",
    "country of danger",
    "consents",
    "referring organisation",
    "who referred",
    "what happened",
    "who looked, by name",
    "ids of events",
}
"""All there is of one that was refused at the door, but for what was sent and lies in its trail."""
SENT = {
    "urgency",
    "who moves",
    "needs",
    "languages",
    "danger zones",
    "region of stay",
    "third-country national",
    "reflection began",
}
EVERY_STAGE = {*THE_WAY, *OFF_THE_WAY}
ON_A_PAGE: Mapping[str, set[Stage]] = {
    "a": EVERY_STAGE,
    "A": set(),
    ".": set(),
    "w": {Stage.ASKED, Stage.OFFERED},
    "p": set(THE_WAY[2:]),
    "q": {Stage.ASKED, *THE_WAY[2:]},
    "o": {*THE_WAY[:-1], Stage.UNMET_NEED},
}


def there_is(fact: str, column: str, stage: Stage, view: Json) -> bool:
    reads_the_trail = column in ("origin", "auditor")
    if fact == "deadline":
        return view["deadline"] is not None
    if stage is Stage.REFUSED:
        is_shown = fact in OF_EVERY_CASE and (fact, column) != ("stage", "auditor")  # the trail has the refusal itself
        return is_shown or (fact in SENT and reads_the_trail)
    if stage is Stage.UNMET_NEED and fact.endswith(" is asked"):
        return reads_the_trail  # that it was looked at, and why it does not fit
    reached = THE_WAY.index(stage) if stage in THE_WAY else 0
    return reached >= THE_WAY.index(SINCE.get(fact, Stage.ASKED))


def expected(fact: str, who: Who, stage: Stage, view: Json, *, minor: bool) -> tuple[bool, bool]:
    """Whether somebody learns the fact by the API, and whether on a page."""
    column = next((name for name, people in COLUMNS.items() if who in people), None)
    may_know = who == AUDITOR or knows(who, stage, minor=minor)
    if column is None or not may_know or not there_is(fact, column, stage, view):
        return False, False
    by_records_alone = stage is Stage.REFUSED and fact in SENT - {"urgency"} and column == "origin"
    return SEES[fact, column] != ".", stage in ON_A_PAGE[SEES[fact, column]] and not by_records_alone


def read_table(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    columns, *rows = (re.split(r"\s{2,}", line) for line in text.strip().splitlines() if line.strip())
    assert columns[1:] == list(COLUMNS)
    for fact, *cells in rows:
        assert len(cells) == len(COLUMNS), fact
        assert set(cells) <= ON_A_PAGE.keys(), fact
        yield from (((fact, column), cell) for column, cell in zip(COLUMNS, cells, strict=True))


SEES = dict(read_table(SIGHT))
FACTS = tuple(dict.fromkeys(fact for fact, _ in SEES))

# How a fact is recognised ---------------------------------------------------------------------------------------------------

OPENING: Json = {
    "household": {"women": 3},
    "needs": [Need.PREGNANCY_CARE],
    "languages": ["ti"],
    "danger_zones": [{"code": "BE34"}],
    "region_of_stay": "BE35",
    "third_country_national": True,
    "reflection_started_on": "2026-11-05",
}
LEARNT_LATER = ("region_of_stay", "third_country_national", "reflection_started_on")
SAID_AT_FIRST: Json = {"region_of_stay": "BE32"}
DUE = timedelta(hours=6, minutes=17)
NOWHERE = r"(?!)"


def canaries(view: Json) -> Mapping[str, tuple[str, str]]:
    """For each fact: how it is found in an answer of the API, and how in a page."""
    ends_on = view.get("reflection_ends_on") or "there is none"
    deadline = re.escape((view["deadline"] or "there is none")[:19])
    due = re.escape((view["journey"] or {}).get("arrival_due", "there is none")[:16])
    proposal = (view["proposal"] or {}).get("hash", "there is none")
    return {
        "that it exists": (view["request_id"], f"{case_code(view['request_id'])}|{view['request_id']}"),
        "stage": (f'"stage":"{view["stage"]}"', re.escape(WORDS["Stage"][view["stage"]])),
        "deadline": (deadline, deadline),
        "urgency": (f'"urgency":"{Urgency.URGENT}"', WORDS["Urgency"][Urgency.URGENT]),
        "who moves": ('"women":3', "3 women"),
        "needs": (
            r'"(pregnancy_care|pets)"',
            "|".join(WORDS["Need"][need] for need in (Need.PREGNANCY_CARE, Need.PETS)),
        ),
        "languages": ('"ti"', "Tigrinya"),
        "country of danger": ('"danger_country":"BE"', "Never to be placed in Belgium"),
        "danger zones": ("BE34", "Province of Luxembourg"),
        "region of stay": ("BE35", "Namur"),
        "third-country national": ('"third_country_national":true', "outside the European Union Yes"),
        "reflection began": (OPENING["reflection_started_on"], "5 November 2026"),
        "reflection ends": (ends_on, "20 December 2026"),
        "what stood before": ("BE32", "Hainaut"),
        "whose word that is": ('"details":{"version":1', "What stands now was recorded by"),
        "consents": ('"consents":|"consented_countries"', "What they agreed to|No consent is recorded"),
        "referring organisation": (POLICE.organisation, POLICE.organisation),
        "who referred": (POLICE.person, POLICE.person),
        "host country": ('"host_country":"NL"', "Goes to|Host country"),
        "this shelter is asked": (RECEIVING.organisation, RECEIVING.organisation),
        "next door is asked": (NEIGHBOUR.organisation, NEIGHBOUR.organisation),
        "abroad is asked": (ABROAD.organisation, ABROAD.organisation),
        "condition of the yes": (
            AcceptCondition.NIGHTS_LIMITED,
            WORDS["AcceptCondition"][AcceptCondition.NIGHTS_LIMITED],
        ),
        "proposal": (proposal, "What is signed"),
        "why not the first": (f'"override":"{OverrideReason.TRAVEL}"', WORDS["OverrideReason"][OverrideReason.TRAVEL]),
        "who signed first": (signature("proposed", ORIGIN), ORIGIN.person),
        "who signed second": (signature("countersigned", HOST), HOST.person),
        "shortlist": ('"candidates":', "Drawn .* by the rules of"),
        "arrival due": (due, due),
        "who drives": (ESCORT.person, ESCORT.person),
        "what happened": ('"events":\\[{', "haven-timeline"),
        "who looked, by name": (COLLEAGUE.person, COLLEAGUE.person),
        "ids of events": ('"event_id"', '"event_id"'),
        "sealed callback": (CALLBACK, CALLBACK),
        "sealed rendezvous": (RENDEZVOUS, RENDEZVOUS),
        "sealed steps": (STEPS, STEPS),
        "ciphertext": ('"box"|"key_id"', "key_id"),
    }


def signature(what: str, who: Who) -> str:
    in_the_case = f'"what":"{what}","person":"{who.person}"'
    in_the_trail = f'"type":"placement.placement.{what}.v1"[^{{]*{{"person":"{who.person}"'
    return f"{in_the_case}|{in_the_trail}"


# What is shown ----------------------------------------------------------------------------------------------------------------

NOT_ABOUT_A_CASE = {"/stream", "/live", "/sessions", "/places", "/requests/new", "/regions", "/demand"}
"""Routes and pages that show no case: ids on the stream (test_live_stream.py), the own sessions, the own beds, an empty form, the
names of all regions, and figures in which no case can be found (test_suppression.py)."""
HERE_ANYHOW = re.compile(
    r'<(label|option)\b.*?</\1>|<header.*?</header>|<p class="haven-identity-bar__who">.*?</p>', re.DOTALL
)
"""What a page says whatever the case: what can be chosen in forms, and who is looking."""
PURPOSE = {"Haven-Purpose": "self_monitoring"}


class Story(World):
    """Where a case goes its way with a value of its own in every field."""

    learns_later = True
    """What need not be said at the opening is said after it; one that is refused at the door has no after."""

    def open(self, who: Who = POLICE, **changes: Any) -> str:
        if not self.learns_later:
            return super().open(who, **changes)
        learnt = {name: changes.pop(name) for name in LEARNT_LATER}
        request_id = super().open(who, **changes, **SAID_AT_FIRST)
        self.done(self.act(COLLEAGUE, request_id, "details", {"version_seen": 0, **learnt}))
        return request_id

    def say_yes(self, request_id: str, shelter: Who = RECEIVING) -> Any:
        body = {"accept": True, "rendezvous": RENDEZVOUS, "condition": AcceptCondition.NIGHTS_LIMITED}
        return self.ask(shelter, "POST", f"/asks/{self.ask_to(request_id, shelter)}/answer", body)

    def plan_journey(self, request_id: str) -> Any:
        body = {"escort": ESCORT.person, "arrival_due": (self.now + DUE).isoformat(), "steps": STEPS}
        return self.act(ORIGIN, request_id, "journey", body)


def addresses(path: str, view: Json) -> Iterator[str]:
    """Every address of a route or page about this case. A KeyError says that an address has something new in it."""
    known = {
        "request_id": [view["request_id"]],
        "ask_id": list(view["asks"]),
        "shelter_id": [],  # beds are about nobody: test_every_route_is_guarded.py
        "unit_id": [],
    }
    names = re.findall(r"[<{](?:string:)?(\w+)[>}]", path)
    for ids in itertools.product(*(known[name] for name in names)):
        address = path
        for one in ids:
            address = re.sub(r"[<{][^>}]+[>}]", one, address, count=1)
        yield address


def shown_by_api(world: World, who: Who, view: Json) -> str:
    """Every answer to every GET about the case, in one text."""
    told = []
    for rule in RULES:
        if rule.method != "GET" or rule.path in NOT_ABOUT_A_CASE:
            continue
        for path in addresses(rule.path, view):
            next_page = PREFIX + path + (f"?case={view['request_id']}&limit=100" if who.role is Role.AUDITOR else "")
            while next_page:
                answer = world.send(who, "GET", next_page, headers=PURPOSE)
                told += [answer.get_data(as_text=True)] if answer.status_code == 200 else []
                next_page = (re.findall(r"<([^>]+)>", answer.headers.get("Link", "")) or [""])[0]
    return "\n".join(told)


def shown_on_pages(world: World, who: Who, view: Json) -> str:
    """Every page about the case, marked up and as its words."""
    reader, told = Reader(world, who), []
    for page in PAGES:
        if page.method != "GET" or page.path in NOT_ABOUT_A_CASE or who.role not in page.roles:
            continue
        for path in addresses(page.path, view):
            next_page = path + (
                f"?purpose=self_monitoring&case={view['request_id']}" if who.role is Role.AUDITOR else ""
            )
            while next_page:
                answer = reader.get(next_page)
                html = unescape(answer.get_data(as_text=True)) if answer.status_code == 200 else ""
                told.append(HERE_ANYHOW.sub("", html))
                next_page = (re.findall(r'href="([^"]*cursor=[^"]+)"', html) or [""])[0]
    marked_up = "\n".join(told)
    records = re.sub(r"(?<=[:,{[])\s+", "", marked_up)  # an auditor is shown events as they are recorded
    return "\n".join((marked_up, re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", marked_up)), records))


def wrong_cells(
    world: World, request_id: str, stage: Stage, people: Iterable[Who], *, minor: bool = False
) -> list[str]:
    """What somebody learns and must not, or does not learn and must."""
    view = world.view(request_id)
    known_by, wrong = canaries(view), []
    assert tuple(known_by) == FACTS
    for who in sorted(people, key=lambda who: who != AUDITOR):  # the first, for every reader makes the trail longer
        told = {"API": shown_by_api(world, who, view), "page": shown_on_pages(world, who, view)}
        for fact, (by_api, on_page) in known_by.items():
            if minor and fact.endswith(" is asked"):
                continue  # others are: test_matching.py
            is_due = dict(zip(told, expected(fact, who, stage, view, minor=minor), strict=True))
            found = {
                "API": re.search(by_api, told["API"]),
                "page": re.search(f"{by_api}|{on_page}" if who.role is Role.AUDITOR else on_page, told["page"]),
            }
            wrong += [
                f"{who.person} at {stage}: {fact}, {where}: {'shown' if found[where] else 'missing'}"
                for where in told
                if bool(found[where]) is not is_due[where]
            ]
        if who.role is Role.SHELTER and who.country != "BE" and re.search(r"Belg|\bBE\b|\bbe-", told["page"]):
            wrong.append(f"{who.person} at {stage}: where the danger is, page: shown")
    return wrong


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    able = [
        msgspec.structs.replace(
            unit, profile=msgspec.structs.replace(unit.profile, supports=(Need.PREGNANCY_CARE,), languages=("ti",))
        )
        for unit in INVENTORY
    ]
    monkeypatch.setattr(gateway_world, "INVENTORY", able)
    story = Story(tmp_path)
    yield story
    story.node.stop()


CHANGES: Mapping[Stage, Json] = {
    Stage.UNMET_NEED: {"needs": [Need.PETS]},
    Stage.REFUSED: {"danger_zones": [{"code": "NL"}, {"code": "LU"}, {"code": "BE34"}]},
}
OF_A_MINOR = (Stage.ASKED, Stage.WITHDRAWN)
ADULTS_ARE_NOT_ASKED = [who for who in EVERYBODY if who != RECEIVING]


def test_the_table_has_enough_cells() -> None:
    people = len(set(EVERYBODY))
    assert people * len(FACTS) * 2 * len(EVERY_STAGE) >= 5_000, "people x facts x (API, pages) x stages"


@pytest.mark.attack(38, 43)
@pytest.mark.parametrize("stage", [*THE_WAY, *OFF_THE_WAY])
def test_everybody_learns_what_the_table_says_and_nothing_else(story: Story, stage: Stage) -> None:
    story.learns_later = stage is not Stage.REFUSED
    request_id = story.bring_to(stage, **OPENING | CHANGES.get(stage, {}))
    story.read(COLLEAGUE, request_id)
    wrong = wrong_cells(story, request_id, stage, EVERYBODY)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("stage", OF_A_MINOR)
def test_of_a_minor_the_guardians_learn_too_and_those_who_receive_adults_nothing(story: Story, stage: Stage) -> None:
    request_id = story.open(**OPENING | {"household": {"women": 3, "age_status": "presumed_minor"}})
    story.read(COLLEAGUE, request_id)
    if stage is Stage.WITHDRAWN:
        story.done(story.withdraw(request_id))
    wrong = wrong_cells(story, request_id, stage, ADULTS_ARE_NOT_ASKED, minor=True)
    assert not wrong, "\n".join(wrong)
