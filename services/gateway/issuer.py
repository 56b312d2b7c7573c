"""An identity provider elsewhere: what it says about itself, and its keys, asked for when they are needed.

Its address (HAVEN_ISSUER) is all that is configured; the rest is discovered (RFC 8414, OpenID Connect Discovery 1.0). Nothing
is asked at start, so that a gateway starts while the provider is down: it is then not ready, and answers 503.
"""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from joserfc.jwk import KeySet

from services.config import ConfigurationError
from services.gateway.key_set import (
    KEYS_KEPT,
    REFETCH_EVERY,
    HttpKeySet,
    KeysUnavailable,
    NotPublished,
    fetch,
    is_safe_address,
)

ANSWERED_WITHIN = 4.5
"""Seconds for everything together: names, connections, both documents. A request that needs keys waits no longer."""

_LARGEST_METADATA = 64 * 1024
_A = TypeVar("_A")


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What an issuer says about itself, as far as we use it (RFC 8414 section 2)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    end_session_endpoint: str = ""
    scopes_supported: tuple[str, ...] = ()
    authorization_response_iss_parameter_supported: bool = False


class IssuerUnusable(KeysUnavailable):
    """It answers, and nothing can be done with the answer until somebody changes a setting: `remedy` says which."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(problem)


def discover(issuer: str) -> Metadata:
    """What the issuer at this address says about itself. Raises `KeysUnavailable` for whatever goes wrong.

    It must call itself exactly what it was asked as (RFC 8414 section 3.3): otherwise one issuer could pass off another's
    keys as its own (mix-up). All its addresses must be safe ones on its own host.
    """
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    document = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}"
    try:
        body = fetch(document, "its metadata", _LARGEST_METADATA)
    except NotPublished:
        # The older form, of OpenID Connect, has the well-known part at the end.
        document = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        body = fetch(document, "its metadata", _LARGEST_METADATA)
    try:
        metadata = msgspec.json.decode(body, type=Metadata)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise IssuerUnusable(
            "the issuer's metadata cannot be read", f"Set HAVEN_ISSUER to an issuer of OpenID Connect; see {document}."
        ) from None
    if metadata.issuer != issuer:
        raise IssuerUnusable(
            "the issuer calls itself something else",
            f"Set HAVEN_ISSUER to the `issuer` in {document}, to the letter, or correct the host name it is configured with.",
        )
    for address in (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri):
        if not is_safe_address(address) or urlsplit(address).hostname != parts.hostname:
            raise IssuerUnusable(
                "the issuer publishes an address that is not its own",
                f"Configure the issuer to publish https addresses on {parts.hostname} alone; see {document}.",
            )
    return metadata


class Issuer:
    """One identity provider, by its issuer URL. `now` is real time.

    Raises `ConfigurationError` for a URL that is none: https (http only on this machine), no user, query or fragment.
    """

    def __init__(self, url: str, now: Callable[[], datetime]) -> None:
        if not is_safe_address(url) or any(mark in url for mark in "?# \t\r\n\\"):
            raise ConfigurationError(
                "HAVEN_ISSUER must be the issuer URL of the identity provider, for example "
                "https://sign-in.example/realms/haven: https, and without user name, query or fragment."
            )
        self.url = url
        self._now = now
        self._metadata: Metadata | None = None
        self._failure: KeysUnavailable | None = None
        self._tried_at: datetime | None = None
        self._succeeded_at: datetime | None = None

    def key_set(self) -> KeySet:
        """Its keys, fetched now; what `TokenVerifier` takes as `jwks`. Raises `KeysUnavailable` within `ANSWERED_WITHIN`."""
        self._tried_at = self._now()
        try:
            keys = _in_time(self._fetch_key_set)
        except KeysUnavailable as failure:
            self._failure = failure
            self._metadata = None  # perhaps it has moved its keys
            raise
        self._succeeded_at = self._tried_at
        self._failure = None
        return keys

    def metadata(self) -> Metadata:
        """What it says about itself; asked once, and again after a failure. Raises `KeysUnavailable`."""
        if self._metadata is None:
            self._metadata = _in_time(lambda: discover(self.url))
        return self._metadata

    def unready(self) -> str | None:
        """Why tokens cannot be checked now and what to do about it, for readiness; `None` if they can.

        It asks the issuer by itself only when nobody else has for a while.
        """
        if self._within(self._succeeded_at, KEYS_KEPT):
            return None
        if not self._within(self._tried_at, REFETCH_EVERY):
            try:
                self.key_set()
            except KeysUnavailable:
                pass
            else:
                return None
        return self._reason(self._failure)

    def _within(self, since: datetime | None, limit: timedelta) -> bool:
        # A clock set back makes a negative age, which counts as too old rather than as fresh for ever.
        return since is not None and timedelta() <= self._now() - since < limit

    def _reason(self, failure: KeysUnavailable | None) -> str:
        problem = failure.problem if failure else "the issuer is being asked"
        cause = f" ({failure.__cause__})" if failure and isinstance(failure.__cause__, OSError) else ""
        remedy = (
            failure.remedy
            if isinstance(failure, IssuerUnusable)
            else f"See that the identity provider at {self.url} runs and can be reached from here, or correct HAVEN_ISSUER."
        )
        return f"{problem}{cause}. {remedy}"

    def _fetch_key_set(self) -> KeySet:
        if self._metadata is None:
            self._metadata = discover(self.url)
        return HttpKeySet(self._metadata.jwks_uri)()


def _in_time(work: Callable[[], _A]) -> _A:
    """Does it within `ANSWERED_WITHIN`, or raises `KeysUnavailable`.

    In a thread that is left behind: looking up a name, and trying each address it has, take as long as the system likes.
    """
    answers: SimpleQueue[_A | KeysUnavailable] = SimpleQueue()

    def answer() -> None:
        try:
            answers.put(work())
        except KeysUnavailable as failure:
            answers.put(failure)

    threading.Thread(target=answer, name="issuer", daemon=True).start()
    try:
        given = answers.get(timeout=ANSWERED_WITHIN)
    except Empty:
        raise KeysUnavailable("the issuer does not answer") from None
    if isinstance(given, KeysUnavailable):
        raise given
    return given
