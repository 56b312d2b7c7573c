"""The published document says exactly what is served, and every answer is hardened, also those nobody planned."""

import json
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from events.vocabulary import Role
from services.gateway import bodies
from services.gateway.answers import SHOWN
from services.gateway.api import RULES, SECURITY_HEADERS
from services.gateway.principals import Scope
from services.gateway.routing import JSON
from tests.gateway.world import AN_OPENING, AUDITOR, MISSING, ORIGIN, POLICE, PREFIX, World

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document(world: World) -> Json:
    answer = world.send(None, "GET", f"{PREFIX}/openapi.json")
    assert answer.content_type == "application/json"
    read: Json = json.loads(answer.data)
    return read


def operations(document: Json) -> dict[tuple[str, str], Json]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_the_document_is_valid_openapi(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


@pytest.mark.attack(65)
def test_it_describes_exactly_what_is_served(world: World, document: Json) -> None:
    served = {
        (method, route.rule.replace("<string:", "{").replace(">", "}"))
        for route in world.node.app.url_map.iter_rules()
        if route.endpoint.startswith("api.")
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert operations(document).keys() == served


def test_every_operation_names_its_scope_its_roles_and_what_it_takes(document: Json) -> None:
    described = operations(document)
    for rule in RULES:
        operation = described[rule.method, PREFIX + rule.path]
        assert operation["security"] == [{"oauth": [str(rule.scope)]}, {"oauth": [str(rule.scope)], "dpop": []}]
        assert all(str(role) in operation["description"] for role in rule.roles)
        named = {(parameter["in"], parameter["name"]) for parameter in operation["parameters"]}
        assert {("query", name) for name in rule.query} <= named
        assert (("header", "Idempotency-Key") in named) == (rule.method == "POST")
        assert (("header", "Prefer") in named) == rule.waits
        assert ("requestBody" in operation) == (rule.body is not None)
        assert {"200", "4XX", "5XX"} <= operation["responses"].keys()
    assert len({operation["operationId"] for operation in described.values()}) == len(described)


def test_every_scope_is_declared_and_tokens_come_from_this_node(world: World, document: Json) -> None:
    flow = document["components"]["securitySchemes"]["oauth"]["flows"]["clientCredentials"]
    assert flow["scopes"].keys() == set(Scope)
    assert flow["tokenUrl"] == f"{world.node.settings.url}/oauth/token"


MAY_GROW = {"Figures", "Household", "DangerZone", "Candidate", "Rejection", "Stopped"}
"""What events and memories say is shown as it is."""


@pytest.mark.attack(42, 43)
def test_no_body_takes_and_no_answer_gives_a_property_that_is_not_in_its_schema(document: Json) -> None:
    schemas = document["components"]["schemas"]
    taken = {name for rule in RULES if rule.body for name in [rule.body.__name__]} | {
        "HouseholdBody",
        "DangerZoneBody",
        "UnitSeen",
    }
    assert taken <= schemas.keys()
    for name, schema in schemas.items():
        if schema.get("type") == "object" and name not in {"Problem", *MAY_GROW}:
            assert schema["additionalProperties"] is False, name


def test_no_body_has_a_field_for_a_name_an_address_or_a_number(document: Json) -> None:
    fields = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", ())}
    forbidden = {
        "name",
        "first_name",
        "surname",
        "address",
        "street",
        "phone",
        "telephone",
        "email",
        "birth_date",
        "notes",
    }
    assert not fields & forbidden


def test_every_free_text_is_one_that_is_sealed() -> None:
    """What is kept in the clear is a code, a count, a date or an id: nothing in which somebody could write a name."""
    bodies_of_routes = {rule.body for rule in RULES if rule.body} | {
        bodies.HouseholdBody,
        bodies.DangerZoneBody,
        bodies.UnitSeen,
    }
    free = {
        (body.__name__, field.name)
        for body in bodies_of_routes
        for field in msgspec.structs.fields(body)
        if field.type in (bodies.SealedText, bodies.SealedText | None, str)
    }
    assert free == {("OpenRequest", "callback"), ("AskAnswer", "rendezvous"), ("Journey", "steps")}


# Every answer


def answers(world: World) -> dict[str, Any]:
    opened = {"json": AN_OPENING, "headers": {"Idempotency-Key": world.new_key()}}
    return {
        "alive": world.send(None, "GET", "/healthz"),
        "ready": world.send(None, "GET", "/readyz"),
        "document": world.send(None, "GET", f"{PREFIX}/openapi.json"),
        "nothing there": world.send(None, "GET", "/nothing"),
        "no such method": world.send(None, "DELETE", f"{PREFIX}/relocation-requests"),
        "nobody signed in": world.send(None, "GET", f"{PREFIX}/relocation-requests"),
        "wrong role": world.send(AUDITOR, "GET", f"{PREFIX}/relocation-requests"),
        "a list": world.send(POLICE, "GET", f"{PREFIX}/relocation-requests"),
        "a missing one": world.send(POLICE, "GET", f"{PREFIX}/relocation-requests/{MISSING}"),
        "received": world.send(POLICE, "POST", f"{PREFIX}/relocation-requests", **opened),
        "refused": world.send(POLICE, "POST", f"{PREFIX}/relocation-requests", json={}),
        "availability": world.send(ORIGIN, "GET", f"{PREFIX}/availability"),
        "the key set": world.send(None, "GET", "/oauth/jwks.json"),
        "no token": world.send(None, "POST", "/oauth/token"),
    }


@pytest.mark.attack(64)
def test_every_answer_is_hardened(world: World) -> None:
    for name, answer in answers(world).items():
        assert answer.headers["Cache-Control"] == "no-store", name
        assert answer.headers["X-Content-Type-Options"] == "nosniff", name
        for header in SECURITY_HEADERS:
            assert header in answer.headers, (name, header)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"], name
        assert not {"Server", "X-Powered-By", "Access-Control-Allow-Origin", "Set-Cookie"} & set(
            answer.headers.keys()
        ), name


@pytest.mark.attack(64)
def test_a_fault_of_our_own_says_nothing_and_is_logged_without_what_was_sent(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise ValueError("KITTIWAKE99 lives at KITTIWAKE99")

    monkeypatch.setattr(world.core.read_model, "requests", breaks)
    answer = world.send(POLICE, "GET", f"{PREFIX}/relocation-requests")
    assert answer.status_code == 500
    assert answer.content_type == "application/problem+json"
    assert "KITTIWAKE" not in answer.get_data(as_text=True)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "KITTIWAKE" not in caplog.text
    assert "ValueError" in caplog.text


def test_a_node_that_lags_or_has_parked_something_is_not_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    projection = next(f for f in world.core.followers if f.consumer is world.core.projection.consumer)
    monkeypatch.setattr(projection, "lag", lambda: 1001)
    answer = world.send(None, "GET", "/readyz")
    assert answer.status_code == 503
    assert answer.json["reasons"] == {"gateway.read_model": "1001 events behind"}


def test_the_roles_in_the_document_are_people(document: Json) -> None:
    for operation in operations(document).values():
        assert str(Role.SYSTEM) not in operation["description"].removeprefix("Roles: ").rstrip(".").split(", ")


def test_every_operation_that_gives_json_says_what_it_looks_like(document: Json) -> None:
    served = {rule.view.__name__: rule for rule in RULES}
    assert SHOWN.keys() <= served.keys()
    unsaid = {name for name, rule in served.items() if rule.gives == (JSON,) and name not in SHOWN}
    assert unsaid == set()
