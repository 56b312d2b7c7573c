"""The demo sign-in: what it gives, to whom, and every way it must not be talked into more."""

import base64
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from flask import Flask
from joserfc import jwt
from joserfc.jwk import ECKey
from werkzeug.test import Client, TestResponse

from events.log.engines import sqlite_engine
from services.api_client import SenderKey
from services.config import ConfigurationError
from services.gateway import node_secrets, oauth_grants, sign_in
from services.gateway.authorization_server import authorization_server, refuse_when_external
from services.gateway.dpop import ProofVerifier
from services.gateway.node_secrets import load_or_create_logins, load_or_create_signing_key, public_keys
from services.gateway.oauth_grants import PASSWORD_ACR, AuthorizationCode, AuthorizationCodes, PagesClient
from services.gateway.principals import SCOPES_OF_ROLE, Principal, Scope, demo_principals
from services.gateway.sign_in import Credentials, SignInRefused, TooManySignIns
from services.gateway.token_errors import InvalidToken, Reason
from services.gateway.token_store import TokenStore
from services.gateway.tokens import TokenVerifier

ISSUER = "http://127.0.0.1:8080"
AUDIENCE = "urn:haven:gateway"
REDIRECT = "http://127.0.0.1:8080/signed-in"
PAGES = PagesClient(client_id="pages", secret="pages-secret", redirect_uris=frozenset({REDIRECT}))
VERIFIER = "a-code-verifier-of-at-least-forty-three-characters"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
REFERRER = "be-police-antwerp-1"
COORDINATOR = "be-coordinator-1"
ACCOUNTS = demo_principals([("shelter-1", "BE")])


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **duration: float) -> None:
        self.time += timedelta(**duration)


class Node:
    """The embedded node's sign-in, and a browser and a program that use it."""

    def __init__(self, data_dir: Path, clock: Clock, issuer: str = ISSUER) -> None:
        self.issuer = issuer
        self.logins = load_or_create_logins(data_dir, ACCOUNTS)
        self.signing_key = load_or_create_signing_key(data_dir)
        self.store = TokenStore(sqlite_engine(str(data_dir / "tokens.sqlite")), clock)
        self.store.create_schema()
        proofs = ProofVerifier(public_url=ISSUER, is_first_use=self.store.is_first_use, now=clock)
        app = Flask(__name__)
        app.register_blueprint(
            authorization_server(
                issuer=issuer,
                audience=AUDIENCE,
                signing_key=self.signing_key,
                accounts=ACCOUNTS,
                logins=self.logins,
                pages=PAGES,
                store=self.store,
                proofs=proofs,
                now=clock,
            )
        )
        self.browser: Client = app.test_client()
        self.program: Client = app.test_client(use_cookies=False)
        keys = public_keys(self.signing_key)
        self.verifier = TokenVerifier(
            issuer=issuer,
            audience=AUDIENCE,
            countries={"BE", "NL", "LU"},
            jwks=lambda: keys,
            is_revoked=self.store.is_revoked,
            proofs=proofs,
            now=clock,
        )

    def principal(self, token: str) -> Principal:
        return self.verifier.verify(f"Bearer {token}")

    # a program

    def post(self, path: str, form: dict[str, Any], auth: tuple[str, str] | None, **options: Any) -> TestResponse:
        headers = options.pop("headers", [])
        if auth:
            headers = [*headers, ("Authorization", basic(*auth))]
        return self.program.post(path, base_url=self.issuer, data=form, headers=headers, **options)

    def login(self, username: str, **form: str) -> TestResponse:
        return self.post("/oauth/token", {"grant_type": "client_credentials"} | form, (username, self.logins[username]))

    def token(self, username: str) -> str:
        token: str = self.login(username).json["access_token"]
        return token

    # a browser

    def ask(self, **changes: str | None) -> TestResponse:
        return self.browser.get(authorize(**changes), base_url=self.issuer)

    def sign_in(self, username: str = COORDINATOR, password: str | None = None, **changes: str | None) -> TestResponse:
        form = {
            "username": username,
            "password": self.logins.get(username, "") if password is None else password,
            "csrf": csrf(self.ask(**changes)),
        }
        return self.browser.post(authorize(**changes), base_url=self.issuer, data=form)

    def code(self, **changes: str | None) -> str:
        return answer(self.sign_in(**changes))["code"]

    def redeem(
        self,
        issued: str,
        *,
        auth: tuple[str, str] = ("pages", "pages-secret"),
        headers: list[tuple[str, str]] | None = None,
        **changes: str | None,
    ) -> TestResponse:
        form = {
            "grant_type": "authorization_code",
            "code": issued,
            "redirect_uri": REDIRECT,
            "code_verifier": VERIFIER,
        } | changes
        given = {name: value for name, value in form.items() if value is not None}
        return self.post("/oauth/token", given, auth, headers=headers or [])


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def authorize(**changes: str | None) -> str:
    query = {
        "response_type": "code",
        "client_id": "pages",
        "redirect_uri": REDIRECT,
        "state": "state-1",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    } | changes
    return "/oauth/authorize?" + urlencode({name: value for name, value in query.items() if value is not None})


def csrf(page: TestResponse) -> str:
    found = re.search(r'name="csrf" type="hidden" value="([0-9a-f]{64})"', page.text)
    return found[1] if found else ""


def answer(response: TestResponse) -> dict[str, str]:
    """What the browser is sent back to the pages with."""
    assert response.status_code == 303, response.text
    assert response.location.startswith(f"{REDIRECT}?")
    return dict(parse_qsl(urlsplit(response.location).query))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(tmp_path: Path, clock: Clock) -> Iterator[Node]:
    node = Node(tmp_path, clock)
    yield node
    node.store.close()


# -- client credentials


def test_a_program_gets_a_token_that_the_gateway_accepts(node, clock):
    response = node.login(REFERRER)
    principal = node.principal(response.json["access_token"])
    assert response.json["token_type"] == "Bearer"
    assert response.json["expires_in"] == 300
    assert set(response.json["scope"].split()) == principal.scopes == SCOPES_OF_ROLE[principal.role]
    assert (principal.person, principal.organisation, principal.country) == (
        f"synthetic.{REFERRER}",
        "be-police-antwerp",
        "BE",
    )
    assert principal.client_id == REFERRER
    assert principal.issued_at == clock.time
    assert "refresh_token" not in response.json


def test_a_token_says_all_that_rfc_9068_asks_for(node):
    token = jwt.decode(node.token(REFERRER), public_keys(node.signing_key), algorithms=["ES256"])
    assert token.header == {"alg": "ES256", "typ": "at+jwt", "kid": node.signing_key.thumbprint()}
    assert set(token.claims) >= {"iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope"}
    assert token.claims["exp"] - token.claims["iat"] == 300


def test_every_token_has_its_own_id(node):
    assert len({node.principal(node.token(REFERRER)).token_id for _ in range(5)}) == 5


def test_two_accounts_of_one_person_say_so(node):
    both = [node.principal(node.token(name)) for name in (COORDINATOR, f"{COORDINATOR}-for-nl")]
    assert both[0].person == both[1].person
    assert [principal.country for principal in both] == ["BE", "NL"]


def test_a_program_may_ask_for_less(node):
    assert node.login(COORDINATOR, scope="requests:read").json["scope"] == "requests:read"


def test_a_program_is_given_no_more_than_its_role(node):
    response = node.login(REFERRER, scope="requests:read placements:sign")
    assert response.json["scope"] == "requests:read"
    assert node.principal(response.json["access_token"]).scopes == {"requests:read"}


@pytest.mark.parametrize("scope", ["placements:sign", "admin", "requests:read admin", "requests:*"])
def test_a_scope_that_cannot_be_given_at_all_is_refused(scope, node):
    response = node.login(REFERRER, scope=scope)
    assert (response.status_code, response.json["error"]) == (400, "invalid_scope")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        basic(REFERRER, "wrong"),
        basic(REFERRER, ""),
        basic("nobody", "wrong"),
        basic("pages", "wrong"),
        basic("", ""),
        "Basic",
        "Basic ====",
        "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Bearer abc",
        "Digest username=x",
    ],
)
def test_a_program_without_its_secret_gets_nothing(authorization, node):
    headers = [("Authorization", authorization)] if authorization else []
    response = node.post("/oauth/token", {"grant_type": "client_credentials"}, None, headers=headers)
    assert (response.status_code, response.json["error"]) == (401, "invalid_client")
    assert response.headers["WWW-Authenticate"].startswith("Basic")


def test_a_secret_in_the_body_is_not_taken(node):
    form = {"grant_type": "client_credentials", "client_id": REFERRER, "client_secret": node.logins[REFERRER]}
    assert node.post("/oauth/token", form, None).status_code == 401


def test_one_account_cannot_use_the_secret_of_another(node):
    response = node.post("/oauth/token", {"grant_type": "client_credentials"}, (COORDINATOR, node.logins[REFERRER]))
    assert response.status_code == 401


@pytest.mark.parametrize("grant", ["password", "refresh_token", "implicit", "", 'client_credentials"<script>'])
@pytest.mark.attack(12)
def test_other_grants_do_not_exist(grant, node):
    response = node.post("/oauth/token", {"grant_type": grant}, (REFERRER, node.logins[REFERRER]))
    assert (response.status_code, response.json["error"]) == (400, "unsupported_grant_type")
    assert "<script" not in response.text


def test_the_pages_cannot_act_for_themselves_and_a_program_cannot_act_as_pages(node):
    as_program = node.post("/oauth/token", {"grant_type": "client_credentials"}, ("pages", "pages-secret"))
    as_pages = node.redeem(node.code(), auth=(REFERRER, node.logins[REFERRER]))
    assert as_program.json["error"] == "unauthorized_client"
    assert as_pages.json["error"] == "unauthorized_client"


def test_parameters_in_the_address_or_given_twice_or_in_another_form_are_refused(node):
    auth = (REFERRER, node.logins[REFERRER])
    once = {"grant_type": "client_credentials"}
    twice = {"grant_type": ["client_credentials", "client_credentials"]}
    refused = [
        node.post("/oauth/token?grant_type=client_credentials", {}, auth),
        node.post("/oauth/token?scope=requests:read", once, auth),
        node.post("/oauth/token", twice, auth),
        node.post("/oauth/token", once, auth, content_type="multipart/form-data"),
        node.post("/oauth/token", json.dumps(once), auth, content_type="application/json"),
    ]
    assert [(response.status_code, response.json["error"]) for response in refused] == [(400, "invalid_request")] * 5
    assert node.post("/oauth/token", once, auth).status_code == 200


def test_a_large_request_is_not_read(node):
    response = node.post("/oauth/token", {"grant_type": "x" * 20_000}, (REFERRER, node.logins[REFERRER]))
    assert response.status_code == 413


# -- authorization code


def test_a_person_signs_in_on_the_page(node):
    returned = answer(node.sign_in(COORDINATOR))
    assert returned["state"] == "state-1"
    assert returned["iss"] == ISSUER
    response = node.redeem(returned["code"])
    principal = node.principal(response.json["access_token"])
    assert (principal.organisation, principal.client_id) == ("be-coordinator", "pages")
    assert principal.scopes == SCOPES_OF_ROLE[principal.role]
    assert response.headers["Cache-Control"] == "no-store"
    assert "refresh_token" not in response.json


def test_a_page_that_asks_for_less_gets_less_and_never_more_than_the_role(node):
    code = node.code(username=REFERRER, scope="requests:read placements:sign")
    assert node.redeem(code).json["scope"] == "requests:read"


@pytest.mark.parametrize("scope", ["placements:sign", "admin"])
def test_a_page_that_asks_only_for_what_cannot_be_had_is_told_so(scope, node):
    returned = answer(node.sign_in(REFERRER, scope=scope) if scope != "admin" else node.ask(scope=scope))
    assert returned == {"error": "invalid_scope", "state": "state-1", "iss": ISSUER}


@pytest.mark.attack(28)
def test_a_code_used_twice_gives_nothing_and_revokes_the_first_token(node):
    code = node.code()
    token = node.redeem(code).json["access_token"]
    assert node.principal(token)
    assert node.redeem(code).json["error"] == "invalid_grant"
    with pytest.raises(InvalidToken) as refused:
        node.principal(token)
    assert refused.value.reason is Reason.REVOKED


@pytest.mark.attack(28)
def test_a_code_used_twice_at_once_leaves_no_working_token(node):
    code = node.code()
    together = threading.Barrier(4)
    responses: list[TestResponse] = []

    def redeem() -> None:
        together.wait()
        responses.append(node.redeem(code))

    threads = [threading.Thread(target=redeem) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tokens = [response.json["access_token"] for response in responses if response.status_code == 200]
    assert len(tokens) == 1
    with pytest.raises(InvalidToken):
        node.principal(tokens[0])


def test_a_code_used_again_after_it_expired_still_revokes_its_token(node, clock):
    code = node.code()
    token = node.redeem(code).json["access_token"]
    clock.advance(seconds=200)
    assert node.principal(token)
    node.redeem(code)
    with pytest.raises(InvalidToken):
        node.principal(token)


def test_a_code_is_only_good_for_the_client_it_was_given_to(node, clock):
    codes = AuthorizationCodes(node.store, clock)
    issued = AuthorizationCode(
        account=ACCOUNTS[0],
        client_id="pages",
        redirect_uri=REDIRECT,
        code_challenge=CHALLENGE,
        scope="requests:read",
        token_id="token-1",
        issued_at=clock.time,
    )
    codes.add("code-1", issued)
    assert codes.take("code-1", "other-pages") is None
    assert codes.take("code-1", "pages") is issued


@pytest.mark.parametrize(("seconds", "status"), [(59, 200), (60, 400), (61, 400)])
@pytest.mark.attack(29)
def test_a_code_lives_a_minute(seconds, status, node, clock):
    code = node.code()
    clock.advance(seconds=seconds)
    assert node.redeem(code).status_code == status


def test_codes_that_nobody_used_are_forgotten(node, clock, monkeypatch):
    monkeypatch.setattr(oauth_grants, "_CODES_KEPT", 3)
    codes = []
    for _ in range(5):
        codes.append(node.code())
        clock.advance(seconds=1)
    assert [node.redeem(code).status_code for code in codes] == [400, 400, 200, 200, 200]


@pytest.mark.parametrize(
    "wrong",
    [
        {"code_verifier": "another-code-verifier-of-forty-three-characters-x"},
        {"code_verifier": None},
        {"code_verifier": ""},
        {"code_verifier": CHALLENGE},
        {"code_verifier": VERIFIER.upper()},
        {"redirect_uri": None},
        {"redirect_uri": f"{REDIRECT}/"},
        {"code": "made-up"},
        {"code": None},
    ],
    ids=str,
)
@pytest.mark.attack(30)
def test_a_code_with_the_wrong_proof_gives_nothing(wrong, node):
    response = node.redeem(node.code(), **wrong)
    assert response.status_code == 400
    assert response.json["error"] in {"invalid_grant", "invalid_request"}
    assert set(response.json) == {"error", "error_description"}


def test_a_stolen_code_allows_one_guess_at_its_verifier(node):
    code = node.code()
    node.redeem(code, code_verifier="another-code-verifier-of-forty-three-characters-x")
    assert node.redeem(code).json["error"] == "invalid_grant"


def test_a_code_without_the_secret_of_the_pages_gives_nothing_and_stays_good(node):
    code = node.code()
    assert node.redeem(code, auth=("pages", "wrong")).status_code == 401
    assert node.redeem(code).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge_method": "plain", "code_challenge": VERIFIER},
        {"code_challenge": "short"},
        {"code_challenge": CHALLENGE + "A"},
        {"code_challenge": CHALLENGE + "\n"},
        {"state": None},
        {"state": ""},
    ],
    ids=str,
)
@pytest.mark.attack(30, 33)
def test_a_sign_in_without_state_or_s256_is_sent_back_with_an_error(wrong, node):
    returned = answer(node.ask(**wrong))
    assert (returned["error"], returned["iss"]) == ("invalid_request", ISSUER)
    assert returned.get("state") == (None if "state" in wrong else "state-1")


@pytest.mark.parametrize("response_type", ["token", "code token", "id_token", "", None, '"><script>', "coöde"])
def test_only_the_code_flow_exists(response_type, node):
    assert answer(node.ask(response_type=response_type))["error"] == "unsupported_response_type"


@pytest.mark.parametrize(
    "redirect_uri",
    [
        None,
        "",
        f"{REDIRECT}/",
        f"{REDIRECT}/more",
        f"{REDIRECT}?next=x",
        f"{REDIRECT}#x",
        f"{REDIRECT}%2f..",
        f"{REDIRECT}/../elsewhere",
        REDIRECT.upper(),
        REDIRECT.replace("http:", "https:"),
        REDIRECT.replace(":8080", ":8081"),
        REDIRECT.replace(":8080", ""),
        REDIRECT.replace("127.0.0.1", "127.0.0.1@attacker.example"),
        REDIRECT.replace("127.0.0.1", "attacker.example"),
        REDIRECT.replace("127.0.0.1", "127.0.0.1.attacker.example"),
        REDIRECT.replace("127.0.0.1", "localhost"),
        "http://127.0.0.1:8080\\@attacker.example/signed-in",
        "http:\\\\127.0.0.1:8080\\signed-in",
        "//127.0.0.1:8080/signed-in",
        "//attacker.example",
        "/signed-in",
        "javascript:alert(1)",
        f" {REDIRECT}",
        f"{REDIRECT}\r\nSet-Cookie: a=b",
    ],
)
@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.attack(31)
def test_a_redirect_address_that_is_not_registered_to_the_letter_leads_nowhere(redirect_uri, method, node):
    response = getattr(node.browser, method)(authorize(redirect_uri=redirect_uri), base_url=ISSUER)
    assert response.status_code == 400
    assert response.location is None
    assert "attacker" not in response.text


@pytest.mark.parametrize("client_id", [None, "", "nobody", REFERRER, "'"])
def test_an_unknown_client_leads_nowhere(client_id, node):
    response = node.ask(client_id=client_id)
    assert (response.status_code, response.location) == (400, None)


@pytest.mark.parametrize("twice", ["state", "redirect_uri", "client_id", "scope", "response_type"])
def test_a_parameter_given_twice_leads_nowhere(twice, node):
    response = node.browser.get(f"{authorize(scope='requests:read')}&{twice}=x", base_url=ISSUER)
    assert (response.status_code, response.location) == (400, None)


@pytest.mark.parametrize("name", ["redirect_uri", "client_id", "state", "code_challenge", "scope", "anything"])
def test_the_form_cannot_change_what_the_link_asked_for(name, node):
    form = {"username": COORDINATOR, "password": node.logins[COORDINATOR], "csrf": csrf(node.ask()), name: "x"}
    response = node.browser.post(authorize(), base_url=ISSUER, data=form)
    assert (response.status_code, response.location) == (400, None)


def test_whatever_the_state_holds_comes_back_as_data(node):
    state = 'a&b=c\r\nSet-Cookie: x=y"<é'
    assert answer(node.sign_in(state=state))["state"] == state


# -- the page


def test_the_page_is_one_form_that_loads_and_runs_nothing(node):
    page = node.ask()
    assert page.status_code == 200
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["form-action"] == f"'self' {ISSUER}"
    style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)[1]
    assert policy["style-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
    assert not re.search(r"<script|<link|<img|<iframe|\son\w+=|https?://|style=", page.text)
    assert '<html lang="en">' in page.text
    assert 'name="viewport"' in page.text
    assert re.findall(r'<label for="(\w+)"', page.text) == re.findall(r'<input id="(\w+)"', page.text)
    assert "synthetic" in page.text


def test_the_cookie_of_the_form_stays_in_the_form(node):
    cookie = node.ask().headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/oauth/authorize"} <= set(cookie.split("; "))


def test_wrong_name_and_wrong_password_look_the_same(node):
    wrong_password = node.sign_in(COORDINATOR, "wrong")
    wrong_name = node.sign_in("nobody", "wrong")
    assert wrong_password.status_code == wrong_name.status_code == 403
    assert re.sub("[0-9a-f]{64}", "", wrong_password.text) == re.sub("[0-9a-f]{64}", "", wrong_name.text)
    assert 'role="alert"' in wrong_name.text
    assert "nobody" not in wrong_name.text


@pytest.mark.parametrize(("username", "password"), [("pages", "pages-secret"), ("", ""), (COORDINATOR, "")])
def test_what_is_not_an_account_with_its_password_does_not_sign_in(username, password, node):
    assert node.sign_in(username, password).status_code == 403


@pytest.mark.attack(37)
def test_a_form_that_another_site_sends_is_refused(node):
    form = {"username": COORDINATOR, "password": node.logins[COORDINATOR], "csrf": csrf(node.ask())}
    for headers in ({"Origin": "https://attacker.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"}):
        assert node.browser.post(authorize(), base_url=ISSUER, data=form, headers=headers).status_code == 403
    for site in ("cross-site", "same-site", "none"):
        headers = {"Sec-Fetch-Site": site}
        assert node.browser.post(authorize(), base_url=ISSUER, data=form, headers=headers).status_code == 403
    headers = {"Origin": ISSUER, "Sec-Fetch-Site": "same-origin"}
    assert node.browser.post(authorize(), base_url=ISSUER, data=form, headers=headers).status_code == 303


@pytest.mark.attack(33, 37)
def test_a_form_without_its_token_or_its_cookie_or_for_another_request_is_refused(node):
    account = {"username": COORDINATOR, "password": node.logins[COORDINATOR]}
    token = csrf(node.ask())
    send = {"base_url": ISSUER, "data": account | {"csrf": token}}
    assert node.browser.post(authorize(), base_url=ISSUER, data=account).status_code == 403
    assert node.browser.post(authorize(), base_url=ISSUER, data=account | {"csrf": "é"}).status_code == 403
    assert node.program.post(authorize(), **send).status_code == 403
    assert node.browser.post(authorize(state="another"), **send).status_code == 403
    assert node.browser.post(authorize(), **send).status_code == 303


# -- guessing


@pytest.mark.attack(61)
def test_guessing_is_slowed_down_for_a_minute_and_then_allowed_again(node, clock):
    assert [node.sign_in(COORDINATOR, "wrong").status_code for _ in range(6)] == [403] * 5 + [429]
    refused = node.sign_in(COORDINATOR)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
    clock.advance(seconds=60)
    assert node.sign_in(COORDINATOR).status_code == 303


def test_a_program_that_guesses_is_slowed_down_too(node):
    tried = [node.post("/oauth/token", {"grant_type": "client_credentials"}, (REFERRER, "wrong")) for _ in range(6)]
    assert [response.status_code for response in tried] == [401] * 5 + [429]
    assert tried[-1].headers["Retry-After"] == "60"
    assert node.login(REFERRER).status_code == 429
    assert node.login(COORDINATOR).status_code == 200


@pytest.mark.attack(44)
def test_names_that_do_not_exist_are_slowed_down_like_those_that_do(node):
    tried = [node.post("/oauth/token", {"grant_type": "client_credentials"}, ("nobody", "x")) for _ in range(6)]
    assert [response.status_code for response in tried] == [401] * 5 + [429]


@pytest.mark.attack(61)
def test_guessing_across_names_is_slowed_down_for_the_whole_process(node):
    statuses = [
        node.post("/oauth/token", {"grant_type": "client_credentials"}, (f"name-{number}", "x")).status_code
        for number in range(105)
    ]
    assert statuses[-1] == 429
    assert node.login(COORDINATOR).status_code == 429


def test_the_memory_of_attempts_is_bounded(clock):
    credentials = Credentials({}, clock)
    for number in range(5000):
        with pytest.raises((SignInRefused, TooManySignIns)):
            credentials.check(f"name-{number}", "x")
        clock.advance(seconds=0.1)
    assert sum(map(len, credentials._by_name)) <= sign_in._NAME_BUCKETS * sign_in.SIGN_INS_PER_NAME
    assert len(credentials._all) <= sign_in.SIGN_INS_PER_PROCESS


def test_signing_in_rightly_is_never_slowed_down(node):
    assert {node.login(REFERRER).status_code for _ in range(120)} == {200}


def test_no_plain_secret_is_kept_for_checking(node):
    credentials = Credentials(node.logins, Clock())
    kept = repr(vars(credentials))
    assert credentials._digests
    assert not any(secret in kept for secret in node.logins.values())


# -- tokens that are bound to a key


def proof(key: SenderKey, url: str = f"{ISSUER}/oauth/token", method: str = "POST") -> list[tuple[str, str]]:
    return [("DPoP", key.proof(method, url))]


def thumbprint(key: SenderKey) -> str:
    return key._key.thumbprint()


@pytest.fixture
def key(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> SenderKey:
    monkeypatch.setattr(time, "time", lambda: clock().timestamp())  # the program's clock is right
    return SenderKey()


CREDENTIALS = {"grant_type": "client_credentials"}


def test_a_program_that_shows_a_key_gets_a_token_bound_to_it(node, key):
    response = node.post("/oauth/token", CREDENTIALS, (REFERRER, node.logins[REFERRER]), headers=proof(key))
    assert response.json["token_type"] == "DPoP"
    token = response.json["access_token"]
    assert node.verifier.principal(token).confirmation == thumbprint(key)
    with pytest.raises(InvalidToken):
        node.principal(token)


def test_a_person_who_signs_in_through_a_client_with_a_key_gets_a_token_bound_to_it(node, key):
    for changes in ({}, {"dpop_jkt": thumbprint(key)}):
        response = node.redeem(node.code(**changes), headers=proof(key))
        assert response.json["token_type"] == "DPoP"
        assert node.verifier.principal(response.json["access_token"]).confirmation == thumbprint(key)


def test_a_code_that_was_asked_for_with_a_key_is_worth_nothing_with_another_or_none(node, key):
    for headers in ([], proof(SenderKey())):
        response = node.redeem(node.code(dpop_jkt=thumbprint(key)), headers=headers)
        assert (response.status_code, response.json["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("dpop_jkt", ["", "short", "A" * 44, "A" * 42 + "=", "A" * 42 + "\n"])
def test_a_sign_in_that_names_no_possible_key_is_sent_back_with_an_error(dpop_jkt, node):
    assert answer(node.ask(dpop_jkt=dpop_jkt))["error"] == "invalid_request"


def test_a_proof_that_does_not_fit_gets_no_token(node, key, clock):
    auth = (REFERRER, node.logins[REFERRER])
    used = proof(key)
    assert node.post("/oauth/token", CREDENTIALS, auth, headers=used).status_code == 200
    access_token = node.token(COORDINATOR)
    for headers in (
        used,
        proof(key, method="GET"),
        proof(key, f"{ISSUER}/oauth/revoke"),
        proof(key, "http://localhost:8080/oauth/token"),
        [*proof(key), *proof(key)],
        [("DPoP", "")],
        [("DPoP", access_token)],
    ):
        response = node.post("/oauth/token", CREDENTIALS, auth, headers=headers)
        assert (response.status_code, response.json["error"]) == (400, "invalid_dpop_proof")
        assert set(response.json) == {"error", "error_description"}
    old = proof(key)
    clock.advance(seconds=61)
    assert node.post("/oauth/token", CREDENTIALS, auth, headers=old).json["error"] == "invalid_dpop_proof"


def test_a_code_is_used_up_by_a_request_whose_proof_is_refused(node, key):
    """Whoever has a stolen code gets a single guess at its key, too."""
    code = node.code()
    assert node.redeem(code, headers=proof(key, method="GET")).json["error"] == "invalid_dpop_proof"
    assert node.redeem(code, headers=proof(key)).json["error"] == "invalid_grant"


def test_whoever_gets_no_token_uses_no_proof_up(node, key):
    headers = proof(key)
    assert node.post("/oauth/token", CREDENTIALS, (REFERRER, "wrong"), headers=headers).status_code == 401
    assert node.redeem("made-up", headers=headers).status_code == 400
    assert node.post("/oauth/token", CREDENTIALS, (REFERRER, node.logins[REFERRER]), headers=headers).status_code == 200


def test_a_bound_token_can_be_revoked_like_any_other(node, key):
    auth = (REFERRER, node.logins[REFERRER])
    token = node.post("/oauth/token", CREDENTIALS, auth, headers=proof(key)).json["access_token"]
    assert node.post("/oauth/revoke", {"token": token}, auth).status_code == 200
    with pytest.raises(InvalidToken) as refused:
        node.verifier.principal(token)
    assert refused.value.reason is Reason.REVOKED


# -- how and when somebody signed in


def test_a_token_says_when_and_how_its_person_signed_in(node, clock):
    code, signed_in_at = node.code(), clock.time
    clock.advance(seconds=40)
    person = node.principal(node.redeem(code).json["access_token"])
    assert (person.authenticated_at, person.issued_at) == (signed_in_at, clock.time)
    program = node.principal(node.token(REFERRER))
    assert program.authenticated_at == clock.time
    assert person.acr == program.acr == PASSWORD_ACR
    assert not program.is_machine


@pytest.mark.parametrize(
    "asked",
    [
        {"max_age": "0"},
        {"max_age": "300"},
        {"prompt": "login"},
        {"acr_values": PASSWORD_ACR},
        {"acr_values": f"urn:other {PASSWORD_ACR}"},
        {"max_age": "0", "prompt": "login", "acr_values": PASSWORD_ACR},
    ],
    ids=str,
)
def test_whoever_asks_for_a_fresh_sign_in_gets_one(asked, node, clock):
    node.code()
    clock.advance(seconds=50)
    token = node.redeem(node.code(**asked)).json["access_token"]
    assert node.principal(token).authenticated_at == clock.time


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"max_age": ""}, "invalid_request"),
        ({"max_age": "1e3"}, "invalid_request"),
        ({"max_age": "9" * 10}, "invalid_request"),
        ({"max_age": "\u0663"}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "consent"}, "invalid_request"),
        ({"prompt": ""}, "invalid_request"),
        ({"acr_values": "urn:haven:acr:card"}, "unmet_authentication_requirements"),
        ({"acr_values": PASSWORD_ACR.upper()}, "unmet_authentication_requirements"),
        ({"acr_values": ""}, "unmet_authentication_requirements"),
    ],
    ids=str,
)
def test_a_sign_in_that_cannot_be_given_is_not_promised(asked, error, node):
    assert answer(node.ask(**asked)) == {"error": error, "state": "state-1", "iss": ISSUER}


@pytest.mark.parametrize(
    "twice",
    [
        "max_age=300&max_age=0",
        "prompt=login&prompt=none",
        f"acr_values={PASSWORD_ACR}&acr_values=x",
        f"dpop_jkt={'A' * 43}&dpop_jkt={'B' * 43}",
        f"code_challenge={CHALLENGE}",
    ],
)
def test_how_somebody_is_to_sign_in_cannot_be_asked_twice(twice, node):
    assert answer(node.browser.get(f"{authorize()}&{twice}", base_url=ISSUER))["error"] == "invalid_request"


# -- revocation


def test_a_token_can_be_revoked_by_whoever_got_it(node):
    auth = (REFERRER, node.logins[REFERRER])
    token = node.token(REFERRER)
    assert node.post("/oauth/revoke", {"token": token}, auth).status_code == 200
    with pytest.raises(InvalidToken) as refused:
        node.principal(token)
    assert refused.value.reason is Reason.REVOKED
    assert node.post("/oauth/revoke", {"token": token}, auth).status_code == 200
    assert node.principal(node.token(REFERRER))


def test_nobody_revokes_the_token_of_another(node):
    token = node.token(REFERRER)
    response = node.post("/oauth/revoke", {"token": token}, (COORDINATOR, node.logins[COORDINATOR]))
    assert response.json["error"] == "invalid_grant"
    assert node.post("/oauth/revoke", {"token": token}, None).status_code == 401
    assert node.principal(token)


@pytest.mark.parametrize("form", [{"token": "made-up"}, {"token": "a.b.c"}, {"token": "é" * 10}])
def test_revoking_what_is_no_token_succeeds_and_changes_nothing(form, node):
    assert node.post("/oauth/revoke", form, (REFERRER, node.logins[REFERRER])).status_code == 200


def test_revoking_nothing_is_refused(node):
    response = node.post("/oauth/revoke", {}, (REFERRER, node.logins[REFERRER]))
    assert (response.status_code, response.json["error"]) == (400, "invalid_request")


@pytest.mark.attack(13)
def test_a_revoked_token_stays_revoked_after_a_restart(tmp_path, clock):
    before = Node(tmp_path, clock)
    revoked, kept = before.token(REFERRER), before.token(REFERRER)
    before.post("/oauth/revoke", {"token": revoked}, (REFERRER, before.logins[REFERRER]))
    # No close: the process was killed.
    after = Node(tmp_path, clock)
    assert after.principal(kept)
    with pytest.raises(InvalidToken) as refused:
        after.principal(revoked)
    assert refused.value.reason is Reason.REVOKED
    before.store.close()
    after.store.close()


def test_a_revoked_person_is_out_at_once_and_does_not_come_in_again(node, clock):
    token, code = node.token(COORDINATOR), node.code()
    node.store.revoke(f"synthetic.{COORDINATOR}", clock.time + timedelta(hours=1))
    with pytest.raises(InvalidToken):
        node.principal(token)
    assert node.redeem(code).json["error"] == "invalid_grant"
    assert node.login(COORDINATOR).status_code == 401
    assert node.login(f"{COORDINATOR}-for-nl").status_code == 401
    assert node.sign_in(COORDINATOR).status_code == 403
    clock.advance(hours=1)
    assert node.login(COORDINATOR).status_code == 200


# -- metadata


def test_the_metadata_is_valid_and_promises_only_what_exists(node):
    response = node.program.get("/.well-known/oauth-authorization-server", base_url=ISSUER)
    AuthorizationServerMetadata(response.json).validate()
    assert response.json["issuer"] == ISSUER
    assert response.json["response_types_supported"] == ["code"]
    assert response.json["code_challenge_methods_supported"] == ["S256"]
    assert response.json["authorization_response_iss_parameter_supported"] is True
    assert set(response.json["scopes_supported"]) == set(Scope)
    assert response.json["dpop_signing_alg_values_supported"] == ["ES256", "PS256", "Ed25519", "EdDSA"]
    assert response.json["acr_values_supported"] == [PASSWORD_ACR]
    adapter = node.program.application.url_map.bind("")
    for endpoint, method in [("authorization", "GET"), ("token", "POST"), ("revocation", "POST")]:
        url = response.json[f"{endpoint}_endpoint"]
        assert url.startswith(f"{ISSUER}/")
        assert adapter.match(urlsplit(url).path, method=method)
    assert adapter.match(urlsplit(response.json["jwks_uri"]).path)


def test_the_published_key_checks_and_does_not_sign(node):
    (key,) = node.program.get("/oauth/jwks.json", base_url=ISSUER).json["keys"]
    assert "d" not in key
    assert (key["use"], key["alg"], key["kid"]) == ("sig", "ES256", node.signing_key.thumbprint())
    assert jwt.decode(node.token(REFERRER), ECKey.import_key(key), algorithms=["ES256"])


# -- this machine only


@pytest.mark.parametrize(
    "issuer",
    [
        "https://haven.example",
        "http://0.0.0.0:8080",
        "http://192.168.1.10:8080",
        "http://127.0.0.1.attacker.example",
        "http://127.0.0.1@attacker.example",
        "http://user@127.0.0.1:8080",
        "http://[::]:8080",
        "http://localhost.example",
        "ftp://127.0.0.1",
        "127.0.0.1:8080",
        "",
        "http://[::1",
    ],
)
def test_an_issuer_that_is_not_this_machine_does_not_start(issuer, tmp_path, clock):
    with pytest.raises(ConfigurationError, match=r"not on this machine.*external issuer"):
        Node(tmp_path, clock, issuer)


@pytest.mark.parametrize(
    "issuer", [f"{ISSUER}/", f"{ISSUER}/haven", f"{ISSUER}?x", "HTTP://127.0.0.1:8080", "http://LOCALHOST"]
)
def test_an_issuer_is_scheme_host_and_port_only(issuer, tmp_path, clock):
    with pytest.raises(ConfigurationError, match="scheme, host and port"):
        Node(tmp_path, clock, issuer)


@pytest.mark.parametrize(
    "issuer", ["http://localhost:8080", "http://[::1]:8080", "http://127.0.0.9:80", "http://localhost"]
)
def test_every_name_of_this_machine_will_do(issuer, tmp_path, clock):
    assert Node(tmp_path, clock, issuer).login(REFERRER).status_code == 200


def test_pages_elsewhere_or_named_like_an_account_do_not_start(tmp_path, clock, monkeypatch):
    elsewhere = PagesClient(client_id="pages", secret="x", redirect_uris=frozenset({"https://haven.example/signed-in"}))
    monkeypatch.setitem(globals(), "PAGES", elsewhere)
    with pytest.raises(ConfigurationError, match="address of the pages"):
        Node(tmp_path, clock)
    monkeypatch.setitem(globals(), "PAGES", PagesClient(client_id=REFERRER, secret="x", redirect_uris=frozenset()))
    with pytest.raises(ConfigurationError, match="also a user name"):
        Node(tmp_path, clock)


def test_an_external_issuer_keeps_the_demo_accounts_out():
    with pytest.raises(ConfigurationError, match="remove the issuer setting"):
        refuse_when_external("https://sign-in.example/realms/haven")
    refuse_when_external(None)
    refuse_when_external("")


EVERY_ROUTE = [
    ("GET", "/.well-known/oauth-authorization-server"),
    ("GET", "/oauth/jwks.json"),
    ("GET", authorize()),
    ("POST", authorize()),
    ("POST", "/oauth/token"),
    ("POST", "/oauth/revoke"),
]


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.1", "::ffff:192.0.2.1", "", "unix:"])
def test_a_stranger_is_refused_everywhere(address, method, path, node):
    response = node.program.open(path, method=method, base_url=ISSUER, environ_overrides={"REMOTE_ADDR": address})
    assert response.status_code == 403
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via", "X-Forwarded-Host"])
@pytest.mark.attack(27)
def test_whoever_comes_through_a_proxy_is_refused(header, method, path, node):
    response = node.program.open(path, method=method, base_url=ISSUER, headers={header: "127.0.0.1"})
    assert response.status_code == 403


@pytest.mark.parametrize("host", ["http://attacker.example:8080", "http://localhost:8080", "http://127.0.0.1:8081"])
@pytest.mark.attack(51)
def test_the_node_answers_only_under_its_own_name(host, node):
    response = node.program.get("/oauth/jwks.json", base_url=host)
    assert response.status_code == 421
    assert "attacker" not in response.text


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_let_in(address, node):
    response = node.program.get("/oauth/jwks.json", base_url=ISSUER, environ_overrides={"REMOTE_ADDR": address})
    assert response.status_code == 200


def test_plain_http_works_without_switching_authlibs_check_off(node):
    assert "AUTHLIB_INSECURE_TRANSPORT" not in os.environ
    assert node.login(REFERRER).status_code == 200
    assert "AUTHLIB_INSECURE_TRANSPORT" not in os.environ


# -- what is on disk


def test_logins_are_kept_private_and_stay_the_same(tmp_path):
    first = load_or_create_logins(tmp_path, ACCOUNTS)
    assert (tmp_path / "demo-logins.json").stat().st_mode & 0o777 == 0o600
    assert load_or_create_logins(tmp_path, ACCOUNTS) == first
    assert len(set(first.values())) == len(ACCOUNTS)
    assert all(len(base64.urlsafe_b64decode(secret)) == 18 for secret in first.values())
    assert [file.name for file in tmp_path.iterdir()] == ["demo-logins.json"]


def test_a_new_shelter_gets_a_login_and_the_others_keep_theirs(tmp_path):
    first = load_or_create_logins(tmp_path, ACCOUNTS)
    second = load_or_create_logins(tmp_path, demo_principals([("shelter-1", "BE"), ("shelter-2", "NL")]))
    assert second.keys() - first.keys() == {"shelter-2-staff"}
    assert first.items() <= second.items()
    assert load_or_create_logins(tmp_path, ACCOUNTS) == first


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_crash_while_logins_are_written_leaves_the_old_file_whole(failing, tmp_path, monkeypatch):
    first = load_or_create_logins(tmp_path, ACCOUNTS)

    def crash(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as broken:
        broken.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), crash)
        with pytest.raises(OSError, match="power cut"):
            load_or_create_logins(tmp_path, demo_principals([("shelter-9", "LU")]))
    assert load_or_create_logins(tmp_path, ACCOUNTS) == first
    assert [file.name for file in tmp_path.iterdir()] == ["demo-logins.json"]


def test_logins_that_others_can_read_or_that_are_damaged_are_not_used_and_not_overwritten(tmp_path):
    load_or_create_logins(tmp_path, ACCOUNTS)
    path = tmp_path / "demo-logins.json"
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_or_create_logins(tmp_path, ACCOUNTS)
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="Move it away"):
        load_or_create_logins(tmp_path, ACCOUNTS)
    assert path.read_text() == "{"


def test_the_signing_key_is_kept_private_and_stays_the_same(tmp_path):
    first = load_or_create_signing_key(tmp_path)
    path = tmp_path / "demo-signing-key.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    again = load_or_create_signing_key(tmp_path)
    assert again.kid == first.kid == first.thumbprint()
    assert again.as_dict(private=True)["d"] == first.as_dict(private=True)["d"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        ECKey.generate_key("P-384").as_pem(private=True),
        ECKey.generate_key("P-256").as_pem(private=False),
    ],
    ids=["empty", "no key", "another curve", "public"],
)
def test_a_file_that_is_no_signing_key_is_not_used_and_not_overwritten(content, tmp_path):
    path = tmp_path / "demo-signing-key.pem"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="Move it away"):
        load_or_create_signing_key(tmp_path)
    assert path.read_bytes() == content


def test_a_signing_key_that_others_can_read_is_not_used(tmp_path):
    load_or_create_signing_key(tmp_path)
    (tmp_path / "demo-signing-key.pem").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_or_create_signing_key(tmp_path)


# -- the log


@pytest.mark.attack(52)
def test_nothing_secret_is_ever_logged(tmp_path, clock, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    node = Node(tmp_path, clock)
    code = node.code()
    token = node.redeem(code).json["access_token"]
    program_token = node.token(REFERRER)
    node.redeem(code)
    node.sign_in(COORDINATOR, "a-wrong-password")
    node.post("/oauth/token", {"grant_type": "client_credentials"}, (REFERRER, "a-wrong-secret"))
    node.post("/oauth/revoke", {"token": program_token}, (REFERRER, node.logins[REFERRER]))
    ((_, too_late),) = proof(SenderKey())
    monkeypatch.setattr(time, "time", clock.time.timestamp)
    ((_, fitting),) = proof(SenderKey())
    auth = (REFERRER, node.logins[REFERRER])
    assert node.post("/oauth/token", CREDENTIALS, auth, headers=[("DPoP", too_late)]).status_code == 400
    bound_token = node.post("/oauth/token", CREDENTIALS, auth, headers=[("DPoP", fitting)]).json["access_token"]
    logging.getLogger("heard").debug("the log is listening")

    assert "the log is listening" in caplog.text
    hidden = [code, token, program_token, VERIFIER, "pages-secret", "a-wrong-password", "a-wrong-secret"]
    hidden += [too_late, fitting, bound_token]
    assert not [secret for secret in [*hidden, *node.logins.values()] if secret in caplog.text]


def test_gateways_that_start_at_once_use_the_same_key_and_logins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one would refuse what the other signed, until it is started again."""
    both = threading.Barrier(2, timeout=20)
    read = node_secrets._read_private

    def at_once(path: Path) -> bytes | None:
        content = read(path)
        if content is None:
            both.wait()
        return content

    monkeypatch.setattr(node_secrets, "_read_private", at_once)
    with ThreadPoolExecutor(2) as gateways:
        keys = {key.kid for key in gateways.map(lambda _: load_or_create_signing_key(tmp_path), range(2))}
        logins = list(gateways.map(lambda _: load_or_create_logins(tmp_path, ACCOUNTS), range(2)))
    assert len(keys) == 1
    assert logins[0] == logins[1]
