"""No route without a rule, no answer without a token, and nobody gets further than role, scope and case allow.

What is expected is written out here once more, on purpose: a rule changed in the code must be changed here too.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest

from events.vocabulary import Role, Stage
from services.gateway.api import OPEN_TO_ALL, RULES
from services.gateway.principals import SCOPES_OF_ROLE, Scope
from services.gateway.routing import PREFIX, Rule
from tests.gateway.world import (
    ABROAD,
    AUDITOR,
    COLLEAGUE,
    ESCORT,
    EVERYBODY,
    GUARDIAN,
    HOME,
    HOST,
    HOST_GUARDIAN,
    MISSING,
    NEIGHBOUR,
    ORIGIN,
    OTHER_HOST,
    POLICE,
    RECEIVING,
    SAME_PERSON,
    Json,
    Who,
    World,
    is_problem,
    somebody,
)

ROLES_OF_ROUTE = {
    "POST /relocation-requests": "referrer coordinator",
    "GET /relocation-requests": "referrer coordinator shelter guardian escort",
    "GET /relocation-requests/{request_id}": "referrer coordinator shelter guardian escort",
    "GET /relocation-requests/{request_id}/timeline": "referrer coordinator guardian",
    "GET /relocation-requests/{request_id}/shortlist": "coordinator",
    "POST /relocation-requests/{request_id}/withdrawal": "referrer coordinator",
    "POST /relocation-requests/{request_id}/details": "referrer coordinator",
    "POST /relocation-requests/{request_id}/consent": "referrer coordinator guardian shelter",
    "POST /relocation-requests/{request_id}/proposal": "coordinator",
    "POST /relocation-requests/{request_id}/countersignature": "coordinator",
    "POST /relocation-requests/{request_id}/journey": "coordinator",
    "POST /relocation-requests/{request_id}/departure": "coordinator escort referrer",
    "POST /relocation-requests/{request_id}/arrival": "shelter coordinator escort",
    "POST /relocation-requests/{request_id}/end": "shelter coordinator",
    "POST /relocation-requests/{request_id}/disclosures": "referrer coordinator shelter escort",
    "GET /asks": "shelter coordinator",
    "GET /asks/{ask_id}": "shelter coordinator",
    "POST /asks/{ask_id}/answer": "shelter",
    "GET /shelters/{shelter_id}/units": "shelter coordinator",
    "GET /shelters/{shelter_id}/units/{unit_id}/capacity": "shelter coordinator",
    "PUT /shelters/{shelter_id}/units/{unit_id}/capacity": "shelter",
    "POST /shelters/{shelter_id}/capacity-confirmations": "shelter",
    "GET /availability": "coordinator",
    "GET /demand": "coordinator auditor",
    "GET /alerts": "coordinator",
    "GET /call-list": "coordinator",
    "GET /audit/events": "auditor",
    "GET /audit/export": "auditor",
    "POST /erasures": "auditor",
    "GET /stream": "referrer coordinator shelter guardian escort",
}

BODY_OF_ROUTE: dict[str, Json] = {
    "/withdrawal": {"reason": "danger_passed"},
    "/details": {
        "version_seen": 0,
        "third_country_national": True,
        "reflection_started_on": None,
        "region_of_stay": "BE10",
    },
    "/consent": {"scope": "transport", "country": "NL", "given": True, "by": "household"},
    "/proposal": {"ask_id": MISSING},
    "/countersignature": {"proposal_hash": "0" * 64},
    "/journey": {"escort": ESCORT.person, "arrival_due": "2026-11-25T12:00:00Z", "steps": "synthetic"},
    "/departure": {},
    "/arrival": {"outcome": "arrived"},
    "/end": {"reason": "moved_on"},
    "/disclosures": {"field": "callback", "reason": "call_back", "recipient": "nobody"},
}

SIGN_IN = {
    "/oauth/authorize",
    "/oauth/token",
    "/oauth/revoke",
    "/oauth/jwks.json",
    "/.well-known/oauth-authorization-server",
}


def name_of(rule: Rule) -> str:
    return f"{rule.method} {rule.path}"


def path_of(rule: Rule, **ids: str) -> str:
    known = {"request_id": MISSING, "ask_id": MISSING, "shelter_id": "nl-shelter-01", "unit_id": "nl-shelter-01-u1"}
    return PREFIX + rule.path.format(**known | ids)


def one_of(role: Role, **changes: Any) -> Who:
    return somebody(role, "BE", f"be-{role}", **changes)


# Routes


@pytest.mark.attack(65)
def test_every_route_has_exactly_one_rule_or_is_open_to_all(world: World) -> None:
    expected = {f"api.{rule.view.__name__}" for rule in RULES}
    assert len(expected) == len(RULES)
    for route in world.node.app.url_map.iter_rules():
        assert (
            route.endpoint in expected
            or route.endpoint in OPEN_TO_ALL
            or (route.endpoint.startswith("authorization_server.") and route.rule in SIGN_IN)
            or route.endpoint.startswith("pages.")  # tests/pages/test_every_page_is_guarded.py
        ), route


def test_every_rule_is_served_under_its_own_method_only(world: World) -> None:
    served = {
        (method, route.rule)
        for route in world.node.app.url_map.iter_rules()
        if route.endpoint.startswith("api.")
        for method in route.methods or ()
        if method != "HEAD"
    }
    written = {(rule.method, PREFIX + rule.path.replace("{", "<string:").replace("}", ">")) for rule in RULES}
    assert served == written


@pytest.mark.attack(65)
def test_what_is_open_to_all_says_nothing_about_anybody(world: World) -> None:
    assert {"health.alive", "health.is_ready", "health.openapi"} == OPEN_TO_ALL
    assert world.send(None, "GET", "/healthz").json == {"status": "alive"}
    assert world.send(None, "GET", "/readyz").json == {"status": "ready"}


def test_the_roles_of_every_route_are_those_agreed() -> None:
    assert {name_of(rule): set(rule.roles) for rule in RULES} == {
        name: {Role(role) for role in roles.split()} for name, roles in ROLES_OF_ROUTE.items()
    }


def test_every_role_that_a_route_names_can_hold_its_scope() -> None:
    for rule in RULES:
        for role in rule.roles:
            assert rule.scope in SCOPES_OF_ROLE[role], (name_of(rule), role)


def test_every_scope_opens_a_route() -> None:
    assert {rule.scope for rule in RULES} == set(Scope)


# Tokens


@pytest.mark.parametrize("rule", RULES, ids=name_of)
@pytest.mark.attack(1, 10, 17)
def test_without_a_good_token_nothing_is_answered_and_nothing_changes(world: World, rule: Rule) -> None:
    before = world.heads()
    forged = world.sign(POLICE)[:-6] + "AAAAAA"
    for credentials in ("", "Bearer", "Bearer x.y.z", f"Bearer {forged}", f"Basic {world.token(POLICE)}"):
        headers = {"Authorization": credentials} if credentials else {}
        answer = world.send(None, rule.method, path_of(rule), headers=headers)
        is_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="haven"')
    expired = world.sign(POLICE, iat=1_700_000_000, exp=1_700_000_300)
    is_problem(world.send(None, rule.method, path_of(rule), headers={"Authorization": f"Bearer {expired}"}), 401)
    is_problem(world.send(None, rule.method, f"{path_of(rule)}?access_token={world.token(POLICE)}"), 401)
    assert world.heads() == before


@pytest.mark.parametrize("rule", RULES, ids=name_of)
@pytest.mark.attack(41)
def test_the_wrong_role_or_a_missing_scope_is_refused_before_anything_is_read(world: World, rule: Rule) -> None:
    before = world.heads()
    allowed = set(ROLES_OF_ROUTE[name_of(rule)].split())
    system = one_of(Role.SYSTEM)
    assert as_token(world, rule, system, Scope).status_code == 401  # a timer never comes in over HTTP
    for role in set(Role) - {Role.SYSTEM}:
        if role not in allowed:
            assert is_problem(as_token(world, rule, one_of(role), Scope), 403)["type"].endswith("/wrong-role")
        else:
            answer = as_token(world, rule, one_of(role), SCOPES_OF_ROLE[role] - {rule.scope})
            assert is_problem(answer, 403)["type"].endswith("/insufficient-scope")
            assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
            assert f'scope="{rule.scope}"' in answer.headers["WWW-Authenticate"]
    assert world.heads() == before


def as_token(world: World, rule: Rule, who: Who, scopes: Iterable[Scope]) -> Any:
    """What a well signed token that claims exactly these scopes gets."""
    token = world.sign(who, scope=" ".join(scopes))
    return world.send(None, rule.method, path_of(rule), headers={"Authorization": f"Bearer {token}"})


# Roles, organisations, countries, routes and stages

STAGES = (
    Stage.ASKED,
    Stage.OFFERED,
    Stage.PROPOSED,
    Stage.COUNTERSIGNED,
    Stage.CONFIRMED,
    Stage.DEPARTED,
    Stage.ASTRAY,
    Stage.ARRIVED,
    Stage.ENDED,
    Stage.UNMET_NEED,
    Stage.REFUSED,
    Stage.WITHDRAWN,
    Stage.ERASED,
)
EVERYBODY_IS_ASKED = {Stage.ASKED, Stage.OFFERED}
CHOSEN = {
    Stage.PROPOSED,
    Stage.COUNTERSIGNED,
    Stage.CONFIRMED,
    Stage.DEPARTED,
    Stage.ASTRAY,
    Stage.ARRIVED,
    Stage.ENDED,
}
ABOUT_A_REQUEST = [rule for rule in RULES if "{request_id}" in rule.path]


def knows(who: Who, stage: Stage, *, minor: bool) -> bool:
    """Who may know of a request that the Antwerp police opened and that the receiving shelter, if any, said yes to."""
    if who in (POLICE, COLLEAGUE, ORIGIN):
        return True
    if who in (HOST, SAME_PERSON, RECEIVING):
        return stage in EVERYBODY_IS_ASKED | CHOSEN
    if who in (NEIGHBOUR, OTHER_HOST, ABROAD):
        return stage in EVERYBODY_IS_ASKED and not minor
    if who == ESCORT:
        return stage in (Stage.DEPARTED, Stage.ASTRAY)
    if who == GUARDIAN:
        return minor
    if who == HOST_GUARDIAN:
        return minor and stage in EVERYBODY_IS_ASKED | CHOSEN
    return False


def expected_status(rule: Rule, who: Who, stage: Stage, *, minor: bool) -> set[int]:
    """What this person gets for this route when nobody has worked on what they ask for yet."""
    if str(who.role) not in ROLES_OF_ROUTE[name_of(rule)].split():
        return {403}
    if not knows(who, stage, minor=minor):
        return {404}
    if rule.path.endswith("/shortlist"):
        return {200} if who.country == "BE" else {403}
    if rule.method == "GET":
        return {200}
    if rule.path.endswith("/disclosures"):
        return {410} if stage is Stage.ERASED else {503}  # placement has not granted it yet
    if rule.path.endswith("/journey") and stage is Stage.ERASED:
        return {410}
    return {202}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.attack(38, 41, 44, 46)
def test_who_reaches_which_route_of_a_request_at_each_stage(
    world: World, stage: Stage, said_of_a_missing_one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = world.bring_to(stage)
    nobody_works(world, monkeypatch)
    check_every_route(world, request_id, stage, said_of_a_missing_one, minor=False)


@pytest.mark.parametrize("stage", [Stage.ASKED, Stage.WITHDRAWN])
@pytest.mark.attack(38)
def test_who_reaches_which_route_of_a_request_for_a_minor(
    world: World, stage: Stage, said_of_a_missing_one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    minor = {"household": {"children_12_to_17": 1}}  # also without anybody ticking a box
    request_id = world.open(**minor)
    if stage is Stage.WITHDRAWN:
        world.done(world.withdraw(request_id))
    nobody_works(world, monkeypatch)
    adults_are_not_asked = [who for who in EVERYBODY if who != RECEIVING]
    check_every_route(world, request_id, stage, said_of_a_missing_one, minor=True, people=adults_are_not_asked)


def nobody_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.core.intake, "wait_for_outcomes", lambda accepted, _: [None] * len(accepted.command_ids))


def check_every_route(
    world: World,
    request_id: str,
    stage: Stage,
    missing: dict[tuple[str, Who], Any],
    *,
    minor: bool,
    people: Iterable[Who] = EVERYBODY,
) -> None:
    wrong = []
    for rule, who in itertools.product(ABOUT_A_REQUEST, people):
        expected = expected_status(rule, who, stage, minor=minor)
        before = world.heads() if expected <= {403, 404} else {}
        answer = attempt(world, rule, who, request_id)
        if answer.status_code not in expected:
            wrong.append((name_of(rule), who.organisation, answer.status_code, expected))
        if expected <= {403, 404} and "shortlist" not in rule.path:
            assert said_in(answer) == missing[name_of(rule), who], (
                "what is not theirs can be told from what is not there"
            )
            assert world.heads() == before
    assert wrong == []


def attempt(world: World, rule: Rule, who: Who, request_id: str) -> Any:
    headers = {"Idempotency-Key": world.new_key()} if rule.method == "POST" else {}
    body = next((body for end, body in BODY_OF_ROUTE.items() if rule.path.endswith(end)), None)
    options = {} if body is None else {"json": body}
    return world.send(who, rule.method, path_of(rule, request_id=request_id), headers=headers, **options)


def said_in(answer: Any) -> tuple[int, bytes, list[tuple[str, str]]]:
    return answer.status_code, answer.data, sorted(answer.headers)


@pytest.fixture(scope="module")
def said_of_a_missing_one(world: World) -> dict[tuple[str, Who], Any]:
    """What each person is told on each route about an id that nobody has."""
    pairs = itertools.product(ABOUT_A_REQUEST, EVERYBODY)
    return {(name_of(rule), who): said_in(attempt(world, rule, who, MISSING)) for rule, who in pairs}


# The rest of what has an owner


@pytest.mark.parametrize("who", [RECEIVING, NEIGHBOUR, ABROAD, HOME], ids=lambda who: who.organisation)
@pytest.mark.parametrize("shelter", [RECEIVING, NEIGHBOUR, ABROAD, HOME], ids=lambda who: who.organisation)
@pytest.mark.attack(38, 39)
def test_a_shelter_reads_and_reports_its_own_units_only(world: World, who: Who, shelter: Who) -> None:
    theirs, nobodys = f"/shelters/{shelter.organisation}", "/shelters/nl-shelter-99"
    before = world.heads()
    for path in ("/units", f"/units/{shelter.organisation}-u1/capacity"):
        answer = world.get(who, theirs + path)
        if who == shelter:
            assert answer.status_code == 200
        else:
            assert is_problem(answer, 404) == is_problem(world.get(who, nobodys + path), 404)
    if who != shelter:
        body = {"units": [{"unit_id": f"{shelter.organisation}-u1", "revision_seen": 1}]}
        is_problem(world.ask(who, "POST", f"{theirs}/capacity-confirmations", body), 404)
        is_problem(world.ask(who, "POST", f"/shelters/{who.organisation}/capacity-confirmations", body), 404)
        report = {"beds": 1, "free": 1}
        path = f"/units/{shelter.organisation}-u1/capacity"
        is_problem(world.ask(who, "PUT", theirs + path, report, If_Match='"3"'), 404)
        is_problem(world.ask(who, "PUT", f"/shelters/{who.organisation}{path}", report, If_Match='"3"'), 404)
        assert world.heads() == before


@pytest.mark.parametrize(
    ("who", "shelters"),
    [(ORIGIN, ["be-shelter-01"]), (HOST, ["nl-shelter-01", "nl-shelter-02"]), (OTHER_HOST, ["lu-shelter-01"])],
    ids=lambda value: value.country if isinstance(value, Who) else "",
)
@pytest.mark.attack(39)
def test_a_coordinator_reads_the_units_of_the_own_country_only(world: World, who: Who, shelters: list[str]) -> None:
    for shelter in ("be-shelter-01", "nl-shelter-01", "nl-shelter-02", "lu-shelter-01"):
        answer = world.get(who, f"/shelters/{shelter}/units")
        assert answer.status_code == (200 if shelter in shelters else 404)


@pytest.mark.attack(38, 44)
def test_only_the_shelter_that_is_asked_can_answer(world: World) -> None:
    request_id = world.bring_to(Stage.ASKED)
    path = f"/asks/{world.ask_to(request_id, RECEIVING)}/answer"
    before = world.heads()
    for who in (NEIGHBOUR, ABROAD, HOME):
        stranger = world.ask(who, "POST", path, {"accept": False, "decline": "no_space"})
        missing = world.ask(who, "POST", f"/asks/{MISSING}/answer", {"accept": False, "decline": "no_space"})
        assert is_problem(stranger, 404) == is_problem(missing, 404)
    assert world.heads() == before


@pytest.fixture(scope="module")
def known(world: World) -> dict[Stage, str]:
    return {stage: world.bring_to(stage) for stage in (Stage.ASKED, Stage.CONFIRMED, Stage.DEPARTED, Stage.WITHDRAWN)}


@pytest.mark.parametrize("who", EVERYBODY, ids=lambda who: f"{who.organisation}-{who.person[-1]}")
@pytest.mark.attack(38, 47)
def test_lists_hold_what_may_be_known_and_nothing_else(world: World, known: dict[Stage, str], who: Who) -> None:
    ours = set(known.values())
    if who.role is not Role.AUDITOR:
        listed = {one["request_id"] for one in everything(world, who)}
        assert listed & ours == {request_id for stage, request_id in known.items() if knows(who, stage, minor=False)}
    if who.role in (Role.SHELTER, Role.COORDINATOR):
        asks = [ask for ask in world.done(world.get(who, "/asks"))["asks"] if ask["request_id"] in ours]
        expected = {
            RECEIVING: {"nl-shelter-01"},
            NEIGHBOUR: {"nl-shelter-02"},
            ABROAD: {"lu-shelter-01"},
            HOME: set(),
            HOST: {"nl-shelter-01", "nl-shelter-02"},
            SAME_PERSON: {"nl-shelter-01", "nl-shelter-02"},
            OTHER_HOST: {"lu-shelter-01"},
            ORIGIN: {"nl-shelter-01", "nl-shelter-02", "lu-shelter-01"},
        }
        assert {ask["shelter_id"] for ask in asks} == expected[who]


def everything(world: World, who: Who) -> list[Json]:
    """The whole list, page by page."""
    path, found = "/relocation-requests?limit=7", []
    while path:
        answer = world.get(who, path)
        found += world.done(answer)["requests"]
        link = answer.headers.get("Link", "")
        path = link.partition(">")[0].removeprefix(f"<{PREFIX}") if link else ""
    assert len({one["request_id"] for one in found}) == len(found)
    return found


def test_a_coordinator_opens_requests_for_the_own_country_only(world: World) -> None:
    before = world.heads()
    refused = world.ask(HOST, "POST", "/relocation-requests", AN_OPENING_IN_BELGIUM)
    assert is_problem(refused, 403)["type"].endswith("/not-your-country")
    assert world.heads() == before
    request_id = world.open(ORIGIN)
    assert world.read(ORIGIN, request_id).status_code == 200


AN_OPENING_IN_BELGIUM: Json = {
    "urgency": "urgent",
    "danger_country": "BE",
    "household": {"women": 1},
    "callback": "synthetic",
}


def test_a_token_of_the_real_sign_in_opens_what_its_role_may(world: World) -> None:
    name = "be-police-antwerp-1"
    signed_in = world.client.post(
        "/oauth/token",
        base_url=world.node.settings.url,
        data={"grant_type": "client_credentials"},
        auth=(name, world.node.logins[name]),
    )
    headers = {"Authorization": f"Bearer {signed_in.json['access_token']}"}
    assert world.send(None, "GET", f"{PREFIX}/relocation-requests", headers=headers).status_code == 200
    assert world.send(None, "GET", f"{PREFIX}/availability", headers=headers).status_code == 403


@pytest.mark.attack(41)
def test_an_auditor_is_shown_no_request(world: World) -> None:
    request_id = world.bring_to(Stage.ASKED)
    for part in ("", "/timeline", "/shortlist"):
        is_problem(world.read(AUDITOR, request_id, part), 403)
    is_problem(world.disclose(AUDITOR, request_id), 403)
