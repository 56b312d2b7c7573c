"""What is open to everybody about the API, the events and the problems, and what each role does."""

import re
from pathlib import Path

import pytest

from events import asyncapi
from events.envelope import CONTRACTS
from events.vocabulary import Role
from services.gateway.api import RULES
from services.gateway.pages.docs_events import Message, kind_of
from services.gateway.pages.frame import EVERYBODY
from services.gateway.problems import STATUSES, TYPE_ROOT
from tests.gateway.world import POLICE, World
from tests.pages.reader import Reader, words

ROOT = Path(__file__).resolve().parent.parent.parent
LANGUAGES = ("nl", "fr", "de", "lb", "en")
LARGEST_PAGE = 30_000
DOCUMENT = asyncapi.document()


def get(world: World, path: str, **headers: str):
    return world.node.app.test_client().get(path, base_url=world.node.settings.url, headers=headers)


@pytest.mark.parametrize("path", ["/docs", "/docs/events", "/docs/events/placement.ask.made.v1", "/docs/problems"])
def test_what_a_program_is_told_needs_no_sign_in_and_is_linked_from_help(world: World, path: str) -> None:
    for language in LANGUAGES:
        answer = get(world, path, **{"Accept-Language": language})
        assert answer.status_code == 200
        assert len(answer.data) < LARGEST_PAGE, f"{path} has {len(answer.data)} bytes"
    assert "Sign out" in words(Reader(world, POLICE).get(path))
    linked = get(world, "/help").get_data(as_text=True) + get(world, "/docs/events").get_data(as_text=True)
    assert f'href="{path}"' in linked


# Problems


def test_the_type_of_a_problem_leads_to_its_words(world: World) -> None:
    refused = get(world, "/api/v1/relocation-requests")
    assert refused.json is not None
    told = get(world, refused.json["type"])
    assert told.status_code == 303
    page, _, anchor = told.headers["Location"].partition("#")
    html = get(world, page).get_data(as_text=True)
    assert anchor == "not-signed-in"
    assert f'id="{anchor}"' in html
    assert "You are not signed in" in html


@pytest.mark.parametrize("code", [*STATUSES, "http-404", "http-505"])
def test_every_problem_has_a_place_on_the_page(world: World, code: str) -> None:
    told = get(world, TYPE_ROOT + code)
    assert told.status_code == 303
    anchor = told.headers["Location"].partition("#")[2]
    assert f'id="{anchor}"' in get(world, "/docs/problems").get_data(as_text=True)


@pytest.mark.parametrize(
    "code", ["moon-is-full", "http-", "http-200", "http-4040", "http-4x4", "http-٤٠٤", "form-too-old"]
)
def test_what_is_no_problem_leads_nowhere(world: World, code: str) -> None:
    assert get(world, TYPE_ROOT + code, Accept="text/html").status_code == 404


def test_the_statuses_are_those_of_the_documentation() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", (ROOT / "docs/problems.md").read_text(), re.MULTILINE)
    said = {code: status.strip() for code, status in rows}
    assert said.pop("http-*") == "that number"
    assert said == {code: status for code, status in STATUSES.items() if code != "http-*"}


# The API


def test_every_route_is_on_the_page_also_without_a_script(world: World) -> None:
    said = words(get(world, "/docs"))
    for rule in RULES:
        assert f"{rule.method} /api/v1{rule.path}" in said


def test_the_page_of_the_api_loads_nothing_without_its_nonce(world: World) -> None:
    answer = get(world, "/docs")
    nonce = re.search(r"'nonce-([^']+)'", answer.headers["Content-Security-Policy"])
    assert nonce
    scripts = re.findall(r"<script([^>]*)>", answer.get_data(as_text=True))
    assert len(scripts) >= 3
    assert [script for script in scripts if f'nonce="{nonce[1]}"' not in script or 'src="/static/' not in script] == []


# Events


def test_the_events_are_those_of_the_document_and_each_has_its_page(world: World) -> None:
    html = get(world, "/docs/events").get_data(as_text=True)
    assert sorted(re.findall(r'href="/docs/events/([^"]+)"', html)) == sorted(DOCUMENT["components"]["messages"])
    assert get(world, "/docs/asyncapi.json").json == DOCUMENT


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
def test_a_page_of_an_event_says_every_field_and_header(world: World, name: str) -> None:
    answer = get(world, f"/docs/events/{name}")
    assert answer.status_code == 200
    assert len(answer.data) < LARGEST_PAGE
    said = words(answer)
    message = Message(DOCUMENT, name)
    body = DOCUMENT["components"]["schemas"][message.bodies[0].name]
    assert [field.name for field in message.bodies[0].fields] == list(body["properties"])
    for field in (*message.headers, *message.bodies[0].fields):
        assert field.name in said
    assert f"Version {name.rpartition('.')[2]}" in said
    assert message.topic in said
    assert ("An example" in said) == (name in CONTRACTS)


def test_nothing_a_message_is_made_of_is_left_out() -> None:
    message = Message(DOCUMENT, "placement.placement.proposed.v1")
    assert {"PlacementProposed", "Proposal", "Household", "AgeStatus", "Need"} <= {body.name for body in message.bodies}
    (status,) = [body for body in message.bodies if body.name == "AgeStatus"]
    assert status.values == ["adult", "presumed_minor"]


@pytest.mark.parametrize("name", ["placement.ask.made.v2", "nothing", "%00"])
def test_an_event_that_does_not_exist_has_no_page(world: World, name: str) -> None:
    assert get(world, f"/docs/events/{name}", Accept="text/html").status_code == 404


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string", "minLength": 1, "maxLength": 80}, "string, 1 to 80 characters"),
        ({"type": "integer", "minimum": 0, "maximum": 40}, "integer, 0 to 40"),
        ({"anyOf": [{"$ref": "#/components/schemas/Need"}, {"type": "null"}]}, "Need or null"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Need"}}, "list of Need"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "names to integer"),
        ({"enum": ["a", "b"]}, '"a" | "b"'),
        ({"const": "1.0"}, '"1.0"'),
        ({"type": "string", "pattern": r"\A[A-Z]{2}\Z"}, "string, [A-Z]{2}"),
    ],
)
def test_a_value_is_described_on_one_line(schema: dict, said: str) -> None:
    assert kind_of(schema) == said


# Help


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_says_to_each_role_what_it_does(world: World, language: str) -> None:
    html = get(world, "/help", **{"Accept-Language": language}).get_data(as_text=True)
    assert len(html.encode()) < LARGEST_PAGE
    for role in EVERYBODY:
        guide = re.search(rf'<details[^>]*id="guide-{role}"[^>]*>(.*?)</details>', html, re.DOTALL)
        assert guide, role
        assert 3 <= guide[1].count("<li>") <= 6
    assert " open>" not in html


def test_whoever_is_signed_in_finds_their_own_guide_open(world: World) -> None:
    html = Reader(world, POLICE).get("/help").get_data(as_text=True)
    assert re.findall(r'id="guide-(\w+)" open', html) == [Role.REFERRER]


def test_help_says_whether_requests_are_accepted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Haven accepts requests now" in words(get(world, "/help"))
    monkeypatch.setattr(world.core.followers[0].consumer, "parked", lambda: ["one"])
    unwell = words(get(world, "/help"))
    assert "Haven does not work as it should now" in unwell
    assert "Haven accepts requests now" not in unwell
    assert "wait for an upgrade" not in unwell
