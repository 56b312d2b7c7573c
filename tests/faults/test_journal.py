"""What the journal of the faults' clients calls an answer that is not the first one's."""

from pathlib import Path

import pytest

from faults.client import Intent, Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def report() -> Intent:
    """Each time under a key of its own."""
    return Intent("synthetic-staff", "PUT", "/shelters/synthetic/units/u1/capacity", {"free": 1}, revision=3)


def test_the_same_commands_are_the_same_answer(journal: Journal) -> None:
    intent = report()
    journal.acknowledged(intent, ["a", "b"])
    journal.repeated(intent, ["b", "a"])
    assert journal.answered_otherwise == []


def test_two_keys_may_name_one_command(journal: Journal) -> None:
    """The same report of the same unit is the same command, whoever sends it again and under whichever key."""
    first, second = report(), report()
    journal.acknowledged(first, ["a"])
    journal.acknowledged(second, ["a"])
    journal.repeated(first, ["a"])
    assert journal.answered_otherwise == []


@pytest.mark.parametrize("named", [["b"], ["a", "b"], [], [""]])
def test_other_commands_are_another_answer(journal: Journal, named: list[str]) -> None:
    intent = report()
    journal.acknowledged(intent, ["a"])
    journal.repeated(intent, named)
    (said,) = journal.answered_otherwise
    assert intent.key in said
    assert intent.path in said
