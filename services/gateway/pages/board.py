"""The board of a focal point: every open request, in lanes by who must act next, the most pressing first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil

from flask import Response, request

from events.vocabulary import Role, Stage, Step
from services.gateway.pages.frame import Page, Visit, page, see_other
from services.gateway.pages.language import country_within, gettext, mark, ngettext
from services.gateway.pages.portions import Portion, even_share, portion
from services.gateway.pages.words import word
from services.gateway.pages.words_of_cases import SOON, TICKS, case_code, clock_of, household_words, is_for, who_acts
from services.gateway.read_model import Json

PAGE_OF_REQUESTS = "100"
ROWS_AT_ONCE = 18
ROWS_ON_A_WALL = 40
CALLS_AT_ONCE = 8
"""So many rows leave a page under 30 KB; each lane says how many it has, and the board looks at all of them."""
STANDS_AT_MOST = timedelta(hours=1)


class Lane(StrEnum):
    """Who must act, or what is going on."""

    CHOICE = "choice"
    SHELTERS = "shelters"
    SIGNATURE = "signature"
    CONSENT_AND_JOURNEY = "consent-and-journey"
    UNDER_WAY = "under-way"
    FOLLOW_UP = "follow-up"


LANE_NAMES: Mapping[Lane, str] = {
    Lane.CHOICE: mark("Needs a choice by us"),
    Lane.SHELTERS: mark("Waiting for shelters"),
    Lane.SIGNATURE: mark("Waiting for a signature"),
    Lane.CONSENT_AND_JOURNEY: mark("Consent and journey"),
    Lane.UNDER_WAY: mark("Under way and arrived"),
    Lane.FOLLOW_UP: mark("To follow up"),
}

_LANE_OF_STAGE: Mapping[Stage, Lane] = {
    Stage.RECEIVED: Lane.SHELTERS,
    Stage.OPENED: Lane.SHELTERS,
    Stage.SHORTLISTED: Lane.SHELTERS,
    Stage.ASKED: Lane.SHELTERS,
    Stage.OFFERED: Lane.SIGNATURE,
    Stage.PROPOSED: Lane.SIGNATURE,
    Stage.COUNTERSIGNED: Lane.CONSENT_AND_JOURNEY,
    Stage.CONSENTED: Lane.CONSENT_AND_JOURNEY,
    Stage.CONFIRMED: Lane.CONSENT_AND_JOURNEY,
    Stage.DEPARTED: Lane.UNDER_WAY,
    Stage.ARRIVED: Lane.UNDER_WAY,
    Stage.ASTRAY: Lane.FOLLOW_UP,
    Stage.UNMET_NEED: Lane.FOLLOW_UP,
}
"""What is over has no lane."""

_PAGE_OF_STEP: Mapping[str, str] = {
    Step.PROPOSE_PLACEMENT: "/shortlist",
    Step.COUNTERSIGN_PLACEMENT: "/signature",
    Step.RECORD_CONSENT: "/consent",
    Step.PLAN_JOURNEY: "/journey",
    Step.RECORD_DEPARTURE: "/departure",
    Step.FIND_HOUSEHOLD: "/disclosures",
}
"""The page on which a step is taken, where it is not that of the case."""


@dataclass(frozen=True)
class Row:
    """One request on the board: no name, and no place finer than a country."""

    request_id: str
    code: str
    is_urgent: bool
    urgency: str
    household: str
    needs: tuple[str, ...]
    countries: str
    stage: str
    troubles: tuple[str, ...]
    waits_for: str
    is_ours: bool
    deadline: str | None
    clock: str
    """Of the deadline: past, soon, running, or far; what is far does not tick."""
    opened_at: str
    verb: str
    address: str


@dataclass(frozen=True)
class CountryCapacity:
    """Free beds of one country, and how much of that can be relied on."""

    country: str
    free: int
    free_uncertain: int
    not_reported: int


def lane_of(view: Json, country: str, now: datetime) -> Lane | None:
    """Where a focal point of `country` sees a request; None when it is over."""
    stage = Stage(view["stage"])
    if stage in _LANE_OF_STAGE and troubles_of(view, now):
        return Lane.FOLLOW_UP
    if stage is Stage.OFFERED and view["owner_country"] == country:
        return Lane.CHOICE
    return _LANE_OF_STAGE.get(stage)


def troubles_of(view: Json, now: datetime) -> tuple[str, ...]:
    """Why a request must be followed up, in words of the page's language; empty when it goes its way."""
    stage, steps, missed = Stage(view["stage"]), view["next_steps"], view.get("missed_deadlines") or 0
    troubles = []
    if stage is Stage.UNMET_NEED:
        troubles.append(gettext("No bed found"))
    elif Step.FIND_ALTERNATIVE in steps:
        troubles.append(gettext("They do not want to go on"))
    if stage is Stage.ASTRAY:
        troubles.append(gettext("Did not arrive where they should"))
    elif Step.FIND_HOUSEHOLD in steps:
        troubles.append(gettext("Arrival overdue"))
    if missed:
        troubles.append(ngettext("%(num)s deadline missed", "%(num)s deadlines missed", missed))
    elif clock_of(view["deadline"], now) == "past":
        troubles.append(gettext("Deadline passed"))
    return tuple(troubles)


def way_on(view: Json, country: str) -> tuple[str, str]:
    """What a focal point of `country` can do with a request now, and the page where that is done."""
    case = f"/requests/{view['request_id']}"
    stage = Stage(view["stage"])
    at_origin = view["danger_country"] == country
    if is_for(view, country) and view["next_steps"]:
        step = view["next_steps"][0]
        there = "/shortlist" if stage is Stage.UNMET_NEED and at_origin else _PAGE_OF_STEP.get(step, "")
        return word("Step", step), case + there
    if at_origin and stage in (Stage.OPENED, Stage.SHORTLISTED, Stage.ASKED):
        return gettext("See who is asked"), f"{case}/shortlist"
    if stage is Stage.PROPOSED and view["proposal"]:
        return gettext("See what is proposed"), f"{case}/signature"
    return gettext("Open the case"), case


def _countries(view: Json) -> str:
    standing = {ask["country"] for ask in view["asks"].values() if ask["state"] in ("open", "accepted")}
    hosts = [view["host_country"]] if view["host_country"] else sorted(standing)
    origin = country_within(view["danger_country"])
    if not hosts:
        return gettext("from %(origin)s", origin=origin)
    return gettext("from %(origin)s to %(hosts)s", origin=origin, hosts=", ".join(map(country_within, hosts)))


def _row(view: Json, country: str, now: datetime) -> Row:
    verb, address = way_on(view, country)
    return Row(
        request_id=view["request_id"],
        code=case_code(view["request_id"]),
        is_urgent=view["urgency"] == "urgent",
        urgency=word("Urgency", view["urgency"]),
        household=household_words(view["household"]),
        needs=tuple(word("Need", need) for need in view["needs"]),
        countries=_countries(view),
        stage=word("Stage", view["stage"]),
        troubles=troubles_of(view, now),
        waits_for=who_acts(view, country),
        is_ours=is_for(view, country),
        deadline=view["deadline"],
        clock=clock_of(view["deadline"], now),
        opened_at=view["opened_at"],
        verb=verb,
        address=address,
    )


def lanes_of(views: Iterable[Json], country: str, now: datetime) -> dict[Lane, list[Row]]:
    """The open requests in their lanes, each lane by deadline and then by age; a request without deadline comes last."""
    lanes: dict[Lane, list[Row]] = {lane: [] for lane in Lane}
    for view in views:
        lane = lane_of(view, country, now)
        if lane is not None:
            lanes[lane].append(_row(view, country, now))
    for rows in lanes.values():
        rows.sort(key=lambda row: (row.deadline is None, row.deadline or "", row.opened_at))
    return lanes


def capacity_by_country(regions: Iterable[Json]) -> list[CountryCapacity]:
    """What the regions have together, country by country."""
    totals: dict[str, list[int]] = {}
    for region in regions:
        total = totals.setdefault(region["country"], [0, 0, 0])
        for place, name in enumerate(("free_certain", "free_uncertain", "units_not_reported")):
            total[place] += region[name]
    return [CountryCapacity(country, *total) for country, total in sorted(totals.items())]


def call_first(regions: Iterable[Json], country: str) -> list[Json]:
    """Our own regions where a report is overdue or missing: the machine asks those last or never, a phone call may help."""
    return [
        region
        for region in regions
        if region["country"] == country and (region["free_uncertain"] or region["units_not_reported"])
    ]


def stands_until(views: Iterable[Json], next_call: datetime | None, now: datetime) -> datetime:
    """When a board changes by time alone, if nothing moves: a deadline comes near or passes, or somebody has been silent for too
    long. After an hour in any case, so that "in two days" grows no older."""
    deadlines = [datetime.fromisoformat(view["deadline"]) for view in views if view["deadline"]]
    moments = [deadline - before for deadline in deadlines for before in (TICKS, SOON, timedelta(0))]
    moments += [next_call] if next_call else []
    return min([now + STANDS_AT_MOST, *(moment for moment in moments if moment > now)])


def calls_shown(calls: Iterable[Json]) -> tuple[list[Json], list[Json]]:
    """Our own shelters to phone, each once for a case, whichever of its units were asked; and of those abroad the country and the
    case alone: which shelter is for the focal point there."""
    ours: dict[tuple[str, str], Json] = {}
    abroad: dict[tuple[str, str], Json] = {}
    for call in calls:
        shown = {**call, "code": case_code(call["request_id"])}
        if call["ours"]:
            ours.setdefault((call["shelter_id"], call["request_id"]), shown)
        else:
            abroad.setdefault((call["country"], call["request_id"]), shown)
    return list(ours.values()), list(abroad.values())


def _open_requests(visit: Visit) -> list[Json]:
    """All of them: the one that falls off a list is the one that nobody looks at."""
    views: list[Json] = []
    query = {"open": "true", "limit": PAGE_OF_REQUESTS}
    while True:
        answer = visit.ask("GET", "/relocation-requests", query=query)
        views += answer.data["requests"]
        if not answer.next_cursor:
            return views
        query["cursor"] = answer.next_cursor


def _in_portions(lanes: Mapping[Lane, Sequence[Row]], most: int) -> list[tuple[Lane, str, Portion[Row]]]:
    """The lanes with their names: the first of each, or more and more of the one that the address names."""
    chosen = request.args.get("lane", "")
    if chosen in lanes:
        lanes = {lane: rows for lane, rows in lanes.items() if lane == chosen}
    share = even_share(map(len, lanes.values()), most)
    start = request.args.get("from", "") if chosen in lanes else ""
    return [(lane, gettext(LANE_NAMES[lane]), portion(rows, share, start)) for lane, rows in lanes.items()]


def _is_wall() -> bool:
    return request.args.get("wall") == "1"


@page("POST", "/board/wall", Role.COORDINATOR)
def put_on_wall(visit: Visit) -> Response:
    """This browser from now on shows the wall alone, also when nobody touches it for a whole duty."""
    visit.site.sessions.put_on_wall(visit.cookie, visit.session)
    return see_other("/board?wall=1")


@page("GET", "/board", Role.COORDINATOR, is_wall=_is_wall, lives=True)
def board(visit: Visit) -> Response:
    now = visit.site.gateway.clock()
    country = visit.principal.country
    unheard = visit.site.gateway.feed.unheard()  # before what it is a mark of
    views = _open_requests(visit)
    lanes = lanes_of(views, country, now)
    is_wall = _is_wall()
    named = _in_portions(lanes, ROWS_ON_A_WALL if is_wall else ROWS_AT_ONCE)
    told = visit.ask("GET", "/alerts").data
    alerts: Sequence[Json] = told["set_aside"]
    to_call = visit.ask("GET", "/call-list").data
    ours, of_others = calls_shown(to_call["calls"])
    next_call = datetime.fromisoformat(to_call["next_at"]) if to_call["next_at"] else None
    stands_for = stands_until(views, next_call, now) - now
    stands = {"unheard": unheard, "stands_for": ceil(stands_for.total_seconds()) + 1}
    # A page that is open already asks for what stands now, and puts it where it was.
    is_part = "HX-Request" in request.headers
    if is_wall:
        template = "board_wall_standing.html" if is_part else "board_wall.html"
        return visit.render(template, now=now, lanes=named, stands=stands, has_alerts=bool(alerts), calls=ours)
    regions = visit.ask("GET", "/availability").data["regions"]
    return visit.render(
        "board_standing.html" if is_part else "board_lanes.html",
        now=now,
        lanes=named,
        stands=stands,
        alerts=alerts,
        capacity=capacity_by_country(regions),
        call_first=call_first(regions, country),
        people_are_rung=to_call["people_are_rung"],
        asks_for_too_many=told["asks_for_too_many"],
        calls=portion(ours, CALLS_AT_ONCE, request.args.get("calls", "")),
        calls_of_others=portion(of_others, CALLS_AT_ONCE, request.args.get("calls_of_others", "")),
    )


PAGES: tuple[Page, ...] = (board, put_on_wall)
