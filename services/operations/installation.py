"""Which checks an installation with these settings needs: what `haven doctor` examines.

Each process has its own secrets, so the doctor sees with the eyes of whoever it is run as: it examines the database and the
brokers under every role whose password lies in HAVEN_SECRETS_DIR, and says when there is none.
"""

from collections.abc import Callable
from dataclasses import replace

from services.config import BadSetting, Settings
from services.operations import doctor
from services.operations.doctor import Check, Finding

TABLES = (
    "haven_gateway",
    "haven_projection",
    "haven_placement",
    "haven_capacity",
    "haven_eraser",
    "haven_auditor",
    "haven_notifier",
)
"""Roles that have a schema of their own, whose version matters to them."""
ROLES = (*TABLES, "haven_relay", "haven_migrator")
TOPICS: dict[str, tuple[str, ...] | None] = {
    "haven_projection": ("gateway", "placement", "capacity"),
    "haven_placement": ("gateway", "capacity"),
    "haven_capacity": ("gateway", "placement"),
    "haven_relay": None,
    "haven_topics": None,
}
"""Of each principal the logs whose topics it uses; None: every topic."""


def checks(settings: Settings, schema_version: int) -> dict[str, Check]:
    """By name, what has to be looked at. `schema_version` is the one of this release (services/migrate.py)."""
    data = settings.data_dir
    wanted: dict[str, Check] = {
        "disk": lambda: doctor.disk(data, scratch=bool(settings.database)),
        "files": lambda: doctor.private_files(
            [data, data / "key-file", data / "demo-logins.json", *sorted(settings.secrets_dir.glob("*"))]
        ),
    }
    if settings.issuer:
        wanted["issuer"] = lambda: doctor.issuer(settings.issuer)
    if settings.notify_file:
        wanted["notifications"] = lambda: _or_bad_setting(lambda _: doctor.notifications(settings), "")
    if settings.database:
        wanted |= _peers(
            settings, "database", ROLES, "_password", lambda role: _database(settings, role, schema_version)
        )
        if _has(settings, "haven_gateway_password"):
            wanted |= _gateway(settings)
    elif (data / "key-file").exists():
        wanted["key file"] = lambda: doctor.key_file(data / "key-file")
    if settings.kafka:
        principals = tuple(TOPICS) if settings.kafka_ca_file else ()
        wanted |= _peers(settings, "kafka", principals, "_kafka_password", lambda name: _kafka(settings, name))
    return wanted


def _gateway(settings: Settings) -> dict[str, Check]:
    """Two processes use the gateway's password: `haven gateway`, and `haven stream`, which has no other secret."""
    if not _has(settings, "key-file") and not _has(settings, "pages_client_secret"):
        return {"key file": lambda: doctor.no_key_file(settings.secrets_dir)}
    wanted: dict[str, Check] = {"key file": lambda: doctor.key_file(settings.secret_file("key-file"))}
    if settings.issuer:
        wanted["sign-in to pages"] = lambda: _or_bad_setting(lambda _: doctor.pages_secret(settings), "")
    return wanted


def _has(settings: Settings, secret: str) -> bool:
    return settings.secret_file(secret).exists()


def _peers(
    settings: Settings, what: str, names: tuple[str, ...], secret: str, ask: Callable[[str], list[Finding]]
) -> dict[str, Check]:
    """One check for each name there is a secret for; without names, one of a client that needs none."""

    def asked(name: str) -> Check:
        return lambda: [replace(finding, name=f"{finding.name} as {name}") for finding in _or_bad_setting(ask, name)]

    if not names:
        return {what: lambda: _or_bad_setting(ask, "")}
    known = [name for name in names if _has(settings, name + secret)]
    if known:
        return {f"{what} as {name}": asked(name) for name in known}
    none = Finding(
        what,
        False,
        f"no file …{secret} in {settings.secrets_dir}, so nobody can be asked",
        "set HAVEN_SECRETS_DIR to the folder with the secrets of a process",
    )
    return {what: lambda: [none]}


def _or_bad_setting(ask: Callable[[str], list[Finding]], name: str) -> list[Finding]:
    try:
        return ask(name)
    except BadSetting as bad:
        return [Finding("setting", False, bad.name, str(bad).removeprefix(f"{bad.name}: "))]


def _database(settings: Settings, role: str, schema_version: int) -> list[Finding]:
    return doctor.database(settings.database_url(role), schema_version if role in TABLES else None)


def _kafka(settings: Settings, principal: str) -> list[Finding]:
    sources = TOPICS.get(principal)
    used = None if sources is None else [settings.layout.topic(source) for source in sources]
    return doctor.kafka(settings.broker(principal), settings.layout, used)
