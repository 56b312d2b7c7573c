"""Signs in as a person would with a browser, or as a program, and comes back with an access token.

Authorization code with PKCE S256, `state`, `nonce` and `iss` (RFC 6749, 7636, 9207, OpenID Connect Core 1.0), over the sign-in
pages of Keycloak and of the embedded server. It fills in a form only if the form is the one it expects, sends a password
nowhere but to the issuer's own origin, and never fetches the address it is sent back to: it only reads the code from it.

For demonstrations and tests. It holds a person's password in memory, which no real client of Haven ever does.
"""

import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import msgspec

from services.code_flow import (
    IssuerUnreachable,
    Proof,
    SignInFailed,
    Token,
    begin,
    discovered,
    finish,
    send,
    token_for,
)

__all__ = ["Browser", "IssuerUnreachable", "SignInFailed", "Token", "machine_token", "sign_in", "walk_through"]

STEPS = 12
"""Pages and redirects until it gives up: a loop must end."""


class Browser:
    """Cookies of one issuer's origin. Keep one to stay signed in, as a person does who comes back to the page."""

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str], str] = {}

    def cookies(self, path: str) -> str:
        """What a request for this path carries in its header `Cookie`."""
        return "; ".join(self._fitting(path))

    def send(self, url: str, form: Mapping[str, str] | None = None) -> "_Page":
        """GET, or POST of a form; a redirect is answered, not followed. Raises `IssuerUnreachable`."""
        parts = urlsplit(url)
        path = parts.path or "/"
        headers = {"Accept": "text/html"}
        if cookies := self.cookies(path):
            headers["Cookie"] = cookies
        status, answered, body = send(url, headers, None if form is None else urlencode(form))
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
    metadata = discovered(issuer_url)
    flow = begin(metadata, client_id, redirect_uri, scope=scope, max_age=max_age, acr_values=acr_values, prompt=prompt)
    person = _Person(username, password, one_time_password)
    answer = _through_the_pages(browser or Browser(), flow.url, redirect_uri, person)
    return finish(metadata, client_id, client_secret, flow, answer, proof)


def walk_through(browser: Browser, url: str, redirect_uri: str, username: str, password: str) -> dict[str, str]:
    """Signs in at the issuer's page to which another client of it has sent the browser; the parameters with which the issuer
    sends it back. Raises as `sign_in` does."""
    return _through_the_pages(browser, url, redirect_uri, _Person(username, password, None))


def machine_token(issuer_url: str, client_id: str, client_secret: str, *, proof: Proof | None = None) -> Token:
    """An access token for a program that acts for itself (client credentials). Raises as `sign_in` does."""
    return token_for(discovered(issuer_url), client_id, client_secret, {"grant_type": "client_credentials"}, proof)


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


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
