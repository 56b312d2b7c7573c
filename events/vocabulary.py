"""Words every service shares: closed code lists and the small values that events are made of.

Codes are the field's own terms (docs/glossary.md). Nothing here can hold a name, an address or a phone number:
whatever could reach or locate a household travels as `Sealed` ciphertext.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
"""Opaque id of a household, unit, hold, ask, person or organisation, never a name. Whatever comes from outside is a
`SafeIdentifier` first; inside, checking the characters of every id again would triple the cost of a replay."""

SafeIdentifier = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}\Z")]
"""An identifier at the door (request bodies, tokens, paths): 1-80 safe characters."""

CountryCode = Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{2}\Z")]
"""ISO 3166-1 alpha-2. Which countries take part is reference data, not this pattern."""

RegionCode = Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{2}[0-9A-Z]{2}\Z")]
"""NUTS-2 code (NUTS 2024), the finest location any event may carry."""

LanguageCode = Annotated[str, msgspec.Meta(pattern=r"\A[a-z]{2,3}\Z")]
"""ISO 639 code."""

People = Annotated[int, msgspec.Meta(ge=0, le=40)]
Beds = Annotated[int, msgspec.Meta(ge=0, le=200)]


class Role(StrEnum):
    """What a signed-in principal does in Haven; `SYSTEM` is a timer or a process, never a person."""

    REFERRER = "referrer"
    SHELTER = "shelter"
    COORDINATOR = "coordinator"
    GUARDIAN = "guardian"
    ESCORT = "escort"
    AUDITOR = "auditor"
    SYSTEM = "system"


class Urgency(StrEnum):
    URGENT = "urgent"
    STANDARD = "standard"


class AgeStatus(StrEnum):
    """Directive 2011/36/EU art. 13(2): age unclear and reasons to think child means treated as a child at once."""

    ADULT = "adult"
    PRESUMED_MINOR = "presumed_minor"


class Need(StrEnum):
    """Support a household needs or a unit offers. Capability codes, never a diagnosis (GDPR art. 9)."""

    WHEELCHAIR_ACCESS = "wheelchair_access"
    MEDICAL_CARE = "medical_care"
    PSYCHIATRIC_CARE = "psychiatric_care"
    ADDICTION_CARE = "addiction_care"
    PREGNANCY_CARE = "pregnancy_care"
    INFANT_CARE = "infant_care"
    SECURED_ENTRANCE = "secured_entrance"
    LGBTQ_SAFE = "lgbtq_safe"
    PETS = "pets"


class Track(StrEnum):
    """Which protection track a unit belongs to. A presumed minor never meets the adult track by matching."""

    ADULT = "adult"
    CHILD = "child"


class Group(StrEnum):
    """Whom a unit accepts."""

    WOMEN = "women"
    MEN = "men"
    FAMILIES = "families"
    CHILDREN = "children"


class Freshness(StrEnum):
    """Age of a unit's last report against its country's rhythm.

    Only `FRESH` and `AGEING` count as certain. An overdue unit is asked last; one that has not reported is never asked
    by the machine, only by phone.
    """

    FRESH = "fresh"
    AGEING = "ageing"
    OVERDUE = "overdue"
    NOT_REPORTED = "not_reported"


class ConsentScope(StrEnum):
    """Directive 2011/36/EU art. 11(5): help is consensual and informed; asked again for the journey itself."""

    PLACEMENT = "placement"
    TRANSPORT = "transport"


class ConsentBy(StrEnum):
    HOUSEHOLD = "household"
    GUARDIAN = "guardian"


class SealedField(StrEnum):
    """The fields only ever stored as ciphertext, each disclosed on its own."""

    CALLBACK = "callback"
    RENDEZVOUS = "rendezvous"
    JOURNEY = "journey"


class DisclosureReason(StrEnum):
    """Why somebody must see a sealed field (LED 2016/680 art. 25: a consultation shows its justification)."""

    CALL_BACK = "call_back"
    PREPARE_HANDOVER = "prepare_handover"
    DRIVE_JOURNEY = "drive_journey"
    RECEIVE_HOUSEHOLD = "receive_household"
    OVERDUE_ARRIVAL = "overdue_arrival"


class ReadPurpose(StrEnum):
    """Why an auditor reads the trail: the only uses LED 2016/680 art. 25(2) allows for such logs."""

    LAWFULNESS_CHECK = "lawfulness_check"
    SELF_MONITORING = "self_monitoring"
    INTEGRITY_AND_SECURITY = "integrity_and_security"
    CRIMINAL_PROCEEDINGS = "criminal_proceedings"


class Verb(StrEnum):
    """The six processing verbs that LED 2016/680 art. 25(1) wants logged."""

    COLLECTION = "collection"
    ALTERATION = "alteration"
    CONSULTATION = "consultation"
    DISCLOSURE = "disclosure"
    COMBINATION = "combination"
    ERASURE = "erasure"


class DeclineReason(StrEnum):
    """Why a shelter says no to an ask."""

    NO_SPACE = "no_space"
    NOT_STAFFED = "not_staffed"
    UNSAFE_FOR_HOUSEHOLD = "unsafe_for_household"
    UNSAFE_FOR_RESIDENTS = "unsafe_for_residents"
    NEEDS_NOT_MET = "needs_not_met"
    LANGUAGE_NOT_MET = "language_not_met"
    WRONG_TRACK = "wrong_track"
    REPORT_WAS_WRONG = "report_was_wrong"


class AcceptCondition(StrEnum):
    """What must be true for a shelter's yes to hold; shown to both signers."""

    ARRIVAL_IN_OPENING_HOURS = "arrival_in_opening_hours"
    INTERPRETER_ARRANGED = "interpreter_arranged"
    MEDICAL_CHECK_FIRST = "medical_check_first"
    NIGHTS_LIMITED = "nights_limited"


class WithdrawalReason(StrEnum):
    HOUSEHOLD_CHANGED_MIND = "household_changed_mind"
    DANGER_PASSED = "danger_passed"
    PLACED_ELSEWHERE = "placed_elsewhere"
    OPENED_BY_MISTAKE = "opened_by_mistake"
    CONTACT_LOST = "contact_lost"


class OverrideReason(StrEnum):
    """Why a coordinator picked an offer that is not the first ranked."""

    HOUSEHOLD_PREFERENCE = "household_preference"
    SAFETY_KNOWLEDGE = "safety_knowledge"
    CARE_FIT = "care_fit"
    TRAVEL = "travel"
    SHELTER_CONDITION = "shelter_condition"


class SignatureRefusal(StrEnum):
    """Why the host focal point does not countersign."""

    RISK_IN_REGION = "risk_in_region"
    PAPERS_MISSING = "papers_missing"
    UNIT_UNSUITABLE = "unit_unsuitable"
    GUARDIANSHIP_OPEN = "guardianship_open"
    NOT_INFORMED = "not_informed"


class ArrivalOutcome(StrEnum):
    ARRIVED = "arrived"
    ARRIVED_ELSEWHERE = "arrived_elsewhere"
    NOT_ARRIVED = "not_arrived"


class EndingReason(StrEnum):
    MOVED_ON = "moved_on"
    RETURNED = "returned"
    OTHER_SHELTER = "other_shelter"
    LEFT_WITHOUT_NOTICE = "left_without_notice"


class BlockReason(StrEnum):
    TURNOVER = "turnover"
    REPAIR = "repair"
    STAFFING = "staffing"
    SAFETY_INCIDENT = "safety_incident"


class Stage(StrEnum):
    """Where a relocation request stands (README: the life of a request)."""

    RECEIVED = "received"
    OPENED = "opened"
    SHORTLISTED = "shortlisted"
    ASKED = "asked"
    OFFERED = "offered"
    PROPOSED = "proposed"
    COUNTERSIGNED = "countersigned"
    CONSENTED = "consented"
    CONFIRMED = "confirmed"
    DEPARTED = "departed"
    ARRIVED = "arrived"
    ASTRAY = "astray"
    ENDED = "ended"
    UNMET_NEED = "unmet_need"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    ERASED = "erased"


class Step(StrEnum):
    """The next thing somebody has to do. Every open request names at least one."""

    ANSWER_ASK = "answer_ask"
    WAIT_FOR_HOLD = "wait_for_hold"
    PROPOSE_PLACEMENT = "propose_placement"
    COUNTERSIGN_PLACEMENT = "countersign_placement"
    RECORD_CONSENT = "record_consent"
    RECORD_GUARDIAN_CONSENT = "record_guardian_consent"
    WAIT_FOR_FIRM_HOLD = "wait_for_firm_hold"
    PLAN_JOURNEY = "plan_journey"
    RECORD_DEPARTURE = "record_departure"
    RECORD_ARRIVAL = "record_arrival"
    FIND_HOUSEHOLD = "find_household"
    END_PLACEMENT = "end_placement"
    FIND_ALTERNATIVE = "find_alternative"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who did it: opaque ids only. `person` is one natural person, whatever account or role they use."""

    person: Identifier
    role: Role
    organisation: Identifier
    country: str = ""


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """Ciphertext under one household's own key (`events.sealing`). `box` is base64url(nonce + ciphertext + tag)."""

    algorithm: str
    key_id: Identifier
    box: str


class Household(msgspec.Struct, frozen=True, kw_only=True):
    """The people who must move together, as counts."""

    women: People = 0
    men: People = 0
    children_under_6: People = 0
    children_6_to_11: People = 0
    children_12_to_17: People = 0
    age_status: AgeStatus = AgeStatus.ADULT
    """`PRESUMED_MINOR`: whoever heads this household is, or may be, under 18."""

    @property
    def children(self) -> int:
        return self.children_under_6 + self.children_6_to_11 + self.children_12_to_17

    @property
    def is_headed_by_minor(self) -> bool:
        """A presumed minor, or children with no adult beside them, whatever the form said: at 3 a.m. a forgotten choice
        must fall on the safe side."""
        return self.age_status is AgeStatus.PRESUMED_MINOR or not (self.women or self.men)

    @property
    def beds(self) -> int:
        """Beds the household needs; an infant counts as one, since a cot needs the space too."""
        return self.women + self.men + self.children


class DangerZone(msgspec.Struct, frozen=True, kw_only=True):
    """Where the household must never be placed: a country ("BE") or a NUTS-2 region, perhaps with its neighbours."""

    code: Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{2}([0-9A-Z]{2})?\Z")]
    with_neighbours: bool = False


class UnitProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit is, as far as matching may know: never an address, never finer than NUTS-2."""

    unit_id: Identifier
    shelter_id: Identifier
    country: CountryCode
    region: RegionCode
    track: Track = Track.ADULT
    accepts: tuple[Group, ...] = ()
    languages: tuple[LanguageCode, ...] = ()
    supports: tuple[Need, ...] = ()
    open_at_night: bool = True
