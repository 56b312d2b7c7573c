"""The issuer's key set (RFC 7517): fetched, sifted and kept for a while."""

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey

from services.gateway.token_errors import InvalidToken, Reason, TokensUncheckable
from services.loopback import is_loopback

KEYS_KEPT = timedelta(minutes=10)
"""After this long without a successful fetch no key is trusted: a key taken out of service must stop working."""
KEYS_RENEWED = timedelta(minutes=5)
"""After this long they are fetched anew while they are still good, so that every outage of the issuer up to the difference
goes unnoticed, whenever it begins."""
REFETCH_EVERY = timedelta(seconds=10)
"""Key ids are attacker-chosen: without a limit each forged one would be a request to the issuer."""

_FETCH_SECONDS = 5.0
_LARGEST_KEY_SET = 64 * 1024
_SMALLEST_RSA_BITS = 2048


class KeysUnavailable(TokensUncheckable):
    """Without keys no token can be told from a forgery."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"Access tokens cannot be checked now: {problem}. Try again in {REFETCH_EVERY.seconds} seconds."
        )


class NotPublished(KeysUnavailable):
    """The issuer has no document at this address (404)."""


class KeyCache:
    """The issuer's signing keys by key id, kept for `KEYS_KEPT` and fetched again when an unknown id turns up."""

    def __init__(self, fetch: Callable[[], KeySet], now: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self._now = now
        self._fetching = threading.Lock()
        self._keys: dict[str, Key] = {}
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None

    def key(self, key_id: str) -> Key:
        """The key with this id. Raises `InvalidToken` if the issuer has none, `KeysUnavailable` if it cannot be asked."""
        fresh = self._within(self._fetched_at, KEYS_KEPT)
        if not self._within(self._fetched_at, KEYS_RENEWED) or key_id not in self._keys:
            # A stranger's key id must not make everybody else's request wait for the issuer; stale keys must.
            self._refetch(wait=not fresh)
        if not self._within(self._fetched_at, KEYS_KEPT):
            raise KeysUnavailable("the issuer's keys could not be fetched")
        try:
            return self._keys[key_id]
        except KeyError:
            raise InvalidToken(Reason.UNKNOWN_KEY) from None

    def _refetch(self, *, wait: bool) -> None:
        if not self._fetching.acquire(blocking=wait):
            return
        try:
            if self._within(self._tried_at, REFETCH_EVERY):
                return
            self._tried_at = self._now()
            self._keys = _usable_keys(self._fetch())
            self._fetched_at = self._tried_at
        except KeysUnavailable:
            # What was fetched before stays good until it is too old: an issuer's restart is not an outage here.
            return
        finally:
            self._fetching.release()

    def _within(self, since: datetime | None, limit: timedelta) -> bool:
        # A clock set back makes a negative age, which counts as too old rather than as fresh for ever.
        return since is not None and timedelta() <= self._now() - since < limit


def _usable_keys(key_set: KeySet) -> dict[str, Key]:
    usable: dict[str, Key] = {}
    for key in key_set:
        match key:
            case ECKey():
                fits = key.curve_name == "P-256"
            case OKPKey():
                fits = key.curve_name == "Ed25519"
            case RSAKey():
                fits = key.public_key.key_size >= _SMALLEST_RSA_BITS
            case _:
                fits = False
        if not fits or key.get("use", "sig") != "sig" or key.kid is None:
            continue
        if key.kid in usable:
            raise KeysUnavailable("the issuer publishes two keys under one id")
        usable[key.kid] = key
    return usable


class HttpKeySet:
    """Fetches a JWK set from an issuer elsewhere. Calling it raises `KeysUnavailable` for whatever goes wrong.

    Raises `ValueError` for an address that is neither https nor loopback.
    """

    def __init__(self, url: str) -> None:
        if not is_safe_address(url):
            raise ValueError("The address of the key set must start with https:// and name no user.")
        self._url = url

    def __call__(self) -> KeySet:
        body = fetch(self._url, "its keys", _LARGEST_KEY_SET)
        try:
            return KeySet.import_key_set({"keys": msgspec.json.decode(body, type=_KeySetDocument).keys})
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise KeysUnavailable("the issuer's key set cannot be read") from error


class _KeySetDocument(msgspec.Struct):
    keys: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=32)]


def is_safe_address(url: str) -> bool:
    """Whether what comes from there is what its owner sent: https, or plain http on this machine, and no user named."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.username is not None or not host:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def fetch(url: str, what: str, largest: int) -> bytes:
    """What a safe address answers with 200, at most `largest` bytes. Raises `KeysUnavailable`.

    `http.client` on purpose: it follows no redirect, obeys no proxy variable and speaks no `file:`, so the answer can only
    come from the host that the operator named.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=_FETCH_SECONDS, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=_FETCH_SECONDS)
    )
    try:
        connection.connect()
        with _deadline(connection.sock):
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Accept": "application/json"})
            response = connection.getresponse()
            if response.status == http.HTTPStatus.NOT_FOUND:
                raise NotPublished(f"the issuer does not publish {what}")
            if response.status != http.HTTPStatus.OK:
                raise KeysUnavailable(f"the issuer answered {response.status} instead of {what}")
            body = response.read(largest + 1)
    except (OSError, http.client.HTTPException) as error:
        raise KeysUnavailable("the issuer cannot be reached") from error
    finally:
        connection.close()
    if len(body) > largest:
        raise KeysUnavailable(f"what the issuer sent as {what} is too large")
    return body


@contextmanager
def _deadline(connected: socket.socket) -> Iterator[None]:
    """Hangs up after `_FETCH_SECONDS`. A socket's own timeout starts again with every byte, so that a peer sending one
    byte at a time would keep the caller for hours."""

    def hang_up() -> None:
        with suppress(OSError):
            # The plain socket's shutdown: that of a TLS socket first forgets its encryption, under the reader's feet.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(_FETCH_SECONDS, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
