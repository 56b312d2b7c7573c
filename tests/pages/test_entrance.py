"""Coming in and going out of the pages."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from services.gateway.pages.sessions import IDLE, KeptForm, Session
from services.gateway.principals import Principal
from tests.gateway.world import CALLBACK, HOST, POLICE, World
from tests.pages.reader import CSRF, Reader, words


@pytest.fixture
def police(world: World) -> Reader:
    return Reader(world, POLICE)


def test_whoever_is_not_signed_in_sees_the_first_page_and_nothing_else(world: World) -> None:
    client = world.node.app.test_client()
    url = world.node.settings.url
    first = client.get("/", base_url=url)
    assert first.status_code == 200
    assert "Sign in" in words(first)
    sent_away = client.get("/sessions", base_url=url)
    assert sent_away.status_code == 303
    assert sent_away.headers["Location"].startswith(f"{url}/oauth/authorize?")
    assert "state=" in sent_away.headers["Location"]
    assert "code_challenge_method=S256" in sent_away.headers["Location"]


@pytest.mark.attack(64)
def test_no_page_may_be_kept_framed_or_scripted_from_elsewhere(police: Reader) -> None:
    answer = police.get("/sessions")
    policy = answer.headers["Content-Security-Policy"]
    nonce = re.search(r"'nonce-([\w-]+)'", policy)
    assert nonce
    assert f'nonce="{nonce[1]}"' in answer.get_data(as_text=True)
    for rule in (
        "default-src 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "base-uri 'none'",
    ):
        assert rule in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert nonce[1] not in police.get("/sessions").headers["Content-Security-Policy"]


@pytest.mark.attack(36)
def test_somebody_who_signs_out_is_out_at_once(police: Reader, world: World) -> None:
    assert police.send("/sign-out").status_code == 200
    assert world.node.sessions.find(police.cookie) is None
    assert police.get("/sessions").status_code == 303


def test_the_exit_ends_the_session_and_leads_to_the_weather(police: Reader, world: World) -> None:
    answer = police.send("/exit")
    assert answer.status_code == 200
    assert 'http-equiv="refresh" content="0;url=https://www.meteo.be/"' in answer.get_data(as_text=True)
    assert world.node.sessions.find(police.cookie) is None


@pytest.mark.parametrize("path", ["/sign-out", "/exit", "/sessions/end"])
@pytest.mark.parametrize("forged", ["csrf", "origin", "site"])
@pytest.mark.attack(37)
def test_a_form_from_elsewhere_changes_nothing(world: World, path: str, forged: str) -> None:
    police = Reader(world, POLICE)
    headers = {"Origin": "https://elsewhere.example" if forged == "origin" else world.node.settings.url}
    if forged == "site":
        headers["Sec-Fetch-Site"] = "cross-site"
    answer = police.client.post(
        path,
        base_url=world.node.settings.url,
        data={"csrf": "forged" if forged == "csrf" else CSRF, "which": "all"},
        headers=headers,
    )
    assert answer.status_code == 403
    assert "too old" in words(answer)
    assert world.node.sessions.find(police.cookie) is not None


@pytest.mark.attack(13, 46)
def test_a_revoked_person_is_out_everywhere_with_the_next_page(world: World) -> None:
    who = HOST
    reader = Reader(world, who)
    world.node._token_store.revoke(who.person, datetime.now(UTC) + timedelta(seconds=60))
    assert reader.get("/sessions").status_code == 303
    assert world.node.sessions.find(reader.cookie) is None


class Asked:
    """The pages as they are with an identity provider elsewhere: after a while it is asked about everybody."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.login = world.node.site.login
        monkeypatch.setattr(self.login, "asks_again", True)
        self.later = timedelta()
        monkeypatch.setattr(self.login, "now", lambda: datetime.now(UTC) + self.later)


@pytest.mark.parametrize(
    ("minutes", "method", "asked"),
    [(4, "GET", False), (5, "GET", True), (9, "POST", False), (10, "POST", True)],
)
@pytest.mark.attack(36, 46)
def test_the_issuer_is_asked_from_time_to_time_if_somebody_may_still_be_here(
    world: World, monkeypatch: pytest.MonkeyPatch, minutes: int, method: str, asked: bool
) -> None:
    reader = Reader(world, POLICE)
    issuer = Asked(world, monkeypatch)
    issuer.later = timedelta(minutes=minutes, seconds=1 if asked else -5)
    answer = reader.get("/sessions") if method == "GET" else reader.send("/sessions/end", which="none")
    sent_to_issuer = "/oauth/authorize?" in answer.headers.get("Location", "")
    assert sent_to_issuer is asked
    assert "max_age" not in answer.headers.get("Location", "")


@pytest.fixture
def locked(police: Reader, world: World, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Somebody who left a form open for too long."""
    later = datetime.now(UTC) + IDLE + timedelta(seconds=5)
    monkeypatch.setattr(world.node.sessions, "_now", lambda: later)
    return police


def kept_by(reader: Reader) -> KeptForm | None:
    """What waits for whoever comes back from the issuer."""
    cookie = reader.client.get_cookie("haven-signing-in", domain="127.0.0.1")
    assert cookie is not None
    waiting = reader.world.node.sessions.find(cookie.value)
    assert waiting is not None
    return waiting.kept


def test_a_form_from_a_locked_session_waits_for_the_same_person(locked: Reader, world: World) -> None:
    heads = world.heads()
    sent = locked.send("/requests/new", women="2", needs="wheelchair", callback=CALLBACK, command="c")
    assert sent.status_code == 303
    assert "/oauth/authorize?" in sent.headers["Location"]
    kept = kept_by(locked)
    assert kept is not None
    assert (kept.path, kept.person) == ("/requests/new", POLICE.person)
    assert set(kept.fields) == {("women", "2"), ("needs", "wheelchair"), ("command", "c")}, "and nothing that is sealed"
    assert world.heads() == heads


def test_a_forged_form_from_a_locked_session_is_refused(locked: Reader) -> None:
    assert locked.send("/requests/new", csrf="another", women="2").status_code == 403


def test_a_form_that_is_no_page_of_its_own_is_not_kept(locked: Reader) -> None:
    assert locked.send("/sessions/end", which="all").status_code == 303
    assert kept_by(locked) is None


def test_what_came_back_is_said_above_the_form(police: Reader, world: World) -> None:
    session = world.node.sessions.find(police.cookie)
    assert session is not None
    session.kept = KeptForm(path="/requests/new", fields=(("women", "2"),), person=POLICE.person)
    world.node.sessions.keep(police.cookie, session)
    page = police.get("/requests/new")
    assert "nothing was sent yet" in words(page)
    assert (
        'id="women" name="women" type="text" inputmode="numeric" maxlength="2" autocomplete="off" value="2"'
        in page.text
    )
    assert "nothing was sent yet" not in words(police.get("/requests"))


def test_the_language_is_chosen_once_and_an_address_never_leads_elsewhere(police: Reader) -> None:
    answer = police.get("/language/nl?to=/sessions")
    assert answer.headers["Location"] == "/sessions"
    assert 'lang="nl"' in police.get("/sessions").get_data(as_text=True)
    for address in (
        "https://elsewhere.example/",
        "//elsewhere.example",
        "/\\elsewhere.example",
        "/%2f%2felsewhere",
        "x",
    ):
        assert police.get("/language/nl", query_string={"to": address}).headers["Location"] == "/"


def test_a_session_of_somebody_who_has_not_come_back_from_the_issuer_opens_nothing(world: World) -> None:
    cookie = world.node.sessions.begin(Session(csrf="c"))
    client = world.node.app.test_client()
    client.set_cookie("haven", cookie, domain="127.0.0.1")
    assert client.get("/sessions", base_url=world.node.settings.url).status_code == 303


@pytest.mark.attack(33)
def test_coming_back_without_having_begun_is_refused(world: World) -> None:
    client = world.node.app.test_client()
    answer = client.get("/signed-in?code=x&state=y", base_url=world.node.settings.url)
    assert answer.status_code == 400
    assert "not begun here" in words(answer)


@pytest.mark.attack(27)
def test_nobody_outside_can_say_on_whose_behalf_they_ask(world: World) -> None:
    principal: Principal = world.node.gateway.verifier.principal(world.token(POLICE))
    for name in ("haven.principal", "Haven-Principal", "haven_principal", "HTTP_haven.principal"):
        answer = world.client.get("/api/v1/relocation-requests", headers={name: repr(principal)})
        assert answer.status_code == 401


def test_an_address_that_does_not_exist_has_words_for_people_and_a_document_for_programs(world: World) -> None:
    client = world.node.app.test_client()
    url = world.node.settings.url
    page = client.get("/nowhere", base_url=url, headers={"Accept": "text/html"})
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "nothing here for you" in words(page)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for path, accept in (("/nowhere", "application/json"), ("/api/v1/nowhere", "text/html")):
        answer = client.get(path, base_url=url, headers={"Accept": accept})
        assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("code", "text"),
    [("nl", "Wachtwoord"), ("fr", "Mot de passe"), ("de", "Passwort"), ("lb", "Passwuert"), ("en", "Password")],
)
def test_the_demo_sign_in_speaks_the_language_that_was_chosen_and_can_be_asked_for_another(
    world: World, code: str, text: str
) -> None:
    client, url = world.node.app.test_client(), world.node.settings.url
    client.set_cookie("haven-language", code, domain="127.0.0.1")
    form = client.get(client.get("/sign-in", base_url=url).headers["Location"], base_url=url)
    assert f'<html lang="{code}">' in form.text
    assert text in words(form)
    other = "fr" if code != "fr" else "de"
    chooser = re.search(rf'href="(/language/{other}\?to=[^"]+)"', form.text)
    assert chooser
    back = client.get(chooser[1].replace("&amp;", "&"), base_url=url).headers["Location"]
    assert back.startswith("/oauth/authorize?")
    again = client.get(back, base_url=url)
    assert again.status_code == 200
    assert f'<html lang="{other}">' in again.text
