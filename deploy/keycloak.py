"""Accounts, machine clients and keys of a Keycloak that has our realm, by its admin API (`deploy/keycloak/README.md`).

For tests and demonstrations, and the pattern for whoever automates a deployment. Everything can be done twice.
"""

import hmac
import http.client
import json
import secrets
import ssl
import struct
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol, Self
from urllib.parse import quote, urlencode, urlsplit

REALM = "haven"
PAGES = "haven-pages"
KEY_PROVIDER = "org.keycloak.keys.KeyProvider"
OTP_SECONDS = 30
TIMEOUT = 30.0
TOKEN_USED = 45.0
"""Seconds; an administrator's token lives for sixty."""

Json = Any


class KeycloakRefused(Exception):
    """Keycloak's answer to a request of the admin API. It names the fields at fault, and no value."""

    def __init__(self, method: str, path: str, status: int, problem: str) -> None:
        self.status = status
        super().__init__(f"Keycloak answered {method} {path} with {status}: {problem}")


class Account(Protocol):
    """`services.gateway.principals.Account`, or whatever else says who somebody is."""

    @property
    def username(self) -> str: ...
    @property
    def person(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def organisation(self) -> str: ...
    @property
    def country(self) -> str: ...


def provision(url: str, admin_password: str, accounts: Iterable[Account], passwords: Mapping[str, str]) -> None:
    """Makes every account, or makes it what it should be. `passwords` are by user name; no second factor is asked for.

    Raises `KeycloakRefused`, or `OSError` if Keycloak does not answer. Sixty accounts take a few seconds: each password is
    hashed, slowly on purpose.
    """
    with Keycloak(url, admin_password) as keycloak:
        known = keycloak.people()
        for account in accounts:
            keycloak.person(account, passwords[account.username], known=known)


def one_time_password(secret: str, now: float) -> str:
    """What an authenticator app with this secret shows at `now`, in seconds of the epoch (RFC 6238, six digits)."""
    digest = hmac.digest(secret.encode(), struct.pack(">Q", int(now // OTP_SECONDS)), "sha1")
    start = digest[-1] & 0xF
    return f"{(int.from_bytes(digest[start : start + 4]) & 0x7FFFFFFF) % 1_000_000:06}"


class Keycloak:
    """The admin API of one realm, over one connection; not to be shared between threads."""

    def __init__(self, url: str, admin_password: str, *, admin: str = "admin", realm: str = REALM) -> None:
        self.issuer = f"{url}/realms/{realm}"
        parts = urlsplit(url)
        self._base = parts.path.rstrip("/")
        self._realm = f"/admin/realms/{realm}"
        self._connection = (
            http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=TIMEOUT, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
        )
        self._login = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": admin,
            "password": admin_password,
        }
        self._token, self._token_made_at = "", float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    # People

    def people(self) -> dict[str, str]:
        """Keycloak's id of every account by user name; Keycloak keeps user names in lower case."""
        return {
            user["username"]: user["id"] for user in self.request("GET", "/users?briefRepresentation=true&max=10000")
        }

    def person(
        self,
        account: Account,
        password: str,
        *,
        otp_secret: str | None = None,
        known: Mapping[str, str] | None = None,
    ) -> str:
        """Makes an account, or makes it what it should be, and returns its id. It is enabled, and nothing is asked of it.

        With an `otp_secret` (text, as many characters as you like) it has a second factor: see `one_time_password`.
        """
        credentials = [{"type": "password", "value": password, "temporary": False}]
        if otp_secret is not None:
            credentials.append(_otp_credential(otp_secret))
        user = {
            "username": account.username,
            "enabled": True,
            "attributes": _attributes(account),
            "credentials": credentials,
        }
        user_id = (self.people() if known is None else known).get(account.username.lower())
        if user_id is None:
            user_id = self._made("/users", user)
            user = {}
        elif otp_secret is not None:
            self._forget_second_factors(user_id)
        # Whoever is new is asked to enrol a second factor, whatever is said when the account is made.
        self.request("PUT", f"/users/{user_id}", user | {"requiredActions": []})
        return user_id

    def set_enabled(self, username: str, enabled: bool) -> None:
        """Whether somebody may sign in. Who may not is signed out everywhere too."""
        user_id = self._user(username)
        self.request("PUT", f"/users/{user_id}", {"enabled": enabled})
        if not enabled:
            self.request("POST", f"/users/{user_id}/logout")

    def sign_out(self, username: str) -> None:
        """Ends every session somebody has, in every browser. Tokens they hold stay good until they expire."""
        self.request("POST", f"/users/{self._user(username)}/logout")

    # Clients

    def pages_at(self, public_url: str) -> None:
        """Where the pages are: what HAVEN_PUBLIC_URL said when the realm was imported, or did not say."""
        client = self._client(PAGES)
        attributes = self.request("GET", f"/clients/{client}")["attributes"]
        attributes["post.logout.redirect.uris"] = f"{public_url}/"
        self.request(
            "PUT", f"/clients/{client}", {"redirectUris": [f"{public_url}/signed-in"], "attributes": attributes}
        )

    def client_secret(self, client_id: str = PAGES) -> str:
        """The secret of a confidential client; Keycloak made it up when the realm was imported."""
        secret: str = self.request("GET", f"/clients/{self._client(client_id)}/client-secret")["value"]
        return secret

    def machine_client(
        self, client_id: str, account: Account, scopes: Collection[str], *, dpop: bool = True, audience: bool = True
    ) -> str:
        """Makes a program's client, or makes it what it should be, and returns its secret (client credentials).

        It acts for `account` with these Haven scopes and no other. With `dpop` it gets no token without a proof of a key.
        Without the `audience` its tokens are for nobody: what a client made by hand is like.
        """
        client = {
            "clientId": client_id,
            "protocol": "openid-connect",
            "enabled": True,
            "publicClient": False,
            "clientAuthenticatorType": "client-secret",
            "standardFlowEnabled": False,
            "directAccessGrantsEnabled": False,
            "serviceAccountsEnabled": True,
            "fullScopeAllowed": False,
            "attributes": {
                "access.token.header.type.rfc9068": "true",
                "dpop.bound.access.tokens": str(dpop).lower(),
                "client_credentials.use_refresh_token": "false",
            },
            "defaultClientScopes": [*(["haven"] if audience else []), *sorted(scopes)],
            "optionalClientScopes": [],
            "protocolMappers": [_client_id_claim(client_id)],
        }
        secret = secrets.token_urlsafe(32)
        if self.request("GET", f"/clients?clientId={quote(client_id, safe='')}"):
            secret = self.client_secret(client_id)
            self.request("DELETE", f"/clients/{self._client(client_id)}")  # an update would leave its old scopes
        made = self._made("/clients", client | {"secret": secret})
        service_account = self.request("GET", f"/clients/{made}/service-account-user")
        self.request(
            "PUT",
            f"/users/{service_account['id']}",
            {"username": service_account["username"], "enabled": True, "attributes": _attributes(account)},
        )
        return secret

    # Keys

    def rotate_key(self) -> str:
        """Makes a new signing key, which signs from now on, and returns its id. The old one stays published."""
        providers = self._signing_keys()
        priority = 1 + max(int(provider["config"].get("priority", ["0"])[0]) for provider in providers)
        realm_id = self.request("GET", "")["id"]
        self._made(
            "/components",
            {
                "name": f"es256-{priority}",
                "providerId": "ecdsa-generated",
                "providerType": KEY_PROVIDER,
                "parentId": realm_id,
                "config": {"priority": [str(priority)], "ecdsaEllipticCurveKey": ["P-256"]},
            },
        )
        active: str = self.request("GET", "/keys")["active"]["ES256"]
        return active

    def remove_old_keys(self) -> None:
        """Takes every signing key but the newest out of service: after a rotation and the life of a token (5 minutes)."""
        *old, _newest = sorted(
            self._signing_keys(), key=lambda provider: int(provider["config"].get("priority", ["0"])[0])
        )
        for provider in old:
            self.request("DELETE", f"/components/{provider['id']}")

    # The API itself

    def request(self, method: str, path: str, body: Json = None) -> Json:
        """One request below the realm; `None` where there is no answer. Raises `KeycloakRefused` or `OSError`."""
        _, answer = self._send(method, self._realm + path, body)
        return answer

    def _made(self, path: str, body: Json) -> str:
        location, _ = self._send("POST", self._realm + path, body)
        return location.rpartition("/")[2]

    def _send(self, method: str, path: str, body: Json) -> tuple[str, Json]:
        headers = {"Authorization": f"Bearer {self._admin_token()}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        status, location, answer = self._once(method, self._base + path, content, headers)
        if not 200 <= status < 300:
            raise KeycloakRefused(method, path.partition("?")[0], status, _problem(answer))
        return location, json.loads(answer) if answer else None

    def _admin_token(self) -> str:
        if time.monotonic() - self._token_made_at > TOKEN_USED:
            path = f"{self._base}/realms/master/protocol/openid-connect/token"
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            status, _, answer = self._once("POST", path, urlencode(self._login), form)
            if status != 200:
                raise KeycloakRefused("POST", path, status, _problem(answer))
            self._token, self._token_made_at = json.loads(answer)["access_token"], time.monotonic()
        return self._token

    def _once(self, method: str, path: str, content: str | None, headers: dict[str, str]) -> tuple[int, str, bytes]:
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            return response.status, response.headers.get("Location", ""), response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ConnectionError(f"Keycloak does not answer {method} {path.partition('?')[0]}") from error

    def _user(self, username: str) -> str:
        found = self.request("GET", f"/users?exact=true&username={quote(username, safe='')}")
        if not found:
            raise KeycloakRefused("GET", "/users", 404, f"there is no account {username}")
        user_id: str = found[0]["id"]
        return user_id

    def _client(self, client_id: str) -> str:
        found = self.request("GET", f"/clients?clientId={quote(client_id, safe='')}")
        if not found:
            raise KeycloakRefused("GET", "/clients", 404, f"there is no client {client_id}; was the realm imported?")
        client: str = found[0]["id"]
        return client

    def _forget_second_factors(self, user_id: str) -> None:
        for credential in self.request("GET", f"/users/{user_id}/credentials"):
            if credential["type"] == "otp":
                self.request("DELETE", f"/users/{user_id}/credentials/{credential['id']}")

    def _signing_keys(self) -> list[Json]:
        providers = self.request("GET", f"/components?type={KEY_PROVIDER}")
        return [provider for provider in providers if provider["providerId"] == "ecdsa-generated"]


def _attributes(account: Account) -> dict[str, list[str]]:
    return {
        "haven_role": [str(account.role)],
        "haven_organisation": [account.organisation],
        "haven_country": [account.country],
        "haven_person": [account.person],
    }


def _otp_credential(secret: str) -> dict[str, Any]:
    described = {"subType": "totp", "digits": 6, "period": OTP_SECONDS, "counter": 0, "algorithm": "HmacSHA1"}
    return {"type": "otp", "secretData": json.dumps({"value": secret}), "credentialData": json.dumps(described)}


def _client_id_claim(client_id: str) -> dict[str, Any]:
    # RFC 9068 section 2.2 wants it; of itself Keycloak says `azp` only.
    return {
        "name": "client_id",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-hardcoded-claim-mapper",
        "config": {
            "claim.name": "client_id",
            "claim.value": client_id,
            "jsonType.label": "String",
            "access.token.claim": "true",
            "id.token.claim": "false",
            "userinfo.token.claim": "false",
        },
    }


def _problem(answer: bytes) -> str:
    try:
        told = json.loads(answer)
    except ValueError:
        return "no reason given"
    if not isinstance(told, dict):
        return "no reason given"
    problems = told.get("errors") or [told]
    return "; ".join(
        " ".join(str(problem[name]) for name in ("error", "field", "errorMessage") if problem.get(name))
        for problem in problems
    )
