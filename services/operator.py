"""The commands of whoever runs an installation: tables, topics, keys, dead letters, and what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import sqlalchemy as sa
import typer

from events.kafka import dead_letters
from events.kafka.dead_letters import DeadLetter, NoSuchDeadLetter, StreamWaits
from events.log.engines import postgresql_engine
from services.loopback import is_loopback
from services.refusals import fail, refusals, settings_now

ROLES = {"gateway": "haven_projection", "placement": "haven_placement", "capacity": "haven_capacity"}
"""Under which role the database of each service is worked in."""


def doctor() -> None:
    """Print the settings in force, secrets left out, and what is wrong with this installation."""
    from services.migrate import latest
    from services.operations import doctor as examination
    from services.operations.installation import checks

    settings = settings_now()
    for name, value in examination.redacted(settings).items():
        typer.echo(f"{name:26} {value}")
    found = examination.examine(checks(settings, latest()))
    if settings.issuer and not settings.database:
        cause = "HAVEN_ISSUER is set, and the embedded node brings its own sign-in and refuses to start with another"
        remedy = "remove it, or run the processes of the distributed runtime"
        found.append(examination.Finding("issuer", False, cause, remedy))
    for finding in found:
        mark = typer.style("ok", fg=typer.colors.GREEN) if finding.ok else typer.style("WRONG", fg=typer.colors.RED)
        typer.echo(f"{mark} {finding.name}: {finding.reason}")
    if not all(finding.ok for finding in found):
        raise fail("Something is wrong; the lines above say what to do.")
    typer.echo("Nothing wrong found.")


def migrate() -> None:
    """Bring PostgreSQL's tables and rights to this release; run it before the processes of a new release."""
    from services.migrate import OWNER
    from services.migrate import migrate as bring_up_to_date

    with refusals():
        done = bring_up_to_date(settings_now().database_url(OWNER))
    typer.echo("\n".join(done) or "Nothing was missing.")


def seed_inventory(
    exercise: Annotated[
        bool, typer.Option(help="People sign in elsewhere, and yet no shelter and no household here is real.")
    ] = False,
) -> None:
    """Register the synthetic shelters in the gateway's log on PostgreSQL; for trying Haven out, never beside real ones."""
    from events.log.store import EventLog
    from reference import load
    from services.clock import clock_of
    from services.migrate import latest
    from services.seeding import seed_for_trying_out
    from simulation.inventory import synthetic_inventory

    settings = settings_now()
    if settings.issuer and not (exercise or _is_on_this_machine(settings.issuer)):
        raise fail(
            "HAVEN_ISSUER names a sign-in elsewhere, so real people work here, and an invented shelter would be asked for a real "
            "household. Nothing was registered. For an installation that is for exercises alone: haven seed --exercise."
        )
    with refusals():
        log = EventLog(postgresql_engine(settings.database_url("haven_gateway")), "gateway", latest())
        log.create_schema()
        inventory = synthetic_inventory(settings.inventory_seed, load())
        seed_for_trying_out(log, inventory, clock_of(settings)())
    typer.echo(f"{len(inventory)} synthetic units are registered.")


def _is_on_this_machine(issuer: str) -> bool:
    host = urlsplit(issuer).hostname or ""
    # RFC 6761; docker-compose.yml calls the Keycloak of its profile demo so.
    return is_loopback(host) or host.endswith(".localhost")


def revoke(
    person: Annotated[str, typer.Argument(help="The person's id (claim haven_person), or the id of one token (jti).")],
    hours: Annotated[int, typer.Option(help="For how long.", min=1, max=24 * 366)] = 24,
) -> None:
    """Refuse every token of a person, at every gateway, from now on. Disable the account at the identity provider as well."""
    from services.clock import real_time
    from services.gateway.token_errors import TokenStoreUnavailable
    from services.gateway.token_store import TokenStore

    with refusals():
        engine = postgresql_engine(settings_now().database_url("haven_gateway"))
        until = real_time() + timedelta(hours=hours)
        try:
            TokenStore(engine, real_time).revoke(person, until)
        except TokenStoreUnavailable:
            raise fail("It could not be written down: the database does not answer. Try again.") from None
    typer.echo(f"Refused until {until:%Y-%m-%d %H:%M} UTC. A live stream that is open now ends within four minutes.")


# Topics

topics_app = typer.Typer(name="topics", help="Kafka's topics.", no_args_is_help=True)


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing, and say what is wrong with those that are there."""
    from events.kafka import topics

    settings = settings_now()
    with refusals():
        typer.echo("\n".join(topics.create(settings.broker("haven_topics"), settings.layout)))


@topics_app.command("rebuild")
def topics_rebuild() -> None:
    """Have the relay send every event of every log again: for topics that lost messages. Consumers know what they have had."""
    from events.kafka.relay import send_again
    from services.processes import relay_engines

    with refusals():
        send_again(relay_engines(settings_now()))
    typer.echo("The relay sends everything again, from the first event on.")


# Dead letters

dead_letters_app = typer.Typer(
    name="dead-letters", help="Messages that a service could not handle and set aside.", no_args_is_help=True
)
LetterId = Annotated[str, typer.Argument(help="The dead letter's id, as `list` shows it.")]


@dead_letters_app.command("list")
def dead_letters_list() -> None:
    """Print every dead letter: what a person has to look at, and what is tried again by itself."""
    count = 0
    with refusals():
        for connection in _databases():
            for letter in dead_letters.kept(connection):
                state = "given up" if letter.given_up_at else f"tried again at {letter.retry_at}"
                error = f" ({letter.error})" if letter.error else ""
                typer.echo(f"{letter.id}  {letter.consumer:18} {letter.reason}{error}, {letter.tries} tries, {state}")
                count += 1
    typer.echo(f"{count} dead letters." if count else "No dead letters.")


@dead_letters_app.command("show")
def dead_letters_show(letter_id: LetterId) -> None:
    """Print where one lies, why it was set aside, and what waits behind it. What the message says is not shown."""
    with _found(letter_id) as (connection, letter):
        for name in DeadLetter.__struct_fields__:
            typer.echo(f"{name:14} {getattr(letter, name)}")
        for envelope in dead_letters.waiting(connection, letter):
            typer.echo(f"waits: {envelope.stream} version {envelope.version}, {envelope.type}, {envelope.reason}")


@dead_letters_app.command("replay")
def dead_letters_replay(letter_id: LetterId) -> None:
    """Ask the workers to try one again, after its cause was repaired. Asking twice is harmless."""
    with _found(letter_id) as (connection, _):
        dead_letters.replay(connection, letter_id, datetime.now(UTC))
        connection.commit()
    typer.echo("The workers try it again within seconds, with everything that waits behind it.")


@dead_letters_app.command("dismiss")
def dead_letters_dismiss(letter_id: LetterId) -> None:
    """Forget one that never was an event of Haven. An event cannot be dismissed: its stream waits for it."""
    with _found(letter_id) as (connection, _):
        try:
            dead_letters.dismiss(connection, letter_id)
        except StreamWaits as waits:
            raise fail(str(waits)) from None
        connection.commit()
    typer.echo("Forgotten.")


def _databases() -> Iterator[sa.Connection]:
    """The database of every service, as far as this process has a password for it."""
    settings = settings_now()
    roles = [role for role in ROLES.values() if settings.secret_file(f"{role}_password").exists()]
    if not roles:
        raise fail(f"No password of {', '.join(ROLES.values())} is in {settings.secrets_dir} (HAVEN_SECRETS_DIR).")
    for role in roles:
        with postgresql_engine(settings.database_url(role)).connect() as connection:
            yield connection


@contextmanager
def _found(letter_id: str) -> Iterator[tuple[sa.Connection, DeadLetter]]:
    """The database that has it, open for as long as it is dealt with."""
    try:
        with refusals():
            for connection in _databases():
                try:
                    letter = dead_letters.find(connection, letter_id)
                except NoSuchDeadLetter:
                    continue
                yield connection, letter
                return
    except NoSuchDeadLetter as gone:  # it was settled just now
        raise fail(str(gone)) from None
    raise fail(str(NoSuchDeadLetter(letter_id)))


# Keys

keys_app = typer.Typer(name="keys", help="The file with the keys that wrap the households' keys.", no_args_is_help=True)


@keys_app.command("create")
def keys_create(path: Annotated[Path, typer.Argument(help="Where; it must not be there yet.")]) -> None:
    """Make a key file, readable by this user alone. Without it nothing sealed can ever be opened: keep a copy apart."""
    from events.key_file import load_or_create_key_file

    if path.exists():
        raise fail(f"{path} is there already. Use `haven keys rotate` to put a new key into it.")
    with refusals():
        load_or_create_key_file(path)
    typer.echo(f"{path} made.")


@keys_app.command("rotate")
def keys_rotate(path: Annotated[Path, typer.Argument(help="The key file.")]) -> None:
    """Put a new key first in a key file. Then restart every gateway, and run `haven keys rewrap`."""
    from events.key_file import rotate_key_file

    with refusals():
        rotate_key_file(path)
    typer.echo(f"{path} has a new first key. Restart every gateway with it, then run `haven keys rewrap`.")


@keys_app.command("rewrap")
def keys_rewrap() -> None:
    """Wrap every household's key under the first key of the key file; then the older lines may go."""
    from events.key_file import load_key_file
    from events.sealing import KeyStore, key_store_engine

    settings = settings_now()
    with refusals():
        engine = key_store_engine(settings.database_url("haven_eraser"))
        count = KeyStore(engine, load_key_file(settings.secret_file("key-file"))).rewrap()
    typer.echo(f"{count} keys are wrapped anew. Older lines of the key file are needed for older backups alone.")
