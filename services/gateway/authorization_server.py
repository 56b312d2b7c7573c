"""The embedded node's own OAuth 2 authorization server: demo sign-ins, for this machine only.

It serves the node that one person tries out on one computer, with synthetic accounts. It refuses to be more than that: its
issuer must be a loopback address, it answers only to loopback peers that no proxy stands in front of and only under its own
host name, and it does not start beside an external issuer. A deployment signs in at an identity provider of its own.

What it speaks: client credentials for programs (`client_secret_basic`), authorization code with PKCE S256 for the pages
(RFC 6749, 7636, 9700), RFC 9068 tokens of five minutes, bound to a key for whoever shows one (DPoP, RFC 9449), revocation
(RFC 7009), metadata (RFC 8414) and `iss` in every authorization response (RFC 9207). No refresh tokens, no implicit or
password grant, no dynamic registration.

`AUTHLIB_INSECURE_TRANSPORT` is not needed and never set: since 1.8 Authlib itself takes plain http for a loopback host, and
only for that, so a node that somehow answered under another name would still be refused by the library.

What is kept where: codes live in memory (a restart costs whoever is signing in right now a second try); revocations are on
disk until the token they stop has expired, since a crash must not give a revoked token its remaining minutes back.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from authlib.common.urls import add_params_to_uri
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from flask import Blueprint, Response, jsonify, request
from joserfc.jwk import ECKey

from services.config import ConfigurationError
from services.gateway.dpop import ProofVerifier, sent_proof
from services.gateway.jws import ALGORITHMS
from services.gateway.node_secrets import public_keys
from services.gateway.oauth_grants import (
    PASSWORD_ACR,
    AccessTokens,
    AuthorizationCodes,
    Client,
    CodeGrant,
    CodeRules,
    PagesClient,
    TokenRevocation,
)
from services.gateway.principals import SCOPES_OF_ROLE, Account, Scope
from services.gateway.sign_in import (
    SIGN_IN_WINDOW,
    Credentials,
    SignInPage,
    SignInRefused,
    TooManySignIns,
    plain_answer,
)
from services.gateway.token_errors import InvalidProof
from services.gateway.token_store import TokenStore
from services.gateway.tokens import TokenVerifier
from services.loopback import is_loopback

_LARGEST_REQUEST = 16 * 1024
_PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")


def refuse_when_external(issuer_setting: str | None) -> None:
    """Raises `ConfigurationError` if an identity provider is configured: two issuers would be two sets of accounts, and
    the demo's are printed on the screen."""
    if issuer_setting:
        raise ConfigurationError(
            "An external issuer is configured, so the embedded authorization server with its demo accounts must not run. "
            "Start the services without it, or remove the issuer setting to try Haven out on this machine."
        )


class _Server(AuthorizationServer):  # type: ignore[misc]  # Authlib ships no types
    """Authlib's server over the demo accounts. Its errors carry a code and our own advice, never what the client sent."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        signing_key: ECKey,
        accounts: Mapping[str, Account],
        logins: Mapping[str, str],
        pages: PagesClient,
        store: TokenStore,
        proofs: ProofVerifier,
        now: Callable[[], datetime],
    ) -> None:
        clients = {
            account.client_id: Client(
                client_id=account.client_id, grant_type="client_credentials", scopes=SCOPES_OF_ROLE[account.role]
            )
            for account in accounts.values()
        }
        clients[pages.client_id] = Client(
            client_id=pages.client_id,
            grant_type="authorization_code",
            scopes=frozenset(Scope),
            redirect_uris=pages.redirect_uris,
        )
        # Tokens describe themselves: there is nothing to save.
        super().__init__(query_client=clients.get, save_token=lambda _token, _request: None)
        self.issuer = issuer
        self.now = now
        self.store = store
        self.codes = AuthorizationCodes(store, now)
        keys = public_keys(signing_key)
        self.verifier = TokenVerifier(
            issuer=issuer,
            audience=audience,
            countries={account.country for account in accounts.values()},
            jwks=lambda: keys,
            is_revoked=store.is_revoked,
            proofs=proofs,
            now=now,
        )
        self._proofs = proofs
        self._accounts = accounts
        self._credentials = Credentials({**logins, pages.client_id: pages.secret}, now)
        tokens = AccessTokens(issuer, audience, signing_key, accounts, self._sender_key, now)
        self.register_token_generator("default", tokens)
        self.register_client_auth_method("client_secret_basic", self._authenticate_client)
        self.register_grant(CodeGrant, [CodeRules(required=True)])
        self.register_grant(ClientCredentialsGrant)
        self.register_endpoint(TokenRevocation)

    def sign_in(self, username: str, password: str) -> Account:
        """The account of this person. Raises `SignInRefused` or `TooManySignIns`."""
        self._credentials.check(username, password)
        account = self._accounts.get(username)
        if account is None or self.store.is_revoked(account.person):
            raise SignInRefused
        return account

    def _sender_key(self) -> str | None:
        proof = sent_proof(request)
        try:
            return None if proof is None else self._proofs.thumbprint(proof)
        except InvalidProof:
            raise OAuth2Error(error="invalid_dpop_proof") from None

    def _authenticate_client(self, query_client: Callable[[str], Client | None], _request: Any) -> Client | None:
        # Authlib's own fails on a header that is not base64 of UTF-8; RFC 6749 section 2.3.1 has both halves form-encoded.
        given = request.authorization
        if given is None or given.type != "basic":
            return None
        client_id, secret = unquote(given.username or ""), unquote(given.password or "")
        try:
            client = query_client(client_id)
            if client is not None and client.grant_type == "authorization_code":
                self._credentials.check(client_id, secret)
            else:
                self.sign_in(client_id, secret)
        except SignInRefused:
            return None
        except TooManySignIns:
            raise OAuth2Error(error="temporarily_unavailable", status_code=429) from None
        return client

    def handle_error_response(self, _request: Any, error: OAuth2Error) -> Response:
        if error.redirect_uri:
            answer = [("error", error.error), ("state", error.state), ("iss", self.issuer)]
            location = add_params_to_uri(error.redirect_uri, [(name, value) for name, value in answer if value])
            return Response(status=303, headers={"Location": location})
        response = jsonify(error=error.error, error_description=_ADVICE.get(error.error, _ADVICE["invalid_request"]))
        response.status_code = error.status_code
        if error.status_code == 401:
            response.headers["WWW-Authenticate"] = 'Basic realm="haven"'
        if error.status_code == 429:
            response.headers["Retry-After"] = str(int(SIGN_IN_WINDOW.total_seconds()))
        return response


_ADVICE = {
    "invalid_request": "A parameter is missing, given twice or not allowed. Check the request and send it again.",
    "invalid_client": "The client id or its secret is wrong. Send both with HTTP Basic.",
    "invalid_grant": "The code is wrong, used or older than a minute, or does not match its request. Sign in again.",
    "invalid_dpop_proof": "The DPoP proof does not fit. Set the clock right, make a new one for this request, and start again.",
    "invalid_scope": "No scope asked for can be given to this account. Ask for fewer, or for none to get all it has.",
    "unauthorized_client": "This client may not use this grant. Programs use client_credentials, pages authorization_code.",
    "unsupported_grant_type": "Use client_credentials or authorization_code.",
    "unsupported_token_type": "Only access tokens exist here.",
    "temporarily_unavailable": "Too many attempts. Wait a minute and try again.",
}


def authorization_server(
    *,
    issuer: str,
    audience: str,
    signing_key: ECKey,
    accounts: Iterable[Account],
    logins: Mapping[str, str],
    pages: PagesClient,
    store: TokenStore,
    proofs: ProofVerifier,
    now: Callable[[], datetime],
) -> Blueprint:
    """The embedded authorization server as a Flask blueprint: `/oauth/...` and its RFC 8414 metadata.

    `issuer` is scheme, host and port of this node, nothing more. `logins` maps user names to secrets. `store` and `proofs` are
    the gateway's own: its public address is the issuer. `now` is real time.
    Raises `ConfigurationError` if the issuer or an address of the pages is not on this machine.
    """
    by_name = {account.username: account for account in accounts}
    host = _host_of(issuer)
    for redirect_uri in pages.redirect_uris:
        _refuse_elsewhere(redirect_uri, "The address of the pages")
    if pages.client_id in by_name:
        raise ConfigurationError("The client id of the pages is also a user name. Give the pages another one.")
    # At DEBUG Authlib writes tokens to the log, and its client code verifiers (authlib.oauth2.rfc6749.grants, base_client).
    logging.getLogger("authlib").setLevel(logging.WARNING)
    server = _Server(
        issuer=issuer,
        audience=audience,
        signing_key=signing_key,
        accounts=by_name,
        logins=logins,
        pages=pages,
        store=store,
        proofs=proofs,
        now=now,
    )
    sign_in = SignInPage(server, server.sign_in, issuer)
    key_set = public_keys(signing_key).as_dict(private=False)
    blueprint = Blueprint("authorization_server", __name__)
    blueprint.before_request(lambda: _refuse_strangers(issuer, host))
    blueprint.after_request(_harden)
    blueprint.get("/oauth/authorize")(sign_in.ask)
    blueprint.post("/oauth/authorize")(sign_in.answer)

    @blueprint.get("/.well-known/oauth-authorization-server")
    def metadata() -> Response:
        return jsonify(metadata_of(issuer))

    @blueprint.get("/oauth/jwks.json")
    def jwks() -> Response:
        return jsonify(key_set)

    @blueprint.post("/oauth/token")
    def token() -> Response:
        response: Response = _ambiguous_form(server) or server.create_token_response()
        return response

    @blueprint.post("/oauth/revoke")
    def revoke() -> Response:
        response: Response = _ambiguous_form(server) or server.create_endpoint_response("revocation")
        return response

    return blueprint


def _refuse_strangers(issuer: str, host: str) -> Response | None:
    request.max_content_length = _LARGEST_REQUEST
    # Behind a proxy on this machine the whole world has a loopback address.
    proxied = any(header in request.headers for header in _PROXY_HEADERS)
    if proxied or not is_loopback(request.remote_addr or ""):
        return plain_answer(403, "Demo sign-in works on the machine that runs the node, and only there.")
    # Another name that resolves to this machine is how a web page elsewhere reaches it (DNS rebinding).
    if request.host.lower() != host:
        return plain_answer(421, f"Open the node as {issuer}.")
    return None


def _harden(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    # "no-referrer" would also turn the form's Origin into "null", and that header is checked.
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    return response


def _host_of(issuer: str) -> str:
    _refuse_elsewhere(issuer, "The issuer")
    parts = urlsplit(issuer)
    host = parts.netloc.lower()
    if issuer != f"{parts.scheme}://{host}":
        raise ConfigurationError("The issuer must be scheme, host and port only, for example http://127.0.0.1:8080.")
    return host.removesuffix(":443" if parts.scheme == "https" else ":80")


def _refuse_elsewhere(address: str, what: str) -> None:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        host = ""
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not is_loopback(host) or "@" in parts.netloc or parts.fragment:
        raise ConfigurationError(
            f"{what} is not on this machine, and the embedded authorization server signs in demo accounts only. "
            "Use an http:// address on 127.0.0.1, ::1 or localhost, or configure an external issuer instead."
        )


def metadata_of(issuer: str) -> dict[str, Any]:
    """What the embedded server says about itself (RFC 8414)."""
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "jwks_uri": f"{issuer}/oauth/jwks.json",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": [scope.value for scope in Scope],
        "authorization_response_iss_parameter_supported": True,
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
        "acr_values_supported": [PASSWORD_ACR],
    }


def _ambiguous_form(server: _Server) -> Response | None:
    """The refusal of a request whose parameters are not all in the body, each once (RFC 6749 section 3.2)."""
    repeated = any(len(values) > 1 for _, values in request.form.lists())
    if request.args or repeated or request.mimetype != "application/x-www-form-urlencoded":
        return server.handle_error_response(request, InvalidRequestError())
    return None
