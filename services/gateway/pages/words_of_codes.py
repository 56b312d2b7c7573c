"""What the codes of contracts and reference data are called in English: short, plain, without the name of a person or law.

A word stands in a list, beside a box to tick and in a sentence of its own, so it starts with a capital and ends without a stop.
"""

from collections.abc import Mapping

from events.capacity import FirmRefusal, HoldRefusal, ReportRefusal
from events.placement import OpeningRefusal, Preference, ProposalLapse, Rule
from events.vocabulary import (
    AcceptCondition,
    AgeStatus,
    ArrivalOutcome,
    BlockReason,
    ConsentBy,
    ConsentScope,
    DeclineReason,
    DisclosureReason,
    EndingReason,
    Freshness,
    Group,
    Need,
    OverrideReason,
    ReadPurpose,
    Role,
    SealedField,
    SignatureRefusal,
    Stage,
    Step,
    Track,
    Urgency,
    Verb,
    WithdrawalReason,
)
from reference import MovingEffect, Power
from services.gateway.call_list import CallReason
from services.gateway.demand import Missing, Waited
from services.gateway.pages.language import mark

Table = Mapping[str, str]

_PEOPLE: Mapping[str, Table] = {
    "Role": {
        Role.REFERRER: mark("Referrer"),
        Role.SHELTER: mark("Shelter"),
        Role.COORDINATOR: mark("Focal point"),
        Role.GUARDIAN: mark("Guardian"),
        Role.ESCORT: mark("Escort"),
        Role.AUDITOR: mark("Auditor"),
        Role.SYSTEM: mark("Haven itself"),
    },
    "Urgency": {
        Urgency.URGENT: mark("In danger now"),
        Urgency.STANDARD: mark("Can wait for the working day"),
    },
    "AgeStatus": {
        AgeStatus.ADULT: mark("An adult heads the household"),
        AgeStatus.PRESUMED_MINOR: mark("Whoever heads the household is, or may be, under 18"),
    },
    "Need": {
        Need.WHEELCHAIR_ACCESS: mark("Access with a wheelchair"),
        Need.MEDICAL_CARE: mark("Regular medical care"),
        Need.PSYCHIATRIC_CARE: mark("Psychiatric care"),
        Need.ADDICTION_CARE: mark("Support with addiction"),
        Need.PREGNANCY_CARE: mark("Care during pregnancy and birth"),
        Need.INFANT_CARE: mark("Equipment for a baby"),
        Need.SECURED_ENTRANCE: mark("Secured entrance"),
        Need.LGBTQ_SAFE: mark("Safe for LGBTQ people"),
        Need.PETS: mark("Place for a pet"),
    },
    "Track": {
        Track.ADULT: mark("Adult protection"),
        Track.CHILD: mark("Child protection"),
    },
    "Group": {
        Group.WOMEN: mark("Women"),
        Group.MEN: mark("Men"),
        Group.FAMILIES: mark("Families"),
        Group.CHILDREN: mark("Children"),
    },
    "ConsentScope": {
        ConsentScope.PLACEMENT: mark("To live in that country"),
        ConsentScope.TRANSPORT: mark("To make this journey"),
    },
    "ConsentBy": {
        ConsentBy.HOUSEHOLD: mark("The household"),
        ConsentBy.GUARDIAN: mark("The guardian"),
    },
}

_LIFE: Mapping[str, Table] = {
    "Stage": {
        Stage.RECEIVED: mark("Received, not decided yet"),
        Stage.OPENED: mark("Opened, nobody asked yet"),
        Stage.SHORTLISTED: mark("Shortlist drawn"),
        Stage.ASKED: mark("Shelters asked"),
        Stage.OFFERED: mark("A shelter said yes"),
        Stage.PROPOSED: mark("Signed by the first country"),
        Stage.COUNTERSIGNED: mark("Signed by both countries"),
        Stage.CONSENTED: mark("Consent is there, the bed is being secured"),
        Stage.CONFIRMED: mark("Agreed, and the bed is certain"),
        Stage.DEPARTED: mark("On the way"),
        Stage.ARRIVED: mark("In the shelter"),
        Stage.ASTRAY: mark("Left, and not where they should be"),
        Stage.ENDED: mark("The stay is over"),
        Stage.UNMET_NEED: mark("No bed found yet"),
        Stage.REFUSED: mark("Could not be opened"),
        Stage.WITHDRAWN: mark("Withdrawn"),
        Stage.ERASED: mark("Erased"),
    },
    "Step": {
        Step.ANSWER_ASK: mark("Answer the ask"),
        Step.WAIT_FOR_HOLD: mark("Wait until beds are held"),
        Step.PROPOSE_PLACEMENT: mark("Choose an offer and sign"),
        Step.COUNTERSIGN_PLACEMENT: mark("Countersign, or refuse to sign"),
        Step.RECORD_CONSENT: mark("Ask the household and record its consent"),
        Step.RECORD_GUARDIAN_CONSENT: mark("Record the consent of the guardian"),
        Step.WAIT_FOR_FIRM_HOLD: mark("Wait until the bed is certain"),
        Step.PLAN_JOURNEY: mark("Plan the journey"),
        Step.RECORD_DEPARTURE: mark("Record the departure"),
        Step.RECORD_ARRIVAL: mark("Record the arrival"),
        Step.FIND_HOUSEHOLD: mark("Find the household now"),
        Step.END_PLACEMENT: mark("Record the end of the stay"),
        Step.FIND_ALTERNATIVE: mark("Look for another way"),
    },
    "AskStage": {
        "open": mark("Waits for an answer"),
        "accepted": mark("Answered yes"),
        "declined": mark("Answered no"),
        "expired": mark("Not answered in time"),
        "closed": mark("No longer asked"),
    },
    "Signature": {
        "proposed": mark("First signature"),
        "countersigned": mark("Second signature"),
    },
    "OpeningRefusal": {
        OpeningRefusal.UNKNOWN_COUNTRY: mark("The country of danger does not take part"),
        OpeningRefusal.UNKNOWN_ZONE: mark("A danger zone is no known country or region"),
        OpeningRefusal.EMPTY_HOUSEHOLD: mark("There is nobody in the household"),
        OpeningRefusal.NO_COUNTRY_LEFT: mark("The danger zones leave no country to go to"),
    },
    "ProposalLapse": {
        ProposalLapse.HOLD_EXPIRED: mark("The bed was no longer held"),
        ProposalLapse.CONSENT_WITHDRAWN: mark("The household or the guardian said no"),
        ProposalLapse.REFUSED_BY_HOST: mark("The focal point of the host country said no"),
        ProposalLapse.RULES_CHANGED: mark("The rules changed"),
        ProposalLapse.REQUEST_OVER: mark("The request was withdrawn or erased"),
    },
    "ArrivalOutcome": {
        ArrivalOutcome.ARRIVED: mark("Arrived at the planned place"),
        ArrivalOutcome.ARRIVED_ELSEWHERE: mark("Arrived somewhere else"),
        ArrivalOutcome.NOT_ARRIVED: mark("Did not arrive"),
    },
}

_MATCHING: Mapping[str, Table] = {
    "Rule": {
        Rule.NOT_IN_DANGER_COUNTRY: mark("Not in the country of danger"),
        Rule.OUTSIDE_DANGER_ZONES: mark("Outside every danger zone"),
        Rule.CHILD_TRACK_FOR_PRESUMED_MINORS: mark("Child protection for whoever is, or may be, under 18"),
        Rule.ADULT_TRACK_FOR_ADULTS: mark("Adult protection for adults"),
        Rule.ACCEPTS_HOUSEHOLD: mark("Accepts everybody in the household"),
        Rule.KEEPS_HOUSEHOLD_TOGETHER: mark("Has a free bed for each of them in one unit"),
        Rule.MEETS_NEEDS: mark("Meets every need"),
        Rule.COUNTRY_NOT_REFUSED: mark("Nobody said no to this country"),
        Rule.CAPACITY_IS_KNOWN: mark("Has reported its beds"),
        Rule.OPEN_NOW: mark("Takes people in at this hour"),
        Rule.NOT_TRIED_BEFORE: mark("Was not asked in this search already"),
    },
    "Preference": {
        Preference.FRESHNESS: mark("Newer report"),
        Preference.LANGUAGES: mark("Speaks a language of the household"),
        Preference.SCARCE_SUPPORT_SPARED: mark("Spares support that this household does not need"),
        Preference.TIGHT_FIT: mark("Leaves fewer beds over"),
        Preference.LOTTERY: mark("Drawn by lot"),
    },
    "Freshness": {
        Freshness.FRESH: mark("Up to date"),
        Freshness.AGEING: mark("Getting old"),
        Freshness.OVERDUE: mark("Report overdue"),
        Freshness.NOT_REPORTED: mark("Not reported"),
    },
}

_REASONS: Mapping[str, Table] = {
    "DeclineReason": {
        DeclineReason.NO_SPACE: mark("The beds are not free after all"),
        DeclineReason.NOT_STAFFED: mark("Nobody is there to take them in"),
        DeclineReason.UNSAFE_FOR_HOUSEHOLD: mark("Not safe for this household"),
        DeclineReason.UNSAFE_FOR_RESIDENTS: mark("Not safe for those who live here"),
        DeclineReason.NEEDS_NOT_MET: mark("We cannot give what they need"),
        DeclineReason.LANGUAGE_NOT_MET: mark("Nobody here speaks their language"),
        DeclineReason.WRONG_TRACK: mark("Child protection and adult protection were mixed up"),
        DeclineReason.REPORT_WAS_WRONG: mark("The report of this unit was wrong"),
    },
    "AcceptCondition": {
        AcceptCondition.ARRIVAL_IN_OPENING_HOURS: mark("They arrive during opening hours"),
        AcceptCondition.INTERPRETER_ARRANGED: mark("An interpreter is arranged"),
        AcceptCondition.MEDICAL_CHECK_FIRST: mark("A doctor sees them first"),
        AcceptCondition.NIGHTS_LIMITED: mark("For a few nights only"),
    },
    "WithdrawalReason": {
        WithdrawalReason.HOUSEHOLD_CHANGED_MIND: mark("The household does not want to go"),
        WithdrawalReason.DANGER_PASSED: mark("The danger has passed"),
        WithdrawalReason.PLACED_ELSEWHERE: mark("A place was found outside Haven"),
        WithdrawalReason.OPENED_BY_MISTAKE: mark("The request was opened by mistake"),
        WithdrawalReason.CONTACT_LOST: mark("The household cannot be reached"),
    },
    "OverrideReason": {
        OverrideReason.HOUSEHOLD_PREFERENCE: mark("The household prefers it"),
        OverrideReason.SAFETY_KNOWLEDGE: mark("I know of a danger that the rules do not know"),
        OverrideReason.CARE_FIT: mark("The care fits better"),
        OverrideReason.TRAVEL: mark("The way there is safer or shorter"),
        OverrideReason.SHELTER_CONDITION: mark("The condition of the first offer cannot be met"),
    },
    "SignatureRefusal": {
        SignatureRefusal.RISK_IN_REGION: mark("That region is not safe for them"),
        SignatureRefusal.PAPERS_MISSING: mark("Travel or residence documents are missing"),
        SignatureRefusal.UNIT_UNSUITABLE: mark("That unit does not suit them"),
        SignatureRefusal.GUARDIANSHIP_OPEN: mark("Who speaks for the minor is not settled"),
        SignatureRefusal.NOT_INFORMED: mark("We were not told enough"),
    },
    "EndingReason": {
        EndingReason.MOVED_ON: mark("Moved to a place of their own"),
        EndingReason.RETURNED: mark("Went back to where they came from"),
        EndingReason.OTHER_SHELTER: mark("Moved to another shelter"),
        EndingReason.LEFT_WITHOUT_NOTICE: mark("Left, and nobody was told"),
    },
    "BlockReason": {
        BlockReason.TURNOVER: mark("Being made ready"),
        BlockReason.REPAIR: mark("To be repaired"),
        BlockReason.STAFFING: mark("Not enough staff"),
        BlockReason.SAFETY_INCIDENT: mark("A safety incident"),
    },
}

_BEDS: Mapping[str, Table] = {
    "HoldRefusal": {
        HoldRefusal.UNKNOWN_UNIT: mark("There is no such unit"),
        HoldRefusal.NOT_ENOUGH_BEDS: mark("There are not enough free beds any more"),
        HoldRefusal.ALREADY_RELEASED: mark("The hold was given back first"),
        HoldRefusal.ALREADY_OVER: mark("The hold would have run out already"),
    },
    "FirmRefusal": {
        FirmRefusal.HOLD_EXPIRED: mark("The hold ran out first"),
        FirmRefusal.HOLD_RELEASED: mark("The hold was given back"),
        FirmRefusal.UNKNOWN_HOLD: mark("There is no such hold"),
    },
    "ReportRefusal": {
        ReportRefusal.UNKNOWN_UNIT: mark("There is no such unit"),
        ReportRefusal.STALE_REVISION: mark("A bed of this unit has moved since you looked"),
        ReportRefusal.CLAIMED_BEDS_TYPED_AWAY: mark("Beds that are held or lived in cannot be typed away"),
        ReportRefusal.ALREADY_REGISTERED: mark("This unit is registered already"),
        ReportRefusal.UNKNOWN_COUNTRY: mark("That country does not take part"),
        ReportRefusal.PROFILE_DOES_NOT_FIT: mark("The profile does not fit this unit or its country"),
        ReportRefusal.NOT_YOUR_SHELTER: mark("This unit belongs to another shelter"),
    },
}

_TRAIL: Mapping[str, Table] = {
    "SealedField": {
        SealedField.CALLBACK: mark("How to reach whoever is with the household"),
        SealedField.RENDEZVOUS: mark("Where the household is handed over"),
        SealedField.JOURNEY: mark("The steps of the journey"),
    },
    "DisclosureReason": {
        DisclosureReason.CALL_BACK: mark("To call them back"),
        DisclosureReason.PREPARE_HANDOVER: mark("To prepare the hand-over"),
        DisclosureReason.DRIVE_JOURNEY: mark("To drive them"),
        DisclosureReason.RECEIVE_HOUSEHOLD: mark("To take them in"),
        DisclosureReason.OVERDUE_ARRIVAL: mark("They should be there and are not"),
    },
    "ReadPurpose": {
        ReadPurpose.LAWFULNESS_CHECK: mark("To check whether it was lawful"),
        ReadPurpose.SELF_MONITORING: mark("To check our own work"),
        ReadPurpose.INTEGRITY_AND_SECURITY: mark("To check that the data is whole and safe"),
        ReadPurpose.CRIMINAL_PROCEEDINGS: mark("As evidence in criminal proceedings"),
    },
    "Verb": {
        Verb.COLLECTION: mark("Something was learned"),
        Verb.ALTERATION: mark("Something was changed"),
        Verb.CONSULTATION: mark("Somebody read something"),
        Verb.DISCLOSURE: mark("Somebody else was told something"),
        Verb.COMBINATION: mark("Facts were put together"),
        Verb.ERASURE: mark("Something was made unreadable"),
    },
    "CallReason": {
        CallReason.UNANSWERED: mark("It does not answer"),
        CallReason.NOT_RUNG: mark("Nothing of Haven's reaches it"),
        CallReason.NOBODY_IS_RUNG: mark("It was not rung"),
    },
    "Resource": {
        "relocation_request": mark("A request"),
        "list": mark("The list of requests"),
        "timeline": mark("The timeline of a request"),
        "call_list": mark("The calls to make"),
        "shortlist": mark("A shortlist"),
        "asks": mark("The asks that wait"),
        "answered_asks": mark("The asks that were answered"),
        "ask": mark("One ask"),
        "trail": mark("The trail"),
        "export": mark("The trail, as a file"),
        "stream": mark("The live changes"),
        "demand": mark("The yearly figures"),
    },
}

_LAW: Mapping[str, Table] = {
    "MovingEffect": {
        MovingEffect.NO_FORCED_TRANSFER: mark("Nobody is moved against their will"),
        MovingEffect.STATUS_NEEDS_ACCOMPANIMENT: mark("The status depends on support that must go on abroad"),
        MovingEffect.PERMIT_TIED_TO_PROCEEDINGS: mark("The residence permit depends on the criminal case"),
        MovingEffect.IMMIGRATION_CHECK: mark("The immigration service checks first"),
        MovingEffect.IDENTIFICATION_NOT_CARRIED_OVER: mark("The host country does not take over the identification"),
    },
    "Power": {
        Power.IDENTIFY: mark("Recognises somebody as a victim"),
        Power.PLACE: mark("Decides on a place in a shelter"),
        Power.APPLY_FOR_PAPERS: mark("Applies for residence papers"),
    },
}

_FIGURES: Mapping[str, Table] = {
    "Missing": {
        Missing.SAFE_PLACE: mark("A unit outside the danger"),
        Missing.HOUSEHOLD_ACCEPTED: mark("A unit that takes such a household"),
        Missing.CONSENT: mark("A country nobody had said no to"),
        Missing.SUPPORT: mark("A unit that meets every need"),
        Missing.REPORT: mark("A report of free beds"),
        Missing.SPACE: mark("Enough free beds in one unit"),
        Missing.OPENING_HOURS: mark("A unit that was open at that hour"),
        Missing.YES: mark("A yes from a shelter that was asked"),
    },
    "Waited": {
        Waited.DAY: mark("Less than a day"),
        Waited.THREE_DAYS: mark("One to three days"),
        Waited.WEEK: mark("Three to seven days"),
        Waited.THIRTY_DAYS: mark("Seven to thirty days"),
    },
}

_REGIONS: Table = {
    "BE10": mark("Brussels-Capital Region"),
    "BE21": mark("Province of Antwerp"),
    "BE22": mark("Province of Limburg (Belgium)"),
    "BE23": mark("Province of East Flanders"),
    "BE24": mark("Province of Flemish Brabant"),
    "BE25": mark("Province of West Flanders"),
    "BE31": mark("Province of Walloon Brabant"),
    "BE32": mark("Province of Hainaut"),
    "BE33": mark("Province of Liège"),
    "BE34": mark("Province of Luxembourg (Belgium)"),
    "BE35": mark("Province of Namur"),
    "LU00": mark("Grand Duchy of Luxembourg"),
    "NL11": mark("Groningen"),
    "NL12": mark("Friesland"),
    "NL13": mark("Drenthe"),
    "NL21": mark("Overijssel"),
    "NL22": mark("Gelderland"),
    "NL23": mark("Flevoland"),
    "NL32": mark("North Holland"),
    "NL34": mark("Zeeland"),
    "NL35": mark("Utrecht"),
    "NL36": mark("South Holland"),
    "NL41": mark("North Brabant"),
    "NL42": mark("Limburg (Netherlands)"),
}

CODES: Mapping[str, Table] = {
    **_PEOPLE,
    **_LIFE,
    **_MATCHING,
    **_REASONS,
    **_BEDS,
    **_TRAIL,
    **_LAW,
    **_FIGURES,
    "Region": _REGIONS,
    "EmergencyNumber": {"emergency": mark("Any emergency"), "police": mark("Police")},
}
"""By the name of the code list (docs/glossary.md); `Region` by the code of the reference data, `Signature` and `Resource` by
what the API answers."""
