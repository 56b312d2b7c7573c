"""A careful client of Haven's API: repeats every request under the same key until it is answered."""

import base64
import contextlib
import hashlib
import http.client
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

Json = dict[str, Any]

PATIENCE = timedelta(seconds=90)
"""How long it goes on asking a node that does not answer."""


class NodeUnreachable(Exception):
    """The node gave no answer, or no token, for as long as the client's patience lasts."""


@dataclass
class Answer:
    status: int
    body: Json
    headers: dict[str, str]


class SenderKey:
    """A key that tokens are bound to (DPoP, RFC 9449), made in memory and gone with the process."""

    def __init__(self) -> None:
        self._key = ECKey.generate_key("P-256")

    def proof(self, method: str, url: str, token: str = "") -> str:
        """Shows once that this key sends this request, with this token."""
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self._key.as_dict(private=False)}
        claims: Json = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": int(time.time())}
        if token:
            digest = hashlib.sha256(token.encode()).digest()
            claims["ath"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return jwt.encode(header, claims, self._key, registry=JWSRegistry(algorithms=["ES256"]))


SignIn = Callable[[str, SenderKey | None], str]
"""From an account, and the key its token is to be bound to, to an access token of five minutes."""


@dataclass
class Client:
    """A careful API client: one token per account, every request repeated under the same key until it is answered.

    `keys` are accounts whose tokens are bound to a key; each of their requests carries a proof, a fresh one also when it is
    repeated, since the first may have arrived.
    """

    url: str
    logins: dict[str, str]
    keys: dict[str, SenderKey] = field(default_factory=dict)
    sign_in: SignIn | None = None
    """How a person gets a token where the gateway brings no sign-in of its own."""
    stream_url: str = ""
    """Where live streams are; empty: where everything is, as behind a proxy that makes one origin of both."""
    _tokens: dict[str, tuple[str, float]] = field(default_factory=dict)

    def send(self, who: str, method: str, path: str, body: Json | None = None, **headers: str) -> Answer:
        """The answer to one request, however often it had to be sent. Raises NodeUnreachable when the node stays away."""
        if method == "POST":
            headers["Idempotency-Key"] = secrets.token_urlsafe(18)
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else json.dumps(body).encode()
        ends, said = time.monotonic() + PATIENCE.total_seconds(), ""
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, http.client.HTTPException):
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                answer = self._once(method, path, content, {**named, **self._credentials(who, method, path)})
                if answer.status not in (401, 503):
                    return answer
                self._tokens.pop(who, None)
                said = f"; it last said {answer.status}: {answer.body.get('title')}"
            time.sleep(0.2)
        raise NodeUnreachable(f"no answer to {method} {path} within {PATIENCE.seconds} s{said}")

    def moves(self, who: str, subject: str) -> Iterator[None]:
        """Yields once at first and then whenever `subject` moves, as the live stream says; ends after PATIENCE."""
        ends = time.monotonic() + PATIENCE.total_seconds()
        last_id = ""
        yield
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, http.client.HTTPException):
                for line in self._stream(who, last_id):
                    if line.startswith("id: "):
                        last_id = line[4:]
                    if (line.startswith("data: ") and subject in line) or line.startswith("retry: "):
                        yield  # also on (re)connection: it may have moved while nobody listened
                    if time.monotonic() >= ends:
                        return
            time.sleep(0.2)

    def _stream(self, who: str, last_id: str) -> Iterator[str]:
        place = urlsplit(self.stream_url or self.url)
        path = "/api/v1/stream"
        headers = {**self._credentials(who, "GET", path), "Last-Event-ID": last_id}
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                return
            while line := response.readline():
                yield line.decode().rstrip()
        finally:
            connection.close()

    def _credentials(self, who: str, method: str, path: str) -> dict[str, str]:
        token = self._token(who)
        if who not in self.keys:
            return {"Authorization": f"Bearer {token}"}
        proof = self.keys[who].proof(method, self.url + path.partition("?")[0], token)
        return {"Authorization": f"DPoP {token}", "DPoP": proof}

    def _token(self, who: str) -> str:
        known, until = self._tokens.get(who, ("", 0.0))
        if time.monotonic() < until:
            return known
        key = self.keys.get(who)
        token = self.sign_in(who, key) if self.sign_in else self._client_credentials(who, key)
        self._tokens[who] = (token, time.monotonic() + 200)
        return token

    def sign_in_now(self, who: str) -> None:
        """Gets the account's token before it is needed. Raises NodeUnreachable or what signing in raises."""
        self._token(who)

    def _client_credentials(self, who: str, key: SenderKey | None) -> str:
        path = "/oauth/token"
        basic = base64.b64encode(f"{who}:{self.logins[who]}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        if key:
            headers["DPoP"] = key.proof("POST", self.url + path)
        answer = self._once("POST", path, b"grant_type=client_credentials", headers)
        if answer.status != 200:
            raise NodeUnreachable(f"{who} cannot sign in: {answer.body.get('error')}")
        return str(answer.body["access_token"])

    def _once(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> Answer:
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=40)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            raw = response.read()
            named = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, json.loads(raw) if raw else {}, named)
        finally:
            connection.close()
