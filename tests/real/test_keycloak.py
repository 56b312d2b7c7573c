"""Keycloak with our realm as the identity provider: what it gives to whom, what the gateway makes of it, and what happens when
it is away."""

import base64
import hashlib
import json
import secrets
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from deploy.artifacts import PartUnavailable
from deploy.keycloak import PAGES, Keycloak, KeycloakRefused, one_time_password, provision
from deploy.parts import Keycloak as KeycloakPart
from events.vocabulary import Role
from services import code_flow, sign_in_client
from services.gateway.dpop import Demand, ProofVerifier, SentProof
from services.gateway.issuer import Issuer
from services.gateway.key_set import KEYS_KEPT, KEYS_RENEWED, REFETCH_EVERY, KeyCache, KeysUnavailable
from services.gateway.principals import SCOPES_OF_ROLE, Account, Principal, Scope, demo_principals
from services.gateway.token_errors import InvalidToken, ProofRequired, Reason, SignInTooOldOrWeak
from services.gateway.tokens import LONGEST_LIFETIME, TokenVerifier
from services.sign_in_client import Browser, IssuerUnreachable, SignInFailed, Token, machine_token, sign_in

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(400)]

REALM = Path(__file__).resolve().parents[2] / "deploy" / "keycloak" / "realm.json"
ACCOUNTS = {account.username: account for account in demo_principals([("nl-shelter-1", "NL")])}
OF_ROLE = {account.role: account for account in ACCOUNTS.values()}
POLICE, COORDINATOR, SHELTER = "be-police-antwerp-1", "be-coordinator-1", "nl-shelter-1-staff"
PUBLIC_URL = "https://haven.example"
PASSWORD, SECOND_FACTOR = "urn:haven:acr:password", "urn:haven:acr:second-factor"
VERIFIER = "synthetic-code-verifier-of-more-than-43-characters"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")


class Receiver(ThreadingHTTPServer):
    """The address that browsers are sent back to; keeps what they bring."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ReceiverHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.received: list[str] = []


class ReceiverHandler(BaseHTTPRequestHandler):
    server: Receiver

    def do_GET(self) -> None:
        self.server.received.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"signed in")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield server
    server.shutdown()
    server.server_close()


class Provider:
    """A running Keycloak with every demo account, and the pages' side of it."""

    def __init__(self, part: KeycloakPart, pages_url: str) -> None:
        self.part = part
        self.admin_password = part.admin_password_file.read_text()
        self.passwords = {username: secrets.token_urlsafe(18) for username in ACCOUNTS}
        self.issuer = f"{part.url}/realms/haven"
        self.redirect_uri = f"{pages_url}/signed-in"
        provision(part.url, self.admin_password, ACCOUNTS.values(), self.passwords)
        with self.admin() as admin:
            self.secret = admin.client_secret()

    def admin(self) -> Keycloak:
        return Keycloak(self.part.url, self.admin_password)

    def sign_in(self, username: str, **more: Any) -> Token:
        given = {"password": self.passwords.get(username, ""), "redirect_uri": self.redirect_uri} | more
        return sign_in(self.issuer, PAGES, self.secret, given.pop("redirect_uri"), username, **given)

    def answer(self, username: str, **parameters: str) -> dict[str, str]:
        """What the browser is sent back with after signing in: an authorization request made by hand."""
        person = sign_in_client._Person(username, self.passwords[username], None)
        return sign_in_client._through_the_pages(Browser(), self.authorize(**parameters), self.redirect_uri, person)

    def exchange(self, code: str, verifier: str, **changes: str) -> tuple[int, dict[str, Any]]:
        """A token request made by hand."""
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier} | changes
        form.setdefault("redirect_uri", self.redirect_uri)
        basic = base64.b64encode(f"{PAGES}:{self.secret}".encode()).decode()
        status, _, body = code_flow.send(
            f"{self.issuer}/protocol/openid-connect/token", {"Authorization": f"Basic {basic}"}, urlencode(form)
        )
        return status, json.loads(body)

    def authorize(self, **parameters: str) -> str:
        """The address of an authorization request of the pages, with anything changed or, when empty, left out."""
        request = {
            "response_type": "code",
            "client_id": PAGES,
            "redirect_uri": self.redirect_uri,
            "scope": "openid",
            "state": "s" * 20,
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        } | parameters
        query = urlencode({name: value for name, value in request.items() if value})
        return f"{self.issuer}/protocol/openid-connect/auth?{query}"


@pytest.fixture(scope="module")
def provider(receiver: Receiver, without_part) -> Iterator[Provider]:
    folder = Path(tempfile.mkdtemp(prefix="haven-keycloak-"))
    part = KeycloakPart(folder, REALM, {"HAVEN_PUBLIC_URL": receiver.url})
    try:
        part.start()
    except PartUnavailable as failure:
        shutil.rmtree(folder)
        without_part("keycloak", failure)
    try:
        yield Provider(part, receiver.url)
    finally:
        part.kill()
        shutil.rmtree(folder)


@pytest.fixture
def admin(provider: Provider) -> Iterator[Keycloak]:
    with provider.admin() as admin:
        yield admin


class Clock:
    """Real time, and ahead of it by as much as a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


def verifier_for(provider: Provider, clock: Callable[[], datetime], **more: Any) -> TokenVerifier:
    used: set[str] = set()
    return TokenVerifier(
        issuer=provider.issuer,
        audience="haven",
        countries={"BE", "NL", "LU"},
        jwks=Issuer(provider.issuer, clock).key_set,
        is_revoked=lambda *_: False,
        proofs=ProofVerifier(
            public_url=PUBLIC_URL,
            is_first_use=lambda digest, _until: digest not in used and not used.add(digest),
            now=clock,
        ),
        now=clock,
        **more,
    )


@pytest.fixture
def verifier(provider: Provider, clock: Clock) -> TokenVerifier:
    return verifier_for(provider, clock)


def reason(verifier: TokenVerifier, token: str) -> tuple[Reason, str]:
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(f"Bearer {token}")
    return refused.value.reason, refused.value.claim


def part_of(token: str, which: int) -> dict[str, Any]:
    return json.loads(base64.urlsafe_b64decode(token.split(".")[which] + "=="))


def header(token: Token) -> dict[str, Any]:
    return part_of(token.access_token, 0)


def claims(token: Token) -> dict[str, Any]:
    return part_of(token.access_token, 1)


def made_up(username: str, **changes: Any) -> Account:
    """An account of this test alone."""
    return Account(
        **{
            "username": username,
            "person": f"synthetic.{username}",
            "role": Role.COORDINATOR,
            "organisation": "be-coordinator",
            "country": "BE",
            "description": "Synthetic, for one test",
            **changes,
        }
    )


# Who it is


@pytest.mark.parametrize("account", OF_ROLE.values(), ids=OF_ROLE)
def test_whoever_signs_in_is_known_by_role_organisation_and_country(
    account: Account, provider: Provider, verifier: TokenVerifier, clock: Clock
) -> None:
    before = clock() - timedelta(seconds=1)
    principal = verifier.verify(f"Bearer {provider.sign_in(account.username).access_token}")
    assert principal == Principal(
        person=account.person,
        role=account.role,
        organisation=account.organisation,
        country=account.country,
        scopes=frozenset(SCOPES_OF_ROLE[account.role]),
        client_id=PAGES,
        token_id=principal.token_id,
        issued_at=principal.issued_at,
        authenticated_at=principal.authenticated_at,
        acr=PASSWORD,
        confirmation=None,
    )
    assert before < principal.authenticated_at <= principal.issued_at <= clock()


def test_all_six_roles_sign_in() -> None:
    assert set(OF_ROLE) == set(Role) - {Role.SYSTEM}


def test_a_token_is_an_access_token_of_five_minutes_that_says_nothing_more_about_a_person(provider: Provider) -> None:
    token = provider.sign_in(POLICE)
    assert header(token) == {"alg": "ES256", "typ": "at+jwt", "kid": header(token)["kid"]}
    told = claims(token)
    assert timedelta(seconds=told["exp"] - told["iat"]) <= LONGEST_LIFETIME
    assert token.expires_in <= 300
    registered = {
        "iss",
        "sub",
        "aud",
        "exp",
        "iat",
        "jti",
        "client_id",
        "azp",
        "scope",
        "auth_time",
        "acr",
        "sid",
        "typ",
    }
    assert set(told) == registered | {"haven_role", "haven_organisation", "haven_country", "haven_person"}
    assert told["aud"] == "haven"
    assert told["acr"] == PASSWORD
    assert not any(name.startswith("haven_") for name in part_of(token.id_token, 1))


def test_nothing_is_given_out_that_outlives_the_session(provider: Provider) -> None:
    code = provider.answer(POLICE)["code"]
    status, given = provider.exchange(code, VERIFIER)
    assert status == 200
    assert {name for name in given if "refresh" in name} <= {"refresh_expires_in"}
    assert given.get("refresh_expires_in", 0) == 0
    with pytest.raises(SignInFailed, match="invalid_scope"):
        provider.sign_in(POLICE, scope="offline_access")


# Who gets nothing


def test_a_token_for_another_audience_is_refused(provider: Provider, verifier: TokenVerifier, admin: Keycloak) -> None:
    secret = admin.machine_client("for-nobody", ACCOUNTS[SHELTER], ["capacity:read"], dpop=False, audience=False)
    token = machine_token(provider.issuer, "for-nobody", secret)
    assert "aud" not in claims(token)
    assert reason(verifier, token.access_token)[0] is Reason.CLAIM


def test_an_account_without_a_role_gets_a_token_that_opens_nothing(
    provider: Provider, verifier: TokenVerifier, admin: Keycloak
) -> None:
    client = {"clientId": "nobody", "serviceAccountsEnabled": True, "standardFlowEnabled": False, "secret": "s" * 30}
    attributes = {"access.token.header.type.rfc9068": "true"}
    admin.request(
        "POST", "/clients", client | {"attributes": attributes, "defaultClientScopes": ["haven", "audit:read"]}
    )
    token = machine_token(provider.issuer, "nobody", "s" * 30)
    assert claims(token)["aud"] == "haven"
    assert reason(verifier, token.access_token)[0] is Reason.CLAIM


@pytest.mark.parametrize(
    "attributes",
    [
        {"haven_role": []},
        {"haven_role": ["coordinator", "auditor"]},
        {"haven_role": ["system"]},
        {"haven_organisation": ["an organisation"]},
        {"haven_organisation": []},
        {"haven_country": ["Belgium"]},
        {"haven_person": ["-"]},
    ],
    ids=str,
)
def test_no_account_is_made_without_exactly_one_role_organisation_country_and_person(
    attributes: dict[str, list[str]], admin: Keycloak
) -> None:
    good = {
        "haven_role": ["coordinator"],
        "haven_organisation": ["be-coordinator"],
        "haven_country": ["BE"],
        "haven_person": ["synthetic.refused"],
    }
    with pytest.raises(KeycloakRefused, match=next(iter(attributes))) as refused:
        admin.request("POST", "/users", {"username": "refused", "enabled": True, "attributes": good | attributes})
    assert refused.value.status == 400


def test_what_is_not_described_is_not_kept_about_anybody(admin: Keycloak) -> None:
    user_id = admin.person(made_up("described"), secrets.token_urlsafe(18))
    user = admin.request("GET", f"/users/{user_id}")
    user["attributes"]["telephone"] = ["+32 synthetic"]
    admin.request("PUT", f"/users/{user_id}", user | {"firstName": "Synthetic", "lastName": "Name"})
    kept = admin.request("GET", f"/users/{user_id}")
    assert set(kept["attributes"]) == {"haven_role", "haven_organisation", "haven_country", "haven_person"}
    assert "firstName" not in kept


@pytest.mark.parametrize("client", [PAGES, "admin-cli", "account", "account-console", "security-admin-console"])
def test_no_client_takes_a_password_itself(client: str, provider: Provider) -> None:
    password = {
        "grant_type": "password",
        "username": POLICE,
        "password": provider.passwords[POLICE],
        "client_id": client,
    }
    more = {"client_secret": provider.secret} if client == PAGES else {}
    address = f"{provider.issuer}/protocol/openid-connect/token"
    status, _, body = code_flow.send(address, {}, urlencode(password | more))
    assert status in (400, 401)
    assert json.loads(body)["error"] in ("unauthorized_client", "invalid_client")


@pytest.mark.parametrize("page", ["login-actions/registration", "login-actions/reset-credentials", "account/"])
def test_nobody_registers_resets_or_edits_by_themselves(page: str, provider: Provider) -> None:
    browser = Browser()
    browser.send(provider.authorize())
    shown = follow(browser, f"{provider.issuer}/{page}?client_id={PAGES}")
    assert shown.status in (400, 403, 404) or forms(shown) == ["kc-form-login"]


def test_the_sign_in_page_offers_no_registration(provider: Provider) -> None:
    page = follow(Browser(), provider.authorize(prompt="create"))
    assert page.status == 400 or forms(page) == ["kc-form-login"]
    assert "login-actions/registration" not in follow(Browser(), provider.authorize()).body


def follow(browser: Browser, address: str, form: dict[str, str] | None = None) -> Any:
    """The page that redirects lead to, as long as they stay with the issuer."""
    for _ in range(6):
        page = browser.send(address, form)
        if page.location is None:
            return page
        address, form = urljoin(address, page.location), None
    raise AssertionError("redirects without end")


def forms(page: Any) -> list[str]:
    return [form.name for form in sign_in_client._Forms(page.body).forms]


def test_the_admin_console_is_not_a_way_in_for_people_of_the_realm(provider: Provider) -> None:
    address = provider.authorize(
        client_id="security-admin-console", redirect_uri=f"{provider.part.url}/admin/haven/console/"
    )
    page = Browser().send(address)
    assert page.status == 400
    assert page.location is None


def test_nobody_makes_themselves_something_else(provider: Provider, admin: Keycloak) -> None:
    """Even where an operator turns Keycloak's own self-service on."""
    name, password = "ambitious", secrets.token_urlsafe(18)
    user_id = admin.person(made_up(name), password)
    (account,) = admin.request("GET", "/clients?clientId=account")
    admin.request("POST", f"/clients/{account['id']}/roles", {"name": "manage-account"})
    made = admin.request("GET", f"/clients/{account['id']}/roles/manage-account")
    admin.request("POST", f"/users/{user_id}/role-mappings/clients/{account['id']}", [made])
    console = {
        "clientId": "self-service",
        "publicClient": True,
        "directAccessGrantsEnabled": True,
        "fullScopeAllowed": True,
    }
    audience = {
        "name": "account",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-resolve-mapper",
        "config": {"access.token.claim": "true"},
    }
    roles = {
        "name": "roles",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-usermodel-client-role-mapper",
        "config": {
            "access.token.claim": "true",
            "multivalued": "true",
            "claim.name": "resource_access.${client_id}.roles",
        },
    }
    admin.request(
        "POST", "/clients", console | {"defaultClientScopes": ["haven"], "protocolMappers": [audience, roles]}
    )
    grant = {"grant_type": "password", "client_id": "self-service", "username": name, "password": password}
    address = f"{provider.issuer}/protocol/openid-connect/token"
    _, _, body = code_flow.send(address, {}, urlencode(grant | {"scope": "openid"}))
    bearer = {"Authorization": f"Bearer {json.loads(body)['access_token']}", "Accept": "application/json"}

    def account_api(content: str | None) -> tuple[int, Any]:
        request = urllib.request.Request(f"{provider.issuer}/account/", content and content.encode(), bearer)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refused:
            return refused.code, None

    assert account_api(None)[0] in (403, 404), "the account API is off"
    admin.request("PUT", f"/clients/{account['id']}", account | {"enabled": True})
    try:
        status, mine = account_api(None)
        assert status == 200
        assert "haven_role" not in mine.get("attributes", {})
        changed = {"username": "renamed", "attributes": {"haven_role": ["auditor"], "haven_country": ["NL"]}}
        account_api(json.dumps({**mine, **changed}))
    finally:
        admin.request("PUT", f"/clients/{account['id']}", account | {"enabled": False})
    kept = admin.request("GET", f"/users/{user_id}")
    assert kept["username"] == name
    assert kept["attributes"]["haven_role"] == ["coordinator"]
    assert kept["attributes"]["haven_country"] == ["BE"]


# The helper


def test_an_account_made_again_becomes_what_it_should_be(provider: Provider, verifier: TokenVerifier) -> None:
    moved = made_up("Moved.Person", organisation="nl-coordinator", country="NL")
    passwords = [secrets.token_urlsafe(18) for _ in range(2)]
    for account, password in ((made_up("Moved.Person"), passwords[0]), (moved, passwords[1])):
        provision(provider.part.url, provider.admin_password, [account], {"Moved.Person": password})
    with pytest.raises(SignInFailed):
        provider.sign_in("Moved.Person", password=passwords[0])
    principal = verifier.verify(f"Bearer {provider.sign_in('Moved.Person', password=passwords[1]).access_token}")
    assert (principal.organisation, principal.country) == ("nl-coordinator", "NL")


def test_the_pages_may_move(provider: Provider, receiver: Receiver, admin: Keycloak) -> None:
    admin.pages_at("https://haven.example")
    try:
        assert Browser().send(provider.authorize()).status == 400
        assert provider.sign_in(POLICE, redirect_uri="https://haven.example/signed-in")
    finally:
        admin.pages_at(receiver.url)
    assert provider.sign_in(POLICE)


@pytest.mark.parametrize(
    "ask", [lambda admin: admin.sign_out("nobody-here"), lambda admin: admin.client_secret("none")]
)
def test_what_is_not_there_is_named(ask: Callable[[Keycloak], object], admin: Keycloak) -> None:
    with pytest.raises(KeycloakRefused, match=r"there is no (account nobody-here|client none)"):
        ask(admin)


def test_a_wrong_administrator_is_told_so(provider: Provider) -> None:
    with (
        Keycloak(provider.part.url, "wrong") as admin,
        pytest.raises(KeycloakRefused, match="invalid_grant") as refused,
    ):
        admin.people()
    assert refused.value.status == 401
    with Keycloak("http://127.0.0.1:1", "any") as admin, pytest.raises(ConnectionError):
        admin.people()


# The code and where it goes


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": "", "code_challenge_method": ""},
        {"code_challenge": VERIFIER, "code_challenge_method": "plain"},
        {"code_challenge_method": ""},
        {"code_challenge": "too-short"},
    ],
    ids=["none", "plain", "plain by default", "too short"],
)
def test_a_code_is_only_given_for_a_hashed_challenge(changes: dict[str, str], provider: Provider) -> None:
    answer = provider.answer(POLICE, **changes)
    assert answer["error"] == "invalid_request"
    assert "code" not in answer


def test_a_code_is_worth_nothing_without_its_verifier(provider: Provider) -> None:
    status, answer = provider.exchange(
        provider.answer(POLICE)["code"], "another-code-verifier-of-more-than-43-characters"
    )
    assert (status, answer["error"]) == (400, "invalid_grant")
    status, answer = provider.exchange(provider.answer(POLICE)["code"], "")
    assert (status, answer["error"]) == (400, "invalid_grant")


def test_a_code_is_used_once_and_a_second_use_ends_what_the_first_began(provider: Provider) -> None:
    browser = Browser()
    provider.sign_in(POLICE, browser=browser)
    nobody = sign_in_client._Person("nobody", "", None)
    code = sign_in_client._through_the_pages(browser, provider.authorize(), provider.redirect_uri, nobody)["code"]
    assert provider.exchange(code, VERIFIER)[0] == 200
    status, answer = provider.exchange(code, VERIFIER)
    assert (status, answer["error"]) == (400, "invalid_grant")


def test_a_code_goes_to_the_address_it_was_asked_for(provider: Provider) -> None:
    elsewhere = provider.exchange(provider.answer(POLICE)["code"], VERIFIER, redirect_uri=f"{provider.redirect_uri}/2")
    assert elsewhere[0] == 400


@pytest.mark.parametrize(
    "tampered",
    [
        "{}/",
        "{}/../elsewhere",
        "{}?next=/",
        "{}#fragment",
        "{}%2F..",
        "https://attacker.example/signed-in",
        "http://attacker.example@{host}/signed-in",
        "//{host}/signed-in",
        "http://{host}.attacker.example/signed-in",
        "http://localhost:{port}/signed-in",
        "javascript:alert(1)",
        "",
    ],
)
def test_an_address_that_is_not_ours_to_the_letter_gets_neither_code_nor_error(
    tampered: str, provider: Provider
) -> None:
    ours = urlsplit(provider.redirect_uri)
    address = tampered.format(provider.redirect_uri, host=ours.netloc, port=ours.port)
    page = Browser().send(provider.authorize(redirect_uri=address))
    assert page.status == 400
    assert page.location is None


def test_the_sign_in_page_cannot_be_framed(provider: Provider) -> None:
    _, headers, _ = code_flow.send(provider.authorize(), {}, None)
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"


# Step-up


OTP_SECRET = "synthetic-one-time-password-secret"


class Authenticator:
    """An app on somebody's phone. No password is used twice, so it waits for the next one if it has to."""

    def __init__(self) -> None:
        self.asked = 0
        self._shown = ""

    def __call__(self) -> str:
        self.asked += 1
        while (shown := one_time_password(OTP_SECRET, time.time())) == self._shown:
            time.sleep(0.5)
        self._shown = shown
        return shown


@pytest.fixture
def signer(provider: Provider, admin: Keycloak) -> tuple[str, Authenticator]:
    """A coordinator with a second factor, and the app that shows it."""
    name = f"signer-{secrets.token_hex(4)}"
    provider.passwords[name] = secrets.token_urlsafe(18)
    admin.person(made_up(name), provider.passwords[name], otp_secret=OTP_SECRET)
    return name, Authenticator()


def until_after(moment: int) -> None:
    """Keycloak counts in seconds: within the same one a sign-in is as fresh as can be asked for."""
    while time.time() < moment + 1.1:
        time.sleep(0.05)


def test_a_session_gives_further_tokens_that_say_when_the_person_signed_in(provider: Provider) -> None:
    browser = Browser()
    first = claims(provider.sign_in(COORDINATOR, browser=browser))
    until_after(first["auth_time"])
    again = claims(provider.sign_in(COORDINATOR, browser=browser, password="not asked for", prompt="none"))
    assert again["auth_time"] == first["auth_time"] < again["iat"]
    assert again["sid"] == first["sid"]


def test_a_fresh_sign_in_asks_for_the_password_again_in_spite_of_a_session(
    provider: Provider, verifier: TokenVerifier
) -> None:
    browser = Browser()
    first = claims(provider.sign_in(COORDINATOR, browser=browser))
    until_after(first["auth_time"])
    with pytest.raises(SignInFailed, match="refused the user name or the password"):
        provider.sign_in(COORDINATOR, browser=browser, max_age=0, password="a wrong password indeed")
    fresh = provider.sign_in(COORDINATOR, browser=browser, max_age=0)
    assert claims(fresh)["auth_time"] > first["auth_time"]
    verifier.require_fresh_sign_in(verifier.verify(f"Bearer {fresh.access_token}"), timedelta(seconds=30))


def test_a_second_factor_lifts_a_session_to_level_two(
    provider: Provider, clock: Clock, signer: tuple[str, Authenticator]
) -> None:
    name, authenticator = signer
    signing = verifier_for(provider, clock, signing_acr=[SECOND_FACTOR])
    browser = Browser()
    weak = signing.verify(f"Bearer {provider.sign_in(name, browser=browser).access_token}")
    assert (weak.acr, authenticator.asked) == (PASSWORD, 0)
    with pytest.raises(SignInTooOldOrWeak):
        signing.require_fresh_sign_in(weak, timedelta(minutes=5))
    strong = provider.sign_in(
        name, browser=browser, acr_values=SECOND_FACTOR, one_time_password=authenticator, password="not asked"
    )
    assert authenticator.asked == 1
    assert signing.verify(f"Bearer {strong.access_token}").acr == SECOND_FACTOR
    signing.require_fresh_sign_in(signing.verify(f"Bearer {strong.access_token}"), timedelta(minutes=5))


def test_a_signature_asks_for_password_and_second_factor_anew(
    provider: Provider, signer: tuple[str, Authenticator]
) -> None:
    name, authenticator = signer
    browser = Browser()
    step_up = {"browser": browser, "max_age": 0, "acr_values": SECOND_FACTOR, "one_time_password": authenticator}
    signed = claims(provider.sign_in(name, **step_up))
    assert signed["acr"] == SECOND_FACTOR
    until_after(signed["auth_time"])
    with pytest.raises(SignInFailed, match="refused the user name or the password"):
        provider.sign_in(name, **step_up | {"password": "a wrong password indeed"})
    with pytest.raises(SignInFailed, match="refused the one-time password"):
        provider.sign_in(name, **step_up | {"one_time_password": lambda: "000000"})
    assert authenticator.asked == 1


def test_a_one_time_password_is_good_once(provider: Provider, signer: tuple[str, Authenticator]) -> None:
    name, _ = signer
    shown = one_time_password(OTP_SECRET, time.time())
    assert provider.sign_in(name, acr_values=SECOND_FACTOR, one_time_password=lambda: shown)
    with pytest.raises(SignInFailed, match="refused the one-time password"):
        provider.sign_in(name, acr_values=SECOND_FACTOR, one_time_password=lambda: shown)


def test_without_a_second_factor_there_is_no_level_two(provider: Provider) -> None:
    with pytest.raises(SignInFailed, match="no sign-in page"):
        provider.sign_in(COORDINATOR, acr_values=SECOND_FACTOR, one_time_password=lambda: "000000")


def test_whoever_has_only_the_password_cannot_add_a_second_factor_of_their_own(
    provider: Provider, signer: tuple[str, Authenticator]
) -> None:
    name, _ = signer
    for action in ("CONFIGURE_TOTP", "webauthn-register"):
        browser = Browser()
        provider.sign_in(name, browser=browser)
        assert forms(follow(browser, provider.authorize(kc_action=action))) == ["kc-otp-login-form"]


def test_a_new_account_enrols_a_second_factor_before_it_gets_any_token(provider: Provider, admin: Keycloak) -> None:
    attributes = {
        "haven_role": ["escort"],
        "haven_organisation": ["be"],
        "haven_country": ["BE"],
        "haven_person": ["new"],
    }
    password = {"type": "password", "value": secrets.token_urlsafe(18)}
    admin.request(
        "POST", "/users", {"username": "newcomer", "enabled": True, "attributes": attributes, "credentials": [password]}
    )
    with pytest.raises(SignInFailed, match="kc-totp-settings-form"):
        provider.sign_in("newcomer", password=password["value"])


# Programs


class SenderKey:
    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256")

    @property
    def thumbprint(self) -> str:
        return self.key.thumbprint()

    def proof(self, method: str, url: str, token: str = "") -> str:
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.key.as_dict(private=False)}
        told: dict[str, Any] = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": int(time.time())}
        if token:
            told["ath"] = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).decode().rstrip("=")
        return jwt.encode(header, told, self.key, registry=JWSRegistry(algorithms=["ES256"]))


def test_a_program_gets_a_token_that_is_bound_to_its_key_and_none_without(
    provider: Provider, verifier: TokenVerifier, admin: Keycloak
) -> None:
    secret = admin.machine_client("shelter-program", ACCOUNTS[SHELTER], ["capacity:read", "capacity:report"])
    assert secret == admin.machine_client("shelter-program", ACCOUNTS[SHELTER], ["capacity:read", "capacity:report"])
    with pytest.raises(SignInFailed):
        machine_token(provider.issuer, "shelter-program", secret)
    sender = SenderKey()
    token = machine_token(provider.issuer, "shelter-program", secret, proof=sender.proof)
    assert claims(token)["cnf"] == {"jkt": sender.thumbprint}
    address = f"{PUBLIC_URL}/api/v1/availability"
    proof = SentProof(sender.proof("GET", address, token.access_token), "GET", "/api/v1/availability")
    principal = verifier.verify(f"DPoP {token.access_token}", proof)
    assert (principal.client_id, principal.confirmation) == ("shelter-program", sender.thumbprint)
    assert principal.organisation == ACCOUNTS[SHELTER].organisation
    assert principal.scopes == {Scope.READ_CAPACITY, Scope.REPORT_CAPACITY}
    assert "acr" not in claims(token)
    assert principal.is_machine, "no program ever counts as a person who has just signed in"
    assert reason(verifier, token.access_token)[0] is Reason.BOUND


def test_a_program_whose_token_is_bound_to_nothing_is_told_to_bind_it(
    provider: Provider, verifier: TokenVerifier, admin: Keycloak
) -> None:
    secret = admin.machine_client("careless-program", ACCOUNTS[SHELTER], ["capacity:read"], dpop=False)
    token = machine_token(provider.issuer, "careless-program", secret)
    with pytest.raises(ProofRequired):
        verifier.verify(f"Bearer {token.access_token}")


def test_a_person_may_bind_a_token_too(provider: Provider, clock: Clock) -> None:
    sender = SenderKey()
    token = provider.sign_in(POLICE, proof=sender.proof)
    assert token.token_type == "DPoP"
    bound = verifier_for(provider, clock, demand=Demand.ALL)
    proof = SentProof(sender.proof("GET", f"{PUBLIC_URL}/api/v1/stream", token.access_token), "GET", "/api/v1/stream")
    assert bound.verify(f"DPoP {token.access_token}", proof).confirmation == sender.thumbprint


# Keys


def test_a_new_key_is_taken_at_once_and_one_taken_away_is_not_trusted_for_longer_than_said(
    provider: Provider, admin: Keycloak, clock: Clock
) -> None:
    issuer = Issuer(provider.issuer, clock)
    keys = KeyCache(issuer.key_set, clock)
    verifier = verifier_for(provider, clock)
    before = provider.sign_in(POLICE)
    assert verifier.verify(f"Bearer {before.access_token}")
    old = header(before)["kid"]
    keys.key(old)

    new = admin.rotate_key()
    after = provider.sign_in(POLICE)
    assert header(after)["kid"] == new != old
    clock.ahead += REFETCH_EVERY
    assert verifier.verify(f"Bearer {after.access_token}")
    assert verifier.verify(f"Bearer {before.access_token}"), "the old key is still published"

    admin.remove_old_keys()
    assert reason(verifier_for(provider, clock), before.access_token) == (Reason.UNKNOWN_KEY, "")
    keys.key(old)
    clock.ahead += KEYS_KEPT
    with pytest.raises(InvalidToken) as refused:
        keys.key(old)
    assert refused.value.reason is Reason.UNKNOWN_KEY
    assert verifier_for(provider, Clock()).verify(f"Bearer {provider.sign_in(POLICE).access_token}")


# Who loses access


def test_a_disabled_person_gets_no_new_token_not_even_from_a_session(provider: Provider, admin: Keycloak) -> None:
    name = "leaver"
    provider.passwords[name] = secrets.token_urlsafe(18)
    admin.person(made_up(name), provider.passwords[name])
    browser = Browser()
    provider.sign_in(name, browser=browser)
    admin.set_enabled(name, False)
    for more in ({}, {"browser": browser}):
        with pytest.raises(SignInFailed):
            provider.sign_in(name, **more)
    with pytest.raises(SignInFailed, match="login_required"):
        provider.sign_in(name, browser=browser, prompt="none")
    admin.set_enabled(name, True)
    assert provider.sign_in(name)


def test_a_sign_out_ends_every_session_and_a_token_in_hand_lives_out_its_minutes(
    provider: Provider, admin: Keycloak, clock: Clock
) -> None:
    verifier = verifier_for(provider, clock)
    browsers = [Browser(), Browser()]
    tokens = [provider.sign_in(COORDINATOR, browser=browser) for browser in browsers]
    admin.sign_out(COORDINATOR)
    for browser in browsers:
        with pytest.raises(SignInFailed, match="login_required"):
            provider.sign_in(COORDINATOR, browser=browser, prompt="none")
    assert verifier.verify(f"Bearer {tokens[0].access_token}")
    clock.ahead += LONGEST_LIFETIME
    assert reason(verifier, tokens[0].access_token) == (Reason.EXPIRED, "")


def test_whoever_guesses_is_shut_out_for_a_while(provider: Provider, admin: Keycloak) -> None:
    name = "guessed"
    provider.passwords[name] = secrets.token_urlsafe(18)
    user_id = admin.person(made_up(name), provider.passwords[name])
    for _ in range(json.loads(REALM.read_text())["failureFactor"]):
        with pytest.raises(SignInFailed):
            provider.sign_in(name, password="a wrong password indeed")
    with pytest.raises(SignInFailed, match="refused"):
        provider.sign_in(name)
    assert admin.request("GET", f"/attack-detection/brute-force/users/{user_id}")["disabled"]
    admin.request("DELETE", f"/attack-detection/brute-force/users/{user_id}")
    assert provider.sign_in(name)


def test_a_short_password_is_refused(admin: Keycloak) -> None:
    with pytest.raises(KeycloakRefused):
        admin.person(made_up("short"), "fourteen chars")


def test_sign_ins_refusals_and_what_administrators_do_are_written_down(provider: Provider, admin: Keycloak) -> None:
    password = secrets.token_urlsafe(18)
    admin.person(made_up("watched"), password)
    provider.sign_in("watched", password=password)
    with pytest.raises(SignInFailed):
        provider.sign_in("watched", password="a wrong password indeed")
    seen = [
        (event["type"], event.get("details", {}).get("username")) for event in admin.request("GET", "/events?max=50")
    ]
    assert {("LOGIN", "watched"), ("LOGIN_ERROR", "watched")} <= set(seen)
    done = admin.request("GET", "/admin-events?max=50&resourceTypes=USER")
    assert any(event["operationType"] == "CREATE" and "watched" in event.get("representation", "") for event in done)
    assert password not in json.dumps(done)


# When it is away


@pytest.fixture
def restored(provider: Provider) -> Iterator[KeycloakPart]:
    """The shared Keycloak, to be broken; it runs again afterwards."""
    yield provider.part
    provider.part.resume()
    if not provider.part.running:
        provider.part.start()


def seconds(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    with pytest.raises(KeysUnavailable) as refused:
        work()
    assert refused.value.status == 503
    return time.monotonic() - started


@pytest.mark.parametrize("how", ["frozen", "stopped", "killed"])
def test_without_the_provider_known_keys_are_good_for_ten_minutes_and_then_nobody_comes_in_and_nothing_hangs(
    how: str, provider: Provider, restored: KeycloakPart, clock: Clock
) -> None:
    issuer = Issuer(provider.issuer, clock)
    verifier = verifier_for(provider, clock)
    keys = KeyCache(issuer.key_set, clock)
    token = provider.sign_in(POLICE)
    assert verifier.verify(f"Bearer {token.access_token}")
    keys.key(header(token)["kid"])
    {"frozen": restored.pause, "stopped": restored.stop, "killed": restored.kill}[how]()

    assert verifier.verify(f"Bearer {token.access_token}"), "who has signed in goes on working"
    clock.ahead = KEYS_RENEWED
    keys.key(header(token)["kid"])
    clock.ahead = KEYS_KEPT - timedelta(seconds=20)
    keys.key(header(token)["kid"])
    assert issuer.unready() is None

    clock.ahead = KEYS_KEPT + timedelta(seconds=1)
    assert seconds(lambda: verifier.verify(f"Bearer {token.access_token}")) < 5
    assert seconds(lambda: verifier.verify(f"Bearer {token.access_token}")) < 1, "it is not asked again at once"
    told = issuer.unready()
    assert "the issuer does not answer" in told if how == "frozen" else "Connection refused" in told
    assert f"See that the identity provider at {provider.issuer} runs" in told

    restored.resume()
    if how != "frozen":
        restored.start()
    clock.ahead += REFETCH_EVERY
    assert issuer.unready() is None
    clock.ahead += REFETCH_EVERY
    verifier_for(provider, Clock()).verify(f"Bearer {provider.sign_in(POLICE).access_token}")


def test_many_who_come_while_it_is_frozen_all_get_their_no_within_five_seconds(
    provider: Provider, restored: KeycloakPart, clock: Clock
) -> None:
    verifier = verifier_for(provider, clock)
    token = provider.sign_in(POLICE).access_token
    restored.pause()
    waited: list[float] = []
    askers = [
        threading.Thread(target=lambda: waited.append(seconds(lambda: verifier.verify(f"Bearer {token}"))))
        for _ in range(20)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(20)
    assert len(waited) == 20
    assert max(waited) < 5


def test_a_gateway_starts_without_the_provider_and_says_so_until_it_is_there(
    provider: Provider, restored: KeycloakPart, clock: Clock
) -> None:
    restored.stop()
    issuer = Issuer(provider.issuer, clock)
    assert provider.issuer in issuer.unready()
    assert "Connection refused" in issuer.unready()
    with pytest.raises(IssuerUnreachable):
        provider.sign_in(POLICE)
    restored.start()
    clock.ahead += REFETCH_EVERY
    assert issuer.unready() is None
    assert verifier_for(provider, clock).verify(f"Bearer {provider.sign_in(POLICE).access_token}")


def test_an_issuer_under_another_name_is_not_believed(provider: Provider, clock: Clock) -> None:
    alias = Issuer(provider.issuer.replace("127.0.0.1", "localhost"), clock)
    assert "calls itself something else" in alias.unready()
    assert "HAVEN_ISSUER" in alias.unready()


# In a browser


@pytest.fixture(scope="module")
def page(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(locale="nl-NL")
        yield context.new_page()
        browser.close()


def test_a_person_signs_in_with_a_browser_in_their_language(
    page: Any, provider: Provider, receiver: Receiver, verifier: TokenVerifier
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(provider.authorize())
    assert page.locator("html").get_attribute("lang") == "nl"
    page.locator("#username").fill(POLICE)
    page.locator("#password").fill("a wrong password indeed")
    page.locator("#kc-login").click()
    assert page.locator("#input-error-username, #input-error").first.is_visible()
    page.locator("#username").fill(POLICE)
    page.locator("#password").fill(provider.passwords[POLICE])
    page.locator("#kc-login").click()
    page.wait_for_url(f"{provider.redirect_uri}**")

    (brought,) = [path for path in receiver.received if path.startswith("/signed-in")]
    answer = {name: values[0] for name, values in parse_qs(urlsplit(brought).query).items()}
    assert answer["state"] == "s" * 20
    assert answer["iss"] == provider.issuer
    status, given = provider.exchange(answer["code"], VERIFIER)
    assert status == 200
    assert verifier.verify(f"Bearer {given['access_token']}").person == ACCOUNTS[POLICE].person
    ours = (provider.part.url, receiver.url)
    assert [address for address in asked if not address.startswith((*ours, "data:"))] == [], "nothing from elsewhere"
