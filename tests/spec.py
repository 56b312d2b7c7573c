"""Given, when, then for deciders: a test reads as a sentence, and every step keeps the promises of its service.

The loop is the one of `events.log.decider`, without a database: decide, evolve, follow up until nothing is missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from events.envelope import Event, decode, derived_id, encode, system_actor
from events.log.decider import MOST_FOLLOW_UPS, Context, Decider, EndlessFollowUp, TimePassed
from events.vocabulary import Actor

MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass
class Story:
    """One stream of one decider: where it stands, what time it is there, and what the last step made happen."""

    decider: Decider[Any]
    facts: Any = None
    now: datetime = MONDAY_NOON
    promise: Callable[[Any], None] = lambda _state: None
    """Raises AssertionError when a state breaks what the service promises of every state."""
    state: Any = None
    history: list[Event] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.decider.initial

    def when(self, message: Any, by: Actor | None = None) -> Self:
        """Decides about `message`, said by a person or, without `by`, by the system."""
        itself, cause = system_actor(self.decider.service), derived_id("cause", len(self.history), repr(message))
        context = Context(now=self.now, actor=by or itself, cause_id=cause, facts=self.facts)
        self.events = list(self.decider.decide(self.state, message, context))
        for fact in self.events:
            self._evolve(fact, context.actor)
        for _ in range(MOST_FOLLOW_UPS):
            step = self.decider.follow_up(self.state, context)
            self.events += step
            if not step:
                break
            for fact in step:
                self._evolve(fact, itself)
        else:
            raise EndlessFollowUp("this story")
        self.promise(self.state)
        if isinstance(message, TimePassed):
            due = self.decider.due(self.state)
            assert due is None or due > self.now, f"the timer of {due} fires for ever"
        return self

    def and_time_passes(self, until: datetime | None = None, **by: float) -> Self:
        """Every timer due on the way fires on time; keywords as of `timedelta`."""
        arrived, happened = until or self.now + timedelta(**by), []
        while (due := self.decider.due(self.state)) is not None and due <= arrived:
            self.now = max(due, self.now)
            happened += self.when(TimePassed()).events
        self.now, self.events = arrived, happened
        return self

    def a_late_timer_fires(self, **late: float) -> Self:
        """Nothing ran for a while; then one timer makes up for it."""
        self.now += timedelta(**late)
        return self.when(TimePassed())

    def then(self, *expected: Any) -> Self:
        """Exactly these facts, in this order."""
        assert self.events == list(expected)
        return self

    def then_events(self, *types: type) -> Self:
        """Facts of exactly these types, in this order."""
        assert [type(fact).__name__ for fact in self.events] == [wanted.__name__ for wanted in types]
        return self

    def then_among_others(self, *expected: Any) -> Self:
        """At least these facts, in this order."""
        following = iter(self.events)
        missing = [fact for fact in expected if fact not in following]
        assert not missing, f"did not happen (in this order): {missing}, but {self.events}"
        return self

    def nothing_happens(self) -> Self:
        return self.then()

    def refused(self, reason: Any) -> Self:
        """Only a refusal, with this reason."""
        assert [getattr(fact, "reason", fact) for fact in self.events] == [reason]
        return self

    def all_of(self, wanted: type) -> Sequence[Any]:
        """Every fact of this type so far, oldest first."""
        return [event.data for event in self.history if isinstance(event.data, wanted)]

    def the_last(self, wanted: type) -> Any:
        return self.all_of(wanted)[-1]

    def _evolve(self, fact: Any, actor: Actor) -> None:
        number = len(self.history) + 1
        event = Event(
            id=derived_id("event", number),
            source=self.decider.service,
            stream="story-1",
            version=number,
            time=self.now,
            actor=actor,
            correlation_id="story",
            causation_id="story",
            data=fact,
        )
        assert decode(encode(event)) == event, f"does not survive the log: {fact}"
        self.history.append(event)
        self.state = self.decider.evolve(self.state, event)


def given(story: Story, *facts: Any, by: Actor | None = None) -> Story:
    """The story as told, and facts that were announced since."""
    for fact in facts:
        story._evolve(fact, by or system_actor(story.decider.service))
    story.events = []
    return story


def replayed(story: Story) -> Any:
    """The state that the story's history alone leads to."""
    state = story.decider.initial
    for event in story.history:
        state = story.decider.evolve(state, event)
    return state
