"""Sender-constrained access tokens (DPoP, RFC 9449): a token bound to a key is worth nothing without the key.

The sender signs every request with that key: one small JWT, the proof, in the header `DPoP`. What is decided here:

* **Key.** Taken from the proof's header, as the RFC wants, and looked at only once its thumbprint (RFC 7638) is the one in
  the token: no signature is ever checked under a key of the sender's choosing. Members of a public key alone are known;
  private parts, shared secrets, certificates and addresses are refused by not being in the list.
* **Where.** `htu` is compared with the gateway's public address and the path as it is routed, never with the Host header:
  that is the sender's own word. Both are normalised as RFC 3986 sections 6.2.2 and 6.2.3 say; query and fragment do not count.
* **When.** A proof is good for a minute, and may come from a clock 30 seconds ahead, like a token.
* **Once.** Its `jti` is used up in one place for all gateways (`token_store`), last of all, so that nobody without a good token
  can fill that place; under the key's own thumbprint, so that nobody uses up the ids of another.
* **Nonces** of the server's own are not asked for: docs/adr/0020-sender-constrained-tokens-and-step-up.md.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from flask import Request
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from services.gateway.jws import COMPACT, Algorithm, read_header, verified_claims
from services.gateway.token_errors import InvalidProof, Reason

LARGEST_PROOF = 4 * 1024
"""Bytes, checked before anything is decoded. An RSA key of 4096 bits and its signature fit."""
PROOF_LIFETIME = timedelta(minutes=1)
PROOF_LEEWAY = timedelta(seconds=30)


class Demand(StrEnum):
    """Whose tokens must be bound to a key. A bound token is never taken without its proof, whatever is demanded."""

    MACHINES = "machines"
    """Tokens behind which nobody signed in (no `auth_time`): programs hold theirs for long, unattended."""
    ALL = "all"
    OFFERED = "offered"
    """Nobody's."""


class SentProof(NamedTuple):
    """A proof as it came, and the request it came with."""

    text: str
    method: str
    path: str
    """Decoded once, as it is routed."""


def sent_proof(request: Request) -> SentProof | None:
    """The proof of a request, if it has one. Two headers reach a WSGI application as one, joined by a comma, and a comma
    is in no proof: both are refused together."""
    text = request.headers.get("DPoP")
    return None if text is None else SentProof(text, request.method, request.path)


Thumbprint = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{43}\Z")]
_Coordinate = Thumbprint  # 32 bytes as well


class _PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kty"):
    """What a public key may say besides itself (RFC 7517, Web Cryptography): nothing that matters here."""

    use: Any = None
    alg: Any = None
    kid: Any = None
    key_ops: Any = None
    ext: Any = None


class _EllipticKey(_PublicKey, frozen=True, tag="EC", kw_only=True):
    crv: Literal["P-256"]
    x: _Coordinate
    y: _Coordinate

    def key(self) -> Key:
        return ECKey.import_key({"kty": "EC", "crv": self.crv, "x": self.x, "y": self.y})


class _EdwardsKey(_PublicKey, frozen=True, tag="OKP", kw_only=True):
    crv: Literal["Ed25519"]
    x: _Coordinate

    def key(self) -> Key:
        return OKPKey.import_key({"kty": "OKP", "crv": self.crv, "x": self.x})


class _RSAKey(_PublicKey, frozen=True, tag="RSA", kw_only=True):
    # 2048 to 4096 bits; a leading zero would make it shorter than it looks.
    n: Annotated[str, msgspec.Meta(pattern=r"\A[g-z0-9_-][A-Za-z0-9_-]{341,682}\Z")]
    e: Literal["AQAB"]

    def key(self) -> Key:
        return RSAKey.import_key({"kty": "RSA", "n": self.n, "e": self.e})


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    typ: Literal["dpop+jwt"]
    alg: Algorithm
    jwk: _EllipticKey | _EdwardsKey | _RSAKey


_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _Claims(msgspec.Struct, frozen=True):
    jti: _Text
    htm: str
    htu: Annotated[str, msgspec.Meta(max_length=2048)]
    iat: int | float
    ath: str = ""
    exp: int | float = float("inf")
    nbf: int | float = float("-inf")


class ProofVerifier:
    """Says which key a proof shows the possession of.

    `public_url` is where clients reach this server. `is_first_use(digest, until)` uses a proof up, for all gateways, and
    says whether it was unused (`TokenStore`). `now` is real time.
    """

    def __init__(
        self, *, public_url: str, is_first_use: Callable[[str, datetime], bool], now: Callable[[], datetime]
    ) -> None:
        self._place = _place(public_url)
        if self._place.path != ("",):
            raise ValueError("the public address is scheme, host and port only")
        self._is_first_use = is_first_use
        self._now = now

    def require_key(self, sent: SentProof | None, confirmation: str, token: str) -> None:
        """Uses up the proof that came with a token bound to the key with this thumbprint. Raises `InvalidProof`, or
        `TokenStoreUnavailable`."""
        if sent is None:
            raise InvalidProof(Reason.MISSING)
        key, thumbprint = _key_of(sent.text)
        if not hmac.compare_digest(thumbprint, confirmation):
            raise InvalidProof(Reason.OTHER_KEY)
        claims = self._claims(sent, key)
        if not hmac.compare_digest(claims.ath.encode(errors="replace"), token_hash(token).encode()):
            raise InvalidProof(Reason.OTHER_TOKEN)
        self._use_up(thumbprint, claims)

    def thumbprint(self, sent: SentProof) -> str:
        """Uses up the proof of somebody who asks for a token, and gives the thumbprint to bind it to. Raises `InvalidProof`,
        or `TokenStoreUnavailable`."""
        key, thumbprint = _key_of(sent.text)
        self._use_up(thumbprint, self._claims(sent, key))
        return thumbprint

    def _claims(self, sent: SentProof, key: Key) -> _Claims:
        try:
            claims = msgspec.convert(verified_claims(sent.text, key), _Claims)
        except BadSignatureError:
            raise InvalidProof(Reason.SIGNATURE) from None
        except msgspec.ValidationError:
            raise InvalidProof(Reason.CLAIM) from None
        except (JoseError, ValueError, RecursionError):
            raise InvalidProof(Reason.MALFORMED) from None
        if claims.htm != sent.method or not self._is_sent_to(claims.htu, sent.path):
            raise InvalidProof(Reason.OTHER_REQUEST)
        now = self._now().timestamp()
        if claims.iat < now - PROOF_LIFETIME.total_seconds() or claims.exp <= now:
            raise InvalidProof(Reason.EXPIRED)
        if max(claims.iat, claims.nbf) > now + PROOF_LEEWAY.total_seconds():
            raise InvalidProof(Reason.TOO_EARLY)
        return claims

    def _is_sent_to(self, htu: str, path: str) -> bool:
        try:
            given = _place(htu)
        except ValueError:
            return False
        # Segment by segment: an encoded slash is no slash.
        return given == self._place._replace(path=tuple(path.split("/")[1:]))

    def _use_up(self, thumbprint: str, claims: _Claims) -> None:
        digest = hashlib.sha256(f"{thumbprint}.{claims.jti}".encode(errors="surrogatepass")).hexdigest()
        if not self._is_first_use(digest, datetime.fromtimestamp(claims.iat, UTC) + PROOF_LIFETIME):
            raise InvalidProof(Reason.REPLAYED)


def token_hash(token: str) -> str:
    """The claim `ath`: what ties a proof to one token (RFC 9449 section 4.2)."""
    return urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def _key_of(proof: str) -> tuple[Key, str]:
    """The key a proof says it is signed with, and its thumbprint. Nothing is verified yet."""
    if len(proof) > LARGEST_PROOF:
        raise InvalidProof(Reason.TOO_LARGE)
    if not COMPACT.fullmatch(proof):
        raise InvalidProof(Reason.MALFORMED)
    try:
        header = read_header(proof, _Header)
        if not isinstance(header.jwk, _KEY_FOR[header.alg]):
            raise InvalidProof(Reason.HEADER)
        key = header.jwk.key()
        return key, key.thumbprint()
    except (JoseError, ValueError, RecursionError):
        raise InvalidProof(Reason.HEADER) from None


_KEY_FOR: dict[str, type[_PublicKey]] = {
    "ES256": _EllipticKey,
    "PS256": _RSAKey,
    "Ed25519": _EdwardsKey,
    "EdDSA": _EdwardsKey,
}


class _Place(NamedTuple):
    scheme: str
    host: str
    port: int
    path: tuple[str, ...]


_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_PORTS = {"https": 443, "http": 80}


def _place(url: str) -> _Place:
    """Where a URL leads, so that two spellings of one place are equal (RFC 3986 sections 6.2.2 and 6.2.3). Raises ValueError."""
    if not _URL.fullmatch(url):
        raise ValueError("not a URL")  # urlsplit would quietly leave out a tab or a line break
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("not an address of a web server")
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    return _Place(parts.scheme, parts.hostname, port, tuple(_segments(parts.path)))


def _segments(path: str) -> list[str]:
    kept: list[str] = []
    dots = False
    for segment in path.split("/")[1:] or [""]:
        decoded = unquote(segment, errors="strict")
        dots = decoded in (".", "..")
        if not dots:
            kept.append(decoded)
        elif decoded == ".." and kept:
            kept.pop()
    return [*kept, ""] if dots else kept
