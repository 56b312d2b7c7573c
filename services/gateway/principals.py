"""Who is asking and what they may ask for: principals, scopes, and the synthetic accounts of the embedded node."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

import msgspec

from events.vocabulary import CountryCode, Role, SafeIdentifier

Scheme = Literal["Bearer", "DPoP"]
"""How an access token is sent: as it is, or with a proof that its sender holds its key."""


class Scope(StrEnum):
    """Everything an access token can allow. A scope opens a kind of request; whose data it reaches is decided later,
    from the principal's organisation and country."""

    OPEN_REQUESTS = "requests:open"
    READ_REQUESTS = "requests:read"
    WITHDRAW_REQUESTS = "requests:withdraw"
    RECORD_CONSENT = "consent:record"
    SIGN_PLACEMENTS = "placements:sign"
    PLAN_JOURNEYS = "journeys:plan"
    RECORD_JOURNEYS = "journeys:record"
    READ_ASKS = "asks:read"
    ANSWER_ASKS = "asks:answer"
    READ_CAPACITY = "capacity:read"
    REPORT_CAPACITY = "capacity:report"
    READ_AVAILABILITY = "availability:read"
    READ_DEMAND = "demand:read"
    REQUEST_DISCLOSURES = "disclosures:request"
    READ_AUDIT = "audit:read"
    ORDER_ERASURES = "erasures:order"
    READ_STREAM = "stream:read"


SCOPES_OF_ROLE: Mapping[Role, frozenset[Scope]] = MappingProxyType(
    {
        Role.REFERRER: frozenset(
            {
                Scope.OPEN_REQUESTS,
                Scope.READ_REQUESTS,
                Scope.WITHDRAW_REQUESTS,
                Scope.RECORD_CONSENT,
                Scope.RECORD_JOURNEYS,
                Scope.REQUEST_DISCLOSURES,
                Scope.READ_STREAM,
            }
        ),
        Role.SHELTER: frozenset(
            {
                Scope.READ_REQUESTS,
                Scope.RECORD_CONSENT,
                Scope.READ_ASKS,
                Scope.ANSWER_ASKS,
                Scope.READ_CAPACITY,
                Scope.REPORT_CAPACITY,
                Scope.RECORD_JOURNEYS,
                Scope.REQUEST_DISCLOSURES,
                Scope.READ_STREAM,
            }
        ),
        Role.COORDINATOR: frozenset(
            {
                Scope.OPEN_REQUESTS,
                Scope.READ_REQUESTS,
                Scope.WITHDRAW_REQUESTS,
                Scope.RECORD_CONSENT,
                Scope.SIGN_PLACEMENTS,
                Scope.PLAN_JOURNEYS,
                Scope.RECORD_JOURNEYS,
                Scope.READ_ASKS,
                Scope.READ_CAPACITY,
                Scope.READ_AVAILABILITY,
                Scope.READ_DEMAND,
                Scope.REQUEST_DISCLOSURES,
                Scope.READ_STREAM,
            }
        ),
        Role.GUARDIAN: frozenset({Scope.READ_REQUESTS, Scope.RECORD_CONSENT, Scope.READ_STREAM}),
        Role.ESCORT: frozenset(
            {
                Scope.READ_REQUESTS,
                Scope.RECORD_JOURNEYS,
                Scope.REQUEST_DISCLOSURES,
                Scope.READ_STREAM,
            }
        ),
        # An auditor sees who did what, and no sealed field: no disclosure, not even by a mistaken token.
        Role.AUDITOR: frozenset({Scope.READ_AUDIT, Scope.READ_DEMAND, Scope.ORDER_ERASURES}),
        # A timer acts inside its own service and never comes in over HTTP.
        Role.SYSTEM: frozenset(),
    }
)
"""The most a role can ever do. No token, whoever issued it, gives a principal more than this."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever holds a valid access token, as its claims say (`services.gateway.tokens`)."""

    person: SafeIdentifier
    """Opaque id of the natural person (claim `haven_person`), the same in every account that person has."""
    role: Role
    organisation: SafeIdentifier
    country: CountryCode
    scopes: frozenset[str]
    client_id: str
    token_id: str
    issued_at: datetime
    authenticated_at: datetime | None
    """When a person signed in (claim `auth_time`); `None` where nobody did: a machine."""
    acr: str
    """How, in the issuer's words (claim `acr`); empty where it does not say."""
    confirmation: str | None
    """Thumbprint of the key that the token is bound to (claim `cnf.jkt`), whose possession was shown; `None` for any bearer."""

    @property
    def is_machine(self) -> bool:
        return self.authenticated_at is None

    @property
    def scheme(self) -> Scheme:
        """How its token is sent."""
        return "Bearer" if self.confirmation is None else "DPoP"


GUESTS = (
    "be-police-antwerp-1",
    "be-shelter-01-staff",
    "be-coordinator-1",
    "nl-coordinator-1",
    "be-guardianship-1",
    "be-escort-1",
    "be-auditor-1",
)
"""The accounts a visitor is led to, one for each role and both sides of a border."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One sign-in of one person in one role at one organisation. Two accounts may be the same person."""

    username: SafeIdentifier
    person: SafeIdentifier
    role: Role
    organisation: SafeIdentifier
    country: CountryCode
    description: str

    @property
    def client_id(self) -> str:
        """What a program that acts for this account calls itself (client credentials)."""
        return self.username


_SECOND_ACCOUNT_HOLDER = "be-coordinator-1"

_STAFF: tuple[tuple[str, Role, str, int], ...] = (
    ("be-police-antwerp", Role.REFERRER, "BE", 2),
    ("nl-police-rotterdam", Role.REFERRER, "NL", 1),
    ("lu-police-esch", Role.REFERRER, "LU", 1),
    ("be-coordinator", Role.COORDINATOR, "BE", 2),
    ("nl-coordinator", Role.COORDINATOR, "NL", 2),
    ("lu-coordinator", Role.COORDINATOR, "LU", 1),
    ("be-escort", Role.ESCORT, "BE", 1),
    ("nl-escort", Role.ESCORT, "NL", 1),
    ("lu-escort", Role.ESCORT, "LU", 1),
    ("be-guardianship", Role.GUARDIAN, "BE", 1),
    ("nl-nidos", Role.GUARDIAN, "NL", 1),
    ("lu-youth-protection", Role.GUARDIAN, "LU", 1),
    ("be-auditor", Role.AUDITOR, "BE", 1),
    ("nl-auditor", Role.AUDITOR, "NL", 1),
    ("lu-auditor", Role.AUDITOR, "LU", 1),
)


def demo_principals(shelters: Iterable[tuple[str, str]]) -> list[Account]:
    """Every account of the embedded node: the staff of each authority, and one account per `(shelter id, country)`.

    All of it is synthetic and says so: no such person, team or shelter exists. The organisation of a shelter account is
    the shelter's id.
    """
    accounts = [
        _demo_account(f"{organisation}-{number}", role, organisation, country)
        for organisation, role, country, people in _STAFF
        for number in range(1, people + 1)
    ]
    # One person who can sign for two countries: what the rule "never two signatures by one person" is tried with.
    accounts.append(
        msgspec.structs.replace(
            _demo_account(f"{_SECOND_ACCOUNT_HOLDER}-for-nl", Role.COORDINATOR, "nl-coordinator", "NL"),
            person=_person(_SECOND_ACCOUNT_HOLDER),
        )
    )
    # HTTP Basic ends the user name at the first colon, which an identifier may contain.
    accounts.extend(
        _demo_account(f"{shelter_id}-staff".replace(":", "."), Role.SHELTER, shelter_id, country)
        for shelter_id, country in shelters
    )
    return accounts


def _demo_account(username: str, role: Role, organisation: str, country: str) -> Account:
    return Account(
        username=username,
        person=_person(username),
        role=role,
        organisation=organisation,
        country=country,
        description=f"Synthetic {role}, {organisation} ({country})",
    )


def _person(username: str) -> str:
    return f"synthetic.{username}"
