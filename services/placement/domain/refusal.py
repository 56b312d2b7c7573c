"""How a rule says no to a command: raised anywhere in deciding, turned into one event at the edge of the decider."""

from typing import Any

from events.envelope import wire_name
from events.log.decider import Context
from events.placement import (
    CommandRefused,
    Refusal,
)
from services.placement.domain.request import Request


class RefusedCommand(Exception):
    """Raised inside a rule and turned into `CommandRefused` in one place; never leaves `domain`."""

    def __init__(self, reason: Refusal) -> None:
        self.reason = reason
        super().__init__(reason.value)


def refuse_if(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise RefusedCommand(refusal)


def refusal_of(request: Request, command: Any, context: Context, reason: Refusal) -> CommandRefused:
    return CommandRefused(
        request_id=command.request_id,
        command_id=context.cause_id,
        command=wire_name(type(command)),
        reason=reason,
        stage=request.stage,
        next_steps=request.next_step.steps if request.next_step else (),
    )
