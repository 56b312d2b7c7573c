"""Everything that can be said has words: every code, every event, every problem."""

import logging
import re
from enum import StrEnum
from pathlib import Path

import pytest

import reference
from events import capacity, placement, vocabulary
from events.envelope import CONTRACTS
from services.gateway.demand import Missing, Waited
from services.gateway.pages.words import PROBLEMS, TABLES, NoSuchTable, _note_missing, problem_words, word
from services.placement.domain.request import AskStage

ROOT = Path(__file__).resolve().parent.parent.parent
CODE_LISTS: list[type[StrEnum]] = [
    *(
        found
        for module in (vocabulary, placement, capacity)
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, StrEnum) and found.__module__ == module.__name__
    ),
    AskStage,
    reference.MovingEffect,
    reference.Power,
    Missing,
    Waited,
]
OTHERS = {"CallReason", "EmergencyNumber", "EventType", "Region", "Resource", "Signature"}
SAID_BY_PAGES_ONLY = {"form-too-old", "sign-in-not-begun", "sign-in-failed"}


def documented_problems() -> list[str]:
    text = (ROOT / "docs/problems.md").read_text()
    return re.findall(r"^\| `([^`]+)` \| ", text, re.MULTILINE)


@pytest.mark.parametrize("codes", CODE_LISTS, ids=lambda codes: codes.__name__)
def test_every_code_has_a_word_and_every_word_a_code(codes: type[StrEnum]) -> None:
    assert set(TABLES[codes.__name__]) == {str(code) for code in codes}


def test_no_table_is_of_a_code_list_that_does_not_exist() -> None:
    assert set(TABLES) == {codes.__name__ for codes in CODE_LISTS} | OTHERS


def test_every_event_has_a_sentence_and_every_sentence_an_event() -> None:
    assert set(TABLES["EventType"]) == set(CONTRACTS)


def test_a_sentence_of_an_event_ends_with_a_stop_and_no_two_are_the_same() -> None:
    sentences = list(TABLES["EventType"].values())
    assert [sentence for sentence in sentences if not re.fullmatch(r"[A-Z].*[a-z]\.", sentence)] == []
    assert len(sentences) == len(set(sentences))


def test_every_region_has_a_name() -> None:
    assert set(TABLES["Region"]) == set(reference.load().regions)


def test_every_number_to_phone_says_what_it_is_for() -> None:
    numbers = [number for country in reference.load().countries.values() for number in country.emergency]
    assert set(TABLES["EmergencyNumber"]) == {number.for_what for number in numbers}


def test_whatever_somebody_read_has_a_name() -> None:
    routes = "".join(path.read_text() for path in sorted((ROOT / "services/gateway").glob("*.py")))
    read = re.findall(r'(?:note_read\(\s*(?:call\.)?principal|_note\(call),\s*"(\w+)"', routes)
    assert "timeline" in read, "the search has gone blind"
    assert set(TABLES["Resource"]) == set(read)


def test_every_problem_says_what_was_wrong_and_what_to_do() -> None:
    documented = documented_problems()
    assert {"not-found", "http-*", "unexpected"} <= set(documented), "the search has gone blind"
    assert set(PROBLEMS) == {*documented, *SAID_BY_PAGES_ONLY}
    assert [code for code, said in PROBLEMS.items() if said.title.endswith(".") or not said.remedy.endswith(".")] == []


@pytest.mark.parametrize("table", [table for table in TABLES if table != "EventType"])
def test_a_word_starts_with_a_capital_and_ends_without_a_stop(table: str) -> None:
    assert [text for text in TABLES[table].values() if not re.fullmatch(r"[A-Z].*[^.]", text)] == []


@pytest.mark.parametrize("table", [codes.__name__ for codes in CODE_LISTS if codes is not placement.Refusal])
def test_two_codes_of_a_list_can_be_told_apart(table: str) -> None:
    texts = list(TABLES[table].values())
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("texts", [[*table.values()] for table in TABLES.values()], ids=[*TABLES])
def test_a_word_for_people_holds_no_word_for_programs(texts: list[str]) -> None:
    assert [text for text in texts if re.search(r"`|_|JSON|HTTP|API|token|ETag|header", text)] == []


def test_a_problem_for_people_holds_no_word_for_programs() -> None:
    said = [text for both in PROBLEMS.values() for text in both]
    assert [text for text in said if re.search(r"`|_|JSON|HTTP|API|token|ETag|header|scope|key", text)] == []


def test_a_code_is_said_in_words() -> None:
    assert word("Need", vocabulary.Need.PETS) == "Place for a pet"
    assert word("EventType", "placement.ask.accepted.v1") == "A shelter said yes."


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(NoSuchTable, match="No words for a code list Wish"):
        word("Wish", "pets")


@pytest.fixture
def noted(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    _note_missing.cache_clear()
    caplog.set_level(logging.WARNING)
    return caplog


def test_a_code_of_a_newer_release_is_shown_as_it_is_and_noted_once(noted: pytest.LogCaptureFixture) -> None:
    assert word("Need", "quiet_room") == "quiet_room"
    assert word("Need", "quiet_room") == "quiet_room"
    assert [record.getMessage() for record in noted.records] == ["no words category=Need reason=quiet_room"]


@pytest.mark.parametrize("typed", ["Jan Peeters, Brussel", "pets\nforged=line", "é", "a" * 81])
def test_what_is_no_code_is_not_written_into_the_log(typed: str, noted: pytest.LogCaptureFixture) -> None:
    assert word("Need", typed) == typed
    assert [record.getMessage() for record in noted.records] == ["no words category=Need reason=?"]


@pytest.mark.parametrize("code", ["http-400", "http-413", "http-505"])
def test_whatever_http_refuses_has_words(code: str) -> None:
    assert problem_words(code) == PROBLEMS["http-*"]


def test_a_problem_of_a_newer_release_is_a_fault_of_ours() -> None:
    assert problem_words("moon-is-full").title == "Something went wrong on our side"
