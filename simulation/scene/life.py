"""Who acts when. The same rules make the scene, on a clock that is led, and keep it, in real time.

What there is to do follows from what the logs say alone, so a crash or a restart forgets nothing. A case that somebody else has
touched is theirs: nobody in here takes a step in it again, and while they look at one it is left as it is.
"""

import logging
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from events.envelope import Event
from events.gateway import (
    Command,
    ConfirmCapacity,
    OpenRelocationRequest,
    RecordConsulted,
    RegisterUnit,
    ReportCapacity,
)
from events.log.store import EventLog
from events.vocabulary import Role, Stage, Step, Track, Urgency
from reference import Reference
from services.gateway.read_model import AVAILABILITY, ReadModel
from services.gateway.views import open_asks
from services.placement.domain.matching import groups_of
from simulation.inventory import SyntheticUnit
from simulation.scene.cast import Cast, NotDone, is_colleague
from simulation.scene.stories import ORDER, STORIES, Story

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Act = Callable[[], object]

LOOKED_AT_FOR = timedelta(hours=1)
"""How long a case is left alone after somebody looked at it."""
LOOKED_AT = frozenset({"relocation_request", "shortlist", "timeline", "asks", "ask"})
"""What is read of one case, or waits for one reader. A board, a list, a stream shows them all."""
SOMEBODY_IS_HERE = timedelta(minutes=10)
"""After whatever a visitor did last."""
HURRY = timedelta(minutes=1)
"""Between two steps while a story has nobody where it should rest: the node was down, or a visitor took the case further."""
WATCHED_PACE, UNWATCHED_PACE = timedelta(minutes=2.5), timedelta(minutes=20)
"""Between two steps of an urgent case; the second is still less than the half hour a shelter has for its answer."""
TO_SPARE = timedelta(hours=1)
"""Before its deadline a case has rested, however short that was: the next one needs some minutes."""
ASTRAY_FOR = timedelta(hours=1)
"""After which a case that found no bed, though its story goes on, is given up."""
STAY = timedelta(minutes=40)
"""Of whoever passes through while somebody watches."""
WORD_EVERY = (timedelta(hours=14), timedelta(hours=22))
"""Between two words of a shelter about its beds, drawn for each."""
LATE_WORD_EVERY = timedelta(hours=66)
"""The same for one shelter in each country: overdue most of the time, and never quite forgotten."""
AGAIN_AFTER = timedelta(minutes=5)
"""What was refused is tried again."""
BEAT_SECONDS = 5.0
OVER = frozenset({Stage.ENDED, Stage.WITHDRAWN, Stage.REFUSED, Stage.ERASED})
MOST_CASES = 300
"""So many of the newest open cases are looked at."""


@dataclass
class Touched:
    """What visitors have done, as the gateway's log tells it."""

    told: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Requests that the scene opened, by the name of their story, in the order of their opening."""
    story_of: dict[str, str] = field(default_factory=dict)
    theirs: set[str] = field(default_factory=set)
    """Requests and units in which a visitor took a step."""
    looked_at: dict[str, datetime] = field(default_factory=dict)
    last: datetime | None = None
    """When a visitor did anything at all."""

    def hear(self, event: Event) -> None:
        data, actor = event.data, event.actor
        if is_colleague(actor.person):
            if isinstance(data, OpenRelocationRequest):
                self._hear_opening(data)
            return
        if actor.role is Role.SYSTEM:
            return
        self.last = event.time
        if isinstance(data, ReportCapacity | ConfirmCapacity):
            self.theirs.add(data.unit_id)
        elif isinstance(data, Command) and not isinstance(data, RegisterUnit):
            self.theirs.add(event.stream.partition("-")[2])
        elif isinstance(data, RecordConsulted) and data.resource in LOOKED_AT:
            self.looked_at |= dict.fromkeys(data.subjects, event.time)

    def _hear_opening(self, data: OpenRelocationRequest) -> None:
        opening = msgspec.json.decode(msgspec.json.encode(data))  # as a view has it
        if story := next((story for story in STORIES if story.is_told_by(opening)), None):
            self.told[story.name].append(data.request_id)
            self.story_of[data.request_id] = story.name

    def last_told(self, story: Story) -> str | None:
        """Its newest request in which no visitor took a step."""
        return next((one for one in reversed(self.told[story.name]) if one not in self.theirs), None)

    def leaves_alone(self, subject: str, now: datetime) -> bool:
        looked_at = self.looked_at.get(subject)
        return subject in self.theirs or (looked_at is not None and now - looked_at < LOOKED_AT_FOR)


class Life:
    """The scene's people at work. `due` says what there is to do and when; `live` does what is due.

    `begin` is when each story is opened first, for the making of a scene. Without it a scene that was made is kept alive.
    """

    def __init__(
        self,
        cast: Cast,
        read_model: ReadModel,
        gateway_log: EventLog,
        inventory: Sequence[SyntheticUnit],
        reference: Reference,
        seed: int,
        *,
        begin: Mapping[str, datetime] | None = None,
    ) -> None:
        self._cast = cast
        self._read_model = read_model
        self._log = gateway_log
        self._reference = reference
        self._seed = seed
        self._begin = begin
        self._late = set(_late_shelters(inventory))
        self._synthetic = {unit.profile.unit_id for unit in inventory}
        self._parties = [f"coordinator:{code}" for code in reference.countries]
        self._heard = 0
        self._not_before: dict[str, datetime] = {}
        self.touched = Touched()

    def run(self, stop: threading.Event, now: Callable[[], datetime]) -> None:
        """Lives until `stop` is set. Whatever fails is tried again: nobody depends on it."""
        while not stop.wait(BEAT_SECONDS):
            try:
                self.live(now())
            except Exception as failure:  # noqa: BLE001 - a full disk must not end it for good
                logger.warning("the scene paused error=%s", type(failure).__name__)

    def live(self, now: datetime) -> bool:
        """Does what is due, each story and each shelter at most one thing; whether there was anything."""
        acts = [(name, act) for moment, name, act in self.due(now) if moment <= now]
        for name, act in acts:
            try:
                act()
            except NotDone as refused:
                logger.debug("not done in the scene error=%s", refused)
                self._not_before[name] = now + AGAIN_AFTER
        return bool(acts)

    def due(self, now: datetime) -> list[tuple[datetime, str, Act]]:
        """What everybody would do next, and when. Where no scene was made there is nobody: cases of others are not added to."""
        self._hear()
        if self._begin is None and not self.touched.story_of:
            return []
        told: dict[str, list[Json]] = defaultdict(list)
        for view in self._read_model.requests(self._parties, None, MOST_CASES, only_open=True):
            if view["request_id"] not in self.touched.theirs:
                told[self.touched.story_of.get(view["request_id"], "")].append(view)
        units = self._read_model.units([AVAILABILITY])
        found = list(self._words(units))
        for story in STORIES:
            here, last_id = told[story.name], self.touched.last_told(story)
            last = next((view for view in here if view["request_id"] == last_id), None)
            if last is None and last_id is not None:
                last = self._read_model.request(last_id, self._parties)
                if last is None:
                    continue  # kept, and not shown yet: without a look at it a second one would be opened
            found += self._goes_on(story, here, last, units, now)
        return [(max(moment, self._not_before.get(name, moment)), name, act) for moment, name, act in found]

    def _hear(self) -> None:
        while batch := self._log.read_all(after=self._heard, limit=500):
            for self._heard, event in batch:
                if isinstance(event, Event):
                    self.touched.hear(event)

    # Cases

    def _goes_on(
        self, story: Story, here: Sequence[Json], last: Json | None, units: Sequence[Json], now: datetime
    ) -> Iterator[tuple[datetime, str, Act]]:
        """What happens in one story, of which these cases are open. The newest is on its way to where it rests; older ones go on once it
        is there. `last` is the one that was opened last, open or over."""
        newest = here[0] if here else None
        stands = newest is not None and _stands(story, newest)
        if newest is None or _is_past(story, newest) or stands:
            moment = self._opens_at(story, last, newest if stands else None, now)
            if moment is not None:
                yield moment, story.name, lambda: self._open(story, units)
        for view in here:
            is_newest = view is newest
            if self.touched.leaves_alone(view["request_id"], now) or stands is is_newest:
                continue
            if is_newest and _is_past(story, view):
                continue
            pace = self._pace(story, view, now, is_missing=is_newest)
            if pace is not None:
                moment = _moment(view["changed_at"]) + pace
                yield moment, view["request_id"], lambda view=view: self._step(story, view)  # type: ignore[misc]

    def _opens_at(self, story: Story, last: Json | None, standing: Json | None, now: datetime) -> datetime | None:
        """When the next case of a story is opened: when the one that stands has rested, or when one is missing."""
        if self._begin is not None:
            return self._begin.get(story.name) if last is None else None
        if story.is_told_once or (story.is_for_who_watches and not self._is_watched(now)):
            return None
        if last is None:
            return now
        if standing is None:
            return _moment(last["changed_at"]) + (WATCHED_PACE if story.is_for_who_watches else HURRY)
        # An ask that runs out beside an offer changes the case, and not what it waits for: the deadline stays.
        rested = _moment(standing["changed_at"]) + story.rest
        return min(rested, _moment(standing["deadline"]) - TO_SPARE) if standing["deadline"] else rested

    def _open(self, story: Story, units: Sequence[Json]) -> None:
        self._make_room(story, units)
        self._cast.open(story, len(self.touched.told[story.name]))

    def _is_watched(self, now: datetime) -> bool:
        return self.touched.last is not None and now - self.touched.last < SOMEBODY_IS_HERE

    def _pace(self, story: Story, view: Json, now: datetime, *, is_missing: bool) -> timedelta | None:
        """How long until the next step of a case; None while nobody takes one."""
        stage = Stage(view["stage"])
        if stage is Stage.UNMET_NEED and story.rests_at is not Stage.UNMET_NEED:
            return ASTRAY_FOR
        if not view["next_steps"] or stage in (Stage.OPENED, Stage.SHORTLISTED, Stage.CONSENTED):
            return None  # Haven itself is next
        if stage is Stage.ASKED and not open_asks(view):
            return None
        if story.is_late and stage is Stage.DEPARTED and Step.FIND_HOUSEHOLD not in view["next_steps"]:
            return None  # they are late
        if stage is Stage.ARRIVED:
            return STAY
        drawn = random.Random(f"{self._seed} {view['request_id']} {view['revision']}").uniform(0.7, 1.1)
        if self._begin is not None:
            return story.pace * drawn
        if story.is_for_who_watches:
            return (WATCHED_PACE if self._is_watched(now) else UNWATCHED_PACE) * drawn
        return HURRY if is_missing else story.pace * drawn

    def _step(self, story: Story, view: Json) -> None:
        gives_up = story.rests_at is Stage.WITHDRAWN and view["stage"] == Stage.OFFERED
        if gives_up or view["stage"] == Stage.UNMET_NEED:
            self._cast.withdraw(story, view)
        else:
            self._cast.step(story, view)

    # Beds

    def _words(self, units: Sequence[Json]) -> Iterator[tuple[datetime, str, Act]]:
        """Each shelter says from time to time that nothing has changed."""
        shelters: dict[str, list[Json]] = defaultdict(list)
        for unit in units:
            if unit["unit_id"] in self._synthetic - self.touched.theirs and unit["reported_at"]:
                shelters[unit["shelter_id"]].append(unit)
        for shelter_id, own in shelters.items():
            least, most = WORD_EVERY
            every = least + (most - least) * random.Random(f"{self._seed} {shelter_id}").random()
            if shelter_id in self._late:
                every = LATE_WORD_EVERY
            oldest = min(_moment(unit["reported_at"]) for unit in own)
            yield oldest + every, shelter_id, lambda s=shelter_id, o=own: self._cast.confirm(s, o)  # type: ignore[misc]

    def _make_room(self, story: Story, units: Sequence[Json]) -> None:
        """Beds become free where the story leads, as beds do; else it would lead nowhere when the inventory is full."""
        # As many as are asked at once, as many as say no, and one more: whoever is late is asked last, and so not at all.
        wanted = self._reference.clocks.of(story.urgency).parallel_asks + len(story.declines) + 1
        beds = story.household.beds
        fitting = [unit for unit in units if unit["beds"] >= beds and self._fits(unit, story)]
        # Those that are late stay late, unless there is nobody else.
        fitting = [unit for unit in fitting if unit["shelter_id"] not in self._late] or fitting
        wanted -= sum(unit["free"] >= beds for unit in fitting)
        full = [unit for unit in fitting if unit["free"] < beds <= unit["beds"] - unit["held"] - unit["occupied"]]
        drawn = random.Random(f"{self._seed} {story.name} {sum(unit['revision'] for unit in fitting)}")
        for unit in drawn.sample(full, min(len(full), max(0, wanted))):
            self._cast.free_beds(unit, beds)

    def _fits(self, unit: Json, story: Story) -> bool:
        household = story.household
        track = Track.CHILD if household.is_headed_by_minor else Track.ADULT
        near_danger = {story.region}
        if story.is_feared_next_door:
            near_danger |= self._reference.neighbours(story.region)
        return bool(
            unit["unit_id"] in self._synthetic - self.touched.theirs
            and unit["country"] == story.host
            and unit["region"] not in near_danger
            and unit["track"] == track
            and groups_of(household) <= set(unit["accepts"])
            and set(story.needs) <= set(unit["supports"])
            and (unit["open_at_night"] or story.urgency is Urgency.STANDARD)
        )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _stands(story: Story, view: Json) -> bool:
    """Whether a case is where its story rests, and in good order."""
    if view["stage"] != story.rests_at or view["missed_deadlines"]:
        return False
    match story.rests_at:
        case Stage.ASKED:
            declined = sum(ask["state"] == "declined" for ask in view["asks"].values())
            return bool(open_asks(view)) and declined >= len(story.declines)
        case Stage.CONFIRMED:
            return view["journey"] is None
        case Stage.DEPARTED:
            return story.is_late is (Step.FIND_HOUSEHOLD in view["next_steps"])
    return True


def _is_past(story: Story, view: Json) -> bool:
    """Whether a case has gone on from where its story rests."""
    stage = Stage(view["stage"])
    if stage not in ORDER or story.rests_at not in ORDER:
        return False
    here, rest = ORDER.index(stage), ORDER.index(story.rests_at)
    return here > rest or (stage is story.rests_at is Stage.CONFIRMED and view["journey"] is not None)


def _late_shelters(inventory: Sequence[SyntheticUnit]) -> Iterator[str]:
    """In each country the shelter with the most free beds for adults: a phone call there would help."""
    countries: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for unit in inventory:
        if unit.profile.track is Track.ADULT:
            countries[unit.profile.country][unit.profile.shelter_id] += unit.free
    for shelters in countries.values():
        yield max(shelters, key=lambda shelter_id: shelters[shelter_id])
