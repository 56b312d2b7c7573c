"""Haven under a scheduler that does its worst: whole worlds, one number each."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from events.capacity import CapacityContract, FirmHoldRefused
from events.envelope import Event, encode
from events.log.decider import DeciderRunner
from events.log.follower import Follower
from events.log.inbox import Consumer, Delivery
from events.placement import HoldReleaseRequested, PlacementContract
from events.vocabulary import Stage
from services.capacity import worker as capacity_worker
from services.capacity.domain.unit import UnitDecider
from services.capacity.worker import CapacityWorker
from services.placement.domain import matching, policies, process, relocation_request
from services.placement.domain.request import Request
from services.placement.worker import PlacementWorker
from simulation.invariants import InvariantViolated
from simulation.world import Point, Summary, World, morning, replay_command, run, simulate

STEPS = 40
CHUNK = 50


@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_no_seed_breaks_a_promise(first: int) -> None:
    summary = run(range(first, first + CHUNK), STEPS)
    assert summary.seeds == CHUNK
    assert summary.tally["crashes"] > CHUNK
    assert summary.tally["duplicates"] > CHUNK
    assert summary.tally["reordered"] > CHUNK


def test_the_simulation_reaches_every_event_and_every_stage() -> None:
    summary = run(range(10_000, 10_200), 2 * STEPS)
    said = {cls.__struct_config__.tag for cls in (*PlacementContract.__args__, *CapacityContract.__args__)}
    assert said - summary.types.keys() == set()
    assert set(Stage) - summary.stages == set()


def digest(world: World) -> str:
    records = (encode(event) for source in world.logs for event in world.read(source) if isinstance(event, Event))
    return hashlib.sha256("\n".join(records).encode()).hexdigest()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_gives_the_same_logs_in_another_process_too(seed: int) -> None:
    here = digest(simulate(seed, STEPS))
    script = (
        "from tests_simulation_digest import digest; from simulation.world import simulate; "
        f"print(digest(simulate({seed}, {STEPS})))"
    ).replace("from tests_simulation_digest import digest; ", "")
    script = script.replace("digest(", "digest_of(")
    source = (
        "import hashlib\nfrom events.envelope import encode\n"
        "def digest_of(world):\n"
        "    records = (encode(event) for source in world.logs for event in world.read(source))\n"
        "    return hashlib.sha256('\\n'.join(records).encode()).hexdigest()\n"
    )
    # Another hash seed orders every set another way: nothing that is decided may depend on it.
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    there = subprocess.run(
        [sys.executable, "-c", source + script], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here
