"""Which language a page is in, and its words. The source texts are English; every other catalogue is a .po file that people
can read and correct, compiled when the process starts.

A catalogue may be incomplete where its language names another to fall back to: what Luxembourgish lacks is said in German, text by
text, and never in English. The page keeps `lang="lb"`, and such a text is not marked as German: most of them are labels, attributes
and parts of sentences, where no `lang` can stand, and whoever speaks Luxembourgish reads German. The page about accessibility says
so, and the catalogue is kept full, so that a text lacks only between a change of the English and its translation."""

import io
import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from babel import Locale, negotiate_locale
from babel.dates import format_date, format_datetime, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations
from flask import g, has_request_context
from jinja2 import Environment

CATALOGUES = Path(__file__).parent.parent / "locale"
ZONE = ZoneInfo("Europe/Brussels")
"""All three countries share it."""
LANGUAGE_COOKIE = "haven-language"


@dataclass(frozen=True)
class Language:
    """A language of the pages. `locale` says how dates and numbers look: plain `en` would print 11/23/26. `fallback` is the code
    of the language of what its catalogue lacks."""

    code: str
    name: str
    locale: str
    fallback: str = ""


LANGUAGES = (
    Language("nl", "Nederlands", "nl_BE"),
    Language("fr", "Français", "fr_BE"),
    Language("de", "Deutsch", "de_DE"),
    Language("lb", "Lëtzebuergesch", "lb_LU", fallback="de"),
    Language("en", "English", "en_GB"),
)
_BY_CODE = {language.code: language for language in LANGUAGES}


def chosen_language(chosen: str, accepted: str) -> Language:
    """What somebody chose, or the first language of their browser that there is, or English."""
    if chosen in _BY_CODE:
        return _BY_CODE[chosen]
    wanted = [part.partition(";")[0].strip().lower().replace("-", "_") for part in accepted.split(",")[:10]]
    found = negotiate_locale([one for one in wanted if one], list(_BY_CODE)) or next(
        (one[:2] for one in wanted if one[:2] in _BY_CODE), "en"
    )
    return _BY_CODE[found]


def catalogue_files(code: str) -> list[Path]:
    """The files that the words of a language come from, the first before the second."""
    codes = [code, _BY_CODE[code].fallback]
    return [path for path in (CATALOGUES / f"{one}.po" for one in codes if one) if path.exists()]


@cache
def translations(code: str) -> NullTranslations:
    """The catalogue of one language; English needs none. What it lacks is said in the language it falls back to."""
    path = CATALOGUES / f"{code}.po"
    if code == "en" or not path.exists():
        return NullTranslations()
    with path.open("rb") as file:
        catalogue = read_po(file, locale=code)
    for message in list(catalogue):
        # A plural with a form missing would be written with the English in its place.
        forms = [message.string] if isinstance(message.string, str) else message.string or [""]
        if message.id and not all(forms):
            catalogue.delete(message.id)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    found = Translations(compiled)
    if _BY_CODE[code].fallback:
        found.add_fallback(translations(_BY_CODE[code].fallback))
    return found


def language() -> Language:
    """That of the page being made."""
    now = g.get("language") if has_request_context() else None
    return now if isinstance(now, Language) else _BY_CODE["en"]


def mark(text: str) -> str:
    """Says that a text is to be translated, where it stands and not where it is shown."""
    return text


def gettext(text: str, **values: object) -> str:
    """The text in the language of the page, with its values filled in."""
    translated = str(translations(language().code).ugettext(text))
    return translated % values if values else translated


def ngettext(one: str, many: str, count: int, **values: object) -> str:
    """The same for a text that says how many; each language has its own plural forms."""
    translated = str(translations(language().code).ungettext(one, many, count))
    return translated % {"num": count, **values}


def moment(value: str | datetime, form: str = "short") -> str:
    """A moment as people of the page's language write it, 24 hours, in Brussels' time."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return format_datetime(at.astimezone(ZONE), form, locale=language().locale)


def day(value: str) -> str:
    """A day in words, without a year too many to read."""
    return format_date(date.fromisoformat(value), "long", locale=language().locale)


def age(value: str | datetime, now: datetime) -> str:
    """How long ago something was, in words."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    said = str(format_timedelta(at - now, add_direction=True, locale=language().locale))
    return re.sub(r"\(n\) (\d+)", _with_n, said)


def _with_n(found: re.Match[str]) -> str:
    """Luxembourgish drops an n at the end of a word but before n, d, t, z, h and vowels, and CLDR leaves the choice open:
    "viru(n) 4 Stonnen". What follows is how the number is spoken: the ones before the tens, as in German."""
    number = int(found[1])
    spoken_first = number % 10 or number // 10
    return f"{'' if spoken_first in (4, 5, 6, 7) else 'n'} {number}"


def country_name(code: str) -> str:
    """A country in the language of the page."""
    return str(Locale.parse(language().locale).territories.get(code, code))


_WITH_THE = frozenset({"AE", "BS", "CF", "DO", "FO", "GB", "GM", "IM", "KM", "MH", "MV", "NL", "PH", "SB", "US"})
"""Countries that English gives an article, by how Unicode names them (CLDR): "the Netherlands"."""


def country_within(code: str) -> str:
    """The same inside an English sentence. The other languages say a country behind a colon or in brackets, where it needs no article
    and no case."""
    name = country_name(code)
    return f"the {name}" if language().code == "en" and code in _WITH_THE else name


def language_name(code: str) -> str:
    """A language in the language of the page."""
    return str(Locale.parse(language().locale).languages.get(code, code))


def speak(environment: Environment) -> None:
    """Gives templates their words."""
    environment.add_extension("jinja2.ext.i18n")
    environment.install_gettext_callables(  # type: ignore[attr-defined]
        lambda text: translations(language().code).ugettext(text),
        lambda one, many, count: translations(language().code).ungettext(one, many, count),
        newstyle=True,
    )
    environment.filters |= {
        "moment": moment,
        "day": day,
        "country": country_name,
        "country_within": country_within,
        "tongue": language_name,
    }
    environment.globals |= {"age": age, "LANGUAGES": LANGUAGES}
