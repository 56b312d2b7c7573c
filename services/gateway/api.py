"""The gateway's application: every route with its rule, every error with its problem, every answer with its headers."""

import logging
from collections.abc import Callable, Sequence

import msgspec
from flask import Blueprint, Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from events.log.engines import is_database_trouble
from events.sealing import KeyDestroyed
from services.gateway import (
    alert_routes,
    ask_routes,
    audit_routes,
    call_list,
    capacity_routes,
    demand_routes,
    problems,
    request_routes,
    stream,
)
from services.gateway.openapi import document
from services.gateway.routing import PREFIX, Gateway, Rule, answer, blueprint
from services.gateway.token_errors import (
    InsufficientScope,
    InvalidProof,
    InvalidToken,
    ProofRequired,
    SignInTooOldOrWeak,
    TokenError,
    TokensUncheckable,
)

logger = logging.getLogger(__name__)

RULES = (
    *request_routes.RULES,
    *ask_routes.RULES,
    *capacity_routes.RULES,
    *demand_routes.RULES,
    *alert_routes.RULES,
    *call_list.RULES,
    *audit_routes.RULES,
    *stream.RULES,
)
"""Every route of the API."""

RULES_WITHOUT_STREAM = tuple(rule for rule in RULES if rule not in stream.RULES)
"""Those of a gateway beside which `haven stream` runs."""

OPEN_TO_ALL = frozenset({"health.alive", "health.is_ready", "health.openapi"})
"""Endpoints that need no token: none of them tells anything about anybody."""

Readiness = Callable[[], dict[str, str]]
"""Why the node is not ready, by name; empty when it is."""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), camera=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create_app(
    gateway: Gateway, issuer: str, ready: Readiness, *others: Blueprint, rules: Sequence[Rule] = RULES
) -> Flask:
    """The WSGI application. `others` are further blueprints (the embedded sign-in); `rules` are the routes of the API that this
    process serves."""
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # a second slash is another path, not a redirect in front of the sign-in
    app.register_blueprint(blueprint(gateway, rules))
    app.register_blueprint(_health(gateway, issuer, ready))
    for other in others:
        app.register_blueprint(other)
    app.register_error_handler(problems.Problem, lambda problem: problem.response())
    app.register_error_handler(TokenError, _token_problem)
    app.register_error_handler(HTTPException, _http_problem)
    app.register_error_handler(KeyDestroyed, _erased)
    app.register_error_handler(Exception, lambda error: failed(error).response())
    app.after_request(_with_security_headers)
    return app


def _health(gateway: Gateway, issuer: str, ready: Readiness) -> Blueprint:
    health = Blueprint("health", __name__)
    described = msgspec.json.encode(document(RULES, issuer))

    @health.get("/healthz")
    def alive() -> Response:
        return answer({"status": "alive"})

    @health.get("/readyz")
    def is_ready() -> Response:
        reasons = ready()
        if reasons:
            return answer({"status": "not ready", "reasons": reasons}, 503)
        # No reason to send anybody away: what people send is kept, and shown later.
        late = gateway.lateness.seconds()
        notes = (
            {"read model": f"{late:.0f} s behind; see that the relay, Kafka and the projection work"} if late else {}
        )
        return answer({"status": "ready"} | ({"notes": notes} if notes else {}))

    @health.get(f"{PREFIX}/openapi.json")
    def openapi() -> Response:
        return Response(described, content_type="application/json")

    return health


def _token_problem(error: TokenError) -> Response:
    if isinstance(error, InvalidToken | InvalidProof):
        # For the operator alone: a clock that is wrong, or somebody who tries. A reason is a word of ours.
        logger.info("refused error=%s reason=%s", type(error).__name__, error.reason)
    return _as_problem(error).response()


def _as_problem(error: TokenError) -> problems.Problem:
    headers = {"WWW-Authenticate": error.www_authenticate} if error.www_authenticate else {}
    match error:
        case TokensUncheckable():
            return problems.Problem(
                503,
                "sign-in-unavailable",
                "Sign-in cannot be checked right now.",
                next_action="Try again; if it is urgent, phone the focal point.",
                headers={"Retry-After": "5"},
            )
        case InsufficientScope():
            return problems.Problem(
                403,
                "insufficient-scope",
                "The token does not allow this.",
                next_action="Ask for a token with the scope.",
                headers=headers,
            )
        case SignInTooOldOrWeak():
            return problems.Problem(
                401,
                "sign-in-again",
                "Signing needs a person who has just signed in.",
                next_action="Sign in again, then repeat this with the same Idempotency-Key; nothing was changed.",
                headers=headers,
            )
        case InvalidProof():
            return problems.Problem(
                401,
                "proof-invalid",
                "The DPoP proof does not fit this request.",
                next_action="Set the clock right, make a new proof for this request, and send it again.",
                headers=headers,
            )
        case ProofRequired():
            return problems.Problem(
                401,
                "proof-required",
                "This token must be bound to a key.",
                next_action="Ask for a token with a DPoP proof (RFC 9449), and send a proof with every request.",
                headers=headers,
            )
        case _:
            return problems.Problem(
                401,
                "not-signed-in",
                "Nobody is signed in.",
                next_action="Get an access token and send it as its token_type says.",
                headers=headers,
            )


def _http_problem(error: HTTPException) -> Response:
    status = error.code or 500
    if status == 404:
        return problems.not_found().response()
    titles = {405: "This path does not take that method.", 413: "The body is too large."}
    methods = error.valid_methods if isinstance(error, MethodNotAllowed) else None
    headers = {"Allow": ", ".join(sorted(methods))} if methods else {}
    return problems.Problem(
        status,
        f"http-{status}",
        titles.get(status, "The request cannot be served."),
        next_action="See /api/v1/openapi.json for what can be asked.",
        headers=headers,
    ).response()


def _erased(_error: KeyDestroyed) -> Response:
    return problems.erased().response()


def failed(error: Exception) -> problems.Problem:
    """What went wrong on our side, as it is told outside; the log says more, and nothing of what was sent."""
    if is_database_trouble(error):
        logger.error("database unavailable error=%s", type(getattr(error, "orig", None) or error).__name__)
        return problems.Problem(
            503,
            "not-recorded",
            "Haven cannot write this down right now, so it was not accepted.",
            next_action="Repeat it with the same Idempotency-Key; if it is urgent, phone the focal point.",
            headers={"Retry-After": "2"},
        )
    # The type and the place only: a message might repeat what somebody typed.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{place.tb_lineno}" if place else "?"
    logger.error("unexpected error=%s at=%s", type(error).__name__, where)
    return problems.Problem(
        500,
        "unexpected",
        "Something went wrong on our side.",
        next_action="Repeat it with the same Idempotency-Key; if it is urgent, phone the focal point.",
    )


def _with_security_headers(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)
    return response
