"""`haven`: the command line. Every command is thin; what it does lives elsewhere."""

import logging
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from events.log.store import EventLog
from services.config import BadSetting, ConfigurationError, Settings
from services.gateway.principals import Account
from services.operator import dead_letters_app, doctor, keys_app, migrate, revoke, seed_inventory, topics_app
from services.refusals import fail, refusals, settings_now

app = typer.Typer(
    help="Haven finds a safe bed in another country.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for operators in (topics_app, dead_letters_app, keys_app):
    app.add_typer(operators)
app.command()(doctor)
app.command()(migrate)
app.command()(revoke)
app.command("seed")(seed_inventory)

LOGS = ("gateway", "placement", "capacity")


def main() -> None:
    """Entry point of the `haven` command."""
    app()


@app.command()
def run() -> None:
    """Serve the embedded node: everything in one process, on this machine only."""
    from events.key_file import SealingError
    from services.clock import clock_of
    from services.first_look import keep_alive, make_scene
    from services.node import DataDirectoryTaken, Node
    from services.seeding import OtherUnitsHere
    from services.serving import CannotListen, serve

    settings = settings_now()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings.require_embedded()
        if settings.scene != "none":
            make_scene(settings, clock_of(settings), _say_that_it_is_made)
        node = Node(settings)
    except (DataDirectoryTaken, ConfigurationError, BadSetting, SealingError) as refused:
        raise fail(str(refused)) from None

    stopping, people = threading.Event(), list[threading.Thread]()

    def started() -> None:
        node.start()
        if settings.scene == "living":
            people.append(keep_alive(node, stopping))
        _greet(settings, node.guests(), node.logins)

    try:
        serve(node.app, settings.host, settings.port, node.gateway.feed, started=started)
    except (CannotListen, OtherUnitsHere) as refused:
        raise fail(str(refused)) from None
    finally:
        stopping.set()
        for thread in people:
            thread.join(timeout=10)  # whatever they are at: nobody writes into a directory that is given back
        node.stop()
    typer.echo("Stopped.")


def _say_that_it_is_made() -> None:
    typer.echo("Making synthetic cases to look at: once, a few seconds ...", err=True)


def _greet(settings: Settings, guests: list[Account], logins: dict[str, str]) -> None:
    """One login and one link for each role, in 80 columns."""
    typer.echo(f"Haven runs on {settings.url}, for this machine only. Ctrl-C stops it.")
    typer.echo("Every shelter, person and case in it is synthetic.")
    if settings.exercise_speed != 1:
        typer.echo(f"EXERCISE: time runs {settings.exercise_speed:g} times as fast.")
    typer.echo("\nLook around. A link fills in the user name; the password stands at the end.\n")
    for guest in guests:
        typer.echo(f"{guest.role:12}{guest.country:4}{guest.username:28}{logins[guest.username]}")
        typer.echo(f"    {settings.url}/sign-in?as={guest.username}")
    typer.echo(f"\nAll logins: {settings.data_dir / 'demo-logins.json'}; each is client id and secret too.")
    typer.echo(f"The API, its events and its problems: {settings.url}/docs")
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
            logins_file = (data_dir or settings_now().data_dir) / "demo-logins.json"
            play(demo_client(url, logins_file), typer.echo)
        else:
            play_on_own_node(typer.echo)
    except DemoFailed as failed:
        raise fail(str(failed)) from None


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
        raise fail("\n".join([str(violated), *getattr(violated, "__notes__", [])])) from None


@app.command()
def rebuild() -> None:
    """Build the read model again from the logs and compare. Stop the embedded node first; projection workers wait by themselves."""
    from events.log.errors import OthersWrite
    from services.gateway.projection import Projection

    settings = settings_now()
    with refusals():
        gateway_log, logs = _logs_on_postgresql(settings) if settings.database else _logs_of_node(settings)
        try:
            before, after = Projection(gateway_log).rebuild(logs)
        except OthersWrite as others:
            raise fail(f"Not rebuilt: {others}. Another rebuild may be under way.") from None
    typer.echo(f"read model before {before}\nread model after  {after}")
    if before != after:
        raise fail("They differ: the read model had gone wrong and is right now. Please report it.")
    typer.echo("Equal to the byte.")


def _logs_of_node(settings: Settings) -> tuple[EventLog, dict[str, EventLog]]:
    from services.node import DataDirectory, DataDirectoryTaken

    try:
        directory = DataDirectory(settings.data_dir)
    except DataDirectoryTaken as taken:
        raise fail(str(taken)) from None
    logs = {name: EventLog(directory.database(name), name) for name in LOGS}
    return logs["gateway"], logs


def _logs_on_postgresql(settings: Settings) -> tuple[EventLog, dict[str, EventLog]]:
    from events.log.engines import postgresql_engine
    from services.gateway.projection import projection_log
    from services.migrate import latest

    url = settings.database_url("haven_projection")
    logs = {name: EventLog(postgresql_engine(url, name), name) for name in LOGS}
    return projection_log(postgresql_engine(url), latest()), logs


@app.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of the API."""
    import msgspec

    from services.gateway.api import RULES
    from services.gateway.openapi import document

    described = document(RULES, settings_now().url)
    typer.echo(msgspec.json.format(msgspec.json.encode(described)).decode())


@app.command()
def asyncapi() -> None:
    """Print the AsyncAPI 3.0 document of the topics."""
    from events.asyncapi import text

    typer.echo(text(settings_now().layout), nl=False)


@app.command()
def bench() -> None:
    """Measure against the anchors, print a table and write build/bench.json."""
    import importlib.util

    if importlib.util.find_spec("deploy") is None:
        raise fail("It starts real parts, and what starts them is not installed: run `make bench` in a checkout.")
    from bench.__main__ import main as measure

    measure()


# The distributed runtime: one process each


def _work(kind: str) -> None:
    from services.operated import operated
    from services.processes import Worker

    with refusals():
        worker = Worker(kind, settings_now())
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

    with refusals():
        process = RelayProcess(settings_now())
        with operated("haven-relay", process.settings, process.ready) as watch:
            raise typer.Exit(process.run(watch))


@app.command()
def notify(
    test: Annotated[str, typer.Option(help="Instead: send a test to every channel of this organisation.")] = "",
) -> None:
    """Ring people for what waits for them, as the operator's file says."""
    from services.notify_process import NotifyProcess, send_tests
    from services.operated import operated

    with refusals():
        if test:
            outcomes = send_tests(settings_now(), test)
            for channel, why in outcomes:
                typer.echo(f"{channel}: " + (f"NOT TAKEN ({why})" if why else "taken; see that it arrived"))
            raise typer.Exit(1 if any(why for _, why in outcomes) else 0)
        process = NotifyProcess(settings_now())
        with operated("haven-notify", process.settings, process.ready) as watch:
            raise typer.Exit(process.run(watch))


@app.command()
def gateway() -> None:
    """Serve the pages and the API in front of PostgreSQL, all but the live streams."""
    _serve("gateway")


@app.command()
def stream() -> None:
    """Serve the live streams: /live for pages, /api/v1/stream for programs."""
    _serve("stream")


def _serve(kind: str) -> None:
    from services.gateway_process import GatewayProcess
    from services.operated import operated
    from services.operations.web import observe_requests
    from services.serving import serve

    with refusals():
        process = GatewayProcess(settings_now(), only_streams=kind == "stream")
        with operated(f"haven-{kind}", process.settings, process.ready) as watch:
            watch.work.watch_log(process.log)
            observe_requests(process.app, process.log, process.gateway.feed, watch.metrics, watch.tracer)
            settings = process.settings
            try:
                serve(process.app, settings.host, settings.port, process.gateway.feed, started=process.start)
            finally:
                process.stop()
