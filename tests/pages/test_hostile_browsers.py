"""What a page gets from a browser that somebody else has a hand in: forged forms, forged addresses, forged text, a planted session."""

import json
import re
import unicodedata
from html import unescape
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from services.code_flow import Token
from services.gateway.pages import PAGES, login
from services.gateway.pages.frame import Page, own_path
from services.gateway.pages.sessions import session_id_of
from services.gateway.read_model import Json
from tests.gateway.world import HOST, MISSING, ORIGIN, POLICE, PREFIX, RECEIVING, Who, World, is_problem
from tests.pages.reader import CSRF, Reader, words
from tests.pages.test_every_page_is_guarded import EVERY_FORM, EVERY_PAGE_WITH_AN_END, SOMEBODY, address

EVIL = "evil.example"


def somebody_for(page: Page) -> Who:
    return SOMEBODY[page.roles[0]]


# Forms from elsewhere

FORGED: dict[str, dict[str, str]] = {
    "another site": {"Origin": f"https://{EVIL}"},
    "no origin that can be named": {"Origin": "null"},
    "an empty origin": {"Origin": ""},
    "another port": {"Origin": "http://127.0.0.1:9999"},
    "another scheme": {"Origin": "https://127.0.0.1:8080"},
    "a name that begins alike": {"Origin": f"http://127.0.0.1:8080.{EVIL}"},
    "two origins": {"Origin": f"http://127.0.0.1:8080 https://{EVIL}"},
    "a frame of another site": {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "cross-site"},
    "a neighbour's site": {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-site"},
}


@pytest.mark.attack(37)
@EVERY_FORM
def test_no_form_from_elsewhere_does_anything_although_it_has_the_token(world: World, page: Page) -> None:
    reader = Reader(world, somebody_for(page))
    for how, headers in FORGED.items():
        before = world.heads()
        answer = reader.client.post(
            address(page), base_url=world.node.settings.url, data={"csrf": CSRF, "which": "all"}, headers=headers
        )
        assert answer.status_code == 403, how
        assert world.heads() == before, how
        assert world.node.sessions.find(reader.cookie) is not None, how


@pytest.mark.attack(37)
@EVERY_FORM
def test_no_form_without_an_origin_does_anything_without_the_token(world: World, page: Page) -> None:
    reader, other = Reader(world, somebody_for(page)), Reader(world, somebody_for(page))
    session = world.node.sessions.find(other.cookie)
    assert session is not None
    session.csrf = "token-of-the-other-session"
    world.node.sessions.keep(other.cookie, session)
    for token in ("", "x", CSRF[:-1], CSRF + "x", "token-of-the-other-session", "ünïcode"):
        before = world.heads()
        answer = reader.client.post(
            address(page), base_url=world.node.settings.url, data={"csrf": token, "which": "all"}
        )
        assert answer.status_code == 403, token
        assert world.heads() == before
    in_the_address = f"{address(page)}?csrf={CSRF}"
    assert reader.client.post(in_the_address, base_url=world.node.settings.url).status_code == 403


# Addresses that lead elsewhere

ELSEWHERE = [
    f"https://{EVIL}/",
    f"//{EVIL}",
    f"///{EVIL}",
    f"/\\{EVIL}",
    f"\\\\{EVIL}",
    f"/\t/{EVIL}",
    f"/\n/{EVIL}",
    f" //{EVIL}",
    f"/%2f{EVIL}",
    f"/%5c{EVIL}",
    f"/..//{EVIL}",
    f"/./../..//{EVIL}",
    f"http:{EVIL}",
    f"http:///{EVIL}",
    f"ok@{EVIL}",
    f"/@{EVIL}\r\nLocation: https://{EVIL}",
    "javascript:alert(1)",
    "data:text/html,x",
    "/\u2215\u2215" + EVIL,
    "/\uff0f\uff0f" + EVIL,
    f"/?to=//{EVIL}#//{EVIL}",
    "",
    "\0",
]


@pytest.mark.attack(32)
@pytest.mark.parametrize("wanted", ELSEWHERE)
def test_an_address_never_leads_elsewhere(world: World, wanted: str) -> None:
    for path in (own_path(wanted), own_path(quote(wanted))):
        leads_to = urlsplit(path)
        assert not leads_to.scheme
        assert not leads_to.netloc
        assert path.startswith("/")
        assert not path.startswith(("//", "/\\"))
    client = world.node.app.test_client()
    url = world.node.settings.url
    chosen = client.get("/language/fr", query_string={"to": wanted}, base_url=url)
    assert urlsplit(chosen.headers["Location"]).netloc == ""
    begun = client.get("/sign-in", query_string={"to": wanted}, base_url=url)
    assert urlsplit(begun.headers["Location"]).netloc == urlsplit(url).netloc
    cookie = begun.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    session = world.node.sessions.find(cookie)
    assert session is not None
    assert EVIL not in session.came_from or session.came_from.startswith("/?")


@pytest.mark.attack(32)
@pytest.mark.parametrize("wanted", ELSEWHERE)
def test_the_page_a_form_names_is_one_of_ours(world: World, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form says to which page it belongs: where a person comes back to after signing in again."""
    monkeypatch.setattr(world.node.site.login, "must_ask_again", lambda *_: True)
    answer = Reader(world, POLICE).send("/requests/new", page=wanted)
    cookie = next(
        value.partition("=")[2].partition(";")[0]
        for value in answer.headers.getlist("Set-Cookie")
        if value.startswith("haven-signing-in=")
    )
    session = world.node.sessions.find(cookie)
    assert session is not None
    assert urlsplit(session.came_from).netloc == ""
    assert session.came_from.startswith("/")
    assert not session.came_from.startswith(("//", "/\\"))


# Sessions that somebody planted


@pytest.fixture
def coming_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes back from the issuer has signed in there, as the police."""

    def finished(*_: Any) -> Token:
        return Token(access_token=world.token(POLICE), token_type="Bearer", expires_in=300)

    monkeypatch.setattr(login, "finish", finished)


def sign_in(world: World, client: Any) -> str:
    """The cookie of a new session, for whoever uses this browser."""
    client.get("/sign-in?as=be-police-antwerp-1", base_url=world.node.settings.url)
    back = client.get("/signed-in?code=x&state=y", base_url=world.node.settings.url)
    assert back.status_code == 200, words(back)
    [given] = [one for one in back.headers.getlist("Set-Cookie") if one.startswith("haven=")]
    assert "HttpOnly" in given
    assert "SameSite=Strict" in given
    return given.partition("=")[2].partition(";")[0]


@pytest.mark.attack(36)
def test_a_session_that_was_there_before_the_sign_in_is_not_the_one_after_it(world: World, coming_back: None) -> None:
    attacker = Reader(world, HOST)
    client = world.node.app.test_client()
    client.set_cookie("haven", attacker.cookie, domain="127.0.0.1")
    mine = sign_in(world, client)
    assert mine != attacker.cookie
    assert world.node.sessions.find(attacker.cookie) is None, "nobody brings a session into a sign-in"
    client = world.node.app.test_client()
    client.set_cookie("haven", "a-cookie-that-an-attacker-chose", domain="127.0.0.1")
    assert sign_in(world, client) != "a-cookie-that-an-attacker-chose"
    assert world.node.sessions.find("a-cookie-that-an-attacker-chose") is None


@pytest.mark.attack(33)
def test_somebody_elses_answer_of_the_issuer_signs_nobody_in_here(world: World, coming_back: None) -> None:
    """Login CSRF: the attacker's code and state, in a browser that began no sign-in, or whose sign-in is over."""
    victim = world.node.app.test_client()
    url = world.node.settings.url
    assert victim.get("/signed-in?code=attackers&state=attackers", base_url=url).status_code == 400
    sign_in(world, victim)
    again = victim.get("/signed-in?code=attackers&state=attackers", base_url=url)
    assert again.status_code == 400, "one sign-in, once"
    assert not [one for one in again.headers.getlist("Set-Cookie") if one.startswith("haven=")]


@pytest.mark.attack(36)
def test_after_sign_out_the_cookie_and_back_show_nothing(world: World) -> None:
    reader = Reader(world, POLICE)
    reader.send("/sign-out")
    reader.client.set_cookie("haven", reader.cookie, domain="127.0.0.1")
    assert reader.get("/requests").status_code == 303
    assert world.node.sessions.find(reader.cookie) is None
    assert session_id_of(reader.cookie) not in {one.session_id for one in world.node.sessions.of(POLICE.person)}


@pytest.mark.attack(36)
def test_a_cookie_of_any_shape_opens_nothing(world: World) -> None:
    for cookie in ("", "x" * 4000, "ü", "a,b", '"quoted"', "%00", "../../etc/passwd", "' OR 1=1 --"):
        client = world.node.app.test_client(use_cookies=False)
        answer = client.get(
            "/requests",
            base_url=world.node.settings.url,
            headers={"Cookie": f"haven={cookie}".encode("latin-1").decode("latin-1")},
        )
        assert answer.status_code == 303, cookie
        assert "/oauth/authorize" in answer.headers["Location"]


# Text

TEXTS = {
    "an override of the direction": "desk \u202e7",
    "isolates": "desk \u2066x\u2069",
    "NUL": "desk \0 7",
    "an escape": "desk \x1b[2J",
    "a C1 control": "desk \x85 7",
}
KEPT = {
    "a zero-width space": "desk\u200b7",
    "a joiner, as Persian needs it": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "composed": unicodedata.normalize("NFC", "Réception Zoë"),
    "decomposed": unicodedata.normalize("NFD", "Réception Zoë"),
    "letters of another alphabet that look alike": "\u0421all the d\u0435sk",
    "a thousand characters of four bytes": "\U0001f3e0" * 1000,
    "a template": "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7} <%= 7*7 %>",
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg onload=alert(1)>",
    "a statement": "'; DROP TABLE events; -- %' OR '1'='1",
    "a format": "%s %(x)s %n {0} {x.__class__}",
    "a formula": '=HYPERLINK("http://evil.example","x")',
    "a line of a log": "x\n2026-11-26 ERROR forged",
}


def open_by_api(world: World, text: str) -> Any:
    body = {"urgency": "standard", "danger_country": "BE", "household": {"women": 1}, "callback": text}
    return world.ask(POLICE, "POST", "/relocation-requests", body)


def open_on_a_page(world: World, reader: Reader, text: str) -> Any:
    html = reader.get("/requests/new").get_data(as_text=True)
    command = html.partition('name="command" value="')[2].partition('"')[0]
    return reader.send(
        "/requests/new", command=command, urgency="standard", danger_country="BE", women="1", callback=text
    )


@pytest.mark.attack(50)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_that_reads_otherwise_than_it_is_is_refused_and_nothing_is_kept(world: World, text: str) -> None:
    before = world.heads()
    assert is_problem(open_by_api(world, text), 400)["field"] == "callback"
    answer = open_on_a_page(world, Reader(world, POLICE), text)
    assert answer.status_code == 400
    assert world.heads() == before


@pytest.mark.attack(50, 52, 54)
@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_any_other_text_is_kept_to_the_letter_and_shown_as_text(world: World, text: str) -> None:
    def disclosed(request_id: str) -> Json:
        return world.done(world.disclose(POLICE, request_id, "callback", "call_back"))

    by_api = world.done(open_by_api(world, text))["request_id"]
    assert disclosed(by_api)["value"] == text
    reader = Reader(world, POLICE)
    led_to = open_on_a_page(world, reader, text)
    on_page = led_to.headers["Location"].rpartition("/")[2]
    assert disclosed(on_page)["value"].splitlines() == text.strip().splitlines()
    form = reader.get(f"/requests/{on_page}/disclosures").get_data(as_text=True)
    command = form.partition('name="command" value="')[2].partition('"')[0]
    shown = reader.send(f"/requests/{on_page}/disclosures", command=command, field="callback", reason="call_back")
    html = shown.get_data(as_text=True)
    assert shown.status_code == 200, words(shown)
    assert "<script>alert" not in html
    assert "onerror=alert" not in html.replace("&#34;", '"').partition("<main")[0]
    said = unescape(html)
    assert all(line in said for line in text.strip().splitlines()), "to the letter, and nothing worked out"
    assert re.search(r"<img|<svg", html) is None


@pytest.mark.attack(50)
def test_one_character_too_many_is_refused_however_many_bytes(world: World) -> None:
    for one in ("x", "\U0001f3e0"):
        is_problem(open_by_api(world, one * 1001), 400)
        assert open_on_a_page(world, Reader(world, POLICE), one * 1001).status_code == 400


RAW = [
    b"%ed%a0%80",
    b"%c0%af",
    b"%f8%88%80%80%80",
    b"%ff%fe",
    b"%00",
    b"%",
    b"%zz",
    b"=" * 1000,
    b"&" * 5000,
    b"a=" * 2000,
]


@pytest.mark.attack(49, 50)
@EVERY_FORM
def test_no_bytes_in_a_form_break_a_page(world: World, page: Page) -> None:
    reader = Reader(world, somebody_for(page))
    names = b"callback steps rendezvous which command page reason field proposal_hash day time escort ask".split()
    for raw in RAW:
        data = b"csrf=" + CSRF.encode() + b"&" + b"&".join(name + b"=" + raw for name in names)
        answer = reader.client.post(
            address(page),
            base_url=world.node.settings.url,
            data=data,
            headers={"Origin": world.node.settings.url, "Content-Type": "application/x-www-form-urlencoded"},
        )
        assert answer.status_code < 500, (raw[:20], words(answer))


@pytest.mark.attack(49, 51, 54)
@EVERY_PAGE_WITH_AN_END
def test_no_query_and_no_header_breaks_a_page(world: World, page: Page) -> None:
    if page.method != "GET":
        return
    reader = Reader(world, somebody_for(page))
    queries = (
        "cursor=%00",
        "cursor=%ed%a0%80",
        "case=' OR 1=1",
        "day=9999-99-99",
        "day=0001-01-01",
        "purpose={{7*7}}",
        "limit=1e400",
        "ask=%ff",
    )
    for query in queries:
        answer = reader.get(f"{address(page)}?{query}&purpose=self_monitoring")
        assert answer.status_code < 500, (query, words(answer))
        assert "49" not in re.findall(r"\{\{7\*7\}\}|\b49\b", answer.get_data(as_text=True)) or query[:7] != "purpose"
    for name in (
        "Accept-Language",
        "Cookie",
        "HX-Request",
        "Last-Event-ID",
        "If-None-Match",
        "Range",
        "X-Forwarded-Host",
    ):
        answer = reader.get(address(page), headers={name: "\xff%00{{7*7}};q=nan,*;q=1e400"})
        assert answer.status_code < 500, name


# What a form may not decide


@pytest.mark.attack(42)
def test_a_form_decides_nothing_but_what_it_asks_for(world: World) -> None:
    reader = Reader(world, POLICE)
    html = reader.get("/requests/new").get_data(as_text=True)
    command = html.partition('name="command" value="')[2].partition('"')[0]
    more = {
        "organisation": "be-labour-inspectorate",
        "country": "NL",
        "role": "coordinator",
        "person": ORIGIN.person,
        "stage": "confirmed",
        "request_id": MISSING,
        "id": MISSING,
        "confirmed_by": ORIGIN.person,
        "expires_at": "9999-12-31T00:00:00Z",
        "opened_at": "2020-01-01T00:00:00Z",
        "haven.principal": "x",
    }
    sent = reader.send(
        "/requests/new", command=command, urgency="urgent", danger_country="BE", women="1", callback="synthetic", **more
    )
    request_id = sent.headers["Location"].rpartition("/")[2]
    assert request_id != MISSING
    view = world.view(request_id)
    assert view["referrer_organisation"] == POLICE.organisation
    assert view["danger_country"] == "BE"
    assert view["stage"] == "asked"
    assert view["opened_at"].startswith(world.now.strftime("%Y-%m-%d"))


@pytest.mark.attack(38, 45)
def test_a_form_about_a_case_of_others_does_nothing(world: World) -> None:
    request_id = world.open(consented_countries=[])
    before = world.heads()["placement"]
    stranger = Reader(world, RECEIVING)
    for page in PAGES:
        if page.method == "POST" and "<request_id>" in page.path and RECEIVING.role not in page.roles:
            answer = stranger.send(
                page.path.replace("<request_id>", request_id), decision="sign", reason="danger_passed"
            )
            assert answer.status_code == 403, page.path
    assert world.heads()["placement"] == before


# Methods, caches, frames


@pytest.mark.attack(51)
@EVERY_PAGE_WITH_AN_END
def test_only_the_methods_of_a_page_are_served(world: World, page: Page) -> None:
    reader = Reader(world, somebody_for(page))
    for method in ("TRACE", "PUT", "DELETE", "PATCH", "CONNECT", "PROPFIND"):
        before = world.heads()
        answer = reader.client.open(address(page), method=method, base_url=world.node.settings.url)
        assert answer.status_code == 405, method
        assert world.heads() == before
    options = reader.client.open(address(page), method="OPTIONS", base_url=world.node.settings.url)
    assert options.status_code in (200, 405)
    assert not options.data or options.status_code == 405
    assert "Access-Control-Allow-Origin" not in options.headers
    head = reader.client.open(address(page), method="HEAD", base_url=world.node.settings.url)
    assert head.data == b""


@pytest.mark.attack(64)
@EVERY_PAGE_WITH_AN_END
def test_whatever_a_page_answers_is_kept_nowhere_and_framed_nowhere(world: World, page: Page) -> None:
    reader, stranger = Reader(world, somebody_for(page)), world.node.app.test_client()
    url = world.node.settings.url
    at = address(page)
    answers = [
        reader.client.open(at, method=page.method, base_url=url),
        reader.get(
            at,
            headers={"If-None-Match": "*", "Range": "bytes=0-10", "If-Modified-Since": "Thu, 26 Nov 2099 00:00:00 GMT"},
        ),
        stranger.open(at, method=page.method, base_url=url),
        stranger.get(f"{at}/nowhere", base_url=url, headers={"Accept": "text/html"}),
    ]
    for answer in answers:
        assert answer.headers["Cache-Control"].startswith("no-store"), (answer.status_code, at)
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], (answer.status_code, at)
        assert answer.status_code not in (206, 304)
        assert "ETag" not in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.attack(64)
def test_a_program_is_given_no_mark_by_which_to_tell_what_it_may_not_see(world: World) -> None:
    request_id = world.open()
    for who, path in ((HOST, f"/relocation-requests/{MISSING}"), (RECEIVING, "/shelters/nl-shelter-02/units")):
        answer = world.get(who, path)
        assert answer.status_code == 404
        assert not {"ETag", "Last-Modified", "Location", "Link"} & set(answer.headers.keys())
    shown = world.send(POLICE, "GET", f"{PREFIX}/relocation-requests/{request_id}", headers={"If-None-Match": "*"})
    assert shown.status_code == 200, "every look is a look, and written down"
    assert json.loads(shown.data)["request_id"] == request_id
