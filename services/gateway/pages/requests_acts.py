"""What somebody can do with a request as it stands: which forms are offered. Whether it may be done, the API decides again."""

from collections.abc import Mapping
from enum import StrEnum

from events.vocabulary import ArrivalOutcome, DisclosureReason, Role, SealedField, Stage, Step
from services.gateway.principals import Principal
from services.gateway.read_model import Json
from services.gateway.views import open_asks

OVER = frozenset({Stage.ENDED, Stage.REFUSED, Stage.WITHDRAWN, Stage.ERASED})
UNDER_WAY = frozenset({Stage.CONFIRMED, Stage.DEPARTED, Stage.ASTRAY})
"""Both countries have signed, the bed is firm, and nobody has arrived: what is sealed can be opened by whoever needs it."""
AFTER_DEPARTURE = frozenset({Stage.DEPARTED, Stage.ARRIVED, Stage.ASTRAY})


class Act(StrEnum):
    """Something that can be done with a request; the value is the last part of its page's address."""

    SHORTLIST = "shortlist"
    SIGNATURE = "signature"
    DETAILS = "details"
    CONSENT = "consent"
    JOURNEY = "journey"
    DEPARTURE = "departure"
    ARRIVAL = "arrival"
    END = "end"
    DISCLOSURES = "disclosures"
    WITHDRAWAL = "withdrawal"


_ACT_OF_STEP: Mapping[Step, Act] = {
    Step.PROPOSE_PLACEMENT: Act.SHORTLIST,
    Step.FIND_ALTERNATIVE: Act.SHORTLIST,
    Step.COUNTERSIGN_PLACEMENT: Act.SIGNATURE,
    Step.RECORD_CONSENT: Act.CONSENT,
    Step.RECORD_GUARDIAN_CONSENT: Act.CONSENT,
    Step.PLAN_JOURNEY: Act.JOURNEY,
    Step.RECORD_DEPARTURE: Act.DEPARTURE,
    Step.RECORD_ARRIVAL: Act.ARRIVAL,
    Step.FIND_HOUSEHOLD: Act.DISCLOSURES,
    Step.END_PLACEMENT: Act.END,
}

REASONS: Mapping[SealedField, tuple[DisclosureReason, ...]] = {
    SealedField.CALLBACK: (
        DisclosureReason.CALL_BACK,
        DisclosureReason.PREPARE_HANDOVER,
        DisclosureReason.OVERDUE_ARRIVAL,
    ),
    SealedField.RENDEZVOUS: (
        DisclosureReason.PREPARE_HANDOVER,
        DisclosureReason.DRIVE_JOURNEY,
        DisclosureReason.RECEIVE_HOUSEHOLD,
        DisclosureReason.OVERDUE_ARRIVAL,
    ),
    SealedField.JOURNEY: (
        DisclosureReason.DRIVE_JOURNEY,
        DisclosureReason.RECEIVE_HOUSEHOLD,
        DisclosureReason.OVERDUE_ARRIVAL,
    ),
}
"""Which reasons can justify which sealed field."""


class Standing:
    """How one person stands to one request, as far as they are shown it."""

    def __init__(self, view: Json, principal: Principal) -> None:
        self.view = view
        self.role = principal.role
        self.country = principal.country
        self.stage = Stage(view["stage"])
        self.is_origin = self._is_coordinator_of(view.get("danger_country"))
        self.is_host = self._is_coordinator_of(view.get("host_country"))
        # Whoever else was asked no longer knows of a request that is confirmed.
        self.is_receiver = self.role is Role.SHELTER and self.stage in UNDER_WAY | AFTER_DEPARTURE
        self.sends = self.is_origin or self.role is Role.REFERRER
        self.receives = self.is_host or self.is_receiver
        self.drives = self.role is Role.ESCORT

    def _is_coordinator_of(self, country: str | None) -> bool:
        return self.role is Role.COORDINATOR and country == self.country

    @property
    def acts(self) -> list[Act]:
        """In the order of a relocation."""
        can = {
            Act.SHORTLIST: self.is_origin and bool(self.view.get("shortlist")) and self.stage not in OVER,
            Act.SIGNATURE: self.role is Role.COORDINATOR and bool(self.view.get("proposal")),
            Act.DETAILS: self.sends and self.stage not in OVER | {Stage.RECEIVED},
            Act.CONSENT: self._records_consent,
            Act.JOURNEY: self.is_origin and self.stage is Stage.CONFIRMED,
            Act.DEPARTURE: (self.sends or self.drives) and self.stage is Stage.CONFIRMED and self._is_planned,
            Act.ARRIVAL: bool(self.outcomes),
            Act.END: (self.receives and self.stage in (Stage.ARRIVED, Stage.ASTRAY))
            or (self.is_origin and self.stage is Stage.ASTRAY),
            Act.DISCLOSURES: bool(self.sealed_fields),
            Act.WITHDRAWAL: self.sends and self.stage not in OVER | AFTER_DEPARTURE | {Stage.RECEIVED},
        }
        return [act for act, is_possible in can.items() if is_possible]

    @property
    def still_to_learn(self) -> tuple[str, ...]:
        """What nobody has said of the household, of what this person can say and that still matters."""
        if Act.DETAILS not in self.acts:
            return ()
        known = self.view.get
        matters = {
            "third_country_national": True,
            "reflection_started_on": known("third_country_national") is not False,
            "region_of_stay": self.moves_region_of_stay,
        }
        return tuple(name for name, still in matters.items() if still and known(name) is None)

    @property
    def moves_region_of_stay(self) -> bool:
        """Where they are, for whoever plans the way; once they have left, it would say where the house is."""
        return self.stage not in OVER | AFTER_DEPARTURE

    @property
    def _is_planned(self) -> bool:
        return bool(self.view.get("journey"))

    @property
    def _records_consent(self) -> bool:
        if self.stage in OVER | {Stage.RECEIVED}:
            return False
        concerned = (self.view.get("danger_country"), self.view.get("host_country"))
        return self.sends or self.is_receiver or (self.role is Role.GUARDIAN and self.country in concerned)

    @property
    def outcomes(self) -> tuple[ArrivalOutcome, ...]:
        """Only who receives can say that they arrived; that they did not, also who sent or drove them."""
        if self.receives and self.stage is Stage.DEPARTED:
            return tuple(ArrivalOutcome)
        if self.receives and (self.stage is Stage.ASTRAY or (self.stage is Stage.CONFIRMED and self._is_planned)):
            return (ArrivalOutcome.ARRIVED,)
        if (self.is_origin or self.drives) and self.stage is Stage.DEPARTED:
            return tuple(outcome for outcome in ArrivalOutcome if outcome is not ArrivalOutcome.ARRIVED)
        return ()

    @property
    def sealed_fields(self) -> tuple[SealedField, ...]:
        """What can be opened for this person now."""
        on_the_way = self.stage in UNDER_WAY
        can = {
            SealedField.CALLBACK: (self.sends and self.stage not in OVER | {Stage.RECEIVED})
            or (on_the_way and (self.receives or self.drives)),
            SealedField.RENDEZVOUS: on_the_way and (self.receives or self.drives or self.sends),
            SealedField.JOURNEY: on_the_way and self._is_planned and (self.receives or self.drives or self.is_origin),
        }
        return tuple(field for field, is_possible in can.items() if is_possible)

    def page_of(self, step: Step) -> str:
        """Where this person does the step; empty when it is not theirs to do."""
        if step is Step.ANSWER_ASK:
            asked = open_asks(self.view)
            return f"/asks/{asked[0]['ask_id']}" if asked and self.role is Role.SHELTER else ""
        act = _ACT_OF_STEP.get(step)
        return self.page_for(act) if act in self.acts else ""

    def page_for(self, act: Act) -> str:
        return f"/requests/{self.view['request_id']}/{act}"
