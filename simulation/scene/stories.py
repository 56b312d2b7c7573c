"""The households of the scene. Nobody in here exists.

A story rests where a visitor meets it, so that each lane of each country's board has something in it; once it has rested, and
another household has come as far, it goes on to its end.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from events.vocabulary import (
    AcceptCondition,
    AgeStatus,
    CountryCode,
    DeclineReason,
    Household,
    LanguageCode,
    Need,
    RegionCode,
    Stage,
    Urgency,
)

Json = dict[str, Any]

ORDER = (
    Stage.RECEIVED,
    Stage.OPENED,
    Stage.SHORTLISTED,
    Stage.ASKED,
    Stage.OFFERED,
    Stage.PROPOSED,
    Stage.COUNTERSIGNED,
    Stage.CONSENTED,
    Stage.CONFIRMED,
    Stage.DEPARTED,
    Stage.ARRIVED,
    Stage.ENDED,
)
"""The way of a request that is placed."""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of case, and what the people around it do."""

    name: str
    origin: CountryCode
    region: RegionCode
    host: CountryCode
    household: Household
    language: LanguageCode
    needs: tuple[Need, ...] = ()
    urgency: Urgency = Urgency.STANDARD
    rests_at: Stage
    """Where it waits for a visitor."""
    rest: timedelta = timedelta(hours=18)
    """How long it waits: less than the deadline it has there."""
    pace: timedelta = timedelta(minutes=25)
    """How long each step before and after takes."""
    opened_ago: timedelta | None = None
    """Before the first visitor comes; None if it begins only then."""
    declines: tuple[DeclineReason, ...] = ()
    """What the shelters asked first say."""
    condition: AcceptCondition | None = None
    """Of the yes."""
    drive: timedelta = timedelta(hours=6)
    """From the plan of the journey to the arrival due."""
    escort_looks_around: bool = False
    """The journey is for the escort's demo login, so that whoever signs in with it finds one."""
    is_late: bool = False
    """They are not there when they should be."""
    is_told_once: bool = False
    """It belongs to the past of the scene and does not come again."""
    is_for_who_watches: bool = False
    """It is opened while somebody looks on, and never rests."""

    @property
    def is_feared_next_door(self) -> bool:
        """Also in the regions around. All of Luxembourg is one region, and half of Belgium next to it."""
        return self.origin != "LU"

    @property
    def opening(self) -> Json:
        """What the referrer sends, but for the callback. In the third country there is somebody to be afraid of, too."""
        zones: list[Json] = [{"code": self.region, "with_neighbours": self.is_feared_next_door}]
        zones += [{"code": code} for code in sorted({"BE", "NL", "LU"} - {self.origin, self.host})]
        return {
            "urgency": self.urgency,
            "danger_country": self.origin,
            "danger_zones": zones,
            "household": msgspec.to_builtins(self.household),
            "needs": list(self.needs),
            "languages": [self.language],
            "consented_countries": [] if self.household.is_headed_by_minor else [self.host],
            "region_of_stay": self.region,
        }

    def is_told_by(self, view: Mapping[str, Any]) -> bool:
        """Whether a request is this one: no two stories are about the same people from the same country."""
        return bool(
            view["danger_country"] == self.origin
            and view["urgency"] == self.urgency
            and view["household"] == msgspec.to_builtins(self.household)
            and view["languages"] == [self.language]
        )


def _hours(hours: float) -> timedelta:
    return timedelta(hours=hours)


WOMAN, MAN = Household(women=1), Household(men=1)
MOTHER_AND_CHILD = Household(women=1, children_under_6=1)
GIRL = Household(children_12_to_17=1, age_status=AgeStatus.PRESUMED_MINOR)
NINE = Household(women=1, men=1, children_under_6=3, children_6_to_11=2, children_12_to_17=2)
"""More than any unit has beds: whoever registers one that large finds them a place."""

STORIES = (
    Story(
        name="a stay that ended",
        origin="BE",
        region="BE10",
        host="NL",
        household=MAN,
        language="fa",
        rests_at=Stage.ENDED,
        opened_ago=_hours(25),
        pace=_hours(1.5),
        is_told_once=True,
    ),
    Story(
        name="a change of mind",
        origin="LU",
        region="LU00",
        host="NL",
        household=MAN,
        language="pt",
        rests_at=Stage.WITHDRAWN,
        opened_ago=_hours(11),
        is_told_once=True,
    ),
    Story(
        name="mother and child, one shelter said no",
        origin="NL",
        region="NL32",
        host="BE",
        household=MOTHER_AND_CHILD,
        language="es",
        declines=(DeclineReason.NOT_STAFFED,),
        rests_at=Stage.ASKED,
        rest=_hours(5),
        opened_ago=_hours(1.4),
    ),
    Story(
        name="shelters are asked for a man",
        origin="LU",
        region="LU00",
        host="BE",
        household=MAN,
        language="ar",
        rests_at=Stage.ASKED,
        rest=_hours(4.5),
        opened_ago=_hours(0.7),
    ),
    Story(
        name="an offer from Luxembourg",
        origin="BE",
        region="BE23",
        host="LU",
        household=WOMAN,
        language="fr",
        declines=(DeclineReason.NO_SPACE,),
        condition=AcceptCondition.ARRIVAL_IN_OPENING_HOURS,
        rests_at=Stage.OFFERED,
        opened_ago=_hours(2.2),
    ),
    Story(
        name="an offer from Belgium",
        origin="NL",
        region="NL32",
        host="BE",
        household=WOMAN,
        language="ro",
        rests_at=Stage.OFFERED,
        rest=_hours(17),
        opened_ago=_hours(3.1),
    ),
    Story(
        name="an offer from the Netherlands",
        origin="LU",
        region="LU00",
        host="NL",
        household=WOMAN,
        language="uk",
        rests_at=Stage.OFFERED,
        rest=_hours(16),
        opened_ago=_hours(2.6),
    ),
    Story(
        name="a proposal to countersign",
        origin="BE",
        region="BE33",
        host="NL",
        household=WOMAN,
        language="vi",
        rests_at=Stage.PROPOSED,
        opened_ago=_hours(4.4),
    ),
    Story(
        name="a girl whose guardian must speak",
        origin="BE",
        region="BE10",
        host="NL",
        household=GIRL,
        language="so",
        rests_at=Stage.COUNTERSIGNED,
        rest=_hours(17),
        opened_ago=_hours(5.3),
    ),
    Story(
        name="a journey to plan",
        origin="NL",
        region="NL36",
        host="LU",
        household=WOMAN,
        language="pl",
        rests_at=Stage.CONFIRMED,
        rest=_hours(16),
        opened_ago=_hours(6.2),
    ),
    Story(
        name="a journey under way",
        origin="BE",
        region="BE21",
        host="NL",
        household=MAN,
        language="tr",
        rests_at=Stage.DEPARTED,
        rest=_hours(3.5),
        drive=_hours(8),
        opened_ago=_hours(4.8),
        escort_looks_around=True,
    ),
    Story(
        name="an arrival",
        origin="LU",
        region="LU00",
        host="BE",
        household=WOMAN,
        language="bg",
        rests_at=Stage.ARRIVED,
        rest=_hours(30),
        opened_ago=_hours(9.5),
        drive=_hours(3),
    ),
    Story(
        name="nine people and no unit as large",
        origin="BE",
        region="BE10",
        host="NL",
        household=NINE,
        language="ti",
        rests_at=Stage.UNMET_NEED,
        opened_ago=_hours(7.5),
    ),
    Story(
        name="not there when they should be",
        origin="NL",
        region="NL41",
        host="LU",
        household=WOMAN,
        language="hu",
        rests_at=Stage.DEPARTED,
        is_late=True,
        drive=_hours(2),
        opened_ago=_hours(9.1),
        escort_looks_around=True,
    ),
    Story(
        name="tonight from Belgium",
        origin="BE",
        region="BE21",
        host="NL",
        household=WOMAN,
        language="sq",
        urgency=Urgency.URGENT,
        rests_at=Stage.ENDED,
        opened_ago=timedelta(minutes=9),
        declines=(DeclineReason.LANGUAGE_NOT_MET,),
        drive=_hours(3),
        is_for_who_watches=True,
    ),
    Story(
        name="tonight from the Netherlands",
        origin="NL",
        region="NL35",
        host="BE",
        household=WOMAN,
        language="zh",
        urgency=Urgency.URGENT,
        rests_at=Stage.ENDED,
        drive=_hours(3),
        is_for_who_watches=True,
    ),
    Story(
        name="tonight from Luxembourg",
        origin="LU",
        region="LU00",
        host="NL",
        household=WOMAN,
        language="en",
        urgency=Urgency.URGENT,
        rests_at=Stage.ENDED,
        drive=_hours(3),
        is_for_who_watches=True,
    ),
)
