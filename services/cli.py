"""`haven`: the command line. Every command is thin; what it does lives elsewhere."""

import logging
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import waitress

from events.log.store import EventLog
from services.config import BadSetting, ConfigurationError, Settings, read_settings
from services.gateway.principals import Account
from services.gateway.stream import MOST_STREAMS

app = typer.Typer(
    help="Haven finds a safe bed in another country.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

REQUEST_THREADS = 16
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

    settings = _settings()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        node = Node(settings)
    except (DataDirectoryTaken, ConfigurationError, BadSetting) as refused:
        raise _fail(str(refused)) from None
    try:
        server = waitress.create_server(
            node.app,
            host=settings.host,
            port=settings.port,
            threads=REQUEST_THREADS + MOST_STREAMS,
            ident="",
            send_bytes=1,  # the live stream must leave at once, not when a buffer is full
            max_request_header_size=32 * 1024,
            max_request_body_size=128 * 1024,
            channel_timeout=60,
        )
    except OSError:
        node.directory.release()
        raise _fail(
            f"Port {settings.port} on {settings.host} is taken. Stop what uses it, or set HAVEN_PORT to another port."
        ) from None

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # In a thread of its own: this handler may have interrupted the very lock that waking a listener takes.
        threading.Thread(target=node.gateway.hang_up, daemon=True).start()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    node.start()
    _greet(settings, node.accounts, node.logins)
    try:
        server.run()
    finally:
        server.close()
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
    from services.demo import DemoFailed, play, play_on_own_node

    try:
        if url:
            play(url, (data_dir or _settings().data_dir) / "demo-logins.json", typer.echo)
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
