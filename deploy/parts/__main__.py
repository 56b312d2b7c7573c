"""`python -m deploy.parts`: fetches the parts, or runs some of them until it is told to stop."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from deploy.artifacts import PartUnavailable, java, kafka_jars, keycloak_home
from deploy.parts import Kafka, Keycloak, PostgreSQL
from deploy.parts.postgresql import programs
from deploy.private import private_file
from deploy.process import Part, PartFailed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.parts", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download what is not there yet, say where it lies")
    fetch.add_argument("parts", nargs="*", default="all", choices=("all", *FETCHED))
    start = commands.add_parser(
        "start", help="run parts until SIGTERM, SIGINT, or the end of the process that started this"
    )
    start.add_argument("parts", nargs="+", choices=("kafka", "postgresql", "keycloak"))
    start.add_argument("--folder", type=Path, required=True, help="for data, logs and passwords; kept from run to run")
    start.add_argument("--principals", nargs="*", help="Kafka: TLS, and a log-in for each of these")
    start.add_argument("--realm", type=Path, help="Keycloak: the realm file to import")
    start.add_argument("--no-fsync", action="store_true", help="PostgreSQL: faster, and lost with the machine")
    start.add_argument("--owner", type=int, default=os.getppid(), help="the process to end with, if not the parent")
    chosen = parser.parse_args(arguments)
    if chosen.command == "start" and "keycloak" in chosen.parts and not chosen.realm:
        parser.error("keycloak needs --realm")
    try:
        if chosen.command == "fetch":
            _fetch(list(FETCHED) if "all" in chosen.parts else chosen.parts)
        else:
            _run(chosen)
    except (PartUnavailable, PartFailed) as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


FETCHED: dict[str, Callable[[], Iterable[Path]]] = {
    "java": lambda: [java()],
    "kafka": kafka_jars,
    "keycloak": lambda: keycloak_home().rglob("*"),
    "postgresql": lambda: programs().parent.rglob("*"),
}


def _fetch(parts: Sequence[str]) -> None:
    for part in parts:
        files = [file for file in FETCHED[part]() if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e6
        sys.stdout.write(f"{part:<12}{len(files):>6} files {size:>7.1f} MB  {os.path.commonpath(files)}\n")
        sys.stdout.flush()


def _run(chosen: argparse.Namespace) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    threading.Thread(target=_end_with, args=(chosen.owner,), daemon=True).start()
    make: dict[str, Callable[[Path], Part]] = {
        "kafka": lambda folder: Kafka(folder, principals=chosen.principals),
        "postgresql": lambda folder: PostgreSQL(folder, fsync=not chosen.no_fsync),
        "keycloak": lambda folder: Keycloak(folder, chosen.realm),
    }
    with ExitStack() as running:
        parts = [running.enter_context(make[name](chosen.folder / name)) for name in dict.fromkeys(chosen.parts)]
        addresses = json.dumps({part.name: part.address() for part in parts})
        private_file(chosen.folder / "addresses.json", addresses)
        sys.stdout.write(f"{addresses}\n")
        sys.stdout.flush()
        while all(part.running for part in parts):
            time.sleep(0.5)
        raise PartFailed(f"{next(part.name for part in parts if not part.running)} ended by itself")


def _end_with(owner: int) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(owner).wait()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
