"""Our places: a shelter says in seconds what is free, and sees how old its last word is."""

import base64
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Self

import msgspec
from flask import Response

from events.vocabulary import BlockReason, Freshness, Role, Stage
from services.gateway.pages.frame import Page, Refused, Visit, page
from services.gateway.pages.language import ZONE, gettext
from services.gateway.pages.login import LoginFailed
from services.gateway.pages.offline import kept_key
from services.gateway.pages.requests_forms import SOON, Wrong, new_command, next_command, what_was_wrong
from services.gateway.pages.words_of_cases import case_code
from services.gateway.read_model import Json

MOST_BEDS = 200
AT_ONCE = 50
"""So many units the API takes in one confirmation."""
_NUMBER = re.compile(r"\A[0-9]{1,3}\Z")
_REVISION = re.compile(r"\A[0-9]{1,9}\Z")
_LOCAL_TIME = "%Y-%m-%dT%H:%M"
_LATE = (Freshness.OVERDUE, Freshness.NOT_REPORTED)


@dataclass(frozen=True)
class Said:
    """What staff say of one unit, as it is typed: absolute values, and the revision that was before their eyes."""

    unit: str
    revision: str
    beds: str
    free: str
    blocked: str = "0"
    blocked_because: str = ""
    blocked_until: str = ""

    @classmethod
    def of(cls, unit: Json, now: datetime) -> Self:
        """What a unit's last report says now. An end that is over was reached: it says nothing any more."""
        until = datetime.fromisoformat(unit["blocked_until"]) if unit["blocked_until"] else None
        return cls(
            unit=unit["unit_id"],
            revision=str(unit["revision"]),
            beds=str(unit["beds"]),
            free=str(unit["free"]),
            blocked=str(unit["blocked"]),
            # Without a reason of their own they are the beds of a household that left: being made ready.
            blocked_because=unit["blocked_because"] or BlockReason.TURNOVER,
            blocked_until=until.astimezone(ZONE).strftime(_LOCAL_TIME) if until and until > now else "",
        ).without_idle_reason()

    @classmethod
    def typed(cls, fields: Mapping[str, str]) -> Self:
        names = ("unit", "revision", "beds", "free", "blocked", "blocked_because", "blocked_until")
        return cls(**{name: fields.get(name, "").strip() for name in names}).without_idle_reason()

    def without_idle_reason(self) -> Self:
        """A list cannot be left empty again by everybody: where nothing is blocked, its reason is of no account."""
        return (
            self if self.blocked not in ("", "0") else replace(self, blocked="0", blocked_because="", blocked_until="")
        )

    def with_free(self, free: int) -> Self:
        return replace(self, free=str(free))

    def at(self, revision: int) -> Self:
        return replace(self, revision=str(revision))

    def wrong_field(self) -> str:
        """The first field that is no number, or no time; empty if all are."""
        for name in ("free", "blocked", "beds"):
            number: str = getattr(self, name)
            if not _NUMBER.match(number) or int(number) > MOST_BEDS:
                return name
        return "blocked_until" if self.blocked_until and self._until() is None else ""

    def body(self) -> Json:
        until = self._until()
        return {
            "beds": int(self.beds),
            "free": int(self.free),
            "blocked": int(self.blocked),
            "blocked_because": self.blocked_because or None,
            "blocked_until": until.isoformat() if until else None,
        }

    def stands(self, unit: Json, now: datetime) -> bool:
        """Whether this is what the unit says already: a second tap, or a colleague who saw the same."""
        return replace(self, revision="") == replace(Said.of(unit, now), revision="")

    def fits(self, unit: Json) -> bool:
        """Whether it leaves every bed alone that is held or lived in."""
        claimed: int = unit["held"] + unit["occupied"]
        return not self.wrong_field() and int(self.free) + int(self.blocked) + claimed <= int(self.beds)

    def _until(self) -> datetime | None:
        try:
            return datetime.strptime(self.blocked_until[:16], _LOCAL_TIME).replace(tzinfo=ZONE)
        except ValueError:
            return None


@dataclass(frozen=True)
class Seen:
    """One unit as the page showed it, for "nothing changed"."""

    unit: str
    revision: str
    free: str

    @classmethod
    def typed(cls, text: str) -> Self | None:
        parts = text.split(" ")
        if len(parts) != 3 or not _REVISION.match(parts[1]) or not _NUMBER.match(parts[2]):
            return None
        return cls(*parts)


@page("GET", "/places", Role.SHELTER, lives=True)
def our_places(visit: Visit) -> Response:
    kept = visit.session.kept
    said = Said.typed(dict(kept.fields)) if kept is not None and kept.path == "/places" else None
    return _show(visit, _units(visit), said=said if said and said.unit else None, undo=visit.take_once())


@page("POST", "/places", Role.SHELTER, lives=True)
def change_places(visit: Visit) -> Response:
    response = _confirm(visit) if visit.text("what") == "confirm" else _report(visit)
    return _in_short(visit, response) if visit.text("reply") == "short" else response


def _in_short(visit: Visit, response: Response) -> Response:
    """The same answer for a script (frontend/kept.js) that sends what had to wait for the line: saved, or look at the page. Sent once
    more as any form, the same values lead to the same page."""
    if response.status_code >= 500:
        return response
    saved = response.status_code == 303
    said = {"outcome": "saved", "text": visit.session.notices[-1]} if saved else {"outcome": "look"}
    return Response(msgspec.json.encode(said), content_type="application/json")


def _report(visit: Visit) -> Response:
    said = Said.typed({name: visit.text(name) for name in Said.__dataclass_fields__})
    units = _units(visit)
    unit = _one(units, said.unit)
    if unit is None:
        return visit.render("problem.html", 404, code="not-found")
    if not _REVISION.match(said.revision):
        return visit.render("problem.html", 400, code="form-too-old")
    if field := said.wrong_field():
        return _show(visit, units, 400, said=said, wrong=[_not_readable(field)])
    try:
        answer = visit.ask(
            "PUT",
            f"/shelters/{visit.principal.organisation}/units/{said.unit}/capacity",
            body=said.body(),
            headers={"If-Match": f'"{said.revision}"', **SOON},
        )
    except Refused as refused:
        return _report_refused(visit, said, refused)
    if answer.status == 202:
        return visit.go_to("/places", _not_decided_yet())
    before = Said.of(unit, visit.site.gateway.clock())
    if before.revision != said.revision:
        return _sent_again(visit, said, units)
    return visit.go_to("/places", _saved(visit, said), once=asdict(before.at(answer.data["revision"])))


def _sent_again(visit: Visit, said: Said, units: Sequence[Json]) -> Response:
    """What was said to an older revision: nothing new if it stands, which the first of two taps saw to; its way to undo it is kept."""
    unit = _one(units, said.unit)
    if unit is None or not said.stands(unit, visit.site.gateway.clock()):
        return _show(visit, units, 412, said=said, conflict="stale-revision")
    notice = _saved(visit, said)
    return visit.go_to("/places", "" if notice in visit.session.notices else notice)


def _report_refused(visit: Visit, said: Said, refused: Refused) -> Response:
    units = _units(visit)
    if _one(units, said.unit) is None:
        raise refused
    if refused.status == 412:
        return _sent_again(visit, said, units)
    if refused.code == "claimed-beds-typed-away":
        return _show(visit, units, refused.status, said=said, conflict=refused.code)
    return _show(visit, units, refused.status, said=said, wrong=what_was_wrong(refused, _what_to_put_right()))


def _confirm(visit: Visit) -> Response:
    seen = [one for text in visit.texts("seen") if (one := Seen.typed(text)) is not None]
    if not seen or len(seen) != len(visit.texts("seen")):
        return visit.render("problem.html", 400, code="form-too-old")
    stale: list[str] = []
    decided = True
    for first in range(0, len(seen), AT_ONCE):
        part = seen[first : first + AT_ONCE]
        try:
            answer = _confirm_part(visit, part, f"{visit.text('command')}-{first}")
        except Refused as refused:
            if refused.status == 412:
                stale += [one.unit for one in part]
                continue
            if refused.status == 404:
                raise
            wrong = what_was_wrong(refused, {})
            return _show(visit, _units(visit), refused.status, wrong=wrong, command=next_command(visit, refused))
        if answer is None:
            decided = False
        else:
            stale += answer
    if stale:
        return _show(visit, _units(visit), 412, moved=[one for one in seen if one.unit in stale])
    saved = gettext("Saved %(time)s: nothing changed.", time=visit.time())
    return visit.go_to("/places", saved if decided else _not_decided_yet())


def _confirm_part(visit: Visit, seen: Sequence[Seen], key: str) -> list[str] | None:
    """The units of which a bed has moved since; None while that is not decided."""
    answer = visit.ask(
        "POST",
        f"/shelters/{visit.principal.organisation}/capacity-confirmations",
        body={"units": [{"unit_id": one.unit, "revision_seen": int(one.revision)} for one in seen]},
        key=key,
        headers=SOON,
    )
    if answer.status == 202:
        return None
    return [one["unit_id"] for one in answer.data["units"] if not one["confirmed"]]


def _show(
    visit: Visit,
    units: Sequence[Json],
    status: int = 200,
    *,
    said: Said | None = None,
    conflict: str = "",
    moved: Sequence[Seen] = (),
    wrong: Sequence[Wrong] = (),
    undo: Mapping[str, str] | None = None,
    command: str = "",
) -> Response:
    now = visit.site.gateway.clock()

    def unit_name(unit_id: str) -> str:
        return _name(visit, unit_id)

    held = _held_for(visit) if any(unit["held"] for unit in units) else {}
    reported = [unit for unit in units if unit["reported_at"]]
    return visit.render(
        "places_units.html",
        status,
        now=now,
        places=[_place(visit, unit, said, held.get(unit["unit_id"], ()), now) for unit in units],
        reported=reported,
        free=sum(unit["free"] for unit in reported),
        late=[unit_name(unit["unit_id"]) for unit in units if unit["freshness"] in _LATE],
        position=next((place for place, unit in enumerate(units, 1) if said and unit["unit_id"] == said.unit), 0),
        conflict=conflict,
        moved=[(one, unit) for one in moved if (unit := _one(units, one.unit)) is not None],
        wrong=wrong,
        undo=_undo(units, undo or {}),
        command=command or new_command(),
        new_command=new_command,
        unit_name=unit_name,
        kept_key=_kept_key(visit),
        shown={unit["unit_id"]: unit["revision"] for unit in units},
        reasons=list(BlockReason),
        most=MOST_BEDS,
    )


def _place(visit: Visit, unit: Json, said: Said | None, held: Sequence[Json], now: datetime) -> Json:
    stands = Said.of(unit, now)
    reported_at = datetime.fromisoformat(unit["reported_at"]) if unit["reported_at"] else None
    rhythm = visit.site.reference.countries[unit["country"]].rhythm
    return {
        "unit": unit,
        "stands": stands,
        "sent": said.at(unit["revision"]) if said is not None and said.unit == unit["unit_id"] else None,
        "fewer": stands.with_free(unit["free"] - 1) if unit["free"] else None,
        "more": stands.with_free(unit["free"] + 1) if unit["taken"] else None,
        "held": held,
        "is_new": reported_at is not None and now - reported_at < timedelta(minutes=1),
        "due": (reported_at + rhythm.ageing).isoformat() if reported_at else "",
        "is_late": unit["freshness"] in _LATE,
    }


def _kept_key(visit: Visit) -> str:
    """What seals the numbers that this person's browser keeps while the line is down; empty if there is none now."""
    try:
        secret = visit.site.login.client_secret()
    except LoginFailed:
        return ""
    return base64.urlsafe_b64encode(kept_key(secret, visit.principal.person)).decode()


def _undo(units: Sequence[Json], once: Mapping[str, str]) -> Said | None:
    """The values before the last save, as long as no bed has moved since: after that they would undo somebody else's."""
    unit = _one(units, once.get("unit", ""))
    if unit is None or once.get("revision") != str(unit["revision"]):
        return None
    return Said.typed(once)


def _held_for(visit: Visit) -> Mapping[str, Sequence[Json]]:
    """For which cases a unit's beds are held, and until when that is certain, the soonest first."""
    held: dict[str, list[Json]] = defaultdict(list)
    cursor = ""
    while True:
        query = {"open": "true", "limit": "100"} | ({"cursor": cursor} if cursor else {})
        answer = visit.ask("GET", "/relocation-requests", query=query)
        for case in answer.data["requests"]:
            for ask in case["asks"].values():
                if ask["state"] in ("open", "accepted") and case["stage"] != Stage.ARRIVED:
                    held[ask["unit_id"]].append(_hold(case, ask))
        if not (cursor := answer.next_cursor):
            break
    for holds in held.values():
        holds.sort(key=lambda one: one["until"] or "~")
    return held


def _hold(case: Json, ask: Json) -> Json:
    arrives = (case.get("journey") or {}).get("arrival_due")
    waits = ask["state"] == "open"
    return {
        "case": case_code(case["request_id"]),
        "ask_id": ask["ask_id"],
        "waits": waits,
        "arrives": bool(arrives) and not waits,
        "until": ask["deadline"] if waits else arrives or case["deadline"],
    }


def _units(visit: Visit) -> list[Json]:
    try:
        units: list[Json] = visit.ask("GET", f"/shelters/{visit.principal.organisation}/units").data["units"]
    except Refused as refused:
        if refused.status == 404:
            return []
        raise
    return units


def _one(units: Sequence[Json], unit_id: str) -> Json | None:
    return next((unit for unit in units if unit["unit_id"] == unit_id), None)


def _name(visit: Visit, unit_id: str) -> str:
    """What staff call a unit: the part of its id that is not their own shelter's."""
    return unit_id.removeprefix(f"{visit.principal.organisation}-")


def _saved(visit: Visit, said: Said) -> str:
    name = _name(visit, said.unit)
    return gettext("Saved %(time)s: unit %(name)s has %(free)s free.", time=visit.time(), name=name, free=said.free)


def _not_decided_yet() -> str:
    return gettext("Received, and not decided yet. Load this page again in a moment.")


def _not_readable(field: str) -> Wrong:
    if field == "blocked_until":
        return _what_to_put_right()[field]
    return Wrong(gettext("Give a whole number from 0 to %(most)s", most=MOST_BEDS), field)


def _what_to_put_right() -> Mapping[str, Wrong]:
    return {
        "free": Wrong(gettext("Free and blocked beds together are more than there are beds"), "free"),
        "blocked_because": Wrong(gettext("Say why these beds are blocked"), "blocked_because"),
        "blocked_until": Wrong(gettext("Give a time in the future, within a year, or none"), "blocked_until"),
    }


PAGES: tuple[Page, ...] = (our_places, change_places)
