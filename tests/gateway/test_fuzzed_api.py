"""Schemathesis reads the published document and sends whatever it can think of: to every operation, as every role.

Boundary values first, always the same ones; then as many made-up requests for each operation as HAVEN_TEST_FUZZ_EXAMPLES says, always
the same ones too. Whatever is sent, the answer is one that the document announces: no fault of ours, no status, type or shape
that is not in it, and nothing accepted that the document forbids.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import schemathesis
from flask import Response
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi import checks

from events.vocabulary import Role, Stage
from services.config import Settings
from services.gateway import feed
from services.gateway.api import RULES
from services.gateway.openapi import document
from services.gateway.routing import PREFIX
from tests.gateway.world import AUDITOR, ESCORT, GUARDIAN, ORIGIN, POLICE, RECEIVING, World

EXAMPLES = int(os.environ.get("HAVEN_TEST_FUZZ_EXAMPLES", "5"))
PEOPLE = {who.role: who for who in (POLICE, ORIGIN, RECEIVING, GUARDIAN, ESCORT, AUDITOR)}
ROLES = {f"{rule.method} {PREFIX}{rule.path}": rule.roles for rule in RULES}
LIVING_STAGES = (Stage.ASKED, Stage.OFFERED, Stage.PROPOSED, Stage.CONFIRMED, Stage.DEPARTED, Stage.ARRIVED)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
]


class Door:
    """The application under test: the tests are made from its document before there is a node."""

    leads_to: Any = Response(msgspec.json.encode(document(RULES, Settings().url)), content_type="application/json")

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.leads_to(environ, start_response)


door = Door()
api = schemathesis.openapi.from_wsgi(f"{PREFIX}/openapi.json", door)
api.config.generation.update(modes=list(GenerationMode))
api.config.generation.with_security_parameters = False
api.config.checks.missing_required_header.expected_statuses.append("428")  # RFC 6585: If-Match is missing


@dataclass
class Fuzzed:
    """A node, and what can be found in it."""

    world: World
    requests: list[str]
    asks: list[str]
    cases: Counter[str] = field(default_factory=Counter)

    def something_real(self, name: str, turn: int) -> str:
        """For a path: an id that exists, another one each turn."""
        known = {
            "request_id": self.requests,
            "ask_id": self.asks,
            "shelter_id": [RECEIVING.organisation],
            "unit_id": [f"{RECEIVING.organisation}-u1"],
        }[name]
        return known[turn % len(known)]


@pytest.fixture(scope="module")
def fuzzed(world: World) -> Iterator[Fuzzed]:
    requests = [world.bring_to(stage) for stage in LIVING_STAGES]
    asks = [world.ask_to(one, RECEIVING) for one in requests[:2]]
    minor = world.open(household={"children_12_to_17": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "leads_to", world.node.app)
        patch.setattr(feed, "HEARTBEAT_SECONDS", 0.0)
        patch.setattr(feed, "LONGEST_STREAM_SECONDS", 0.0)
        yield Fuzzed(world, [*requests, minor], asks)


Answered = dict[tuple[str, Role], Counter[int]]
"""How often an operation gave each status to somebody of a role."""


@pytest.fixture
def answered() -> Iterator[Answered]:
    """Of one operation. Afterwards every role has tried it, and those who may call it got further than the door."""
    answered: Answered = {}
    yield answered
    assert {role for _, role in answered} == PEOPLE.keys()
    for (label, role), statuses in answered.items():
        assert bool(statuses.keys() - {401, 403, 405}) is (role in ROLES[label]), (label, role, statuses)


@api.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.attack(41, 42, 43, 49)
def test_whatever_is_sent_is_answered_as_the_document_says(fuzzed: Fuzzed, answered: Answered, case: Case) -> None:
    label, made_up = case.operation.label, is_made_up(case, ParameterLocation.PATH)
    fuzzed.cases[label] += 1
    for turn, who in enumerate(PEOPLE.values()):
        statuses = answered.setdefault((label, who.role), Counter())
        if who.role not in ROLES[label] and statuses.total() * 10 > fuzzed.cases[label]:
            continue  # who may not call it is told so before anything is looked at: now and then is enough
        if case.path_parameters and not made_up:
            for name in case.path_parameters:
                case.path_parameters[name] = fuzzed.something_real(name, statuses.total() + turn)
        answer = case.call(headers={"Authorization": f"Bearer {fuzzed.world.token(who)}"})
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code < 300:
            fuzzed.world.core.settle()


def is_made_up(case: Case, where: ParameterLocation) -> bool:
    """Whether this part of the request breaks the document on purpose."""
    part = case.meta.components.get(where) if case.meta else None
    return part is not None and part.mode.is_negative
