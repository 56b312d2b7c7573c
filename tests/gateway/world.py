"""An embedded node without threads, its clock in the test's hand, and people who talk to it through its API alone.

Everybody and everything in it is synthetic. `World.answers` keeps whatever left the node, so that a test can search all of
it for what must not be there.
"""

import itertools
import json
import secrets
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from joserfc import jwt
from werkzeug.test import TestResponse

from events.envelope import Event
from events.vocabulary import Group, Role, Stage, Track, UnitProfile
from services.config import Settings
from services.gateway.node_secrets import load_or_create_signing_key
from services.gateway.oauth_grants import PASSWORD_ACR
from services.gateway.principals import SCOPES_OF_ROLE
from services.gateway.problems import STATUSES
from services.node import Node
from simulation.inventory import SyntheticUnit

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
CALLBACK = "synthetic callback: ask the desk for PLOVER-41"
RENDEZVOUS = "synthetic rendezvous: under the clock, CURLEW-77"
STEPS = "synthetic steps: leave by the side door, DUNLIN-13"
PREFIX = "/api/v1"
MISSING = "0" * 32
"""An id nobody has."""

UNLIMITED = {"requests_per_minute": 0, "beds_at_once": 0}
"""A test asks faster than anybody; tests/gateway/test_limits.py asks as much as is allowed."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Who:
    """One person in one role. `scopes` are those of the role unless a test takes some away."""

    role: Role
    country: str
    organisation: str
    person: str
    scopes: str | None = None

    @property
    def scope(self) -> str:
        return " ".join(sorted(SCOPES_OF_ROLE[self.role])) if self.scopes is None else self.scopes


def somebody(role: Role, country: str, organisation: str, number: int = 1) -> Who:
    return Who(role, country, organisation, f"synthetic.{organisation}-{number}")


def staff_of(shelter_id: str) -> Who:
    return somebody(Role.SHELTER, shelter_id[:2].upper(), shelter_id)


POLICE = somebody(Role.REFERRER, "BE", "be-police-antwerp")
COLLEAGUE = somebody(Role.REFERRER, "BE", "be-police-antwerp", 2)
OTHER_POLICE = somebody(Role.REFERRER, "BE", "be-labour-inspectorate")
FOREIGN_POLICE = somebody(Role.REFERRER, "NL", "nl-police-rotterdam")
ORIGIN = somebody(Role.COORDINATOR, "BE", "be-coordinator")
HOST = somebody(Role.COORDINATOR, "NL", "nl-coordinator")
OTHER_HOST = somebody(Role.COORDINATOR, "LU", "lu-coordinator")
SAME_PERSON = replace(HOST, person=ORIGIN.person)
ESCORT = somebody(Role.ESCORT, "BE", "be-escort")
OTHER_ESCORT = somebody(Role.ESCORT, "BE", "be-escort", 2)
GUARDIAN = somebody(Role.GUARDIAN, "BE", "be-guardianship")
HOST_GUARDIAN = somebody(Role.GUARDIAN, "NL", "nl-nidos")
AUDITOR = somebody(Role.AUDITOR, "BE", "be-auditor")
RECEIVING = staff_of("nl-shelter-01")
NEIGHBOUR = staff_of("nl-shelter-02")
ABROAD = staff_of("lu-shelter-01")
HOME = staff_of("be-shelter-01")
CHILD_SHELTER = staff_of("nl-shelter-03")
EVERYBODY = (
    POLICE,
    COLLEAGUE,
    OTHER_POLICE,
    FOREIGN_POLICE,
    ORIGIN,
    HOST,
    OTHER_HOST,
    SAME_PERSON,
    ESCORT,
    OTHER_ESCORT,
    GUARDIAN,
    HOST_GUARDIAN,
    AUDITOR,
    RECEIVING,
    NEIGHBOUR,
    ABROAD,
    HOME,
)


def a_unit(shelter_id: str, region: str, free: int, track: Track = Track.ADULT) -> SyntheticUnit:
    profile = UnitProfile(
        unit_id=f"{shelter_id}-u1",
        shelter_id=shelter_id,
        country=shelter_id[:2].upper(),
        region=region,
        track=track,
        accepts=tuple(Group),
        languages=("en",),
    )
    return SyntheticUnit(profile=profile, beds=200, free=free)


INVENTORY = (
    # Fewest beds left over is asked first: the receiving shelter, then its neighbour, then the one abroad.
    a_unit("nl-shelter-01", "NL32", 120),
    a_unit("nl-shelter-02", "NL12", 150),
    a_unit("lu-shelter-01", "LU00", 180),
    a_unit("be-shelter-01", "BE21", 100),
    a_unit("nl-shelter-03", "NL32", 120, Track.CHILD),
)

AN_OPENING: Json = {
    "urgency": "urgent",
    "danger_country": "BE",
    "danger_zones": [{"code": "BE21", "with_neighbours": True}],
    "household": {"women": 1},
    "languages": ["en"],
    "consented_countries": ["NL"],
    "callback": CALLBACK,
}
A_MINOR: Json = {"household": {"children_12_to_17": 1, "age_status": "presumed_minor"}}


@dataclass(frozen=True)
class Answered:
    who: Who | None
    method: str
    path: str
    status: int
    content: bytes

    @property
    def is_disclosure(self) -> bool:
        return self.status == 200 and self.path.endswith("/disclosures")


def without_waiting_for_the_disk(connection: Any, *_: Any) -> None:
    """Nobody pulls the plug here (tests/journeys does): a request takes a fifth of the time."""
    connection.execute("PRAGMA synchronous=OFF")


class World:
    """The node and what was said to it and by it."""

    def __init__(self, data_dir: Path, **changes: Any) -> None:
        self.now = START
        settings = Settings(data_dir=data_dir, **UNLIMITED | changes)
        self.node = Node(settings, clock=lambda: self.now)
        self.core = self.node.core
        self.log = self.core.gateway_log
        self.client = self.node.app.test_client(use_cookies=False)
        self.answers: list[Answered] = []
        self._key = load_or_create_signing_key(data_dir)
        self._tokens: dict[Who, tuple[str, float]] = {}
        self._numbers = itertools.count()
        wait_for_outcomes = self.core.intake.wait_for_outcomes

        def settle_and_look(accepted: Any, _seconds: float) -> Any:
            self.core.settle()
            return wait_for_outcomes(accepted, 0.0)

        # There are no threads: whoever waits for the services lets them work instead.
        self.core.intake.wait_for_outcomes = settle_and_look  # type: ignore[method-assign]
        for engine in (self.core.keys._engine, *(log.engine for log in self.core.logs.values())):
            if engine.dialect.name == "sqlite":
                sa.event.listen(engine, "checkout", without_waiting_for_the_disk)
        self.core.seed(INVENTORY)
        self.core.settle()

    # talking to it

    def token(self, who: Who) -> str:
        token, until = self._tokens.get(who, ("", 0.0))
        if time.monotonic() > until:
            # Half its life: on a busy machine a module takes longer than that, and no test is about being late.
            token, until = self.sign(who), time.monotonic() + 150
            self._tokens[who] = token, until
        return token

    def sign(self, who: Who, **claims: Any) -> str:
        """A token as the embedded sign-in would give it, for anybody."""
        issued = int(datetime.now(UTC).timestamp())
        said = {
            "iss": self.node.settings.url,
            "aud": Settings().audience,
            "sub": who.person,
            "client_id": who.person,
            "iat": issued,
            "exp": issued + 300,
            "jti": secrets.token_urlsafe(8),
            "scope": who.scope,
            "haven_person": who.person,
            "haven_role": str(who.role),
            "haven_organisation": who.organisation,
            "haven_country": who.country,
            "auth_time": issued,
            "acr": PASSWORD_ACR,
        }
        header = {"alg": "ES256", "typ": "at+jwt", "kid": self._key.kid}
        return jwt.encode(header, said | claims, self._key, algorithms=["ES256"])

    def send(self, who: Who | None, method: str, path: str, **options: Any) -> TestResponse:
        """Exactly one HTTP request, nothing more: nobody works on it afterwards."""
        headers = dict(options.pop("headers", {}))
        if who is not None:
            headers.setdefault("Authorization", f"Bearer {self.token(who)}")
        base = {"base_url": self.node.settings.url, "headers": headers}
        answer = self.client.open(path, method=method, **base, **options)
        if answer.mimetype != "text/event-stream":
            self.answers.append(Answered(who, method, path, answer.status_code, answer.data))
        return answer

    def ask(self, who: Who, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        """A well-formed request, answered with its outcome; then the services work until nothing is left to do."""
        named = {"Prefer": "wait=5"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            named.setdefault("Idempotency-Key", self.new_key())
        options = {} if body is None else {"json": body}
        answer = self.send(who, method, PREFIX + path, headers=named, **options)
        self.core.settle()
        return answer

    def new_key(self) -> str:
        return f"synthetic-key-{next(self._numbers)}"

    def get(self, who: Who, path: str, **headers: str) -> TestResponse:
        return self.ask(who, "GET", path, **headers)

    def read(self, who: Who, request_id: str, part: str = "") -> TestResponse:
        return self.get(who, f"/relocation-requests/{request_id}{part}")

    def act(self, who: Who, request_id: str, what: str, body: Json, **headers: str) -> TestResponse:
        return self.ask(who, "POST", f"/relocation-requests/{request_id}/{what}", body, **headers)

    def done(self, answer: TestResponse) -> Json:
        assert answer.status_code in (200, 201), (answer.status_code, answer.json)
        assert answer.json is not None
        return answer.json

    def received(self, answer: TestResponse) -> str:
        """Id of what was received and not worked on yet."""
        assert answer.status_code == 202, answer.json
        assert answer.json is not None
        return str(answer.json["request_id"])

    # what it has

    def heads(self) -> dict[str, int]:
        return {source: log.head() for source, log in self.core.logs.items()}

    def appended_since(self, head: int) -> list[Event]:
        """What the gateway's log got after position `head`."""
        return [event for _, event in self.log.read_all(after=head, limit=10_000) if isinstance(event, Event)]

    def view(self, request_id: str) -> Json:
        """The whole view, as nobody is shown it."""
        found = self.core.read_model.request(request_id, ["coordinator:BE"])
        assert found is not None
        return found

    def later(self, **duration: float) -> None:
        self.now += timedelta(**duration)
        self.core.settle()

    # what people do

    def open(self, who: Who = POLICE, **changes: Any) -> str:
        return str(self.done(self.ask(who, "POST", "/relocation-requests", AN_OPENING | changes))["request_id"])

    def ask_to(self, request_id: str, shelter: Who) -> str:
        """Id of the last question to this shelter."""
        asked = [ask for ask in self.view(request_id)["asks"].values() if ask["shelter_id"] == shelter.organisation]
        return str(asked[-1]["ask_id"])

    def say_yes(self, request_id: str, shelter: Who = RECEIVING) -> TestResponse:
        body = {"accept": True, "rendezvous": RENDEZVOUS}
        return self.ask(shelter, "POST", f"/asks/{self.ask_to(request_id, shelter)}/answer", body)

    def propose(self, request_id: str, shelter: Who = RECEIVING) -> TestResponse:
        body = {"ask_id": self.ask_to(request_id, shelter), "override": "travel"}
        return self.act(ORIGIN, request_id, "proposal", body)

    def countersign(self, request_id: str, who: Who = HOST) -> TestResponse:
        return self.act(
            who, request_id, "countersignature", {"proposal_hash": self.view(request_id)["proposal"]["hash"]}
        )

    def plan_journey(self, request_id: str) -> TestResponse:
        body = {"escort": ESCORT.person, "arrival_due": (self.now + timedelta(hours=6)).isoformat(), "steps": STEPS}
        return self.act(ORIGIN, request_id, "journey", body)

    def consent(
        self, request_id: str, scope: str = "transport", country: str = "NL", given: bool = True
    ) -> TestResponse:
        body = {"scope": scope, "country": country, "given": given, "by": "household"}
        return self.act(POLICE, request_id, "consent", body)

    def depart(self, request_id: str) -> TestResponse:
        return self.act(ESCORT, request_id, "departure", {})

    def arrive(self, request_id: str, outcome: str = "arrived") -> TestResponse:
        return self.act(RECEIVING, request_id, "arrival", {"outcome": outcome})

    def end(self, request_id: str) -> TestResponse:
        return self.act(RECEIVING, request_id, "end", {"reason": "moved_on"})

    def withdraw(self, request_id: str) -> TestResponse:
        return self.act(POLICE, request_id, "withdrawal", {"reason": "danger_passed"})

    def erase(self, request_id: str) -> TestResponse:
        return self.ask(AUDITOR, "POST", "/erasures", {"request_id": request_id})

    def disclose(
        self, who: Who, request_id: str, field: str = "rendezvous", reason: str = "drive_journey", **headers: str
    ) -> TestResponse:
        body = {"field": field, "reason": reason, "recipient": who.person}
        return self.act(who, request_id, "disclosures", body, **headers)

    def bring_to(self, stage: Stage, **changes: Any) -> str:
        """A request of the police that stands at `stage`, with the receiving shelter wherever one is chosen."""
        match stage:
            case Stage.UNMET_NEED:
                request_id = self.open(**{"needs": ["pets"]} | changes)
            case Stage.REFUSED:
                request_id = self.open(**{"danger_zones": [{"code": "NL"}, {"code": "LU"}]} | changes)
            case Stage.WITHDRAWN:
                self.done(self.withdraw(request_id := self.open(**changes)))
            case Stage.ERASED:
                self.done(self.erase(request_id := self.open(**changes)))
            case Stage.COUNTERSIGNED:
                request_id = self.bring_to(Stage.PROPOSED, **{"consented_countries": []} | changes)
                self.done(self.countersign(request_id))
            case Stage.ASTRAY:
                self.done(self.arrive(request_id := self.bring_to(Stage.DEPARTED, **changes), "not_arrived"))
            case _:
                request_id = self._along_the_way(stage, **changes)
        assert self.view(request_id)["stage"] == stage, self.view(request_id)["stage"]
        return request_id

    def _along_the_way(self, stage: Stage, **changes: Any) -> str:
        request_id = self.open(**changes)
        steps = {
            Stage.ASKED: [],
            Stage.OFFERED: [self.say_yes],
            Stage.PROPOSED: [self.propose],
            Stage.CONFIRMED: [self.countersign],
            Stage.DEPARTED: [self.plan_journey, self.consent, self.depart],
            Stage.ARRIVED: [self.arrive],
            Stage.ENDED: [self.end],
        }
        for reached, does in steps.items():
            for step in does:
                self.done(step(request_id))
            if reached is stage:
                return request_id
        raise AssertionError(f"no way leads to {stage}")


def is_problem(answer: TestResponse, *statuses: int) -> Json:
    """The problem document, which has every member it must have."""
    assert answer.status_code in statuses, (answer.status_code, answer.data[:300])
    assert answer.content_type == "application/problem+json"
    document: Json = json.loads(answer.data)
    assert {"type", "title", "status", "detail"} <= document.keys()
    assert document.keys() <= {"type", "title", "status", "detail", "field", "rule", "stage", "next_steps"}
    assert document["status"] == answer.status_code
    code = document["type"].removeprefix("/problems/")
    assert STATUSES.get(code, code.removeprefix("http-")) == str(answer.status_code), document["type"]
    assert document["title"]
    assert document["detail"]
    return document
