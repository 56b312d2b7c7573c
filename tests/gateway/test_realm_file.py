"""The realm file of Keycloak says what the gateway says, and holds nothing that must not be in a repository."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from deploy import keycloak
from events.vocabulary import CountryCode, Role, SafeIdentifier
from services.gateway.jws import ALGORITHMS
from services.gateway.principals import Scope
from services.gateway.tokens import LONGEST_LIFETIME

TEXT = (Path(__file__).resolve().parents[2] / "deploy" / "keycloak" / "realm.json").read_text()
REALM: dict[str, Any] = json.loads(TEXT)
(PROFILE,) = [
    json.loads(component["config"]["kc.user.profile.config"][0])
    for component in REALM["components"]["org.keycloak.userprofile.UserProfileProvider"]
]
ATTRIBUTES = {attribute["name"]: attribute for attribute in PROFILE["attributes"]}
CLAIMS = {"haven_role", "haven_organisation", "haven_country", "haven_person"}
(PAGES,) = [client for client in REALM["clients"] if client["clientId"] == keycloak.PAGES]


def test_there_is_nobody_and_no_secret_in_it() -> None:
    assert not {"users", "federatedUsers", "smtpServer", "identityProviders"} & set(REALM)
    assert not re.search(r'"(secret|password|privateKey|value|hashedSaltedValue|registrationAccessToken)"', TEXT)


def test_it_knows_the_roles_of_the_gateway() -> None:
    (options,) = ATTRIBUTES["haven_role"]["validations"].values()
    assert sorted(options["options"]) == sorted(set(Role) - {Role.SYSTEM})


def test_it_knows_the_scopes_of_the_gateway_and_gives_them_to_the_pages() -> None:
    offered = [
        scope["name"] for scope in REALM["clientScopes"] if scope["attributes"]["include.in.token.scope"] == "true"
    ]
    assert sorted(offered) == sorted(Scope)
    assert sorted(PAGES["defaultClientScopes"]) == sorted(["haven", "haven-person", *Scope])
    assert PAGES["optionalClientScopes"] == []


@pytest.mark.parametrize(
    ("name", "contract"),
    [("haven_organisation", SafeIdentifier), ("haven_person", SafeIdentifier), ("haven_country", CountryCode)],
)
def test_what_it_lets_an_administrator_enter_is_what_the_gateway_reads(name: str, contract: Any) -> None:
    (given,) = ATTRIBUTES[name]["validations"].values()
    assert rf"\A{given['pattern']}\Z" == get_args(contract)[1].pattern


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_who_somebody_is_is_one_value_that_administrators_alone_see_and_change(name: str) -> None:
    attribute = ATTRIBUTES[name]
    assert attribute["permissions"] == {"view": ["admin"], "edit": ["admin"]}
    assert attribute["required"] == {"roles": ["admin"]}
    assert attribute["multivalued"] is False


def test_nothing_else_is_kept_about_anybody() -> None:
    assert set(ATTRIBUTES) == CLAIMS | {"username", "email"}
    assert "unmanagedAttributePolicy" not in PROFILE
    assert all("user" not in attribute["permissions"]["edit"] for attribute in PROFILE["attributes"])


def test_tokens_are_signed_and_live_as_the_gateway_demands() -> None:
    assert REALM["defaultSignatureAlgorithm"] in ALGORITHMS
    assert REALM["accessTokenLifespan"] <= LONGEST_LIFETIME.total_seconds()
    kinds = {key["providerId"] for key in REALM["components"]["org.keycloak.keys.KeyProvider"]}
    assert kinds == {"ecdsa-generated", "hmac-generated", "aes-generated"}, "no RSA key, which could sign RS256"


def test_only_the_pages_sign_people_in_and_only_with_a_code() -> None:
    assert [client["clientId"] for client in REALM["clients"] if client["enabled"]] == [keycloak.PAGES]
    off = (
        "publicClient",
        "implicitFlowEnabled",
        "directAccessGrantsEnabled",
        "serviceAccountsEnabled",
        "fullScopeAllowed",
    )
    assert [name for name in off if PAGES[name]] == []
    assert PAGES["redirectUris"] == ["${HAVEN_PUBLIC_URL}/signed-in"]
    assert PAGES["webOrigins"] == []
    assert PAGES["attributes"]["pkce.code.challenge.method"] == "S256"
    assert PAGES["attributes"]["use.refresh.tokens"] == "false"


def test_a_client_made_by_hand_is_given_nothing() -> None:
    assert REALM["defaultDefaultClientScopes"] == REALM["defaultOptionalClientScopes"] == []
    assert all(not role.get("composite") for role in REALM["roles"]["realm"])


def test_an_operator_has_a_readme_that_names_every_setting() -> None:
    readme = (Path(__file__).resolve().parents[2] / "deploy" / "keycloak" / "README.md").read_text()
    unsaid = {"realm", "displayName", "enabled"}
    assert sorted(name for name in REALM if name not in unsaid and f"`{name}`" not in readme) == []
