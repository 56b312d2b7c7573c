"""Signing in through the issuer's pages: with the embedded server, and with issuers that must not be trusted."""

import hashlib
import http.server
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import pytest
from flask import Flask
from joserfc import jwt
from joserfc.jwk import ECKey
from werkzeug.serving import make_server

from events.log.engines import sqlite_engine
from services.gateway.authorization_server import authorization_server
from services.gateway.dpop import ProofVerifier
from services.gateway.node_secrets import public_keys
from services.gateway.oauth_grants import PagesClient
from services.gateway.principals import demo_principals
from services.gateway.token_store import TokenStore
from services.gateway.tokens import TokenVerifier
from services.sign_in_client import Browser, IssuerUnreachable, SignInFailed, Token, machine_token, sign_in

PAGES, SECRET, WHO, PASSWORD = "pages", "a secret: of the pages", "be-coordinator-1", "synthetic-password"
KEY = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)


# The embedded server


class Embedded:
    def __init__(self, folder: Path) -> None:
        app = Flask(__name__)
        self.server = make_server("127.0.0.1", 0, app, threaded=True)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.redirect_uri = f"{self.issuer}/signed-in"
        store = TokenStore(sqlite_engine(str(folder / "tokens.sqlite")), self.now)
        store.create_schema()
        proofs = ProofVerifier(public_url=self.issuer, is_first_use=store.is_first_use, now=self.now)
        accounts = demo_principals([])
        pages = PagesClient(client_id=PAGES, secret=SECRET, redirect_uris=frozenset({self.redirect_uri}))
        app.register_blueprint(
            authorization_server(
                issuer=self.issuer,
                audience="haven",
                signing_key=KEY,
                accounts=accounts,
                logins={account.username: PASSWORD for account in accounts},
                pages=pages,
                store=store,
                proofs=proofs,
                now=self.now,
            )
        )
        keys = public_keys(KEY)
        self.verifier = TokenVerifier(
            issuer=self.issuer,
            audience="haven",
            countries={"BE", "NL", "LU"},
            jwks=lambda: keys,
            is_revoked=store.is_revoked,
            proofs=proofs,
            now=self.now,
        )

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    embedded = Embedded(tmp_path)
    threading.Thread(target=embedded.server.serve_forever).start()
    yield embedded
    embedded.server.shutdown()
    embedded.server.server_close()


def test_a_person_signs_in_at_the_embedded_server(embedded: Embedded) -> None:
    token = sign_in(embedded.issuer, PAGES, SECRET, embedded.redirect_uri, WHO, PASSWORD, max_age=0)
    principal = embedded.verifier.verify(f"Bearer {token.access_token}")
    assert (principal.client_id, principal.organisation) == (PAGES, "be-coordinator")
    assert not principal.is_machine


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"password": "wrong"}, "refused the user name or the password of be-coordinator-1"),
        ({"username": "nobody"}, "refused the user name or the password of nobody"),
        ({"client_secret": "wrong"}, "gives no token .*: invalid_client"),
        ({"redirect_uri": "https://elsewhere.example/"}, "no sign-in page"),
        ({"client_id": "another"}, "no sign-in page"),
    ],
    ids=str,
)
def test_a_refusal_says_what_was_refused_and_repeats_no_secret(
    changes: dict[str, str], problem: str, embedded: Embedded
) -> None:
    given = {
        "client_id": PAGES,
        "client_secret": SECRET,
        "redirect_uri": embedded.redirect_uri,
        "username": WHO,
        "password": PASSWORD,
    }
    with pytest.raises(SignInFailed, match=problem) as refused:
        sign_in(embedded.issuer, **given | changes)
    assert not any(secret in str(refused.value) for secret in (PASSWORD, SECRET))


def test_nobody_there_may_be_tried_again_later() -> None:
    with pytest.raises(IssuerUnreachable, match="cannot be reached"):
        machine_token("http://127.0.0.1:1", "program", "secret")


# Issuers that must not be trusted


class Untrusted(http.server.ThreadingHTTPServer):
    """A small issuer of OpenID Connect that does everything right, except for what a test changes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), UntrustedHandler)
        self.issuer = f"http://127.0.0.1:{self.server_address[1]}"
        self.redirect_uri = "https://haven.example/signed-in"
        self.form = (
            '<form id="login" method="post" action="/sign-in"><input name="username"><input name="password"></form>'
        )
        self.metadata: dict[str, Any] = {}
        self.answer: Callable[[dict[str, str]], dict[str, str] | str] = lambda answer: answer
        self.id_claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.token: dict[str, Any] = {}
        self.id_key = KEY
        self.posted: list[tuple[str, dict[str, str]]] = []
        self.asked: dict[str, str] = {}


class UntrustedHandler(http.server.BaseHTTPRequestHandler):
    server: Untrusted

    def do_GET(self) -> None:
        issuer = self.server.issuer
        path, _, query = self.path.partition("?")
        if path == "/.well-known/oauth-authorization-server":
            told = {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "jwks_uri": f"{issuer}/keys",
                "scopes_supported": ["openid"],
                "authorization_response_iss_parameter_supported": True,
            }
            self.say(200, json.dumps(told | self.server.metadata))
        elif path == "/keys":
            self.say(200, json.dumps({"keys": [KEY.as_dict(private=False)]}))
        elif path == "/authorize":
            self.server.asked = dict(parse_qsl(query))
            self.say(200, self.server.form, ("Set-Cookie", "session=1; Path=/; HttpOnly"))
        elif path == "/loop":
            self.say(302, "", ("Location", "/loop"))
        else:
            self.say(404, "")

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        form = {name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
        self.server.posted.append((self.path, form))
        if self.path == "/token":
            self.exchange(form)
            return
        assert self.headers["Cookie"] == "session=1"
        given = self.server.answer({"code": "c", "state": self.server.asked["state"], "iss": self.server.issuer})
        answer = given if isinstance(given, str) else urlencode(given)
        self.say(303, "", ("Location", f"{self.server.redirect_uri}?{answer}"))

    def exchange(self, form: dict[str, str]) -> None:
        challenge = urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        assert challenge == self.server.asked["code_challenge"]
        now = int(time.time())
        claims = {
            "iss": self.server.issuer,
            "aud": PAGES,
            "nonce": self.server.asked["nonce"],
            "iat": now,
            "exp": now + 60,
        }
        id_token = jwt.encode(
            {"alg": "ES256", "kid": KEY.kid}, self.server.id_claims(claims), self.server.id_key, algorithms=["ES256"]
        )
        token = {"access_token": "t", "token_type": "Bearer", "expires_in": 300, "id_token": id_token}
        self.say(200, json.dumps(token | self.server.token))

    def say(self, status: int, body: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing: the test asks `posted`."""


@pytest.fixture
def untrusted() -> Iterator[Untrusted]:
    server = Untrusted()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield server
    server.shutdown()
    server.server_close()


def attempt(untrusted: Untrusted, **more: Any) -> Token:
    return sign_in(untrusted.issuer, PAGES, SECRET, untrusted.redirect_uri, WHO, PASSWORD, **more)


def test_an_issuer_that_does_everything_right_is_believed(untrusted: Untrusted) -> None:
    token = attempt(untrusted, max_age=0, acr_values="strong")
    assert token.access_token == "t"
    assert "t" not in repr(token).replace("Token", "").replace("expires in 300", "").lower().split()
    assert untrusted.asked["code_challenge_method"] == "S256"
    assert (untrusted.asked["max_age"], untrusted.asked["acr_values"]) == ("0", "strong")
    assert untrusted.posted[0] == ("/sign-in", {"username": WHO, "password": PASSWORD})


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda answer: answer | {"state": "another"}, "state"),
        (lambda answer: {"code": "c", "iss": answer["iss"]}, "state"),
        (lambda answer: answer | {"iss": "https://sign-in.attacker.example"}, "iss"),
        (lambda answer: {"code": "c", "state": answer["state"]}, "iss"),
        (lambda answer: {"state": answer["state"], "iss": answer["iss"]}, "no code"),
        (lambda answer: answer | {"error": "access_denied"}, "refused the sign-in: access_denied"),
        (lambda answer: answer | {"error": "<script>"}, "an unreadable error"),
        (lambda answer: urlencode(answer) + "&code=another", "says something twice"),
    ],
)
@pytest.mark.attack(33, 34)
def test_an_answer_that_is_not_the_one_asked_for_is_refused_before_any_code_is_used(
    answer: Callable[[dict[str, str]], dict[str, str] | str], problem: str, untrusted: Untrusted
) -> None:
    untrusted.answer = answer
    with pytest.raises(SignInFailed, match=problem):
        attempt(untrusted)
    assert [path for path, _ in untrusted.posted] == ["/sign-in"]


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (
            '<form method="post" action="https://attacker.example/"><input name="username"><input name="password"></form>',
            "origin",
        ),
        (
            '<form method="post" action="//attacker.example/"><input name="username"><input name="password"></form>',
            "origin",
        ),
        ('<form action="/sign-in"><input name="username"><input name="password"></form>', "into an address"),
        ('<form id="new" method="post"><input name="password-new"></form>', r"no sign-in page \(new\)"),
        ('<form method="post"><input name="password"></form>' * 2, "no sign-in page"),
        ('<form method="post"><input name="otp"></form>', "asks be-coordinator-1 for a second factor"),
        ("<p>Out of order</p>", r"no sign-in page \(no form\)"),
    ],
)
def test_a_form_that_is_not_the_expected_one_gets_no_password(form: str, problem: str, untrusted: Untrusted) -> None:
    untrusted.form = form
    with pytest.raises(SignInFailed, match=problem):
        attempt(untrusted)
    assert untrusted.posted == []


@pytest.mark.parametrize(
    "change",
    [
        lambda claims: claims | {"nonce": "another"},
        lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
        lambda claims: claims | {"aud": "another-client"},
        lambda claims: claims | {"aud": [PAGES, "another-client"]},
        lambda claims: claims | {"iss": "https://sign-in.attacker.example"},
        lambda claims: claims | {"exp": claims["iat"] - 60},
        lambda claims: {name: value for name, value in claims.items() if name != "exp"},
    ],
)
@pytest.mark.attack(33)
def test_an_id_token_of_another_sign_in_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], untrusted: Untrusted
) -> None:
    untrusted.id_claims = change
    with pytest.raises(SignInFailed, match="ID token"):
        attempt(untrusted)


def test_an_id_token_signed_by_somebody_else_is_refused(untrusted: Untrusted) -> None:
    untrusted.id_key = ECKey.generate_key("P-256", {"kid": KEY.kid})
    with pytest.raises(SignInFailed, match="ID token is not valid"):
        attempt(untrusted)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ({"token_type": "DPoP"}, "another type"),
        ({"access_token": None}, "is no token"),
        ({"expires_in": "soon"}, "is no token"),
    ],
)
def test_an_answer_that_is_no_such_token_is_refused(token: dict[str, Any], problem: str, untrusted: Untrusted) -> None:
    untrusted.token = token
    with pytest.raises(SignInFailed, match=problem):
        attempt(untrusted)


def test_a_token_that_was_to_be_bound_and_is_not_is_refused(untrusted: Untrusted) -> None:
    with pytest.raises(SignInFailed, match="not bound"):
        attempt(untrusted, proof=lambda _method, _url: "proof")


def test_a_loop_of_redirects_ends(untrusted: Untrusted) -> None:
    untrusted.metadata = {"authorization_endpoint": f"{untrusted.issuer}/loop"}
    with pytest.raises(SignInFailed, match="do not come to an end"):
        attempt(untrusted)


def test_a_cookie_goes_to_the_path_it_was_set_for_and_goes_when_it_is_taken_back() -> None:
    browser = Browser()
    browser._keep("a=1; Path=/realms/haven/; HttpOnly", "/anything")
    browser._keep("b=2; Secure", "/oauth/authorize")
    assert browser._fitting("/realms/haven/login") == ["a=1"]
    assert browser._fitting("/realms/haven-2/login") == []
    assert browser._fitting("/oauth/authorize") == ["b=2"]
    browser._keep("a=; Path=/realms/haven/; Max-Age=0", "/anything")
    assert browser._fitting("/realms/haven/login") == []
