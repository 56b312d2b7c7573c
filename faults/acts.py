"""What people do next, and what they send for it; it follows from what they are shown, and from a source of chance."""

import random
from datetime import datetime, timedelta

from faults.client import Intent, Json

COUNTRIES = ("BE", "NL", "LU")
REFERRERS = {"BE": "be-police-antwerp-1", "NL": "nl-police-rotterdam-1", "LU": "lu-police-esch-1"}
COORDINATORS = {country: f"{country.lower()}-coordinator-1" for country in COUNTRIES}
AUDITOR = "be-auditor-1"


def opening(rng: random.Random, *, urgent: bool) -> Intent:
    """A household for which a bed should be found."""
    danger = rng.choice(COUNTRIES)
    household = rng.choice([{"women": 1}, {"men": 1}, {"women": 1}, {"women": 1, "children_under_6": 1}])
    body = {
        "urgency": "urgent" if urgent else "standard",
        "danger_country": danger,
        "household": household,
        "languages": ["en"],
        "consented_countries": [country for country in COUNTRIES if country != danger],
        "callback": "synthetic callback, code KESTREL",
    }
    return Intent(REFERRERS[danger], "POST", "/relocation-requests", body)


def _about(who: str, view: Json, what: str, body: Json) -> Intent:
    request_id = view["request_id"]
    path = f"/relocation-requests/{request_id}/{what}"
    return Intent(who, "POST", path, body, f"relocation_request-{request_id}")


def next_act(rng: random.Random, view: Json) -> Intent | None:
    """What somebody does next about a request that is open; None when they let it wait."""
    origin = COORDINATORS[view["danger_country"]]
    proposal = view["proposal"]
    if rng.random() < 0.04:
        return withdrawal(view)
    if rng.random() < 0.04:
        return details(rng, view)
    match view["stage"]:
        case "asked" | "offered":
            return _answer_or_propose(rng, view)
        case "proposed" if proposal:
            host = COORDINATORS[proposal["host_country"]]
            refusal = {"refusal": "papers_missing"} if rng.random() < 0.1 else {}
            return _about(host, view, "countersignature", {"proposal_hash": proposal["hash"], **refusal})
        case "confirmed" if not view["journey"]:
            due = datetime.fromisoformat(view["changed_at"]) + timedelta(hours=96)
            escort = f"synthetic.{view['danger_country'].lower()}-escort-1"
            steps = "synthetic steps, code OSPREY"
            return _about(origin, view, "journey", {"escort": escort, "arrival_due": due.isoformat(), "steps": steps})
        case "confirmed" if not view["consents"].get(f"transport/{view['host_country']}/household"):
            consent = {"scope": "transport", "country": view["host_country"], "given": True, "by": "household"}
            return _about(origin, view, "consent", consent)
        case "confirmed":
            return _about(origin, view, "departure", {})
        case "departed" | "arrived" | "astray":
            return ending(view)
        case "unmet_need" | "opened" if rng.random() < 0.3:
            return withdrawal(view)
    return None


def _answer_or_propose(rng: random.Random, view: Json) -> Intent | None:
    asks = [ask for ask in view["asks"].values() if ask["state"] in ("open", "accepted")]
    luck = rng.random()
    if not asks or luck < 0.1:  # the hold runs out
        return None
    ask = rng.choice(asks)
    if ask["state"] == "accepted":
        body = {"ask_id": ask["ask_id"], "override": "household_preference"}
        return _about(COORDINATORS[view["danger_country"]], view, "proposal", body)
    said: Json = {"accept": True, "rendezvous": "synthetic place, code HERON"}
    if luck < 0.4:
        said = {"accept": False, "decline": "not_staffed"}
    stream = f"relocation_request-{view['request_id']}"
    return Intent(f"{ask['shelter_id']}-staff", "POST", f"/asks/{ask['ask_id']}/answer", said, stream)


def ending(view: Json) -> Intent:
    """What brings a request to its end."""
    if view["stage"] in ("departed", "astray"):
        return _about(f"{view['proposal']['shelter_id']}-staff", view, "arrival", {"outcome": "arrived"})
    if view["stage"] == "arrived":
        return _about(f"{view['proposal']['shelter_id']}-staff", view, "end", {"reason": "moved_on"})
    return withdrawal(view)


def withdrawal(view: Json) -> Intent:
    """The origin's focal point gives up on it."""
    return _about(COORDINATORS[view["danger_country"]], view, "withdrawal", {"reason": "danger_passed"})


def details(rng: random.Random, view: Json) -> Intent:
    """The origin's focal point has learnt more of them, or puts it right."""
    known = {"third_country_national": rng.choice([True, False, None]), "reflection_started_on": None}
    seen = (view.get("details") or {}).get("version", 0)
    body = {"version_seen": seen, **known, "region_of_stay": view.get("region_of_stay")}
    return _about(COORDINATORS[view["danger_country"]], view, "details", body)


def erasure(request_id: str) -> Intent:
    """Its household is forgotten."""
    return Intent(AUDITOR, "POST", "/erasures", {"request_id": request_id}, f"relocation_request-{request_id}")


def report(rng: random.Random, unit: Json) -> Intent:
    """Every bed that Haven has given to nobody is free, but for one now and then."""
    free = unit["beds"] - unit["held"] - unit["occupied"]
    body = {"beds": unit["beds"], "free": max(0, free - (rng.random() < 0.1))}
    path = f"/shelters/{unit['shelter_id']}/units/{unit['unit_id']}/capacity"
    return Intent(
        f"{unit['shelter_id']}-staff", "PUT", path, body, f"unit-{unit['unit_id']}", revision=unit["revision"]
    )
