"""Settings of a Haven process: only from `HAVEN_*` environment variables, checked at start, shown redacted by
`haven doctor`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from services.loopback import is_loopback

PREFIX = "HAVEN_"


class BadSetting(ValueError):
    """A setting that cannot be used; the message names it and the remedy."""

    def __init__(self, name: str, remedy: str) -> None:
        self.name = name
        super().__init__(f"{name}: {remedy}")


class ConfigurationError(Exception):
    """The node must not start like this; the message says what to change."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the embedded node needs to know. The defaults serve one machine and nobody else."""

    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path = Path("data")
    issuer: str = ""
    """An external identity provider. The embedded node refuses to start with one: it brings its own demo sign-in."""
    exercise_speed: float = 1.0
    """How many seconds pass in the node for one second outside; more than 1 only for exercises and demonstrations."""
    inventory_seed: int = 2026
    """Seed of the synthetic shelters a new data directory begins with."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment. Raises BadSetting on an unknown name or an impossible value."""
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in (os.environ if environment is None else environment).items()
        if name.startswith(PREFIX) and not name.startswith("HAVEN_TEST_")
    }
    for name in given.keys() - set(Settings.__struct_fields__):
        raise BadSetting(PREFIX + name.upper(), "is not a setting of Haven; see `haven doctor` for those there are.")
    settings = Settings(
        host=given.get("host", Settings().host),
        port=_number("HAVEN_PORT", given.get("port", "8080"), 1, 65535),
        data_dir=Path(given.get("data_dir", "data")),
        issuer=given.get("issuer", ""),
        exercise_speed=float(_number("HAVEN_EXERCISE_SPEED", given.get("exercise_speed", "1"), 1, 100_000)),
        inventory_seed=_number("HAVEN_INVENTORY_SEED", given.get("inventory_seed", "2026"), 0, 2**31),
    )
    if not is_loopback(settings.host):
        raise BadSetting("HAVEN_HOST", "the embedded node serves this machine only; use 127.0.0.1, ::1 or localhost.")
    return settings


def _number(name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
        raise BadSetting(name, f"must be a whole number from {least} to {most}.")
    return int(text)
