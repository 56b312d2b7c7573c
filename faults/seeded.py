"""Every bug of `faults.bugs` in turn: a few faults under load that bring it out, and whether the verdict catches it."""

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from faults.bugs import BUGS
from faults.campaign import folder
from faults.campaigns import PointNotReached, everything_again, is_meant
from faults.site import Site, Strike
from faults.verdict import judge

RATE = 6.0
WORK_SECONDS = 6.0
CLOSING_SECONDS = 20.0
"""With a bug in it, the runtime may never come to rest."""


def killed_all(kind: str, site: Site) -> None:
    """Every process of a kind at once, so that none goes on for another."""
    for process in site.stack.wrapped(kind):
        with site.in_hand(process):
            process.kill()
            process.start_again()


def spoilt(site: Site) -> None:
    site.spoil("gateway")


def tapped_twice(site: Site) -> None:
    site.load.tap_twice()


BROUGHT_OUT_BY: Mapping[str, Sequence[Strike]] = {
    "acknowledged before the commit": [partial(killed_all, "gateway")] * 2,
    "keys forgotten": [tapped_twice] * 3,
    "cursor moved before the flush": [partial(killed_all, "relay")] * 3,
    "inbox forgets": [everything_again],
    "inbox forgets, ids are random": [everything_again],
    "remembered before it was handled": [partial(killed_all, "placement")] * 8,
    "acknowledged to Kafka before the commit": [partial(killed_all, "capacity")] * 4,
    "dead letters not written": [spoilt],
    "dead letters not told": [spoilt],
}
"""What is broken meanwhile; nothing where people at work are enough."""


@dataclass(frozen=True)
class Caught:
    """What the verdict found, and whether one of it is what it must find."""

    bug: str
    caught: bool
    checks: Sequence[str]


def tried(name: str, seed: int) -> Caught:
    """One bug on an installation of its own."""
    bug, place = BUGS[name], folder()
    try:
        with Site(place, seed=seed, rate=RATE) as site:
            site.bring_in(name, bug.kind)
            site.load.start()
            try:
                time.sleep(WORK_SECONDS)
                for strike in BROUGHT_OUT_BY.get(name, ()):
                    _struck(strike, site)
                    time.sleep(WORK_SECONDS / 3)
            finally:
                site.load.stop()
            checks = judge(site, CLOSING_SECONDS).checks
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Caught(name, bool(set(checks) & set(bug.caught_by)), checks)


def _struck(strike: Strike, site: Site) -> None:
    try:
        strike(site)
    except PointNotReached:
        return  # then the bug is not brought out, and not caught


def campaign(only: Sequence[re.Pattern[str]], seed: int, say: Callable[..., None]) -> int:
    """All of them; the exit status."""
    say("seeded bug", "", "", "caught by")
    missed = 0
    for caught in results(only, seed):
        missed += not caught.caught
        say(caught.bug, "" if caught.caught else "MISSED", "", "; ".join(caught.checks))
    return 1 if missed else 0


def results(only: Sequence[re.Pattern[str]], seed: int) -> Iterator[Caught]:
    for name in BUGS:
        if is_meant(only, name):
            yield tried(name, seed)
