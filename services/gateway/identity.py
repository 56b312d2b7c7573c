"""Who says who somebody is: the demo sign-in of this machine, or an identity provider elsewhere. Never both."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from flask import Blueprint
from joserfc.jwk import KeySet

from events.vocabulary import Role
from services.config import BadSetting, Settings
from services.gateway.authorization_server import authorization_server, metadata_of
from services.gateway.dpop import Demand, ProofVerifier
from services.gateway.issuer import Issuer, Metadata
from services.gateway.node_secrets import load_or_create_logins, load_or_create_signing_key, public_keys
from services.gateway.oauth_grants import PagesClient
from services.gateway.principals import Account
from services.gateway.token_store import TokenStore
from services.gateway.tokens import TokenVerifier
from services.loopback import is_loopback

PAGES = Account(
    username="haven-pages",
    person="haven.pages",
    role=Role.SYSTEM,
    organisation="haven",
    country="BE",
    description="The OAuth client of the authorization code flow; nobody signs in as it.",
)


@dataclass
class Identity:
    """What a gateway needs to know who is asking; `blueprints` are the pages and endpoints that come with it."""

    verifier: TokenVerifier
    store: TokenStore
    blueprints: tuple[Blueprint, ...] = ()
    logins: dict[str, str] = field(default_factory=dict)
    """The demo sign-in's: secret by user name. They are shown on the screen."""
    unready: Callable[[], str | None] = lambda: None
    """Why nobody can be told from a forger now, and what to do about it."""
    metadata: Callable[[], Metadata] = field(kw_only=True)
    """What the issuer says about itself, for the pages; may raise KeysUnavailable."""
    pages_secret: Callable[[], str] = field(kw_only=True)
    """The secret of the pages as the issuer's client; may raise BadSetting."""
    issuer: str = field(kw_only=True)


def demo_identity(
    settings: Settings,
    accounts: Iterable[Account],
    countries: Collection[str],
    store: TokenStore,
    now: Callable[[], datetime],
) -> Identity:
    """The sign-in the embedded node brings along, for this machine only. Its keys and logins lie in the data directory.

    Raises ConfigurationError or BadSetting."""
    settings.require_this_machine()
    accounts = list(accounts)
    logins = load_or_create_logins(settings.data_dir, [*accounts, PAGES])
    secret = logins.pop(PAGES.username)
    signing_key = load_or_create_signing_key(settings.data_dir)
    proofs = ProofVerifier(public_url=settings.url, is_first_use=store.is_first_use, now=now)
    pages = PagesClient(
        client_id=PAGES.client_id, secret=secret, redirect_uris=frozenset({f"{settings.url}/signed-in"})
    )
    server = authorization_server(
        issuer=settings.url,
        audience=settings.audience,
        signing_key=signing_key,
        accounts=accounts,
        logins=logins,
        pages=pages,
        store=store,
        proofs=proofs,
        now=now,
    )
    verifier = _verifier(settings, settings.url, lambda: public_keys(signing_key), countries, store, proofs, now)
    described = msgspec.convert(metadata_of(settings.url), Metadata)
    return Identity(
        verifier,
        store,
        (server,),
        logins,
        metadata=lambda: described,
        pages_secret=lambda: secret,
        issuer=settings.url,
    )


def external_identity(
    settings: Settings, countries: Collection[str], store: TokenStore, now: Callable[[], datetime]
) -> Identity:
    """The identity provider that HAVEN_ISSUER names. It may be down: nobody is let in until it answers. Raises
    ConfigurationError or BadSetting."""
    if not settings.public_url and not is_loopback(settings.host):
        # A proof names the address its sender knows us by: with another one none would ever be taken.
        raise BadSetting(
            "HAVEN_PUBLIC_URL", "is missing; say where people reach this gateway, as in https://haven.example."
        )
    issuer = Issuer(settings.issuer, now)
    proofs = ProofVerifier(public_url=settings.url, is_first_use=store.is_first_use, now=now)
    verifier = _verifier(settings, issuer.url, issuer.key_set, countries, store, proofs, now)
    return Identity(
        verifier,
        store,
        unready=issuer.unready,
        metadata=issuer.metadata,
        pages_secret=lambda: settings.secret("pages_client_secret"),
        issuer=issuer.url,
    )


def _verifier(
    settings: Settings,
    issuer: str,
    jwks: Callable[[], KeySet],
    countries: Collection[str],
    store: TokenStore,
    proofs: ProofVerifier,
    now: Callable[[], datetime],
) -> TokenVerifier:
    return TokenVerifier(
        issuer=issuer,
        audience=settings.audience,
        countries=countries,
        jwks=jwks,
        is_revoked=store.is_revoked,
        proofs=proofs,
        now=now,
        demand=Demand(settings.dpop),
        signing_acr=settings.signing_acr.split(),
    )
