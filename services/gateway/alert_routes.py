"""What is set aside and waits for whoever runs Haven: so that a coordinator knows that a case may stand still, and phones."""

from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa
from flask import Response

from events.log.engines import reading
from events.log.inbox import Consumer, ParkReason
from events.vocabulary import Role
from services.gateway.principals import Scope
from services.gateway.routing import Call, answer, rule


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """Messages one service could not handle, for one reason. How many and since when; never which, or what they say."""

    service: str
    reason: str
    count: int
    since: str | None = None


AskWhatIsSetAside = Callable[[], Sequence[SetAside]]

_SET_ASIDE = sa.text("SELECT service, reason, count, since FROM set_aside ORDER BY service, reason")


def set_aside_on_postgresql(engine: sa.Engine) -> AskWhatIsSetAside:
    """The dead letters of all services that were given up (the view in services/migrations/rights.sql)."""

    def ask() -> list[SetAside]:
        with reading(engine) as connection:
            return [SetAside(**row._mapping) for row in connection.execute(_SET_ASIDE)]

    return ask


def set_aside_in_node(consumers: Sequence[Consumer]) -> AskWhatIsSetAside:
    """What is parked in an embedded node and is not merely early, or behind another."""

    def ask() -> list[SetAside]:
        counts: dict[tuple[str, str], int] = {}
        for consumer in consumers:
            for parked in consumer.parked():
                if parked.reason not in (ParkReason.EARLY, ParkReason.BEHIND):
                    key = (consumer.log.source, parked.reason)
                    counts[key] = counts.get(key, 0) + 1
        return [
            SetAside(service=service, reason=reason, count=count) for (service, reason), count in sorted(counts.items())
        ]

    return ask


@rule(
    "GET",
    "/alerts",
    Scope.READ_AVAILABILITY,
    (Role.COORDINATOR,),
    "What waits for whoever runs Haven, and who in your country asks for too many beds; empty when all is well",
)
def read_alerts(call: Call) -> Response:
    stopped = call.gateway.limits.stopped(call.principal.country)
    return answer(
        {"set_aside": msgspec.to_builtins(call.gateway.set_aside()), "asks_for_too_many": msgspec.to_builtins(stopped)}
    )


RULES = (read_alerts,)
