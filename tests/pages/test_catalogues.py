"""The pages in five languages: nothing untranslated, nothing left over, and each language with its own plurals and times."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from babel.messages import Catalog, Message
from babel.messages.frontend import CommandLineInterface
from babel.messages.pofile import read_po, write_po
from flask import Flask, g

from events.vocabulary import Stage
from services.gateway.pages import PAGES
from services.gateway.pages.language import (
    CATALOGUES,
    LANGUAGES,
    age,
    chosen_language,
    country_name,
    country_within,
    gettext,
    moment,
    ngettext,
    translations,
)
from services.gateway.pages.words import TABLES, word
from tests.gateway.world import AUDITOR, ESCORT, GUARDIAN, HOST, ORIGIN, POLICE, RECEIVING, Who, World
from tests.pages.reader import Reader, words

ROOT = Path(__file__).resolve().parent.parent.parent
TRANSLATED = [language.code for language in LANGUAGES if language.code != "en"]
COMPLETE = [language.code for language in LANGUAGES if language.code != "en" and not language.fallback]
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[a-zA-Z%]")
NIGHT = datetime(2026, 11, 26, 2, 5, tzinfo=UTC)
T = TypeVar("T")


def read(path: Path, language: str | None = None) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale=language)


def texts(catalogue: Catalog) -> dict[str | tuple[str, ...], Message]:
    return {tuple(m.id) if isinstance(m.id, list) else m.id: m for m in catalogue if m.id}


def forms(message: Message) -> list[str]:
    return [message.string] if isinstance(message.string, str) else list(message.string)


def spoken(code: str, say: Callable[[], T]) -> T:
    """What is said on a page of that language."""
    app = Flask(__name__)
    with app.test_request_context():
        g.language = next(language for language in LANGUAGES if language.code == code)
        return say()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """What `make catalogues` would collect now, by its own words."""
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    keywords = re.search(r'--keywords "([^"]+)"', recipe)
    assert keywords
    output = tmp_path_factory.mktemp("fresh") / "haven.pot"
    CommandLineInterface().run(
        [
            *("pybabel", "--quiet", "extract", "--mapping-file", str(CATALOGUES / "babel.cfg"), "--omit-header"),
            *("--no-default-keywords", "--keywords", keywords[1], "--output-file", str(output)),
            *(str(ROOT / "services/gateway" / folder) for folder in ("pages", "templates")),
        ]
    )
    return read(output)


@pytest.mark.parametrize("file", ["haven.pot", *(f"{code}.po" for code in TRANSLATED)])
def test_a_catalogue_holds_every_text_of_the_pages_and_no_other(file: str, fresh: Catalog) -> None:
    catalogue = read(CATALOGUES / file)
    assert len(texts(fresh)) > 300, "the search has gone blind"
    assert set(texts(fresh)) ^ set(texts(catalogue)) == set(), "run make catalogues and translate what is new"
    assert catalogue.obsolete == {}


def test_every_word_for_a_code_is_among_the_texts(fresh: Catalog) -> None:
    assert {text for table in TABLES.values() for text in table.values()} - set(texts(fresh)) == set()


def test_there_is_a_catalogue_for_every_language_and_no_other() -> None:
    assert sorted(path.stem for path in CATALOGUES.glob("*.po")) == sorted(TRANSLATED)
    recipe = re.search(r"^TRANSLATED := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    assert recipe[1].split() == TRANSLATED


@pytest.mark.parametrize("code", TRANSLATED)
def test_nothing_is_untranslated_and_nothing_guessed(code: str) -> None:
    messages = texts(read(CATALOGUES / f"{code}.po", code))
    if code in COMPLETE:
        assert [text for text, message in messages.items() if not all(forms(message))] == []
    assert [text for text, message in messages.items() if any(forms(message)) and not all(forms(message))] == []
    assert [text for text, message in messages.items() if message.fuzzy] == []


@pytest.mark.parametrize("code", TRANSLATED)
def test_what_nobody_has_read_says_so_and_what_is_missing_does_not(code: str) -> None:
    catalogue = read(CATALOGUES / f"{code}.po", code)
    marked = {text for text, message in texts(catalogue).items() if "unreviewed" in message.user_comments}
    there = {text for text, message in texts(catalogue).items() if all(forms(message))}
    assert marked <= there
    assert there == marked or catalogue.last_translator != "unreviewed"


def test_what_a_language_may_lack_is_in_one_that_lacks_nothing() -> None:
    assert {language.fallback for language in LANGUAGES if language.fallback} <= set(COMPLETE)


@pytest.fixture
def with_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Luxembourgish catalogue that lacks a text, a form of a plural, and an entry."""
    catalogue = read(CATALOGUES / "lb.po", "lb")
    texts(catalogue)["Shelter"].string = ""
    texts(catalogue)[("%(num)s session", "%(num)s sessions")].string = ("%(num)s Sessioun", "")
    catalogue.delete("Password")
    with (tmp_path / "lb.po").open("wb") as file:
        write_po(file, catalogue)
    (tmp_path / "de.po").write_bytes((CATALOGUES / "de.po").read_bytes())
    # By name the package gives its function `language`, not the module.
    monkeypatch.setattr(sys.modules["services.gateway.pages.language"], "CATALOGUES", tmp_path)
    translations.cache_clear()
    yield
    translations.cache_clear()


@pytest.mark.usefixtures("with_holes")
def test_what_luxembourgish_lacks_is_said_in_german_and_never_in_english() -> None:
    def said() -> list[str]:
        counted = [ngettext("%(num)s session", "%(num)s sessions", number) for number in (1, 2)]
        return [gettext("Shelter"), *counted, gettext("Password"), gettext("Household")]

    assert spoken("lb", said) == ["Schutzunterkunft", "1 Sitzung", "2 Sitzungen", "Passwort", "Stot"]
    assert translations("de").ugettext("Household") == "Haushalt"


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_translation_has_the_placeholders_of_its_source_in_every_plural_form(code: str) -> None:
    catalogue = read(CATALOGUES / f"{code}.po", code)
    wrong = []
    for text, message in texts(catalogue).items():
        sources = [text] if isinstance(text, str) else list(text)
        assert len(forms(message)) == (1 if isinstance(text, str) else catalogue.num_plurals), text
        wanted = {tuple(sorted(PLACEHOLDER.findall(source))) for source in sources}
        said = {tuple(sorted(PLACEHOLDER.findall(form))) for form in forms(message) if form}
        if not said <= wanted:
            wrong.append(text)
    assert wrong == []


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_translation_ends_as_its_source_does(code: str) -> None:
    def ending(text: str) -> str:
        return text[-1:] if text.endswith((".", ":", "?")) else ""

    messages = texts(read(CATALOGUES / f"{code}.po", code))
    different = [
        text
        for text, message in messages.items()
        if all(forms(message)) and ending(text if isinstance(text, str) else text[0]) != ending(forms(message)[0])
    ]
    assert different == []


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_translation_holds_no_markup(code: str) -> None:
    messages = texts(read(CATALOGUES / f"{code}.po", code))
    assert [text for text, message in messages.items() if re.search(r"[<>]", "".join(forms(message)))] == []


@pytest.mark.parametrize("code", TRANSLATED)
@pytest.mark.parametrize("table", [table for table in TABLES if table != "Refusal"])
def test_two_codes_of_a_list_can_be_told_apart_in_every_language(table: str, code: str) -> None:
    words = spoken(code, lambda: [word(table, one) for one in TABLES[table]])
    assert len(words) == len(set(words))


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_catalogue_is_loaded_and_speaks(code: str) -> None:
    shelters = {"nl": "Opvanghuis", "fr": "Refuge", "de": "Schutzunterkunft", "lb": "Foyer"}
    assert translations(code).ugettext("Shelter") == shelters[code]
    assert spoken(code, lambda: word("Role", "shelter")) == shelters[code]


@pytest.mark.parametrize(
    ("accepted", "code"),
    [
        ("lb-LU,lb;q=0.9,fr;q=0.8", "lb"),
        ("LB", "lb"),  # case means nothing in a language tag (RFC 5646, 2.1.1)
        ("NL-be", "nl"),
        ("fr-LU,lb", "fr"),
        ("pt, LB-lu;q=0.4", "lb"),
        ("", "en"),
        ("zz-\u00e9,;q=x", "en"),
    ],
)
def test_the_first_language_of_the_browser_that_there_is_is_spoken(accepted: str, code: str) -> None:
    assert chosen_language("", accepted).code == code
    assert chosen_language("lb", accepted).code == "lb"
    assert chosen_language("xx", accepted).code == code


def test_a_value_is_filled_into_the_translation() -> None:
    assert spoken("nl", lambda: gettext("Case %(code)s", code="7F3K")) == "Dossier 7F3K"


@pytest.mark.parametrize(
    ("code", "counted"),
    [
        ("en", ["0 sessions", "1 session", "2 sessions"]),
        ("nl", ["0 sessies", "1 sessie", "2 sessies"]),
        ("fr", ["0 session", "1 session", "2 sessions"]),
        ("de", ["0 Sitzungen", "1 Sitzung", "2 Sitzungen"]),
        ("lb", ["0 Sessiounen", "1 Sessioun", "2 Sessiounen"]),
    ],
)
def test_each_language_counts_in_its_own_way(code: str, counted: list[str]) -> None:
    def say(number: int) -> str:
        return ngettext("%(num)s session", "%(num)s sessions", number)

    assert spoken(code, lambda: [say(0), say(1), say(2)]) == counted


@pytest.mark.parametrize(
    ("code", "written"),
    [("en", "26/11/2026, 03:05"), ("nl", "26/11/2026"), ("fr", "26/11/26"), ("de", "26.11.26"), ("lb", "26.11.26")],
)
def test_a_moment_has_24_hours_and_brussels_time_in_every_language(code: str, written: str) -> None:
    at_night = spoken(code, lambda: moment(NIGHT))
    assert at_night.startswith(written)
    assert re.search(r"\b0?3:05$", at_night)
    assert re.search(r"\b23:30$", spoken(code, lambda: moment("2026-11-26T22:30:00Z")))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("en", "2 hours ago"),
        ("nl", "2 uur geleden"),
        ("fr", "il y a 2 heures"),
        ("de", "vor 2 Stunden"),
        ("lb", "virun 2 Stonnen"),
    ],
)
def test_an_age_is_said_in_words(code: str, said: str) -> None:
    assert spoken(code, lambda: age(NIGHT - timedelta(hours=2), NIGHT)) == said


@pytest.mark.parametrize(
    ("ago", "said"),
    [
        (timedelta(hours=1), "virun 1 Stonn"),
        (timedelta(hours=4), "viru 4 Stonnen"),  # véier
        (timedelta(minutes=14), "viru 14 Minutten"),  # véierzéng
        (timedelta(minutes=27), "viru 27 Minutten"),  # siwenanzwanzeg
        (timedelta(minutes=42), "virun 42 Minutten"),  # zweeavéierzeg
        (timedelta(minutes=40), "viru 40 Minutten"),  # véierzeg
        (timedelta(minutes=-30), "an 30 Minutten"),  # drësseg
    ],
)
def test_luxembourgish_keeps_or_drops_the_n_before_a_number(ago: timedelta, said: str) -> None:
    assert spoken("lb", lambda: age(NIGHT - ago, NIGHT)) == said


@pytest.mark.parametrize(
    ("code", "belgium"),
    [("en", "Belgium"), ("nl", "België"), ("fr", "Belgique"), ("de", "Belgien"), ("lb", "Belsch")],
)
def test_a_country_is_called_as_the_language_calls_it(code: str, belgium: str) -> None:
    assert spoken(code, lambda: country_name("BE")) == belgium


def test_a_country_within_an_english_sentence_has_the_article_it_needs() -> None:
    said = {code: [spoken(code, lambda one=one: country_within(one)) for one in ("BE", "NL")] for code in ("en", "de")}
    assert said == {"en": ["Belgium", "the Netherlands"], "de": ["Belgien", "Niederlande"]}


A_COUNTRY = re.compile(r"(?P<before>^|.{1,2})%\((?:country|origin|hosts?)\)s")


@pytest.mark.parametrize("code", ["fr", "de", "lb"])
def test_a_country_stands_where_it_needs_neither_article_nor_case(code: str) -> None:
    """A sentence that is filled in cannot know whether it is "der" or "des", "du" or "des": it says a country behind a colon or a comma
    or in brackets."""
    said = [form for message in read(CATALOGUES / f"{code}.po") if message.id for form in forms(message)]
    before = [found["before"] for text in said for found in A_COUNTRY.finditer(text)]
    assert len(before) > 15
    assert {text.strip("\xa0 ")[-1:] for text in before} <= {"", ":", "(", ","}


OPEN_PAGES = ("/", "/help", "/accessibility", "/nowhere")
STAGES = (Stage.OFFERED, Stage.PROPOSED, Stage.CONFIRMED)


@pytest.fixture(scope="module")
def cases(world: World) -> dict[Stage, str]:
    return {stage: world.bring_to(stage) for stage in STAGES}


def addresses(world: World, who: Who, cases: Iterable[str]) -> list[str]:
    """Every page somebody may open, of cases that exist."""
    paths = [page.path for page in PAGES if page.method == "GET" and who.role in page.roles]
    return sorted(
        {
            path.replace("<request_id>", case).replace("<ask_id>", world.ask_to(case, RECEIVING))
            for path in paths
            for case in cases
            if path != "/live"  # which is no page to read
        }
    )


def without_session(world: World, code: str) -> Reader:
    reader = Reader(world, POLICE, code)
    reader.client.delete_cookie("haven", domain="127.0.0.1")
    return reader


@pytest.mark.parametrize("path", OPEN_PAGES)
@pytest.mark.parametrize("code", [language.code for language in LANGUAGES])
def test_a_page_for_all_says_which_language_it_is_in(world: World, code: str, path: str) -> None:
    page = without_session(world, code).get(path, headers={"Accept": "text/html"}).get_data(as_text=True)
    assert re.findall(r'<html lang="(\w+)"', page) == [code]


EVERYBODY = (POLICE, RECEIVING, ORIGIN, HOST, GUARDIAN, ESCORT, AUDITOR)


def english_texts(fresh: Catalog, *codes: str) -> set[str]:
    """What has no business on a page in these languages."""
    said = {form for code in codes for m in texts(read(CATALOGUES / f"{code}.po", code)).values() for form in forms(m)}
    english = {text for text in texts(fresh) if isinstance(text, str) and " " in text and "%(" not in text} - said
    assert len(english) > 300, "the search has gone blind"
    return english


def must_be_in(code: str, reader: Reader, paths: Iterable[str], english: set[str]) -> None:
    for path in paths:
        answer = reader.get(path, headers={"Accept": "text/html"})
        if answer.status_code == 303:
            continue
        assert re.findall(r'<html lang="(\w+)"', answer.get_data(as_text=True)) == [code], path
        said = words(answer)
        shown = [text for text in english if text in said]
        assert [text for text in shown if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", said)] == [], path


@pytest.mark.parametrize("who", EVERYBODY, ids=lambda who: who.person)
@pytest.mark.parametrize("code", COMPLETE)
def test_every_page_is_in_the_language_somebody_chose(
    world: World, cases: dict[Stage, str], fresh: Catalog, code: str, who: Who
) -> None:
    must_be_in(code, Reader(world, who, code), addresses(world, who, cases.values()), english_texts(fresh, code))


def test_every_page_opens_in_luxembourgish_and_shows_no_english(
    world: World, cases: dict[Stage, str], fresh: Catalog
) -> None:
    """With one case only: the templates are those of the other languages, and the words come from one more file."""
    english = english_texts(fresh, "lb", "de")
    for who in EVERYBODY:
        must_be_in("lb", Reader(world, who, "lb"), addresses(world, who, [cases[Stage.CONFIRMED]]), english)
