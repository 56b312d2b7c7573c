"""What waits, and who is rung for it, without a network."""

import threading
from dataclasses import asdict
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from events.vocabulary import Role
from services.gateway.read_model import moment_key, waits
from services.gateway.waits import Wait, WaitKind
from services.notifications.addresses import Organisation
from services.notifications.channels import NotTaken
from services.notifications.rules import Quiet

NOON = datetime(2026, 11, 26, 11, 0, tzinfo=UTC)
"""In Amsterdam."""
URL = "https://haven.example"


class Phone:
    """A channel that keeps what it is told. `fails` says with what; `hangs` makes it wait."""

    service = "phone"

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fails = ""
        self.tries = 0
        self.at_once = self.most_at_once = 0
        self.hangs = threading.Event()
        self.hangs.set()

    def send(self, text: str, _seconds: float = 0) -> None:
        self.tries += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.hangs.wait(10)
        self.at_once -= 1
        if self.fails:
            raise NotTaken(self.fails)
        self.texts.append(text)


def an_organisation(name: str, role: Role, *phones: Phone, quiet: str = "", language: str = "en") -> Organisation:
    hours = None
    if quiet:
        begins, ends = (time.fromisoformat(part) for part in quiet.split("-"))
        hours = Quiet(begins, ends, ZoneInfo("Europe/Amsterdam"))
    channels = {f"phone-{number}": phone for number, phone in enumerate(phones, 1)}
    return Organisation(name, role, "NL", language, hours, channels)  # type: ignore[arg-type]  # a phone is a channel


def a_wait(
    wait_id: str = "w-1",
    kind: WaitKind = WaitKind.ASK,
    party: str = "shelter:nl-shelter-01",
    *,
    pressing: bool = True,
    since: datetime = NOON,
    escalates_to: str = "coordinator:NL",
) -> Wait:
    return Wait(wait_id, kind, party, pressing, moment_key(since), escalates_to if kind is WaitKind.ASK else "")


def begin(engine: sa.Engine, *begun: Wait) -> None:
    """It waits from now on, as the projection writes it."""
    with engine.execution_options(haven_writes=True).begin() as connection:
        for wait in begun:
            connection.execute(sa.insert(waits), {**asdict(wait), "pressing": int(wait.pressing)})


def end(engine: sa.Engine, *wait_ids: str) -> None:
    """It waits no more: answered, expired, withdrawn."""
    with engine.execution_options(haven_writes=True).begin() as connection:
        for wait_id in wait_ids:
            connection.execute(sa.delete(waits).where(waits.c.wait_id == wait_id))
