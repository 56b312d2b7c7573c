"""The synthetic colleagues of whoever looks around, and what each step of a case is for them: calls of the API, in this process.

They have no login, so whatever was done by somebody else was done by a visitor. What they do goes through the same routes,
rules and records as what anybody does, and they read before they act.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Flask

from events.vocabulary import (
    ArrivalOutcome,
    ConsentBy,
    ConsentScope,
    DisclosureReason,
    EndingReason,
    Role,
    SealedField,
    Stage,
    Step,
    WithdrawalReason,
)
from services.gateway.oauth_grants import PASSWORD_ACR
from services.gateway.principals import SCOPES_OF_ROLE, Principal
from services.gateway.routing import ON_BEHALF_OF, PREFIX
from services.gateway.views import open_asks
from simulation.scene.stories import Story

Json = dict[str, Any]

COLLEAGUE = "-colleague"
"""How the person of every one of them ends, and of nobody else."""

CALLBACK = "Synthetic: phone the desk of the station and ask for the night officer. Code word HERON."
RENDEZVOUS = (
    "Synthetic: the desk of the library at the square. Somebody with a green scarf waits there. Code word LINDEN."
)
STEPS = (
    "Synthetic: leave by the side door. A grey car waits, the driver says OSPREY. Change cars once. Phones stay off."
)

REFERRERS = {"BE": "be-police-antwerp", "NL": "nl-police-rotterdam", "LU": "lu-police-esch"}
GUARDIANS = {"BE": "be-guardianship", "NL": "nl-nidos", "LU": "lu-youth-protection"}


class NotDone(Exception):
    """The API refused a step. Names the step and the problem, never what was sent."""

    def __init__(self, what: str, status: int, title: str) -> None:
        self.status = status
        super().__init__(f"{what}: {status} {title}")


def is_colleague(person: str) -> bool:
    return person.endswith(COLLEAGUE)


class Cast:
    """Everybody who acts in the scene. `now` is the node's time."""

    def __init__(self, app: Flask, url: str, now: Callable[[], datetime], *, wait: int = 10) -> None:
        self._client = app.test_client(use_cookies=False)
        self._url = url
        self._now = now
        self._wait = f"wait={wait}"
        self._is_waiting = False

    def stops_waiting(self) -> bool:
        """Whether somebody has just sent something and waits for its outcome; asked once for each."""
        waited, self._is_waiting = self._is_waiting, False
        return waited

    # One step of a case each. `view` is the whole of it, as the read model has it; only what its people may see is used.

    def open(self, story: Story, number: int) -> None:
        referrer = _somebody(Role.REFERRER, story.origin, REFERRERS[story.origin])
        body = {**story.opening, "callback": CALLBACK}
        self._post(referrer, "/relocation-requests", body, key=f"scene/{story.name}/{number}")

    def step(self, story: Story, view: Json) -> bool:
        """Takes the next step of the case, by whoever has to; False if there is none that people take. Raises NotDone."""
        steps: Mapping[str, Callable[[Story, Json], None]] = {
            Step.ANSWER_ASK: self._answer,
            Step.PROPOSE_PLACEMENT: self._propose,
            Step.COUNTERSIGN_PLACEMENT: self._countersign,
            Step.RECORD_CONSENT: self._consent,
            Step.RECORD_GUARDIAN_CONSENT: self._consent,
            Step.PLAN_JOURNEY: self._plan,
            Step.RECORD_DEPARTURE: self._depart,
            Step.RECORD_ARRIVAL: self._arrive,
            Step.FIND_HOUSEHOLD: self._arrive,
            Step.END_PLACEMENT: self._end,
            Step.FIND_ALTERNATIVE: self.withdraw,
        }
        act = next((steps[step] for step in view["next_steps"] if step in steps), None)
        if act is None:
            return False
        act(story, view)
        return True

    def withdraw(self, story: Story, view: Json) -> None:
        reason = (
            WithdrawalReason.PLACED_ELSEWHERE
            if view["stage"] == Stage.UNMET_NEED
            else WithdrawalReason.HOUSEHOLD_CHANGED_MIND
        )
        self._do(_coordinator(story.origin), view, "withdrawal", {"reason": reason})

    def _answer(self, story: Story, view: Json) -> None:
        ask = min(open_asks(view), key=lambda ask: (ask["deadline"], ask["ask_id"]))
        staff = _staff(ask["shelter_id"], ask["country"])
        self._get(staff, "/asks")
        said_no = sum(other["state"] == "declined" for other in view["asks"].values())
        body: Json = {"accept": True, "rendezvous": RENDEZVOUS}
        if said_no < len(story.declines):
            body = {"accept": False, "decline": story.declines[said_no]}
        elif story.condition:
            body["condition"] = story.condition
        self._post(staff, f"/asks/{ask['ask_id']}/answer", body, key=f"scene/{ask['ask_id']}")

    def _propose(self, story: Story, view: Json) -> None:
        """The coordinator speaks with the household about the best offer, and signs."""
        origin = _coordinator(story.origin)
        self._get(origin, f"/relocation-requests/{view['request_id']}/shortlist")
        self._disclose(origin, view, SealedField.CALLBACK, DisclosureReason.CALL_BACK)
        offers = {ask["unit_id"]: ask["ask_id"] for ask in view["asks"].values() if ask["state"] == "accepted"}
        ranked = [one["unit_id"] for one in view["shortlist"]["candidates"] if one["unit_id"] in offers]
        ask_id = offers[ranked[0]] if ranked else next(iter(offers.values()))
        self._do(origin, view, "proposal", {"ask_id": ask_id})

    def _countersign(self, _story: Story, view: Json) -> None:
        host = _coordinator(view["host_country"])
        shown = self._get(host, f"/relocation-requests/{view['request_id']}")
        self._do(host, view, "countersignature", {"proposal_hash": shown["proposal"]["hash"]})

    def _consent(self, story: Story, view: Json) -> None:
        by, who = ConsentBy.HOUSEHOLD, _somebody(Role.REFERRER, story.origin, REFERRERS[story.origin])
        if story.household.is_headed_by_minor:
            by, who = ConsentBy.GUARDIAN, _somebody(Role.GUARDIAN, story.origin, GUARDIANS[story.origin])
        scope = ConsentScope.TRANSPORT if view["stage"] == Stage.CONFIRMED else ConsentScope.PLACEMENT
        body = {"scope": scope, "country": view["host_country"], "given": True, "by": by}
        self._do(who, view, "consent", body)

    def _plan(self, story: Story, view: Json) -> None:
        escort = f"synthetic.{story.origin.lower()}-escort-1" if story.escort_looks_around else _escort(story).person
        due = (self._now() + story.drive).isoformat()
        self._do(_coordinator(story.origin), view, "journey", {"escort": escort, "arrival_due": due, "steps": STEPS})

    def _depart(self, story: Story, view: Json) -> None:
        escort = _escort(story)
        if view["journey"]["escort"] != escort.person:
            self._do(_coordinator(story.origin), view, "departure", {})
            return
        for sealed in (SealedField.RENDEZVOUS, SealedField.JOURNEY):
            self._disclose(escort, view, sealed, DisclosureReason.DRIVE_JOURNEY)
        self._do(escort, view, "departure", {})

    def _arrive(self, _story: Story, view: Json) -> None:
        receives = _staff(view["proposal"]["shelter_id"], view["host_country"])
        self._do(receives, view, "arrival", {"outcome": ArrivalOutcome.ARRIVED})

    def _end(self, _story: Story, view: Json) -> None:
        receives = _staff(view["proposal"]["shelter_id"], view["host_country"])
        self._do(receives, view, "end", {"reason": EndingReason.MOVED_ON})

    # Beds

    def confirm(self, shelter_id: str, units: Sequence[Json]) -> None:
        """The staff of a shelter look round and find everything as it was."""
        staff = _staff(shelter_id, units[0]["country"])
        body = {"units": [{"unit_id": unit["unit_id"], "revision_seen": unit["revision"]} for unit in units]}
        oldest = min(str(unit["reported_at"]) for unit in units)
        key = f"scene/{oldest}/{sum(unit['revision'] for unit in units)}"
        self._post(staff, f"/shelters/{shelter_id}/capacity-confirmations", body, key=key)

    def free_beds(self, unit: Json, beds: int) -> None:
        """The staff of a shelter report that so many beds of a unit are free now."""
        staff = _staff(unit["shelter_id"], unit["country"])
        path = f"/shelters/{unit['shelter_id']}/units/{unit['unit_id']}/capacity"
        seen = self._get(staff, path)
        report = {"beds": seen["beds"], "free": beds}
        self._send("PUT", staff, path, report, {"If-Match": f'"{seen["revision"]}"'})

    # The API

    def _do(self, who: Principal, view: Json, what: str, body: Json) -> None:
        key = f"scene/{what}/{view['revision']}"
        self._post(who, f"/relocation-requests/{view['request_id']}/{what}", body, key=key)

    def _disclose(self, who: Principal, view: Json, sealed: SealedField, reason: DisclosureReason) -> None:
        body = {"field": sealed, "reason": reason, "recipient": who.person}
        key = f"scene/{sealed}/{view['revision']}"
        self._post(who, f"/relocation-requests/{view['request_id']}/disclosures", body, key=key)

    def _post(self, who: Principal, path: str, body: Json, key: str) -> None:
        # The key follows from what is done: after a crash in the middle the same step is the same intent.
        self._send("POST", who, path, body, {"Idempotency-Key": key.replace(" ", "_")})

    def _get(self, who: Principal, path: str) -> Json:
        return self._send("GET", who, path, None, {})

    def _send(self, method: str, who: Principal, path: str, body: Json | None, headers: Mapping[str, str]) -> Json:
        self._is_waiting = method != "GET"
        answer = self._client.open(
            f"{PREFIX}{path}",
            method=method,
            json=body,
            base_url=self._url,
            headers={**headers, "Prefer": self._wait},
            environ_overrides={ON_BEHALF_OF: who},
        )
        document: Json = answer.get_json()
        if answer.status_code >= 300 or answer.status_code == 202:
            raise NotDone(f"{method} {path.rpartition('/')[2]}", answer.status_code, str(document.get("title", "")))
        return document


def _somebody(role: Role, country: str, organisation: str) -> Principal:
    now = datetime.now(UTC)
    return Principal(
        person=f"synthetic.{organisation}{COLLEAGUE}",
        role=role,
        organisation=organisation,
        country=country,
        scopes=SCOPES_OF_ROLE[role],
        client_id="haven-scene",
        token_id="haven-scene",  # noqa: S106 - there is no token: they are in this process
        issued_at=now,
        authenticated_at=now,
        acr=PASSWORD_ACR,
        confirmation=None,
    )


def _coordinator(country: str) -> Principal:
    return _somebody(Role.COORDINATOR, country, f"{country.lower()}-coordinator")


def _staff(shelter_id: str, country: str) -> Principal:
    return _somebody(Role.SHELTER, country, shelter_id)


def _escort(story: Story) -> Principal:
    return _somebody(Role.ESCORT, story.origin, f"{story.origin.lower()}-escort")
