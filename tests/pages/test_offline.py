"""What may stay in a browser, and what a page says and weighs when the line or the database is bad."""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from events.vocabulary import Stage
from services.gateway.pages import PAGES
from services.gateway.pages.language import LANGUAGES
from services.gateway.pages.offline import SHELL, kept_key, shell_version, static_address
from services.gateway.read_model import ReadModel
from tests.gateway.world import AN_OPENING, AUDITOR, CALLBACK, MISSING, ORIGIN, POLICE, RECEIVING, World
from tests.pages.reader import CSRF, Reader, words

CODES = [language.code for language in LANGUAGES]


def asked(world: World, path: str, **options: Any) -> TestResponse:
    """By somebody nobody knows."""
    return world.node.app.test_client().get(path, base_url=world.node.settings.url, **options)


# The home screen


@pytest.mark.parametrize("code", CODES)
def test_the_home_screen_says_nothing_to_whoever_holds_the_phone(world: World, code: str) -> None:
    answer = asked(world, f"/app.{code}.webmanifest")
    assert answer.mimetype == "application/manifest+json"
    manifest = json.loads(answer.data)
    assert manifest["lang"] == code
    assert manifest["name"] in ("Planning", "Planung")
    said = json.dumps(manifest, ensure_ascii=False)
    assert not re.search(
        "haven|bed|shelter|opvang|refuge|victim|politie|police", said.replace("/static/", ""), re.IGNORECASE
    )
    assert "description" not in manifest
    for icon in manifest["icons"]:
        assert asked(world, icon["src"]).data.startswith(b"\x89PNG")


def test_every_page_names_the_manifest_of_its_language(world: World) -> None:
    for code in CODES:
        assert f'href="/app.{code}.webmanifest"' in Reader(world, POLICE, code).get("/sessions").text


def test_the_icon_leads_a_stranger_to_the_sign_in_and_everybody_else_on(world: World) -> None:
    start = json.loads(asked(world, "/app.nl.webmanifest").data)["start_url"]
    assert "/oauth/authorize?" in asked(world, start).headers["Location"]
    assert Reader(world, POLICE).get(start).headers["Location"] == "/"


# The worker and its shell


def shell(world: World, code: str) -> dict[str, Any]:
    said = asked(world, f"/worker.{code}.js").text.partition("\n")[0]
    return dict(json.loads(said.removeprefix("const SHELL=").removesuffix(";")))


@pytest.mark.parametrize("code", CODES)
def test_the_shell_holds_files_and_one_page_that_is_the_same_for_everybody(world: World, code: str) -> None:
    kept = shell(world, code)
    assert kept["offline"] == f"/offline/{code}"
    assert {address.partition("?")[0] for address in kept["files"]} == {f"/static/{name}" for name in SHELL} | {
        "/static/atkinson-hyperlegible-next-latin.woff2"
    }
    for address in kept["files"]:
        assert asked(world, address).headers["Cache-Control"] == "public, max-age=31536000, immutable"
    by_stranger, by_staff = asked(world, kept["offline"]), Reader(world, RECEIVING, "en").get(kept["offline"])
    assert words(by_stranger) == words(by_staff)
    assert f'lang="{code}"' in by_staff.text
    assert "no-store" not in by_stranger.headers["Cache-Control"]
    assert "Set-Cookie" not in by_staff.headers
    assert CSRF not in by_staff.text
    assert "shelter-01" not in by_staff.text


def test_another_file_another_word_another_language_is_another_shell(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len({shell_version(code) for code in CODES}) == len(CODES)
    assert shell(world, "nl")["name"] == f"shell-{shell_version('nl')}"
    before = shell_version("nl")
    shell_version.cache_clear()
    monkeypatch.setattr("services.gateway.pages.offline.SHELL", SHELL[:-1])
    try:
        assert shell_version("nl") != before
    finally:
        shell_version.cache_clear()


@pytest.mark.parametrize("path", ["/app.xx.webmanifest", "/worker.xx.js", "/offline/xx"])
def test_a_language_there_is_not_has_no_shell(world: World, path: str) -> None:
    assert asked(world, path).status_code == 404


def test_whatever_depends_on_who_asks_must_not_be_kept(world: World) -> None:
    reader = Reader(world, RECEIVING)
    for path in ("/", "/places", "/asks", "/sessions", "/help", "/requests", f"/requests/{MISSING}", "/sign-in"):
        assert reader.get(path).headers["Cache-Control"] == "no-store", path


def test_leaving_tells_the_browser_to_forget(world: World) -> None:
    for path, fields in (("/exit", {}), ("/sign-out", {}), ("/sessions/end", {"which": "all"})):
        assert Reader(world, POLICE).send(path, **fields).headers["Clear-Site-Data"] == '"cache", "storage"', path


# Numbers that wait for the line


def places_form(reader: Reader) -> dict[str, str]:
    """What the form of the first unit would send."""
    page = reader.get("/places").text
    form = re.search(r'<form method="post" action="/places" novalidate.*?</form>', page, re.DOTALL)
    assert form
    fields = dict(re.findall(r'name="(\w+)"[^>]*?value="([^"]*)"', form[0]))
    return {name: value for name, value in fields.items() if name != "csrf"} | {"blocked_because": ""}


def test_the_key_is_the_persons_alone_and_lasts_over_sessions(world: World) -> None:
    def key(reader: Reader) -> str:
        found = re.search(r'id="kept"[^>]* data-key="([\w-]+={0,2})"', reader.get("/places").text)
        assert found
        return found[1]

    mine, again = key(Reader(world, RECEIVING)), key(Reader(world, RECEIVING))
    assert mine == again
    assert len(base64.urlsafe_b64decode(mine)) == 32
    assert kept_key("secret", "one") != kept_key("secret", "two") != kept_key("other", "two")
    assert mine not in Reader(world, RECEIVING).get("/asks").text


def test_a_short_answer_says_what_was_saved_and_sending_it_again_changes_nothing(world: World) -> None:
    reader = Reader(world, RECEIVING)
    form = places_form(reader) | {"free": "77", "reply": "short"}
    said = json.loads(reader.send("/places", **form).data)
    assert said["outcome"] == "saved"
    assert "u1 has 77 free" in said["text"]
    heads = world.heads()["capacity"]
    assert json.loads(reader.send("/places", **form).data)["outcome"] == "saved"
    assert world.heads()["capacity"] == heads


def test_a_short_answer_to_a_conflict_says_only_that_a_page_has_to_show_it(world: World) -> None:
    reader, colleague = Reader(world, RECEIVING), Reader(world, RECEIVING)
    form = places_form(reader)
    colleague.send("/places", **form | {"free": "60"})
    answer = reader.send("/places", **form | {"free": "61", "reply": "short"})
    assert (answer.status_code, json.loads(answer.data)) == (200, {"outcome": "look"})
    page = reader.send("/places", **form | {"free": "61"})
    assert page.status_code == 412
    assert "Both values" in words(page)


def test_a_kept_number_is_never_sent_as_somebody_else(world: World) -> None:
    form = places_form(Reader(world, RECEIVING)) | {"free": "5", "reply": "short"}
    heads = world.heads()["capacity"]
    stranger = world.node.app.test_client()
    sent = stranger.post("/places", base_url=world.node.settings.url, data=form | {"csrf": CSRF})
    assert sent.status_code == 303
    other = Reader(world, RECEIVING).send("/places", **form, csrf="of-another-session")
    assert other.status_code == 403
    assert world.heads()["capacity"] == heads


# How far a page can be trusted


@pytest.mark.parametrize(
    ("who", "path"),
    [(ORIGIN, "/board"), (ORIGIN, "/board?wall=1"), (RECEIVING, "/places"), (RECEIVING, "/asks"), (POLICE, "case")],
)
def test_a_page_that_lives_says_from_where_on_it_listens(world: World, who: Any, path: str) -> None:
    request_id = world.open()
    page = Reader(world, who).get(f"/requests/{request_id}" if path == "case" else path).text
    after = re.search(r'id="live"[^>]* data-after="(\d+)"', page)
    assert after
    assert int(after[1]) == world.core.read_model.last_change()
    assert "Not updated since {time}" in page
    assert "data-live-pause" in page
    if path != "case":
        return
    shown = re.search(r'data-shown="([^"]*)"', page)
    assert shown
    assert json.loads(shown[1].replace("&#34;", '"'))[request_id] > 0


def test_pages_that_listen_ask_from_where_on_and_no_others_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id, looked = world.bring_to(Stage.OFFERED), list[int]()
    last_change = world.core.read_model.last_change
    monkeypatch.setattr(ReadModel, "last_change", lambda _self: looked.append(1) or last_change())
    paths = {page.path for page in PAGES if page.method == "GET"} - {"/live"}
    listening = set()
    for who in (ORIGIN, RECEIVING, POLICE, AUDITOR):
        reader = Reader(world, who)
        for path in sorted(paths):
            looked.clear()
            address = path.replace("<request_id>", request_id).replace("<ask_id>", world.ask_to(request_id, RECEIVING))
            page = reader.get(address)
            if 'id="live"' in page.text:
                listening.add(path)
                assert re.search(r'data-after="\d+"', page.text), path
            if page.status_code == 200:
                assert bool(looked) is next(one.lives for one in PAGES if (one.method, one.path) == ("GET", path)), path
    assert listening == {one.path for one in PAGES if one.lives and one.method == "GET"}
    again = Reader(world, RECEIVING).send("/places", unit=f"{RECEIVING.organisation}-u1", revision="1", free="many")
    assert re.search(r'id="live"[^>]* data-after="\d+"', again.text)


def test_nothing_is_missed_between_making_a_page_and_listening(world: World) -> None:
    reader = Reader(world, ORIGIN)
    after = world.core.read_model.last_change()
    request_id = world.open()
    answer = reader.client.get(f"/live?after={after}", base_url=world.node.settings.url, buffered=False)
    assert answer.status_code == 200
    said = b""
    for line in answer.response:
        said += line
        if request_id.encode() in said:
            break
    answer.close()


def test_a_page_hears_that_somebody_is_still_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.feed.HEARTBEAT_SECONDS", 0.01)
    answer = Reader(world, POLICE).client.get("/live", base_url=world.node.settings.url, buffered=False)
    lines = iter(answer.response)
    assert next(lines).startswith(b"retry: ")
    assert next(lines) == b"event: beat\ndata: {}\n\n"
    answer.close()


def test_a_wall_loads_itself_with_and_without_javascript(world: World) -> None:
    page = Reader(world, ORIGIN).get("/board?wall=1").text
    assert '<noscript><meta http-equiv="refresh" content="30"></noscript>' in page
    assert 'hx-trigger="moved from:#live"' in page
    part = Reader(world, ORIGIN).get("/board?wall=1", headers={"HX-Request": "true"}).text
    assert part.lstrip().startswith('<div id="standing"')


# When the database fails


@contextmanager
def a_database_that_fails(world: World, begins: str) -> Iterator[None]:
    """Every statement of the gateway's database that begins so fails, as on a disk that is gone."""
    engines = {world.log.engine, world.node.sessions._engine}

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(begins):
            raise sa.exc.OperationalError(None, None, Exception("disk I/O error"))

    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", fail)


def while_it_fails(
    reader: Reader, path: str, form: dict[str, Any] | None = None, *, begins: str = "", origin: str = ""
) -> TestResponse:
    """One request and nothing after it: the services could not work now."""
    url = reader.world.node.settings.url
    sent = {"Accept": "text/html", "Origin": origin or url}
    with a_database_that_fails(reader.world, begins):
        if form is None:
            return reader.client.get(path, base_url=url, headers=sent)
        return reader.client.post(path, base_url=url, headers=sent, data={"csrf": CSRF} | form)


def a_form(reader: Reader) -> dict[str, Any]:
    command = re.search(r'name="command" value="(\w+)"', reader.get("/requests/new").text)
    assert command
    return {
        "command": command[1],
        "urgency": "urgent",
        "danger_country": "BE",
        "region": "BE21",
        "women": "3",
        "consented_countries": ["NL"],
        "callback": CALLBACK,
    }


@pytest.mark.parametrize("fails", ["INSERT", ""], ids=["nothing can be written", "nothing can be read either"])
def test_an_urgent_request_that_cannot_be_recorded_says_so_keeps_the_form_and_says_whom_to_phone(
    world: World, fails: str
) -> None:
    reader = Reader(world, POLICE)
    form = a_form(reader)
    heads = world.heads()
    answer = while_it_fails(reader, "/requests/new", form, begins=fails)
    assert answer.status_code == 503
    assert "cannot write this down" in words(answer) or "not recorded" in words(answer).lower(), words(answer)[:400]
    assert 'href="tel:112"' in answer.text
    assert re.search(r'name="women"[^>]*value="3"', answer.text)
    assert f'name="command" value="{form["command"]}"' in answer.text
    assert f'name="csrf" value="{CSRF}"' in answer.text
    assert CALLBACK not in answer.text
    assert world.heads() == heads
    done = reader.send("/requests/new", **form)
    assert done.status_code == 303
    assert reader.send("/requests/new", **form).headers["Location"] == done.headers["Location"], "once, not twice"


def test_a_form_that_another_site_sends_is_not_filled_in_for_it(world: World) -> None:
    form = {"women": "3", "csrf": "theirs"}
    answer = while_it_fails(Reader(world, POLICE), "/requests/new", form, origin="https://elsewhere.example")
    assert answer.status_code == 403
    assert "theirs" not in answer.text


@pytest.mark.parametrize("path", ["/places", "/board", "/requests", "/sessions", "/"])
def test_any_other_page_has_words_and_telephone_numbers_then(world: World, path: str) -> None:
    reader = Reader(world, ORIGIN if path == "/board" else RECEIVING)
    answer = while_it_fails(reader, path)
    assert (answer.status_code, answer.mimetype) == (503, "text/html")
    assert 'href="tel:112"' in answer.text
    assert answer.headers["Retry-After"]


def test_a_page_of_ours_that_breaks_says_so_in_words(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    reader = Reader(world, POLICE)
    monkeypatch.setattr(world.node.site.sessions, "of", broken)
    answer = reader.get("/sessions")
    assert (answer.status_code, answer.mimetype) == (500, "text/html")
    assert "Something went wrong on our side" in words(answer)
    assert "ZeroDivision" not in answer.text


def test_the_sheets_to_print_are_there_for_everybody_even_then(world: World) -> None:
    answer = while_it_fails(Reader(world, POLICE), "/help/paper")
    assert answer.status_code == 200
    said = words(answer)
    for text in ("Whom to phone", "Urgent request by telephone", "Our places, by telephone", "112", "Luxembourg"):
        assert text in said
    assert answer.text.count("haven-sheet__box") > 15


# Fewer bytes


def test_a_style_sheet_is_packed_for_whoever_can_unpack_it(world: World) -> None:
    address = static_address("haven.css")
    plain, packed = asked(world, address), asked(world, address, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert len(packed.data) < len(plain.data) / 5


@pytest.mark.parametrize(
    ("site", "packed"),
    [("same-origin", True), ("none", True), ("cross-site", False), ("same-site", False), ("", False)],
)
def test_a_page_is_packed_only_for_a_request_that_no_other_site_made(world: World, site: str, packed: bool) -> None:
    headers = {"Accept-Encoding": "gzip, br"} | ({"Sec-Fetch-Site": site} if site else {})
    answer = Reader(world, POLICE).get("/sessions", headers=headers)
    assert (answer.headers.get("Content-Encoding") == "gzip") is packed


def test_the_stream_and_documents_for_programs_are_not_packed(world: World) -> None:
    reader = Reader(world, ORIGIN)
    headers = {"Accept-Encoding": "gzip", "Sec-Fetch-Site": "same-origin"}
    answer = reader.client.get("/live", base_url=world.node.settings.url, headers=headers, buffered=False)
    assert "Content-Encoding" not in answer.headers
    answer.close()
    said = world.send(
        POLICE, "POST", "/api/v1/relocation-requests", json=AN_OPENING, headers={"Accept-Encoding": "gzip"}
    )
    assert "Content-Encoding" not in said.headers
