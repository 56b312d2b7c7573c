"""`haven`: the command line. Every command is thin; what it does lives elsewhere."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer

from events.log.store import EventLog
from services.config import BadSetting, ConfigurationError, Settings, read_settings
from services.gateway.principals import Account

app = typer.Typer(
    help="Haven finds a safe bed in another country.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SHOWN_LOGINS = ("be-police-antwerp-1", "be-coordinator-1", "nl-coordinator-1")


def main() -> None:
    """Entry point of the `haven` command."""
    app()


def _fail(message: str) -> typer.Exit:
    typer.secho(message, err=True, fg=typer.colors.RED)
    return typer.Exit(2)


def _settings() -> Settings:
    try:
        return read_settings()
    except BadSetting as wrong:
        raise _fail(str(wrong)) from None


@app.command()
def run() -> None:
    """Serve the embedded node: everything in one process, on this machine only."""
    from services.node import DataDirectoryTaken, Node
    from services.serving import PortTaken, serve

    settings = _settings()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings.require_this_machine()
        node = Node(settings)
    except (DataDirectoryTaken, ConfigurationError, BadSetting) as refused:
        raise _fail(str(refused)) from None

    def started() -> None:
        node.start()
        _greet(settings, node.accounts, node.logins)

    try:
        serve(node.app, settings.host, settings.port, started=started, hang_up=node.gateway.hang_up)
    except PortTaken as taken:
        raise _fail(str(taken)) from None
    finally:
        node.stop()
    typer.echo("Stopped.")


def _greet(settings: Settings, accounts: list[Account], logins: dict[str, str]) -> None:
    shelter = next(account for account in accounts if account.organisation.startswith("nl-shelter"))
    typer.echo(f"Haven listens on {settings.url} (this machine only). Data: {settings.data_dir.resolve()}")
    typer.echo(f"API: {settings.url}/api/v1/openapi.json   Every shelter and person in here is synthetic.")
    if settings.exercise_speed != 1:
        typer.echo(f"EXERCISE: time runs {settings.exercise_speed:g} times as fast.")
    typer.echo("Demo logins (client id and secret for a token; user name and password for a sign-in):")
    for username in (*SHOWN_LOGINS, shelter.username):
        typer.echo(f"  {username:32} {logins[username]}")
    typer.echo(f"All logins: {settings.data_dir / 'demo-logins.json'}. Stop with Ctrl-C.")
    sys.stdout.flush()


@app.command()
def demo(
    url: Annotated[str, typer.Option(help="An embedded node that runs already; without it one is started.")] = "",
    data_dir: Annotated[Path | None, typer.Option(help="That node's data directory, where its logins are.")] = None,
) -> None:
    """Drive one cross-border relocation through the HTTP API and print the coordinator's timeline."""
    from services.demo import DemoFailed, demo_client, play, play_on_own_node

    try:
        if url:
            logins_file = (data_dir or _settings().data_dir) / "demo-logins.json"
            play(demo_client(url, logins_file), typer.echo)
        else:
            play_on_own_node(typer.echo)
    except DemoFailed as failed:
        raise _fail(str(failed)) from None


@app.command()
def simulate(
    seed: Annotated[int, typer.Option(help="Where the random numbers start; the same seed is the same run.")] = 1,
    cases: Annotated[int, typer.Option(help="Referrals in one simulated year, through the real API.")] = 300,
    steps: Annotated[
        int, typer.Option(help="Instead: this many steps of crashes, duplicates, delays and clock jumps per seed.")
    ] = 0,
    seeds: Annotated[int, typer.Option(help="With --steps: how many seeds, from --seed on.")] = 1,
) -> None:
    """Try Haven out on a synthetic year, or on everything that can go wrong at once."""
    from simulation.invariants import InvariantViolated
    from simulation.year import UnexpectedAnswer, run_year

    try:
        if steps:
            from simulation.world import run as run_worlds

            typer.echo("\n".join(run_worlds(range(seed, seed + seeds), steps).lines()))
        else:
            run_year(seed, cases, typer.echo)
    except (InvariantViolated, UnexpectedAnswer) as violated:
        raise _fail("\n".join([str(violated), *getattr(violated, "__notes__", [])])) from None


@app.command()
def rebuild() -> None:
    """Build the read model again from the logs and compare (stop the node first)."""
    from services.gateway.projection import Projection
    from services.node import DataDirectory, DataDirectoryTaken

    settings = _settings()
    try:
        directory = DataDirectory(settings.data_dir)
    except DataDirectoryTaken as taken:
        raise _fail(str(taken)) from None
    logs = {name: EventLog(directory.database(name), name) for name in ("gateway", "placement", "capacity")}
    projection = Projection(logs["gateway"])
    projection.catch_up(logs)
    before, after = projection.rebuild(logs)
    typer.echo(f"read model before {before}\nread model after  {after}")
    if before != after:
        raise _fail("They differ: the read model had gone wrong and is right now. Please report it.")
    typer.echo("Equal to the byte.")


@app.command()
def doctor() -> None:
    """Print the settings in force, secrets left out, and what is wrong with them."""
    settings = _settings()
    for name in Settings.__struct_fields__:
        typer.echo(f"HAVEN_{name.upper():20} {getattr(settings, name)}")
    if settings.issuer:
        raise _fail("HAVEN_ISSUER is set: the embedded node brings its own sign-in and refuses to start with another.")
    for path in (settings.data_dir / "key-file", settings.data_dir / "demo-logins.json"):
        if path.exists() and path.stat().st_mode & 0o077:
            raise _fail(f"{path} can be read by others. Run: chmod 600 {path}")
    typer.echo("Nothing wrong found.")


@app.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document."""
    import msgspec

    from services.gateway.api import RULES
    from services.gateway.openapi import document

    described = document(RULES, _settings().url)
    typer.echo(msgspec.json.format(msgspec.json.encode(described)).decode())


# The distributed runtime: one process each


@contextmanager
def _refusals() -> Iterator[None]:
    """What must keep a process from running becomes one line that says what to do, and exit status 2."""
    from events.kafka.connection import BrokerProblem
    from events.key_file import SealingError
    from events.log.schema import SchemaMismatch
    from services.migrate import MigrationFailed, NotPrepared
    from services.operations.health import OperationsPortTaken
    from services.operations.tracing import BadEndpoint
    from services.serving import PortTaken

    stopping = (
        BadSetting,
        ConfigurationError,
        SchemaMismatch,
        SealingError,
        BrokerProblem,
        MigrationFailed,
        NotPrepared,
        PortTaken,
        OperationsPortTaken,
        BadEndpoint,
    )
    try:
        yield
    except stopping as refused:
        raise _fail(str(refused)) from None
    except sa.exc.SQLAlchemyError as failure:
        # Never its own text: it can quote what was being written.
        raise _fail(
            f"The database cannot be used ({type(getattr(failure, 'orig', None) or failure).__name__}). "
            "See that it answers at HAVEN_DATABASE, and that the role's password is in HAVEN_SECRETS_DIR."
        ) from None


def _work(kind: str) -> None:
    from services.operated import operated
    from services.processes import Worker

    with _refusals():
        worker = Worker(kind, _settings())
        with operated(f"haven-{kind}", worker.settings, worker.ready) as watch:
            raise typer.Exit(worker.run(watch))


@app.command()
def placement() -> None:
    """Run a placement worker: requests, matching, asks, signatures, journeys."""
    _work("placement")


@app.command()
def capacity() -> None:
    """Run a capacity worker: units, beds, holds."""
    _work("capacity")


@app.command()
def projection() -> None:
    """Run a worker that keeps the gateway's read model and destroys keys."""
    _work("projection")


@app.command()
def relay() -> None:
    """Publish the logs to Kafka; a second relay waits until the first is gone."""
    from services.operated import operated
    from services.processes import RelayProcess

    with _refusals():
        process = RelayProcess(_settings())
        with operated("haven-relay", process.settings, process.ready) as watch:
            raise typer.Exit(process.run(watch))


@app.command()
def gateway() -> None:
    """Serve the API in front of PostgreSQL."""
    from services.gateway_process import GatewayProcess
    from services.operated import operated
    from services.operations.web import observe_requests
    from services.serving import serve

    with _refusals():
        process = GatewayProcess(_settings())
        with operated("haven-gateway", process.settings, process.ready) as watch:
            watch.work.watch_log(process.log)
            observe_requests(process.app, process.log, watch.metrics, watch.tracer)
            settings = process.settings
            try:
                serve(
                    process.app,
                    settings.host,
                    settings.port,
                    started=process.start,
                    hang_up=process.gateway.hang_up,
                )
            finally:
                process.stop()


@app.command("seed")
def seed_inventory() -> None:
    """Register the synthetic shelters in the gateway's log on PostgreSQL; for trying Haven out, never beside real ones."""
    from events.log.engines import postgresql_engine
    from reference import load
    from services.clock import clock_of
    from services.migrate import latest
    from services.seeding import seed
    from simulation.inventory import synthetic_inventory

    settings = _settings()
    with _refusals():
        log = EventLog(postgresql_engine(settings.database_url("haven_gateway")), "gateway", latest())
        log.create_schema()
        inventory = synthetic_inventory(settings.inventory_seed, load())
        seed(log, inventory, clock_of(settings)())
    typer.echo(f"{len(inventory)} synthetic units are registered.")


@app.command()
def migrate() -> None:
    """Bring PostgreSQL's tables and rights to this release; run it before the processes of a new release."""
    from services.migrate import OWNER
    from services.migrate import migrate as bring_up_to_date

    with _refusals():
        done = bring_up_to_date(_settings().database_url(OWNER))
    typer.echo("\n".join(done) or "Nothing was missing.")


topics_app = typer.Typer(help="Kafka's topics.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing, and say what is wrong with those that are there."""
    from events.kafka import topics

    settings = _settings()
    with _refusals():
        typer.echo("\n".join(topics.create(settings.broker("haven_topics"), settings.layout)))


@topics_app.command("rebuild")
def topics_rebuild() -> None:
    """Have the relay send every event of every log again: for topics that lost messages. Consumers know what they have had."""
    from events.kafka.relay import send_again
    from services.processes import relay_engines

    with _refusals():
        send_again(relay_engines(_settings()))
    typer.echo("The relay sends everything again, from the first event on.")


keys_app = typer.Typer(help="The file with the keys that wrap the households' keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


@keys_app.command("create")
def keys_create(path: Annotated[Path, typer.Argument(help="Where; it must not be there yet.")]) -> None:
    """Make a key file, readable by this user alone. Without it nothing sealed can ever be opened: keep a copy apart."""
    from events.key_file import load_or_create_key_file

    if path.exists():
        raise _fail(f"{path} is there already. Use `haven keys rotate` to put a new key into it.")
    with _refusals():
        load_or_create_key_file(path)
    typer.echo(f"{path} made.")


@keys_app.command("rotate")
def keys_rotate(path: Annotated[Path, typer.Argument(help="The key file.")]) -> None:
    """Put a new key first in a key file. Then restart every gateway, and run `haven keys rewrap`."""
    from events.key_file import rotate_key_file

    with _refusals():
        rotate_key_file(path)
    typer.echo(f"{path} has a new first key. Restart every gateway with it, then run `haven keys rewrap`.")


@keys_app.command("rewrap")
def keys_rewrap() -> None:
    """Wrap every household's key under the first key of the key file; then the older lines may go."""
    from events.key_file import load_key_file
    from events.sealing import KeyStore, key_store_engine

    settings = _settings()
    with _refusals():
        engine = key_store_engine(settings.database_url("haven_eraser"))
        count = KeyStore(engine, load_key_file(settings.secret_file("key-file"))).rewrap()
    typer.echo(
        f"{count} keys are wrapped anew. Older lines of the key file are not needed any more, except for backups."
    )
