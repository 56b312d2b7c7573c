"""Authorization code with PKCE, from the client's side: `state`, `nonce` and `iss` (RFC 6749, 7636, 9207, OpenID Connect
Core 1.0), with Keycloak and with the embedded server.

`begin` makes the address a browser is sent to, `finish` turns what the browser brings back into tokens. What must be kept
between the two is in `Flow`, and belongs to that browser alone.
"""

import base64
import hashlib
import hmac
import http.client
import re
import secrets
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError

from services.gateway.issuer import Metadata, discover
from services.gateway.key_set import HttpKeySet, KeysUnavailable

TIMEOUT = 20.0
"""Seconds for one answer of the issuer."""

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


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """One sign-in under way: where the browser is sent, and what only this sign-in knows."""

    url: str
    redirect_uri: str
    state: str
    verifier: str
    nonce: str
    """Empty with an issuer that gives no ID token."""

    def __repr__(self) -> str:
        return "Flow(under way)"


def begin(
    metadata: Metadata,
    client_id: str,
    redirect_uri: str,
    *,
    scope: str = "",
    max_age: int | None = None,
    acr_values: str = "",
    prompt: str = "",
    login_hint: str = "",
) -> Flow:
    """`max_age=0` makes the issuer ask for the password again, `acr_values` for at least that level of authentication
    (step-up, RFC 9470). `login_hint` is the user name it may fill in."""
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
        "login_hint": login_hint,
    }
    query = urlencode({name: value for name, value in request.items() if value})
    return Flow(
        url=f"{metadata.authorization_endpoint}?{query}",
        redirect_uri=redirect_uri,
        state=state,
        verifier=verifier,
        nonce=request["nonce"],
    )


def finish(
    metadata: Metadata,
    client_id: str,
    client_secret: str,
    flow: Flow,
    answer: Mapping[str, str],
    proof: Proof | None = None,
) -> Token:
    """The tokens for what the browser brought back. Raises `SignInFailed` or `IssuerUnreachable`."""
    grant = {
        "grant_type": "authorization_code",
        "code": _code(answer, metadata, flow.state),
        "redirect_uri": flow.redirect_uri,
        "code_verifier": flow.verifier,
    }
    token = token_for(metadata, client_id, client_secret, grant, proof)
    if flow.nonce:
        _check_id_token(token, metadata, client_id, flow.nonce)
    return token


def discovered(issuer_url: str) -> Metadata:
    """What the issuer says about itself. Raises `IssuerUnreachable`."""
    try:
        return discover(issuer_url)
    except KeysUnavailable as away:
        raise IssuerUnreachable(f"{away.problem}: {issuer_url}") from None


def _code(answer: Mapping[str, str], metadata: Metadata, state: str) -> str:
    if not hmac.compare_digest(answer.get("state", "").encode(), state.encode()):
        raise SignInFailed("the issuer's answer belongs to another sign-in (state)")
    if answer.get("iss", "" if metadata.authorization_response_iss_parameter_supported else metadata.issuer) != (
        metadata.issuer
    ):
        raise SignInFailed("the answer comes from another issuer (iss)")
    if "error" in answer:
        raise SignInFailed(f"the issuer refused the sign-in: {error_code(answer['error'])}")
    if not answer.get("code"):
        raise SignInFailed("the issuer's answer has no code")
    return answer["code"]


def token_for(
    metadata: Metadata, client_id: str, client_secret: str, grant: Mapping[str, str], proof: Proof | None
) -> Token:
    """A token from the token endpoint. Raises `SignInFailed` or `IssuerUnreachable`."""
    # RFC 6749 section 2.3.1: both halves are form-encoded before they are joined.
    basic = base64.b64encode(f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}".encode()).decode()
    headers = {"Accept": "application/json", "Authorization": f"Basic {basic}"}
    if proof is not None:
        headers["DPoP"] = proof("POST", metadata.token_endpoint)
    status, _, body = send(metadata.token_endpoint, headers, urlencode(grant))
    try:
        if status != 200:
            refusal = msgspec.json.decode(body, type=dict[str, object])
            raise SignInFailed(f"the issuer gives no token ({status}): {error_code(str(refusal.get('error')))}")
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


def send(url: str, headers: dict[str, str], form: str | None) -> tuple[int, http.client.HTTPMessage, str]:
    """Status, headers and body of one answer; a redirect is not followed. Raises `IssuerUnreachable`."""
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


def error_code(text: str) -> str:
    return text if _CODE.fullmatch(text) else "an unreadable error"
