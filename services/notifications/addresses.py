"""The operator's file: which organisation is rung where, in which language, and when it wants to sleep.

Nobody else can name an address, so nobody can have Haven call one. An address holds a password or a token more often than not:
it is never shown, logged or put into an error; a channel's name, which the operator chose, stands for it.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from typing import Any
from zoneinfo import ZoneInfo

from events.vocabulary import Role
from reference import Country
from services.config import BadSetting, Settings
from services.gateway.pages.words_of_messages import SPOKEN
from services.notifications.channels import BadAddress, Channel
from services.notifications.rules import Quiet

SETTING = "HAVEN_NOTIFY_FILE"
ROLES = (Role.SHELTER, Role.COORDINATOR, Role.GUARDIAN)
"""Whom anything can wait for that is not in front of them already."""
_FIELDS = {"role", "country", "language", "quiet_hours", "channels"}
_NAME = re.compile(r"\A[a-z][a-z0-9-]{0,39}\Z")
_ORGANISATION = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\Z")
_HOURS = re.compile(r"\A([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)\Z")
_PLACE = re.compile(r"line \d+, column \d+")


@dataclass(frozen=True)
class Organisation:
    """One organisation and how it is rung. `name` is its id in tokens and events."""

    name: str
    role: Role
    country: str
    language: str
    quiet: Quiet | None
    channels: Mapping[str, Channel]

    @property
    def party(self) -> str:
        """As the read model names it: a shelter by itself, others as those of their country."""
        return f"{self.role}:{self.name if self.role is Role.SHELTER else self.country}"


def load_organisations(settings: Settings, countries: Mapping[str, Country]) -> dict[str, Organisation]:
    """Everybody the file names. Raises BadSetting, which says where in the file and what to do, and never quotes an address."""
    settings.secret(settings.notify_file)  # that it is there, and nobody else's to read
    text = settings.secret_file(settings.notify_file).read_text(encoding="utf-8")
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        # Its own text can quote the file.
        place = _PLACE.search(str(wrong))
        raise _bad(f"is no TOML at {place[0] if place else 'its end'}; see docs/operations.md.") from None
    organisations = read.pop("organisations", {})
    if read or not isinstance(organisations, dict):
        raise _bad("holds something else than [organisations.…] tables; see docs/operations.md.")
    return {name: _organisation(name, said, countries) for name, said in organisations.items()}


def _bad(remedy: str, organisation: str = "") -> BadSetting:
    return BadSetting(SETTING, f"organisation {organisation}: {remedy}" if organisation else remedy)


def _organisation(name: str, said: Any, countries: Mapping[str, Country]) -> Organisation:
    if not _ORGANISATION.match(name):
        raise _bad("holds a name that is no id of an organisation; take the one in its people's tokens.")
    if not isinstance(said, dict) or said.keys() - _FIELDS:
        raise _bad(f"holds {', '.join(sorted(_FIELDS))} and nothing else.", name)
    role = _one_of(name, said, "role", [str(role) for role in ROLES])
    country = _one_of(name, said, "country", list(countries))
    language = _one_of(name, said, "language", list(SPOKEN))
    quiet = _quiet(name, said.get("quiet_hours"), countries[country].timezone)
    return Organisation(name, Role(role), country, language, quiet, _channels(name, said.get("channels")))


def _one_of(name: str, said: Mapping[str, Any], field: str, allowed: list[str]) -> str:
    value = said.get(field)
    if value not in allowed:
        raise _bad(f"{field} must be one of {', '.join(allowed)}.", name)
    return str(value)


def _quiet(name: str, hours: Any, zone: str) -> Quiet | None:
    if hours is None:
        return None
    found = _HOURS.match(hours) if isinstance(hours, str) else None
    if found is None or found[1] + found[2] == found[3] + found[4]:
        raise _bad('quiet_hours must be two times of its own day, as in "22:00-07:00".', name)
    begins, ends = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
    return Quiet(begins, ends, ZoneInfo(zone))


def _channels(name: str, said: Any) -> dict[str, Channel]:
    if not isinstance(said, dict) or not said:
        raise _bad("needs a table of channels, each a name and an Apprise address.", name)
    channels = {}
    for channel, address in said.items():
        if not _NAME.match(channel):
            raise _bad("the name of a channel is small letters, digits and dashes, as in duty-phone.", name)
        if not isinstance(address, str):
            raise _bad(f"channel {channel}: must be one address, in quotes.", name)
        try:
            channels[channel] = Channel(address)
        except BadAddress as bad:
            raise _bad(f"channel {channel}: {bad}", name) from None
    return channels
