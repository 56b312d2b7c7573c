"""What `python -m faults` is told to break, and what it says to what cannot be meant. Nothing is broken here."""

from typing import Any

import pytest

from faults import __main__ as faults
from faults.bugs import BUGS
from faults.campaigns import CRASH_POINTS, FAULTS

KINDS = {"relay", "placement", "capacity", "projection", "gateway"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be done."""
    kept: dict[str, Any] = {}

    def run(chosen: Any, seed: int, rate: float, counts: Any, **how: Any) -> list[Any]:
        kept.update(names={fault.name: times for fault, times in chosen}, seed=seed, rate=rate, counts=counts, **how)
        return []

    monkeypatch.setattr(faults, "run", run)
    return kept


def test_every_kind_is_killed_frozen_and_dies_at_its_points(asked: dict[str, Any]) -> None:
    for pattern in ("^kill -9 [a-z]", "^SIGSTOP", " dies "):
        faults.main(["--runs", "1", "--only", pattern])
        assert {kind for kind in KINDS if any(kind in name.split() for name in asked["names"])} == KINDS, pattern
    assert len(asked["names"]) == sum(len(points) for points in CRASH_POINTS.values())


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("sigstop (relay|projection)$", {"SIGSTOP relay", "SIGSTOP projection"}),
        ("kafka wiped, ^kill -9 postgresql", {"Kafka wiped and rebuilt", "kill -9 PostgreSQL"}),
        (
            "^relay dies .*marked",
            {"relay dies before dead letter marked as told", "relay dies after dead letter marked as told"},
        ),
    ],
)
def test_faults_are_chosen_by_their_names(asked: dict[str, Any], only: str, names: set[str]) -> None:
    faults.main(["--runs", "7", "--only", only])
    assert asked["names"].keys() == names
    assert set(asked["names"].values()) <= {5, 7}


def test_each_is_done_alone_if_that_is_wanted(asked: dict[str, Any]) -> None:
    faults.main(["--runs", "1", "--only", "SIGSTOP"])
    assert not asked["apart"]
    faults.main(["--runs", "1", "--only", "SIGSTOP", "--apart"])
    assert asked["apart"]


def test_there_can_be_more_of_a_kind(asked: dict[str, Any]) -> None:
    faults.main(["--processes", "relay=3, projection=2"])
    assert asked["counts"] == faults.COUNTS | {"relay": 3, "projection": 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "SIGSTOP relays"], "--list says what there is"),
        (["--only", "relay, ("], "no regular expression"),
        (["--only", "SIGSTOP gateway"], "--runs"),
        (["--runs", "0"], "neither short, full nor"),
        (["--runs", "many"], "neither short, full nor"),
        (["--processes", "relays=2"], "kind=1 to"),
        (["--processes", "relay=0"], "kind=1 to"),
        (["--processes", "relay=9"], "kind=1 to"),
        (["--processes", "relay"], "kind=1 to"),
        (["--seeded", "--only", "SIGSTOP"], "--list says what there is"),
    ],
)
def test_what_cannot_be_meant_is_told_and_nothing_is_begun(
    asked: dict[str, Any], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        faults.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert asked == {}


def test_what_there_is_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(["--list"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in told] == ["fault", *(fault.name for fault in FAULTS)]
    assert faults.main(["--list", "--seeded"]) == 0
    assert capsys.readouterr().out.splitlines() == list(BUGS)
