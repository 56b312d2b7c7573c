"""An issuer elsewhere: what is believed of it, and what an operator is told when it cannot be used."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc.jwk import ECKey

from services.config import ConfigurationError
from services.gateway import issuer as issuer_module
from services.gateway.issuer import Issuer, IssuerUnusable, discover
from services.gateway.key_set import KEYS_KEPT, KEYS_RENEWED, REFETCH_EVERY, KeyCache, KeysUnavailable
from services.gateway.token_errors import InvalidToken, Reason

KEY = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
OPENID, RFC8414 = (
    "/realms/haven/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server/realms/haven",
)


class Server(http.server.ThreadingHTTPServer):
    """Answers each path with what is put there; anything else is a 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.issuer = f"{self.url}/realms/haven"
        self.asked: list[str] = []
        self.pages: dict[str, Any] = {"/keys": {"keys": [KEY.as_dict(private=False)]}}
        self.publish()

    def publish(self, path: str = RFC8414, **changes: Any) -> None:
        self.pages[path] = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
        } | changes


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        page = self.server.pages.get(self.path)
        if callable(page):
            page(self)
            return
        self.send_response(404 if page is None else 200)
        self.end_headers()
        self.wfile.write(page if isinstance(page, bytes) else json.dumps(page).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing: the test asks `asked`."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield server
    server.shutdown()
    server.server_close()


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 11, 25, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, duration: timedelta) -> None:
        self.time += duration


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_issuer_is_asked_for_nothing_until_a_key_is_needed(server: Server, clock: Clock) -> None:
    issuer = Issuer(server.issuer, clock)
    assert server.asked == []
    assert [key.kid for key in issuer.key_set()] == [KEY.kid]
    assert server.asked == [RFC8414, "/keys"]


def test_its_metadata_are_asked_for_once_and_again_only_after_a_failure(server: Server, clock: Clock) -> None:
    issuer = Issuer(server.issuer, clock)
    issuer.key_set()
    issuer.key_set()
    assert issuer.metadata().token_endpoint == f"{server.url}/token"
    assert server.asked.count(RFC8414) == 1
    del server.pages["/keys"]
    with pytest.raises(KeysUnavailable):
        issuer.key_set()
    server.pages["/moved"] = {"keys": [KEY.as_dict(private=False)]}
    server.publish(jwks_uri=f"{server.url}/moved")
    assert [key.kid for key in issuer.key_set()] == [KEY.kid]


def test_an_issuer_that_knows_only_the_form_of_openid_connect_is_found(server: Server) -> None:
    del server.pages[RFC8414]
    server.publish(OPENID)
    assert discover(server.issuer).issuer == server.issuer


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"issuer": "https://sign-in.example/realms/haven"}, "Set HAVEN_ISSUER to the `issuer`"),
        ({"issuer": "{issuer}/"}, "Set HAVEN_ISSUER to the `issuer`"),
        ({"jwks_uri": "https://keys.attacker.example/keys"}, "addresses on 127.0.0.1 alone"),
        ({"jwks_uri": "http://keys.attacker.example/keys"}, "addresses on 127.0.0.1 alone"),
        ({"jwks_uri": "http://127.0.0.1.attacker.example/keys"}, "addresses on 127.0.0.1 alone"),
        ({"jwks_uri": "http://127.0.0.1:80@attacker.example/keys"}, "addresses on 127.0.0.1 alone"),
        ({"jwks_uri": "file:///etc/passwd"}, "addresses on 127.0.0.1 alone"),
        ({"jwks_uri": "http://[::1"}, "addresses on 127.0.0.1 alone"),
        ({"token_endpoint": "https://token.attacker.example/"}, "addresses on 127.0.0.1 alone"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "addresses on 127.0.0.1 alone"),
        ({"jwks_uri": None}, "an issuer of OpenID Connect"),
        ({"issuer": 1}, "an issuer of OpenID Connect"),
    ],
    ids=str,
)
@pytest.mark.attack(8, 34)
def test_an_issuer_that_is_not_itself_is_not_believed_and_the_operator_is_told_what_to_do(
    changes: dict[str, Any], remedy: str, server: Server, clock: Clock
) -> None:
    server.publish(**{n: v.format(issuer=server.issuer) if isinstance(v, str) else v for n, v in changes.items()})
    with pytest.raises(IssuerUnusable):
        discover(server.issuer)
    told = Issuer(server.issuer, clock).unready()
    assert told is not None
    assert remedy in told
    assert "attacker" not in told
    assert "/keys" not in server.asked


def redirect(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere")
    handler.end_headers()


def silence(handler: http.server.BaseHTTPRequestHandler) -> None:
    threading.Event().wait(5)


def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(50):
            handler.wfile.write(b" ")
            time.sleep(0.1)
    except OSError:
        return


@pytest.mark.parametrize(
    "page",
    [b"not json", b"[]", b"null", b"[" * 30_000, b'{"issuer": "' + b"x" * 70_000 + b'"}', redirect],
    ids=["no json", "a list", "null", "deep", "large", "a redirect"],
)
@pytest.mark.attack(18, 55)
def test_anything_but_metadata_fails_closed(page: Any, server: Server) -> None:
    server.publish("/elsewhere")
    server.pages[RFC8414] = page
    with pytest.raises(KeysUnavailable):
        discover(server.issuer)


@pytest.mark.parametrize("page", [silence, drip], ids=["silent", "a byte at a time"])
@pytest.mark.parametrize("path", [RFC8414, "/keys"])
@pytest.mark.attack(18)
def test_everything_together_takes_no_longer_than_said(
    path: str, page: Callable[..., None], server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_module, "ANSWERED_WITHIN", 0.5)
    server.pages[path] = page
    issuer = Issuer(server.issuer, clock)
    started = time.monotonic()
    with pytest.raises(KeysUnavailable, match="does not answer"):
        issuer.key_set()
    assert time.monotonic() - started < 2
    assert "does not answer" in (issuer.unready() or "")


def test_a_name_that_takes_long_to_look_up_is_not_waited_for(
    server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = threading.Event()
    monkeypatch.setattr(issuer_module, "ANSWERED_WITHIN", 0.3)

    def look_up(*_: object, **__: object) -> None:
        looked_up.wait(5)
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    try:
        with pytest.raises(KeysUnavailable, match="does not answer"):
            Issuer(server.issuer, clock).key_set()
    finally:
        looked_up.set()


# Keys that are kept


def test_keys_are_renewed_while_they_are_still_good(server: Server, clock: Clock) -> None:
    keys = KeyCache(Issuer(server.issuer, clock).key_set, clock)
    keys.key(KEY.kid)
    asked = server.asked.count("/keys")
    server.pages["/keys"] = {"keys": [ECKey.generate_key("P-256", auto_kid=True).as_dict(private=False)]}
    clock.advance(KEYS_RENEWED - timedelta(seconds=1))
    keys.key(KEY.kid)
    assert server.asked.count("/keys") == asked
    clock.advance(timedelta(seconds=1))
    with pytest.raises(InvalidToken) as refused:
        keys.key(KEY.kid)
    assert refused.value.reason is Reason.UNKNOWN_KEY


def test_an_outage_that_begins_at_any_moment_is_bridged_for_five_minutes(server: Server, clock: Clock) -> None:
    keys = KeyCache(Issuer(server.issuer, clock).key_set, clock)
    keys.key(KEY.kid)
    del server.pages["/keys"]
    clock.advance(KEYS_RENEWED)
    for _ in range(29):
        clock.advance(REFETCH_EVERY)
        asked = server.asked.count("/keys")
        keys.key(KEY.kid)
        keys.key(KEY.kid)
        assert server.asked.count("/keys") == asked + 1
    clock.advance(REFETCH_EVERY)
    with pytest.raises(KeysUnavailable):
        keys.key(KEY.kid)


# Readiness


def test_it_is_ready_while_keys_are_good_and_is_not_asked_more_often_than_anybody_needs(
    server: Server, clock: Clock
) -> None:
    issuer = Issuer(server.issuer, clock)
    assert issuer.unready() is None
    asked = len(server.asked)
    clock.advance(KEYS_KEPT - timedelta(seconds=1))
    assert issuer.unready() is None
    assert len(server.asked) == asked

    server.pages.clear()
    clock.advance(timedelta(seconds=1))
    assert "does not publish its keys" in (issuer.unready() or "")
    asked = len(server.asked)
    clock.advance(REFETCH_EVERY - timedelta(seconds=1))
    assert issuer.unready() is not None
    assert len(server.asked) == asked
    clock.advance(timedelta(seconds=1))
    server.publish()
    server.pages["/keys"] = {"keys": [KEY.as_dict(private=False)]}
    assert issuer.unready() is None


def test_a_clock_set_back_does_not_make_old_keys_good_for_ever(server: Server, clock: Clock) -> None:
    issuer = Issuer(server.issuer, clock)
    assert issuer.unready() is None
    clock.advance(timedelta(days=-1))
    server.pages.clear()
    assert issuer.unready() is not None


def test_nobody_there_is_said_with_cause_and_remedy(clock: Clock) -> None:
    told = Issuer("http://127.0.0.1:1/realms/haven", clock).unready()
    assert told == (
        "the issuer cannot be reached ([Errno 111] Connection refused). See that the identity provider at "
        "http://127.0.0.1:1/realms/haven runs and can be reached from here, or correct HAVEN_ISSUER."
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "haven",
        "http://sign-in.example/realms/haven",
        "https://user:password@sign-in.example/realms/haven",
        "https://sign-in.example/realms/haven?a=b",
        "https://sign-in.example/realms/haven#a",
        "https://sign-in.example/realms/ haven",
        "https://sign-in.example:port/",
        "ftp://127.0.0.1/",
    ],
)
def test_a_setting_that_is_no_issuer_is_refused_at_start(url: str, clock: Clock) -> None:
    with pytest.raises(ConfigurationError, match="HAVEN_ISSUER"):
        Issuer(url, clock)
