"""Cases at every stage, brought there through the API by the people whose task it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from services.api_client import Answer, Client, Json

POLICE, ORIGIN, HOST, SAME_PERSON, ESCORT, AUDITOR, GUARDIAN = (
    "be-police-antwerp-1",
    "be-coordinator-1",
    "nl-coordinator-1",
    "be-coordinator-1-for-nl",
    "be-escort-1",
    "be-auditor-1",
    "be-guardianship-1",
)
A_HOUSEHOLD: Mapping[str, Any] = {
    "urgency": "urgent",
    "danger_country": "BE",
    "danger_zones": [{"code": "BE21", "with_neighbours": True}],
    "household": {"women": 1},
    "languages": ["en"],
    "consented_countries": ["NL"],
    "callback": "synthetic: ask the desk for the night officer",
}
ROOMY = 12
A_CHILD: Mapping[str, Any] = {"household": {"children_12_to_17": 1, "age_status": "presumed_minor"}}


@dataclass(frozen=True)
class Offer:
    """A shelter's yes to one case."""

    case: str
    ask: str
    shelter: str

    @property
    def staff(self) -> str:
        return f"{self.shelter}-staff"


class Scene:
    """What its people do. Each method waits until Haven has decided, and fails if it refuses."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._make_room()

    def send(self, who: str, method: str, path: str, body: Json | None = None, **headers: str) -> Answer:
        answer = self._client.send(who, method, f"/api/v1{path}", body, Prefer="wait=10", **headers)
        assert answer.status in (200, 201), f"{who} {method} {path}: {answer.status} {answer.body}"
        return answer

    def _make_room(self) -> None:
        """Some Dutch shelters have beds enough for every test: what the synthetic inventory drew must not decide."""
        staff = sorted(name for name in self._client.logins if name.startswith("nl-shelter-"))
        for who in staff[:ROOMY]:
            for unit in self.send(who, "GET", f"/shelters/{who.removesuffix('-staff')}/units").body["units"]:
                path = f"/shelters/{unit['shelter_id']}/units/{unit['unit_id']}/capacity"
                seen = self.send(who, "GET", path)
                free = 100 - seen.body["held"] - seen.body["occupied"]
                self.send(who, "PUT", path, {"beds": 100, "free": free}, If_Match=seen.headers["etag"])

    def act(self, who: str, case: str, what: str, body: Json) -> Json:
        return self.send(who, "POST", f"/relocation-requests/{case}/{what}", body).body

    def view(self, case: str, who: str = ORIGIN) -> Json:
        return self.send(who, "GET", f"/relocation-requests/{case}").body

    def until(self, case: str, what: str, *stages: str) -> Json:
        """The case once it stands at one of these stages."""
        for _ in self._client.moves(ORIGIN, case):
            view = self.view(case)
            if view["stage"] in stages:
                return view
            assert view["stage"] != "unmet_need", what
        raise AssertionError(f"waited in vain until {what}")

    def opened(self, **other: Any) -> str:
        """A case that shelters are asked about."""
        case: str = self.send(POLICE, "POST", "/relocation-requests", {**A_HOUSEHOLD, **other}).body["request_id"]
        self.until(case, "shelters are asked", "asked")
        return case

    def asks(self, case: str) -> list[Json]:
        """Those that wait for an answer."""
        return [ask for ask in self.view(case)["asks"].values() if ask["state"] == "open"]

    def ask_of_host(self, case: str) -> Json:
        """One that waits for a shelter of the country whose focal point signs in these tests; Luxembourg may be asked too."""
        return next(ask for ask in self.asks(case) if ask["country"] == "NL")

    def offered(self, case: str = "", **other: Any) -> Offer:
        """A case that one shelter said yes to."""
        case = case or self.opened(**other)
        ask = self.ask_of_host(case)
        yes = {"accept": True, "condition": None, "rendezvous": "synthetic: the desk of the station"}
        offer = Offer(case, ask["ask_id"], ask["shelter_id"])
        self.send(offer.staff, "POST", f"/asks/{offer.ask}/answer", yes)
        return offer

    def proposed(self, **other: Any) -> Offer:
        offer = self.offered(**other)
        self.act(ORIGIN, offer.case, "proposal", {"ask_id": offer.ask})
        return offer

    def confirmed(self, **other: Any) -> Offer:
        """Both countries have signed, and the bed is certain."""
        offer = self.proposed(**other)
        signature = {"proposal_hash": self.view(offer.case)["proposal"]["hash"]}
        self.act(HOST, offer.case, "countersignature", signature)
        self.until(offer.case, "the bed is certain", "confirmed")
        return offer

    def planned(self, **other: Any) -> Offer:
        """Somebody drives them, and they agree to the journey."""
        offer = self.confirmed(**other)
        due = (datetime.now(UTC) + timedelta(hours=8)).isoformat()
        self.act(
            ORIGIN,
            offer.case,
            "journey",
            {"escort": f"synthetic.{ESCORT}", "arrival_due": due, "steps": "synthetic: by the side door"},
        )
        yes = {"scope": "transport", "country": "NL", "given": True, "by": "household"}
        self.act(POLICE, offer.case, "consent", yes)
        return offer

    def departed(self, **other: Any) -> Offer:
        offer = self.planned(**other)
        self.act(ESCORT, offer.case, "departure", {})
        return offer

    def arrived(self, **other: Any) -> Offer:
        offer = self.departed(**other)
        self.act(offer.staff, offer.case, "arrival", {"outcome": "arrived"})
        return offer
