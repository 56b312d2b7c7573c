"""Whatever is sent: a 4xx that names the field and the rule, never what was sent, and nothing in the log."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reference
from events.vocabulary import Role, Stage
from services.gateway import bodies, problems
from services.gateway.api import RULES
from services.gateway.bodies import LARGEST_BODY
from services.gateway.routing import PREFIX, Rule
from tests.gateway.world import (
    AN_OPENING,
    AUDITOR,
    ESCORT,
    HOME,
    HOST,
    MISSING,
    ORIGIN,
    POLICE,
    RECEIVING,
    Json,
    Who,
    World,
    is_problem,
    somebody,
)

CANARY = "KITTIWAKE99"
"""Part of everything wrong that is sent; no answer and no line of the log may have it."""

GOOD: dict[str, Json] = {
    "open_relocation_request": AN_OPENING
    | {
        "needs": ["pets"],
        "third_country_national": True,
        "reflection_started_on": "2026-11-01",
        "region_of_stay": "BE21",
    },
    "withdraw_request": {"reason": "danger_passed"},
    "record_details": {
        "version_seen": 3,
        "third_country_national": True,
        "reflection_started_on": "2026-11-01",
        "region_of_stay": "BE21",
    },
    "record_consent": {"scope": "transport", "country": "NL", "given": True, "by": "household"},
    "propose_placement": {"ask_id": MISSING, "override": "travel"},
    "countersign_placement": {"proposal_hash": "0" * 64, "refusal": "papers_missing"},
    "plan_journey": {"escort": ESCORT.person, "arrival_due": "2026-11-25T12:00:00Z", "steps": "synthetic"},
    "record_departure": {},
    "record_arrival": {"outcome": "arrived"},
    "end_placement": {"reason": "moved_on"},
    "disclose": {"field": "callback", "reason": "call_back", "recipient": POLICE.person},
    "answer_ask": {"accept": True, "rendezvous": "synthetic", "condition": "nights_limited"},
    "report_capacity": {
        "beds": 2,
        "free": 1,
        "blocked": 1,
        "blocked_because": "repair",
        "blocked_until": "2026-11-25T12:00:00Z",
    },
    "confirm_capacity": {"units": [{"unit_id": "nl-shelter-01-u1", "revision_seen": 3}]},
    "order_erasure": {"request_id": MISSING},
}
TEXTS = {"callback", "steps", "rendezvous"}
WITH_BODY = [rule for rule in RULES if rule.body]
PEOPLE = {Role.REFERRER: POLICE, Role.COORDINATOR: ORIGIN, Role.SHELTER: RECEIVING, Role.AUDITOR: AUDITOR}


def name_of(rule: Rule) -> str:
    return rule.view.__name__


def who_may(rule: Rule) -> Who:
    return next((PEOPLE[role] for role in rule.roles if role in PEOPLE), ESCORT)


def path_of(rule: Rule) -> str:
    ids = {"request_id": MISSING, "ask_id": MISSING, "shelter_id": "nl-shelter-01", "unit_id": "nl-shelter-01-u1"}
    return PREFIX + rule.path.format(**ids)


def post(world: World, rule: Rule, content: bytes, **headers: str) -> Any:
    named = {"Idempotency-Key": world.new_key(), "If-Match": '"3"', "Content-Type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return world.send(who_may(rule), rule.method, path_of(rule), headers=named, data=content)


@pytest.fixture(autouse=True)
def nothing_was_kept_or_repeated(world: World, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """True of every test of this module: the logs are where they were, and the canary is nowhere."""
    caplog.set_level(logging.DEBUG)
    before, answered = world.heads(), len(world.answers)
    yield
    assert world.heads() == before
    assert CANARY not in caplog.text
    assert not [answer for answer in world.answers[answered:] if CANARY.encode() in answer.content]
    assert not [answer for answer in world.answers[answered:] if answer.status >= 500]


# Bodies


def test_every_body_has_a_good_example_to_be_spoiled(world: World) -> None:
    assert {name_of(rule) for rule in WITH_BODY} == GOOD.keys()
    for rule in WITH_BODY:
        assert rule.body is not None
        assert set(rule.body.__struct_fields__) == GOOD[name_of(rule)].keys() | (
            {"decline"} if name_of(rule) == "answer_ask" else set()
        )


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a document."""
    if path:
        yield path
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield from places(value, (*path, key))


def spoiled(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at `path`."""
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def field_of(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


WRONG_VALUES: dict[str, Any] = {
    "a code nobody knows": CANARY,
    "a number": 8_675_309,
    "a fraction": 1.5,
    "a huge number": 10**400,
    "a negative number": -1,
    "a list": [CANARY],
    "an object": {CANARY: CANARY},
    "a very long text": CANARY * 200,
    "a text with NUL": f"{CANARY}\0",
    "a text with a bidi override": f"{CANARY}\u202e",
    "a text with an escape": f"{CANARY}\x1b[2J",
    "an empty text": "",
    "a name": f"{CANARY} Jansen, Kerkstraat 1",
    "a date without its offset": "2026-11-25T12:00:00",
    "null": None,
    "true": True,
}
NULL_IS_FINE = {
    "third_country_national",
    "reflection_started_on",
    "region_of_stay",
    "override",
    "refusal",
    "condition",
    "blocked_because",
    "blocked_until",
    "decline",
    "rendezvous",
}
TRUE_IS_FINE = {"third_country_national", "with_neighbours", "given", "accept"}
ANY_ID = {"ask_id", "escort", "recipient", "request_id", "unit_id"}


def is_wrong(path: tuple[Any, ...], what: str, value: Any, good: Any) -> bool:
    """Whether the value breaks the rule of the field all by itself."""
    field = path[-1]
    if value == good or (what == "null" and field in NULL_IS_FINE) or (what == "true" and field in TRUE_IS_FINE):
        return False
    if field in TEXTS:
        return what not in ("a code nobody knows", "a name", "a date without its offset")
    if field in ANY_ID:
        return what not in ("a code nobody knows", "a date without its offset")
    return not (field in ("revision_seen", "version_seen") and what == "a number")


@pytest.mark.parametrize("rule", WITH_BODY, ids=name_of)
@pytest.mark.attack(49, 50, 54)
def test_a_wrong_value_in_any_field_is_refused_by_name(world: World, rule: Rule) -> None:
    good = GOOD[name_of(rule)]
    for path in places(good):
        here = good
        for key in path:
            here = here[key]
        for what, value in WRONG_VALUES.items():
            if not is_wrong(path, what, value, here):
                continue
            content = json.dumps(spoiled(good, path, value), ensure_ascii=what != "a text with a bidi override")
            problem = is_problem(post(world, rule, content.encode()), 400)
            assert problem["type"].endswith("/bad-field"), (path, what, problem)
            assert problem["rule"], (path, what)
            assert problem["field"].startswith(field_of(path)) or (
                what == "an object" and problem["rule"] == "no unknown fields"
            ), (path, what, problem)


@pytest.mark.parametrize("rule", WITH_BODY, ids=name_of)
@pytest.mark.attack(16, 42)
def test_a_field_that_is_missing_unknown_or_there_twice_is_refused(world: World, rule: Rule) -> None:
    good = GOOD[name_of(rule)]
    assert rule.body is not None
    for name, default in zip(rule.body.__struct_fields__, defaults_of(rule.body), strict=True):
        if default is REQUIRED:
            less = {key: value for key, value in good.items() if key != name}
            problem = is_problem(post(world, rule, json.dumps(less).encode()), 400)
            assert (problem["field"], problem["rule"]) == (name, "required")
        if name in good:
            twice = json.dumps(good)[:-1] + f', "{name}": {json.dumps(good[name])}}}'
            assert is_problem(post(world, rule, twice.encode()), 400)["rule"] == "every field at most once"
    for more in ("organisation", "country_of_origin", "stage", "confirmed_by", "expires_at", "id", "name", CANARY):
        problem = is_problem(post(world, rule, json.dumps(good | {more: CANARY}).encode()), 400)
        assert problem["rule"] == "no unknown fields"
    for path in places(good):
        inner = good
        for key in path:
            inner = inner[key]
        if isinstance(inner, dict):
            content = json.dumps(spoiled(good, path, inner | {CANARY: CANARY}))
            problem = is_problem(post(world, rule, content.encode()), 400)
            assert (problem["field"], problem["rule"]) == (field_of(path), "no unknown fields")


REQUIRED = object()


def defaults_of(body: type) -> list[Any]:
    return [REQUIRED if field.required else field.default for field in msgspec.structs.fields(body)]


NOT_JSON = {
    "white space": b" ",
    "half an object": b'{"reason": "' + CANARY.encode(),
    "NaN": b'{"reason": NaN}',
    "Infinity": b'{"reason": -Infinity}',
    "overlong UTF-8": b'{"reason": "\xc0\xaf' + CANARY.encode() + b'"}',
    "Latin-1": '{"reason": "é"}'.encode("latin-1"),
    "UTF-16": json.dumps({"reason": CANARY}).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a lone surrogate": b'{"reason": "\\ud800' + CANARY.encode() + b'"}',
    "a raw NUL": b'{"reason": "\0"}',
    "two documents": b"{}{}",
    "a comment": b"{} // " + CANARY.encode(),
    "single quotes": b"{'reason': '" + CANARY.encode() + b"'}",
    "brackets without end": b"[" * 60_000,
    "objects without end": b'{"a":' * 12_000,
    "1e400": b'{"reason": 1e400}',
    "a number of 50,000 digits": b'{"reason": ' + b"9" * 50_000 + b"}",
    "a list": b"[]",
    "a text": f'"{CANARY}"'.encode(),
    "null": b"null",
    "a form": f"reason={CANARY}".encode(),
}


@pytest.mark.parametrize("rule", WITH_BODY, ids=name_of)
@pytest.mark.attack(49, 50)
def test_what_is_not_one_json_object_is_refused(world: World, rule: Rule) -> None:
    for what, content in NOT_JSON.items():
        problem = is_problem(post(world, rule, content), 400)
        assert problem["type"].endswith(("/malformed", "/bad-field")), what
        assert problem["rule"], what


@pytest.mark.parametrize(
    "depth", [pytest.param(10**5, id="10^5 deep, larger than any body may be"), pytest.param(10_000, id="10^4 deep")]
)
@pytest.mark.attack(49)
def test_deep_nesting_is_refused(world: World, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"household":', "}")):
        content = opening * depth + "1" + closing * depth
        is_problem(post(world, WITH_BODY[0], content.encode()), 400, 413)


@pytest.mark.parametrize("rule", WITH_BODY, ids=name_of)
@pytest.mark.attack(48, 51)
def test_what_is_not_declared_as_json_or_too_large_is_refused_unread(world: World, rule: Rule) -> None:
    content = json.dumps(GOOD[name_of(rule)]).encode()
    for declared in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        CANARY,
        "multipart/form-data",
    ):
        assert is_problem(post(world, rule, content, Content_Type=declared), 415)["type"].endswith("/not-json")
    too_large = content[:-1] + b" " * LARGEST_BODY + b"}"
    is_problem(post(world, rule, too_large), 413)
    headers = {"Content-Type": "application/json", "Idempotency-Key": world.new_key()}
    # As a server that does not know how much will come.
    without = {"CONTENT_LENGTH": None, "wsgi.input": io.BytesIO(content), "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = world.send(who_may(rule), rule.method, path_of(rule), headers=headers, environ_overrides=without)
    is_problem(answer, 411)


@pytest.mark.attack(48)
def test_the_largest_body_is_read_and_one_byte_more_is_not(world: World) -> None:
    rule = next(rule for rule in WITH_BODY if name_of(rule) == "withdraw_request")
    fits = b'{"reason": "nonsense"}'.ljust(LARGEST_BODY)
    assert is_problem(post(world, rule, fits), 400)["field"] == "reason"
    is_problem(post(world, rule, fits + b" "), 413)


CODES = [
    ("danger_country", "XX", "danger_country"),
    ("danger_zones", [{"code": "XX"}], "danger_zones"),
    ("danger_zones", [{"code": "BE99"}], "danger_zones"),
    ("consented_countries", ["XX"], "consented_countries"),
    ("consented_countries", ["BE"], "consented_countries"),
    ("region_of_stay", "XX99", "region_of_stay"),
    ("household", {}, "household"),
    ("household", {"women": 41}, "household.women"),
    ("reflection_started_on", "2026-11-24", "reflection_started_on"),
    ("reflection_started_on", "2026-02-29", "reflection_started_on"),
    ("reflection_started_on", "9999-12-31", "reflection_started_on"),
    ("needs", ["pets"] * 21, "needs"),
]


@pytest.mark.parametrize(("field", "value", "named"), CODES)
@pytest.mark.attack(56)
def test_an_opening_with_an_impossible_value_is_refused(world: World, field: str, value: Any, named: str) -> None:
    answer = post(world, WITH_BODY[0], json.dumps(AN_OPENING | {field: value}).encode())
    assert is_problem(answer, 400)["field"] == named


@pytest.mark.attack(56)
def test_today_is_the_day_of_the_country_where_the_danger_is() -> None:
    half_past_midnight = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
    body = msgspec.convert(AN_OPENING | {"reflection_started_on": "2026-11-24"}, bodies.OpenRequest)
    bodies.check_open_request(body, reference.load(), half_past_midnight)
    with pytest.raises(problems.Problem):
        bodies.check_open_request(body, reference.load(), half_past_midnight - timedelta(hours=1))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"accept": True}, "rendezvous"),
        ({"accept": False}, "decline"),
        ({"accept": True, "rendezvous": "synthetic", "decline": "no_space"}, "decline"),
        ({"accept": False, "decline": "no_space", "rendezvous": "synthetic"}, "rendezvous"),
        ({"accept": False, "decline": "no_space", "condition": "nights_limited"}, "condition"),
    ],
)
def test_an_answer_that_is_both_yes_and_no_is_refused(world: World, body: Json, named: str) -> None:
    rule = next(rule for rule in WITH_BODY if name_of(rule) == "answer_ask")
    assert is_problem(post(world, rule, json.dumps(body).encode()), 400)["field"] == named


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"beds": 1, "free": 2}, "free"),
        ({"beds": 1, "free": 1, "blocked": 1, "blocked_because": "repair"}, "free"),
        ({"beds": 2, "free": 1, "blocked": 1}, "blocked_because"),
        ({"beds": 2, "free": 1, "blocked_because": "repair"}, "blocked"),
        (
            {"beds": 2, "free": 1, "blocked": 1, "blocked_because": "repair", "blocked_until": "2026-11-22T12:00:00Z"},
            "blocked_until",
        ),
        (
            {
                "beds": 2,
                "free": 1,
                "blocked": 1,
                "blocked_because": "repair",
                "blocked_until": "9999-12-31T23:59:59-01:00",
            },
            "blocked_until",
        ),
        (
            {
                "beds": 2,
                "free": 1,
                "blocked": 1,
                "blocked_because": "repair",
                "blocked_until": "0001-01-01T00:00:00+01:00",
            },
            "blocked_until",
        ),
        ({"beds": 201, "free": 1}, "beds"),
    ],
)
@pytest.mark.attack(56)
def test_a_report_that_cannot_be_true_is_refused(world: World, body: Json, named: str) -> None:
    rule = next(rule for rule in WITH_BODY if name_of(rule) == "report_capacity")
    assert is_problem(post(world, rule, json.dumps(body).encode()), 400)["field"] == named


@pytest.mark.parametrize("due", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "2028-11-25T12:00:00Z"])
@pytest.mark.attack(56)
def test_a_journey_beyond_any_calendar_is_refused(world: World, due: str) -> None:
    rule = next(rule for rule in WITH_BODY if name_of(rule) == "plan_journey")
    body = GOOD["plan_journey"] | {"arrival_due": due}
    assert is_problem(post(world, rule, json.dumps(body).encode()), 400)["field"] == "arrival_due"


def test_a_unit_named_twice_is_refused(world: World) -> None:
    rule = next(rule for rule in WITH_BODY if name_of(rule) == "confirm_capacity")
    body = {"units": [{"unit_id": "nl-shelter-01-u1", "revision_seen": 3}] * 2}
    assert is_problem(post(world, rule, json.dumps(body).encode()), 400)["field"] == "units"


# Headers


@pytest.mark.parametrize("rule", [rule for rule in WITH_BODY if rule.method == "POST"], ids=name_of)
def test_a_post_without_a_good_idempotency_key_is_refused(world: World, rule: Rule) -> None:
    content = json.dumps(GOOD[name_of(rule)]).encode()
    headers = {"Content-Type": "application/json"}
    answer = world.send(who_may(rule), "POST", path_of(rule), headers=headers, data=content)
    assert is_problem(answer, 400)["type"].endswith("/idempotency-key-missing")
    for key in (
        "",
        "short",
        CANARY * 20,
        f"{CANARY} {CANARY}",
        f"{CANARY}é",
        f"{CANARY}\t",
        '""',
        f'{CANARY}"{CANARY}',
    ):
        answer = post(world, rule, content, Idempotency_Key=key)
        assert is_problem(answer, 400)["field"] == "Idempotency-Key", key


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (None, 428),
        ("", 400),
        ("*", 400),
        ("3", 400),
        ('W/"3"', 400),
        ('"3", "4"', 400),
        (f'"{CANARY}"', 400),
        ('"99999999999999999999"', 400),
        ('"-1"', 400),
        ('"0"', 412),
        ('"999999999"', 412),
    ],
)
def test_a_report_on_a_unit_that_was_not_seen_is_refused(world: World, sent: str | None, status: int) -> None:
    headers = {} if sent is None else {"If-Match": sent}
    path = f"{PREFIX}/shelters/nl-shelter-01/units/nl-shelter-01-u1/capacity"
    answer = world.send(RECEIVING, "PUT", path, json={"beds": 2, "free": 1}, headers=headers)
    problem = is_problem(answer, status)
    if status == 400:
        assert problem["field"] == "If-Match"
    if status == 412:
        assert answer.headers["ETag"] == world.send(RECEIVING, "GET", path).headers["ETag"]


# Paths and methods

ONE = f"{PREFIX}/relocation-requests"


@pytest.mark.parametrize(
    "path",
    [
        f"{ONE}/",
        f"{ONE}//",
        f"/{ONE}",
        f"{PREFIX}//relocation-requests",
        f"{ONE}/..;/erasures",
        f"{ONE}/../audit/events",
        f"{ONE}/%2e%2e/audit/events",
        f"{ONE}/%2e%2e%2faudit%2fevents",
        f"{ONE}%2f{MISSING}",
        f"{ONE}/{MISSING}%2ftimeline",
        f"{ONE}/%252e%252e%252f",
        f"{ONE}/{MISSING}/",
        f"{ONE}/{MISSING};a=b",
        f"{ONE}/{CANARY}%00",
        f"{ONE}/%00",
        f"{ONE}/%ff%fe",
        f"{ONE}/%c0%af",
        f"{ONE}/%ed%a0%80",
        f"{ONE}/{CANARY * 500}",
        f"{ONE}/{'a' * 81}",
        f"{ONE}/{CANARY}'%20OR%20'1'='1",
        f"{ONE}/{{{{7*7}}}}",
        f"{ONE}/%0d%0aSet-Cookie:%20{CANARY}",
        f"{PREFIX.upper()}/relocation-requests",
        "/api/v2/relocation-requests",
        "/api/relocation-requests",
        "/metrics",
        "/debug",
        "/console",
        "/.git/config",
        "/static/x",
    ],
)
@pytest.mark.attack(51, 54, 65)
def test_a_strange_path_is_not_found(world: World, path: str) -> None:
    answer = world.send(POLICE, "GET", path)
    assert is_problem(answer, 404)["type"].endswith("/not-found")
    assert answer.data == world.send(POLICE, "GET", f"{ONE}/{MISSING}").data
    assert "Location" not in answer.headers


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND", CANARY])
@pytest.mark.attack(51)
def test_a_method_that_is_not_served_is_refused(world: World, method: str) -> None:
    for rule in RULES:
        answer = world.send(who_may(rule), method, path_of(rule))
        is_problem(answer, 405)
        assert rule.method in answer.headers["Allow"]


@pytest.mark.attack(51)
def test_a_method_cannot_be_passed_off_as_another(world: World) -> None:
    for override in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        path = f"{ONE}/{MISSING}/withdrawal?_method=POST"
        is_problem(world.send(POLICE, "GET", path, headers={override: "POST"}), 405)


# Queries


@pytest.mark.parametrize(
    ("who", "path", "field"),
    [
        *[(POLICE, f"/relocation-requests?limit={limit}", "limit") for limit in ("0", "-1", "1000000000", "101", "", "1.0", "٣", "²", "1e1", "0x10", CANARY, "%00", "9" * 300)],
        (POLICE, "/relocation-requests?limit=1&limit=2", "limit"),
        *[(POLICE, f"/relocation-requests?cursor={cursor}", "cursor") for cursor in ("", CANARY, "AAAA", "W10", "WyJhIl0", "bnVsbA", "%00", "é", "WzEsMl0", CANARY * 100)],
        (POLICE, f"/relocation-requests?{CANARY}=1", "query"),
        (POLICE, "/relocation-requests?sort=danger_zones", "query"),
        (POLICE, f"/relocation-requests/{MISSING}?fields=callback", "query"),
        (ORIGIN, f"/asks?organisation={CANARY}", "query"),
        (HOST, "/availability?region=NL32", "query"),
        *[(AUDITOR, f"/audit/events?cursor={cursor}", "cursor") for cursor in ("WyJhIiwxMDAwMDAwMDAwMDAwMDAwMDAwMDAsImIiLDFd", "WyJhIiwtMSwiYiIsMV0", "WyJhXHUwMDAwIiwxLCJiIiwxXQ", "WyJhIiwxLCJiIiwxLjVd")],
        *[(AUDITOR, f"/audit/events?{name}={CANARY}%20Jansen", name) for name in ("case", "actor", "organisation")],
        *[(AUDITOR, f"/audit/events?{name}=%0d%0aX:{CANARY}", name) for name in ("case", "actor", "organisation")],
        (AUDITOR, f"/audit/events?verb={CANARY}", "verb"),
        *[(AUDITOR, f"/audit/events?since={moment}", "since") for moment in (CANARY, "2026-11-23", "2026-11-23T12:00:00", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00%2B01:00", "1")],
        (AUDITOR, "/audit/events?since=2026-11-23T12:00:00Z&until=2026-11-23T12:00:00Z", "until"),
        (AUDITOR, "/audit/events?since=2026-11-23T12:00:00Z&until=2026-11-23T13:00:00%2B02:00", "until"),
    ],
)  # fmt: skip
@pytest.mark.attack(43, 47, 52, 54)
def test_a_query_that_breaks_its_rule_is_refused(world: World, who: Who, path: str, field: str) -> None:
    headers = {"Haven-Purpose": "lawfulness_check"}
    problem = is_problem(world.send(who, "GET", PREFIX + path, headers=headers), 400)
    assert problem["field"] == field
    assert problem["rule"]


@pytest.mark.parametrize("purpose", [None, "", CANARY, "lawfulness_check, self_monitoring", "LAWFULNESS_CHECK"])
def test_the_trail_is_not_shown_without_a_purpose(world: World, purpose: str | None) -> None:
    headers = {} if purpose is None else {"Haven-Purpose": purpose}
    answer = world.send(AUDITOR, "GET", f"{PREFIX}/audit/events", headers=headers)
    assert is_problem(answer, 400)["field"] == "Haven-Purpose"


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FUZZED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZED
@given(
    rule=st.sampled_from(WITH_BODY),
    content=st.binary(min_size=1, max_size=200) | JSON.map(lambda value: json.dumps(value).encode()),
)
def test_no_body_breaks_the_gateway(world: World, rule: Rule, content: bytes) -> None:
    if rule.body is not None and not rule.body.__struct_fields__ and content.strip() == b"{}":
        return  # the one body that is empty on purpose
    is_problem(post(world, rule, content), 400)


@FUZZED
@given(data=st.data(), rule=st.sampled_from(WITH_BODY))
def test_no_value_in_any_field_breaks_the_gateway(world: World, data: st.DataObject, rule: Rule) -> None:
    good = GOOD[name_of(rule)]
    if not good:
        return
    content = json.dumps(spoiled(good, data.draw(st.sampled_from(list(places(good)))), data.draw(JSON))).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "too short"[:7], "If-Match": "none"}
    is_problem(world.send(who_may(rule), rule.method, path_of(rule), headers=headers, data=content), 400, 404)


HEADERS = st.sampled_from(
    ["Accept", "Authorization", "Content-Type", "Cookie", "Forwarded", "Haven-Purpose", "Host", "Idempotency-Key", "If-Match",
     "If-None-Match", "Last-Event-ID", "Origin", "Prefer", "Range", "X-Forwarded-For", "X-Request-Id"]
)  # fmt: skip
HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80)


@FUZZED
@given(
    headers=st.dictionaries(HEADERS, HEADER_TEXT, max_size=5), rule=st.sampled_from(RULES), query=st.text(max_size=30)
)
@pytest.mark.attack(51)
def test_no_header_and_no_query_breaks_the_gateway(
    world: World, headers: dict[str, str], rule: Rule, query: str
) -> None:
    headers = {"Authorization": f"Bearer {world.token(somebody(Role.SYSTEM, 'BE', 'nobody'))}"} | headers
    answer = world.send(None, rule.method, path_of(rule), headers=headers, query_string=quote(query, errors="replace"))
    assert answer.status_code < 500


def test_every_refusal_of_placement_and_capacity_has_its_problem() -> None:
    from events.capacity import ReportRefusal
    from events.placement import Refusal

    for reason in Refusal:
        assert 400 <= problems.refused(reason, Stage.ASKED, ()).status < 500
    for report in ReportRefusal:
        assert 400 <= problems.report_refused(report).status < 500


def test_who_is_allowed_is_decided_before_the_body_is_read(world: World) -> None:
    for rule in WITH_BODY:
        stranger = HOME if Role.SHELTER not in rule.roles else AUDITOR
        if stranger.role in rule.roles:
            continue
        is_problem(world.send(stranger, rule.method, path_of(rule), data=CANARY), 403)
