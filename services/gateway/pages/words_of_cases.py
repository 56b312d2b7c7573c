"""How a case is spoken of: its code, who moves together, whose turn it is, and how pressing it is."""

from datetime import datetime, timedelta

from events.vocabulary import Role
from services.gateway.pages.frame import Visit
from services.gateway.pages.language import country_name, day, gettext, ngettext
from services.gateway.pages.words import TABLES, word
from services.gateway.read_model import Json

SOON, TICKS = timedelta(minutes=5), timedelta(days=1)
_PEOPLE = ("women", "men", "children_under_6", "children_6_to_11", "children_12_to_17")


def case_code(request_id: str) -> str:
    """How people name a case on the phone."""
    return f"{request_id[:4]}-{request_id[4:8]}".upper()


def household_words(household: Json) -> str:
    """Who moves together, in words: "1 woman, 2 children under 6"."""
    counts = {name: int(household.get(name) or 0) for name in _PEOPLE}
    women, men, small, middle, older = counts.values()
    said = [
        women and ngettext("%(num)s woman", "%(num)s women", women),
        men and ngettext("%(num)s man", "%(num)s men", men),
        small and ngettext("%(num)s child under 6", "%(num)s children under 6", small),
        middle and ngettext("%(num)s child of 6 to 11", "%(num)s children of 6 to 11", middle),
        older and ngettext("%(num)s child of 12 to 17", "%(num)s children of 12 to 17", older),
    ]
    if household.get("age_status") == "presumed_minor":
        said.append(gettext("perhaps headed by a minor"))
    return ", ".join(part for part in said if part)


def detail_labels() -> dict[str, str]:
    """What may be learnt of a household after the opening, and what follows from it."""
    return {
        "third_country_national": gettext("Citizens of a country outside the European Union"),
        "reflection_started_on": gettext("The reflection period began"),
        "reflection_ends_on": gettext("The reflection period ends"),
        "region_of_stay": gettext("Are now in"),
    }


def detail_words(said: object) -> str:
    """One of those in words, as it was said or left open. What is no day and no code is shown as it was typed."""
    if said is None or said == "":
        return gettext("Not known")
    if isinstance(said, bool):
        return gettext("Yes") if said else gettext("No")
    if said in TABLES["Region"]:
        return word("Region", str(said))
    try:
        return day(str(said))
    except ValueError:
        return str(said)


def is_for(view: Json, country: str) -> bool:
    """Whether the next step is for the focal point of `country`."""
    return bool(view["owner"] == Role.COORDINATOR and view["owner_country"] == country)


def who_acts(view: Json, country: str) -> str:
    """Whose turn it is, in words."""
    return gettext("You") if is_for(view, country) else owner_words(view)


def owner_words(view: Json) -> str:
    """Who owes the next step."""
    owner, country = word("Role", view["owner"]), view.get("owner_country")
    return gettext("%(role)s, %(country)s", role=owner, country=country_name(country)) if country else owner


def clock_of(deadline: str | None, now: datetime) -> str:
    """How pressing a deadline is."""
    if deadline is None:
        return "far"
    left = datetime.fromisoformat(deadline) - now
    if left < timedelta(0):
        return "past"
    return "soon" if left <= SOON else "running" if left <= TICKS else "far"


def about_case(visit: Visit, view: Json) -> Json:
    """What every page about one case says first: its code, where it stands, whose turn it is, and until when."""
    now = visit.site.gateway.clock()
    return {
        "view": view,
        "code": case_code(view["request_id"]),
        "waits_for": who_acts(view, visit.principal.country),
        "now": now,
        "clock": clock_of(view["deadline"], now),
    }
