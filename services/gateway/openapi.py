"""The OpenAPI 3.1 document of the API, made from the rules themselves: it cannot say anything else than what is served."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from events.vocabulary import ReadPurpose, Verb
from services.gateway.answers import SHOWN, Received
from services.gateway.jws import ALGORITHMS
from services.gateway.paging import LARGEST_PAGE
from services.gateway.principals import Scope
from services.gateway.routing import EVENT_STREAM, JSON, PREFIX, Rule

_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem. `type` is a stable name that leads to its words; `detail` says what to do next.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string"},
        "rule": {"type": "string"},
        "stage": {"type": "string"},
        "next_steps": {"type": "array", "items": {"type": "string"}},
    },
}

_TEXT = {"type": "string", "maxLength": 200}
_ID = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}$"}
_PARAMETERS: Mapping[str, Any] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE},
    "cursor": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,500}$"},
    "open": {"type": "string", "enum": ["true", "false"]},
    "answered": {"type": "string", "enum": ["true", "false"]},
    "order": {"type": "string", "enum": ["oldest", "newest"]},
    "case": _ID,
    "actor": _ID,
    "organisation": _ID,
    "verb": {"type": "string", "enum": [str(verb) for verb in Verb]},
    "since": {"type": "string", "format": "date-time"},
    "until": {"type": "string", "format": "date-time"},
    "Haven-Purpose": {"type": "string", "enum": [str(purpose) for purpose in ReadPurpose]},
    "If-Match": {"type": "string", "pattern": '^"[0-9]{1,9}"$'},
}
"""What a parameter may be, by its name: it is the same in every route."""


def document(rules: Sequence[Rule], issuer: str) -> dict[str, Any]:
    """The whole document; `issuer` is where tokens come from."""
    bodies: set[type] = {r.body for r in rules if r.body}
    said = sorted(bodies.union(*SHOWN.values(), {Received}), key=lambda one: one.__name__)
    schemas, components = msgspec.json.schema_components(said, ref_template="#/components/schemas/{name}")
    named = dict(zip(said, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for rule in rules:
        paths.setdefault(PREFIX + rule.path, {})[rule.method.lower()] = _operation(rule, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Haven",
            "version": "1.0.0",
            "summary": "Finds a safe bed in another country for someone who is in danger where they are.",
            "description": "No name is ever asked for. Every read is written down.",
            "license": {"name": "EUPL-1.2", "identifier": "EUPL-1.2"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {
                "oauth": {
                    "type": "oauth2",
                    "description": (
                        "RFC 9068 access tokens of five minutes. A token that is bound to a key is sent as "
                        "`Authorization: DPoP <token>`, with a proof (see `dpop`); a program's must be bound unless the "
                        "operator says otherwise."
                    ),
                    "flows": {
                        "clientCredentials": {
                            "tokenUrl": f"{issuer}/oauth/token",
                            "scopes": {str(scope): scope.name.replace("_", " ").lower() for scope in Scope},
                        }
                    },
                },
                "dpop": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "DPoP",
                    "description": (
                        "RFC 9449 proof that the sender holds the token's key: a new one for every request. `htu` is that request's "
                        f"public address without the query; signed with one of {', '.join(ALGORITHMS)}."
                    ),
                },
            },
        },
    }


def _operation(rule: Rule, named: Mapping[type, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _ID} for name in re.findall(r"{(\w+)}", rule.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "description": what, "schema": _PARAMETERS.get(name, _TEXT)}
        for name, what in rule.query.items()
    ]
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": name != "Last-Event-ID",
            "description": what,
            "schema": _PARAMETERS.get(name, {"type": "string"}),
        }
        for name, what in rule.headers.items()
    ]
    if rule.method == "POST":
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": True,
                "description": "One per intent, as in draft-ietf-httpapi-idempotency-key-header-07",
                "schema": {"type": "string", "minLength": 8, "maxLength": 200},
            }
        )
    if rule.waits:
        parameters.append(
            {
                "name": "Prefer",
                "in": "header",
                "required": False,
                "description": "`wait=N`: answer with the outcome if it is there within N seconds (RFC 7240)",
                "schema": {"type": "string"},
            }
        )
    roles = ", ".join(rule.roles)
    shown = [named[answer] for answer in SHOWN.get(rule.view.__name__, ())]
    operation: dict[str, Any] = {
        "operationId": rule.view.__name__,
        "tags": [rule.path.split("/")[1]],
        "summary": rule.summary,
        "description": f"Roles: {roles}." + (" For a person who has just signed in: see 401." if rule.fresh else ""),
        "security": [{"oauth": [str(rule.scope)]}, {"oauth": [str(rule.scope)], "dpop": []}],
        "parameters": parameters,
        "responses": {
            **(
                {"201": _json("The request as opened", shown)}
                if rule.view.__name__ == "open_relocation_request"
                else {}
            ),
            "200": _json("As asked", shown) if rule.gives == (JSON,) else _text(rule.gives),
            **({"202": _json("Received and kept; not decided yet", [named[Received]])} if rule.waits else {}),
            **({"401": _sign_in_again(rule.fresh)} if rule.fresh else {}),
            "4XX": _problem("Refused; nothing was changed"),
            "5XX": _problem("Not available now; repeat with the same Idempotency-Key"),
        },
    }
    if rule.body:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": named[rule.body]}}}
    return operation


def _json(what: str, shown: Sequence[Any]) -> dict[str, Any]:
    schema = {"anyOf": list(shown)} if len(shown) > 1 else shown[0] if shown else {"type": "object"}
    return {"description": what, "content": {JSON: {"schema": schema}}}


_LINES: Mapping[str, Any] = {
    # No schema: before OpenAPI 3.2 nothing says whether it would be of one event or of all of them.
    EVENT_STREAM: {
        "example": 'id: 7\nevent: moved\ndata: {"kind":"relocation_request","id":"0123456789abcdef","revision":3}\n\n'
    },
}


def _text(media_types: tuple[str, ...]) -> dict[str, Any]:
    return {
        "description": "As asked, line by line",
        "content": {media_type: _LINES.get(media_type, {"schema": {"type": "string"}}) for media_type in media_types},
    }


def _sign_in_again(within: timedelta) -> dict[str, Any]:
    seconds = int(within.total_seconds())
    return _problem(
        "No token, or a sign-in that is too old or too weak for a signature (RFC 9470)."
        f" `WWW-Authenticate` then says `insufficient_user_authentication` with `max_age` {seconds} and the `acr_values` that"
        " will do: sign in again with them and repeat under the same Idempotency-Key. A machine cannot sign."
    ) | {"headers": {"WWW-Authenticate": {"schema": {"type": "string"}}}}


def _problem(what: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": what, "content": {"application/problem+json": {"schema": schema}}}
