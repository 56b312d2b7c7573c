"""Signs in as a person would with a browser, or as a program, and comes back with an access token.

Authorization code with PKCE S256, `state`, `nonce` and `iss` (RFC 6749, 7636, 9207, OpenID Connect Core 1.0), over the sign-in
pages of Keycloak and of the embedded server. It fills in a form only if the form is the one it expects, sends a password
nowhere but to the issuer's own origin, and never fetches the address it is sent back to: it only reads the code from it.

For demonstrations and tests. It holds a person's password in memory, which no real client of Haven ever does.
"""

import base64
import hashlib
import hmac
import http.client
import re
import secrets
import ssl
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError

from services.gateway.issuer import Metadata, discover
from services.gateway.key_set import HttpKeySet, KeysUnavailable

TIMEOUT = 20.0
"""Seconds for one answer of the issuer."""
STEPS = 12
"""Pages and redirects until it gives up: a loop must end."""

_LARGEST_PAGE = 512 * 1024
_ID_TOKEN_ALGORITHMS = ["ES256", "PS256", "Ed25519", "EdDSA"]
_CODE = re.compile(r"[a-z_]{1,64}")

Proof = Callable[[str, str], str]
"""Makes a DPoP proof (RFC 9449) for a method and a URL: the token is then bound to the key of the proof."""


class SignInFailed(Exception):
    """The issuer refused, or answered in a way that must not be trusted. Repeating it does not help."""


class IssuerUnreachable(Exception):
    """The issuer gave no answer. Repeating it later may help."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token and for how many seconds from now it is good."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str = ""
    id_token: str = ""

    def __repr__(self) -> str:
        return (
            f"Token({self.token_type}, expires in {self.expires_in} s)"  # never the token: it would be in a traceback
        )


class Browser:
    """Cookies of one issuer's origin. Keep one to stay signed in, as a person does who comes back to the page."""

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str], str] = {}

    def send(self, url: str, form: Mapping[str, str] | None = None) -> "_Page":
        """GET, or POST of a form; a redirect is answered, not followed. Raises `IssuerUnreachable`."""
        parts = urlsplit(url)
        path = parts.path or "/"
        headers = {"Accept": "text/html"}
        if cookies := self._fitting(path):
            headers["Cookie"] = "; ".join(cookies)
        status, answered, body = _send(url, headers, None if form is None else urlencode(form))
        for line in answered.get_all("Set-Cookie", []):
            self._keep(line, path)
        return _Page(url, status, answered.get("Location"), body)

    def _fitting(self, path: str) -> list[str]:
        # RFC 6265 section 5.1.4: /realms/haven is not the beginning of /realms/haven-2.
        return [
            f"{name}={value}"
            for (name, where), value in self._cookies.items()
            if path == where or path.startswith(where.removesuffix("/") + "/")
        ]

    def _keep(self, line: str, path: str) -> None:
        pair, *attributes = line.split(";")
        name, _, value = pair.strip().partition("=")
        given = {key.strip().lower(): text.strip() for key, _, text in (item.partition("=") for item in attributes)}
        where = given.get("path", path.rpartition("/")[0] or "/")
        if given.get("max-age") == "0" or not value:
            self._cookies.pop((name, where), None)
        else:
            self._cookies[name, where] = value


def sign_in(
    issuer_url: str,
    client_id: str,
    client_secret: str,
    redirect_uri: str,
    username: str,
    password: str,
    *,
    one_time_password: Callable[[], str] | None = None,
    max_age: int | None = None,
    acr_values: str = "",
    scope: str = "",
    prompt: str = "",
    proof: Proof | None = None,
    browser: Browser | None = None,
) -> Token:
    """An access token for a person, who signs in at the issuer's page.

    `max_age=0` makes the issuer ask for the password again, `acr_values` for at least that level of authentication (step-up,
    RFC 9470); `one_time_password` is asked when the page asks. A `browser` that is still signed in gets its token without
    any page. Raises `SignInFailed` or `IssuerUnreachable`.
    """
    metadata = _discover(issuer_url)
    verifier, state, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    with_openid = "openid" in metadata.scopes_supported
    request = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("="),
        "code_challenge_method": "S256",
        "scope": " ".join(filter(None, ("openid" if with_openid else "", scope))),
        "nonce": nonce if with_openid else "",
        "max_age": "" if max_age is None else str(max_age),
        "acr_values": acr_values,
        "prompt": prompt,
    }
    query = urlencode({name: value for name, value in request.items() if value})
    person = _Person(username, password, one_time_password)
    answer = _through_the_pages(
        browser or Browser(), f"{metadata.authorization_endpoint}?{query}", redirect_uri, person
    )
    code = _code(answer, metadata, state)
    grant = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier}
    token = _token(metadata, client_id, client_secret, grant, proof)
    if with_openid:
        _check_id_token(token, metadata, client_id, nonce)
    return token


def machine_token(issuer_url: str, client_id: str, client_secret: str, *, proof: Proof | None = None) -> Token:
    """An access token for a program that acts for itself (client credentials). Raises as `sign_in` does."""
    return _token(_discover(issuer_url), client_id, client_secret, {"grant_type": "client_credentials"}, proof)


class _Page(msgspec.Struct, frozen=True):
    url: str
    status: int
    location: str | None
    body: str


class _Person:
    """Fills in each form once: a form that comes a second time means that what was filled in is wrong."""

    def __init__(self, username: str, password: str, one_time_password: Callable[[], str] | None) -> None:
        self._username = username
        self._password = password
        self._one_time_password = one_time_password
        self._filled: set[str] = set()

    def fill(self, page: _Page) -> tuple[str, dict[str, str]]:
        """Where to send the page's form, and filled in how. Raises `SignInFailed`."""
        forms = _Forms(page.body).forms
        for field, values in (("password", self._sign_in), ("otp", self._second_factor)):
            fitting = [form for form in forms if field in form.fields]
            if len(fitting) == 1:
                (form,) = fitting
                if field in self._filled:
                    raise SignInFailed(f"the issuer refused the {_NAMES[field]} of {self._username}")
                if form.method != "post":
                    raise SignInFailed("the issuer's form would put a secret into an address")
                self._filled.add(field)
                return urljoin(page.url, form.action), {**form.hidden, **values(form)}
        asked = ", ".join(sorted(form.name for form in forms if form.name)) or "no form"
        raise SignInFailed(
            f"the issuer answered {page.status} with a page that is no sign-in page ({asked}); "
            "a person has to open it in a browser and do what it asks"
        )

    def _sign_in(self, form: "_Form") -> dict[str, str]:
        # When Keycloak knows who it is, it asks for the password alone.
        known = {"username": self._username} if "username" in form.fields else {}
        return {**known, "password": self._password}

    def _second_factor(self, _form: "_Form") -> dict[str, str]:
        if self._one_time_password is None:
            raise SignInFailed(f"the issuer asks {self._username} for a second factor, and none was given")
        return {"otp": self._one_time_password()}


_NAMES = {"password": "user name or the password", "otp": "one-time password"}


class _Form(msgspec.Struct):
    name: str
    action: str
    method: str
    fields: set[str] = msgspec.field(default_factory=set)
    hidden: dict[str, str] = msgspec.field(default_factory=dict)


class _Forms(HTMLParser):
    """The forms of a page with the names of their visible fields and the values of their hidden ones."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[_Form] = []
        self._open = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            name = re.sub(r"[^\w-]", "", given.get("id", ""))[:40]
            self.forms.append(_Form(name, given.get("action", ""), given.get("method", "get").lower()))
            self._open = True
        elif tag == "input" and self._open and (name := given.get("name", "")):
            kind = given.get("type", "text").lower()
            if kind == "hidden":
                self.forms[-1].hidden[name] = given.get("value", "")
            elif kind not in ("submit", "button", "checkbox", "radio"):
                self.forms[-1].fields.add(name)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = False


def _through_the_pages(browser: Browser, url: str, redirect_uri: str, person: _Person) -> dict[str, str]:
    """The parameters with which the issuer sends the browser back."""
    origin = _origin(url)
    form: dict[str, str] | None = None
    for _ in range(STEPS):
        if _origin(url) != origin:
            raise SignInFailed("the issuer leads to another origin, where no password is typed in")
        page = browser.send(url, form)
        if page.status in (302, 303) and page.location is not None:
            url, form = urljoin(url, page.location), None
            address, _, query = url.partition("?")
            if address == redirect_uri:
                pairs = parse_qsl(query.partition("#")[0], keep_blank_values=True, max_num_fields=20)
                if len(dict(pairs)) != len(pairs):
                    raise SignInFailed("the issuer's answer says something twice")
                return dict(pairs)
        else:
            url, form = person.fill(page)
    raise SignInFailed(f"the issuer's pages do not come to an end within {STEPS} steps")


def _code(answer: Mapping[str, str], metadata: Metadata, state: str) -> str:
    if not hmac.compare_digest(answer.get("state", "").encode(), state.encode()):
        raise SignInFailed("the issuer's answer belongs to another sign-in (state)")
    if answer.get("iss", "" if metadata.authorization_response_iss_parameter_supported else metadata.issuer) != (
        metadata.issuer
    ):
        raise SignInFailed("the answer comes from another issuer (iss)")
    if "error" in answer:
        raise SignInFailed(f"the issuer refused the sign-in: {_error_code(answer['error'])}")
    if not answer.get("code"):
        raise SignInFailed("the issuer's answer has no code")
    return answer["code"]


def _token(
    metadata: Metadata, client_id: str, client_secret: str, grant: Mapping[str, str], proof: Proof | None
) -> Token:
    # RFC 6749 section 2.3.1: both halves are form-encoded before they are joined.
    basic = base64.b64encode(f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}".encode()).decode()
    headers = {"Accept": "application/json", "Authorization": f"Basic {basic}"}
    if proof is not None:
        headers["DPoP"] = proof("POST", metadata.token_endpoint)
    status, _, body = _send(metadata.token_endpoint, headers, urlencode(grant))
    try:
        if status != 200:
            refusal = msgspec.json.decode(body, type=dict[str, object])
            raise SignInFailed(f"the issuer gives no token ({status}): {_error_code(str(refusal.get('error')))}")
        token = msgspec.json.decode(body, type=Token)
    except msgspec.MsgspecError:
        raise SignInFailed(f"the issuer's answer is no token ({status})") from None
    if token.token_type.lower() != ("bearer" if proof is None else "dpop"):
        raise SignInFailed("the token is of another type than was asked for: it is not bound as it should be")
    return token


class _IdClaims(msgspec.Struct):
    iss: str
    aud: str | list[str]
    nonce: str


def _check_id_token(token: Token, metadata: Metadata, client_id: str, nonce: str) -> None:
    # OpenID Connect Core section 3.1.3.7: the nonce is what tells a code of ours from one that somebody slipped in.
    try:
        claims = jwt.decode(token.id_token, HttpKeySet(metadata.jwks_uri)(), algorithms=_ID_TOKEN_ALGORITHMS).claims
        jwt.JWTClaimsRegistry(leeway=30, exp={"essential": True}, iat={"essential": True}).validate(claims)
        told = msgspec.convert(claims, _IdClaims)
    except KeysUnavailable as away:
        raise IssuerUnreachable(away.problem) from None
    except (JoseError, ValueError):
        raise SignInFailed("the issuer's ID token is not valid") from None
    if told.iss != metadata.issuer or told.aud not in (client_id, [client_id]) or told.nonce != nonce:
        raise SignInFailed("the issuer's ID token belongs to another sign-in")


def _discover(issuer_url: str) -> Metadata:
    try:
        return discover(issuer_url)
    except KeysUnavailable as away:
        raise IssuerUnreachable(f"{away.problem}: {issuer_url}") from None


def _send(url: str, headers: dict[str, str], form: str | None) -> tuple[int, http.client.HTTPMessage, str]:
    parts = urlsplit(url)
    connection = (
        http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=TIMEOUT, context=ssl.create_default_context()
        )
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    )
    if form is not None:
        headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET" if form is None else "POST", target, form, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read(_LARGEST_PAGE).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise IssuerUnreachable(f"no answer from {parts.scheme}://{parts.netloc} ({type(error).__name__})") from None
    finally:
        connection.close()


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _error_code(text: str) -> str:
    return text if _CODE.fullmatch(text) else "an unreadable error"
