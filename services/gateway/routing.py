"""A route says everything about itself in one `Rule`; the guard in front of every route is built from it, and so is the
published API document. A route without a rule cannot exist.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
from flask import Blueprint, Response, request

from events.envelope import Contract, Event
from events.gateway import RecordConsulted, TrailQuery
from events.log.store import EventLog
from events.placement import CommandRefused
from events.sealing import KeyStore
from events.vocabulary import ReadPurpose, Role
from reference import Reference
from services.gateway import problems
from services.gateway.access import actor_of, authorise
from services.gateway.bodies import Body, read_body
from services.gateway.dpop import sent_proof
from services.gateway.feed import Feed
from services.gateway.intake import LONGEST_WAIT, Accepted, Intake, Intent
from services.gateway.lateness import Lateness
from services.gateway.limits import Limits
from services.gateway.principals import Principal, Scope
from services.gateway.read_model import Json, ReadModel
from services.gateway.ringing import AskAboutRinging, Ringing
from services.gateway.tokens import TokenVerifier

PREFIX = "/api/v1"
JSON = "application/json"
EVENT_STREAM = "text/event-stream"
ON_BEHALF_OF = "haven.principal"
"""Where a page inside this process says who asks (services/gateway/pages/frame.py). No request from outside can set it: a header
becomes HTTP_..., and a header of that name another key."""


@dataclass(frozen=True)
class Gateway:
    """What the routes work with."""

    log: EventLog
    intake: Intake
    read_model: ReadModel
    keys: KeyStore
    reference: Reference
    verifier: TokenVerifier
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
    feed: Feed
    lateness: Lateness
    set_aside: Callable[[], Sequence[Any]] = tuple
    """What waits for whoever runs Haven (services/gateway/alert_routes.py)."""
    ringing: AskAboutRinging = Ringing
    """Whether people are rung, and whom nothing reached."""
    limits: Limits = field(default_factory=Limits)

    def unheard(self) -> str:
        """A mark of what a focal point looks at and no change tells of: whether people are rung, whom nothing reached, what is set
        aside. It is another when one of these is, and says nothing of any."""
        ringing = self.ringing()
        said = msgspec.json.encode([ringing.is_on, sorted(ringing.unrung), self.set_aside()])
        return hashlib.sha256(said).hexdigest()[:12]

    def note_read(
        self,
        principal: Principal,
        resource: str,
        subjects: Sequence[str] = (),
        purpose: ReadPurpose | None = None,
        narrowed_to: TrailQuery | None = None,
    ) -> None:
        """Writes down who read what, before anybody is answered (LED 2016/680 art. 25)."""
        read = RecordConsulted(resource=resource, subjects=tuple(subjects), purpose=purpose, narrowed_to=narrowed_to)
        about = subjects[0] if len(subjects) == 1 else principal.organisation
        self.log.append([self.own_event(principal, self.new_id(), f"consultation-{about}", read, about)])

    def own_event(self, principal: Principal, event_id: str, stream: str, data: Contract, correlation: str) -> Event:
        return Event(
            id=event_id,
            source=self.log.source,
            stream=stream,
            time=self.clock(),
            actor=actor_of(principal),
            correlation_id=correlation,
            causation_id=event_id,
            data=data,
        )


@dataclass(frozen=True)
class Call:
    """One authorised request."""

    gateway: Gateway
    rule: "Rule"
    principal: Principal
    path: Mapping[str, str]
    body: Any = None
    key: str = ""
    wait: float = 0.0

    def intent(self, key: str | None = None) -> Intent:
        """What is wanted, under the key the client sent (or `key`, where the request is its own)."""
        return Intent(principal=self.principal, route=request.path, key=key or self.key, body=self.body)

    def query(self, name: str, longest: int = 200) -> str | None:
        """One query parameter; raises Problem 400 when it is repeated or too long."""
        values = request.args.getlist(name)
        if len(values) > 1 or any(len(value) > longest or "\0" in value for value in values):
            raise problems.bad_field(name, f"at most once and at most {longest} characters")
        return values[0] if values else None

    def query_id(self, name: str) -> str | None:
        """The same for an id: a read is written down with what was asked for, and free text must not get in there."""
        value = self.query(name)
        if value is not None and not _IDENTIFIER.match(value):
            raise problems.bad_field(name, "an id")
        return value

    def query_flag(self, name: str) -> bool:
        """The same for a yes or no; no where it is left out."""
        value = self.query(name) or "false"
        if value not in ("true", "false"):
            raise problems.bad_field(name, "true or false")
        return value == "true"

    def outcome(self, accepted: Accepted, seconds: float | None = None) -> list[Json] | None:
        """What became of the commands, or None when not all have an answer yet."""
        outcomes = self.gateway.intake.wait_for_outcomes(accepted, self.wait if seconds is None else seconds)
        return None if any(outcome is None for outcome in outcomes) else cast(list[Json], outcomes)


View = Callable[[Call], Response]


@dataclass(frozen=True)
class Rule:
    """One route: where it is, who may call it, what it takes and what it gives."""

    method: str
    path: str
    scope: Scope
    roles: tuple[Role, ...]
    summary: str
    view: View
    body: type[Body] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    waits: bool = False
    fresh: timedelta | None = None
    gives: tuple[str, ...] = (JSON,)
    """Media types of a good answer."""


def rule(
    method: str,
    path: str,
    scope: Scope,
    roles: Iterable[Role],
    summary: str,
    *,
    body: type[Body] | None = None,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    waits: bool = False,
    fresh: timedelta | None = None,
    gives: tuple[str, ...] = (JSON,),
) -> Callable[[View], Rule]:
    """Declares a route. `waits`: takes `Prefer: wait=N` and may answer with the outcome instead of 202. `fresh`: for a person
    who signed in within this time, in a way that may sign (RFC 9470)."""

    def declare(view: View) -> Rule:
        return Rule(
            method=method,
            path=path,
            scope=scope,
            roles=tuple(roles),
            summary=summary,
            view=view,
            body=body,
            query=query or {},
            headers=headers or {},
            waits=waits,
            fresh=fresh,
            gives=gives,
        )

    return declare


def blueprint(gateway: Gateway, rules: Iterable[Rule]) -> Blueprint:
    """The routes of the API, each behind its own rule."""
    routes = Blueprint("api", __name__, url_prefix=PREFIX)
    for route in rules:
        routes.add_url_rule(
            re.sub(r"{(\w+)}", r"<string:\1>", route.path),
            endpoint=route.view.__name__,
            view_func=guarded(gateway, route),
            methods=[route.method],
            provide_automatic_options=False,  # nothing is answered in front of the guard
        )
    return routes


_IDENTIFIER = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}\Z")
_KEY = re.compile(r'\A"?([\x21\x23-\x7e]{8,200})"?\Z')
_WAIT = re.compile(r"(?:\A|[,;\s])wait=(\d{1,3})(?:\Z|[,;\s])")


def guarded(gateway: Gateway, route: Rule) -> Callable[..., Response]:
    """The route behind its rule, as Flask calls it."""

    def open_route(**path: str) -> Response:
        principal = request.environ.get(ON_BEHALF_OF)
        if not isinstance(principal, Principal):
            principal = gateway.verifier.verify(request.headers.get("Authorization"), sent_proof(request))
        with gateway.limits.request_of(principal):
            return called(principal, path)

    def called(principal: Principal, path: Mapping[str, str]) -> Response:
        authorise(principal, route.scope, route.roles)
        if route.fresh:
            gateway.verifier.require_fresh_sign_in(principal, route.fresh)
        if any(not _IDENTIFIER.match(value) for value in path.values()):
            raise problems.not_found()
        if set(request.args) - set(route.query):
            raise problems.bad_field("query", f"only {', '.join(route.query) or 'nothing'}")
        return route.view(
            Call(
                gateway=gateway,
                rule=route,
                principal=principal,
                path=path,
                body=read_body(request, route.body) if route.body else None,
                key=_idempotency_key() if route.method == "POST" else "",
                wait=_wait() if route.waits else 0.0,
            )
        )

    open_route.__name__ = route.view.__name__
    return open_route


def _idempotency_key() -> str:
    sent = request.headers.get("Idempotency-Key")
    if sent is None:
        raise problems.Problem(
            400,
            "idempotency-key-missing",
            "The Idempotency-Key header is missing.",
            next_action="Send a new random key with every new intent, and the same one when you repeat it.",
        )
    if not (key := _KEY.match(sent)):
        raise problems.bad_field("Idempotency-Key", "8 to 200 printable ASCII characters")
    return key[1]


def _wait() -> float:
    wanted = _WAIT.search(request.headers.get("Prefer", ""))
    return min(float(wanted[1]), LONGEST_WAIT) if wanted else 0.0


def answer(document: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer that nobody may cache."""
    response = Response(msgspec.json.encode(document), status, content_type=JSON)
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def received(accepted: Accepted, location: str, **more: Any) -> Response:
    """202: kept, and not decided yet."""
    document = {
        "status": "received",
        "command_ids": list(accepted.command_ids),
        "received_at": accepted.received_at,
        **more,
    }
    return answer(document, 202, Location=location)


_REFUSED = str(CommandRefused.__struct_config__.tag)


def raise_if_refused(outcome: Json) -> None:
    """Turns a recorded refusal of placement into its problem."""
    if outcome["type"] == _REFUSED:
        refusal = msgspec.convert({**outcome, "type": _REFUSED}, CommandRefused)
        raise problems.refused(refusal.reason, refusal.stage, refusal.next_steps)
