"""What browsers get: ours to give, from no host but ours, small, and running under the policy that every page has."""

import gzip
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "services/gateway/static"
STYLES = ("haven.css", "swagger-ui.css")
OUR_SCRIPTS = ("haven.js", "live.js", "kept.js", "worker.js", "govuk.js", "api-docs.js")
TYPES = {
    ".png": "image/png",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
POLICY = (
    "default-src 'none'; script-src 'nonce-{}' 'strict-dynamic'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "font-src 'self'; form-action 'self'; require-trusted-types-for 'script'; trusted-types htmx haven"
)


def text(name: str) -> str:
    return (STATIC / name).read_text()


def files() -> list[str]:
    return sorted(path.name for path in STATIC.iterdir())


# Ours to give


def test_every_file_is_the_one_that_was_built() -> None:
    listed = [line.split("  ") for line in text("checksums.txt").splitlines()]
    assert [name for _, name in listed] == [name for name in files() if name != "checksums.txt"]
    assert [[hashlib.sha256((STATIC / name).read_bytes()).hexdigest(), name] for _, name in listed] == listed


def test_the_notice_names_every_package_with_its_version_and_licence() -> None:
    lock = json.loads((ROOT / "frontend/package-lock.json").read_text())["packages"]
    vendored = json.loads((ROOT / "frontend/package.json").read_text())["dependencies"]
    named = re.findall(r"^=+\n(\S+) (\S+)\nLicence: (.+)$", text("NOTICE"), re.MULTILINE)
    assert named == [
        (name, version, lock[f"node_modules/{name}"]["license"]) for name, version in sorted(vendored.items())
    ]
    for words in ("SIL OPEN FONT LICENSE", "The MIT License", "Zero-Clause BSD", "Apache License", "Crown Copyright"):
        assert words in text("NOTICE")


def test_nothing_that_only_gov_uk_may_use_is_among_it() -> None:
    served = [name for name in files() if name != "NOTICE"]  # which says that it is not
    assert [name for name in served if re.search(rb"GDS Transport|crest", (STATIC / name).read_bytes())] == []


# From no host but ours


@pytest.mark.parametrize("name", STYLES)
def test_a_style_sheet_fetches_only_files_that_lie_beside_it(name: str) -> None:
    assert "@import" not in text(name)
    fetched = re.findall(r"url\(\s*[\"']?([^\"')]*)", text(name))
    assert fetched
    assert [one for one in fetched if one not in files()] == []


def test_no_script_names_where_its_sources_lie_or_whom_to_ask() -> None:
    for name in files():
        if name.endswith((".css", ".js")):
            assert "sourceMappingURL" not in text(name), name
            assert "validator.swagger.io" not in text(name), name
    for name in (*OUR_SCRIPTS, "htmx.js"):
        assert re.findall(r"https?://", text(name)) == [], name


def test_the_icon_says_nothing() -> None:
    assert re.findall(r"<(\w+)", text("favicon.svg")) == ["svg", "circle"]


@pytest.mark.parametrize("name", OUR_SCRIPTS)
def test_our_scripts_write_no_markup_run_no_text_and_keep_nothing(name: str) -> None:
    sinks = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|localStorage|document\.cookie"
    )
    assert re.findall(sinks, text(name)) == []
    assert "sessionStorage" not in text(name)


# Small


def test_a_page_costs_what_a_phone_at_night_can_load() -> None:
    size = {name: len(gzip.compress((STATIC / name).read_bytes())) for name in ("haven.css", "htmx.js", "haven.js")}
    assert size["haven.css"] < 14_000, size
    assert sum(size.values()) < 30_000, size
    assert len(text("haven.js")) < 4_000


# Working


def test_what_stays_hidden_until_a_script_runs_has_that_script() -> None:
    waiting = set(re.findall(r"\.govuk-frontend-supported \.govuk-([a-z]+)", text("haven.css")))
    assert waiting == {"checkboxes", "radios"}
    assert [name for name in waiting if f'"govuk-{name}"' not in text("govuk.js")] == []


class Site(ThreadingHTTPServer):
    """One page under the policy, the static files, and a list of what was posted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.body = ""
        self.scripts: tuple[str, ...] = ("haven.js",)
        self.now = datetime.now(UTC)
        self.speed = 1
        self.posted: list[tuple[str, str]] = []

    def page(self) -> str:
        scripts = "".join(f'<script nonce="page" src="/static/{name}"></script>' for name in self.scripts)
        return (
            f'<!doctype html><html lang="en" data-now="{self.now.isoformat()}" data-speed="{self.speed}"><head><title>-</title>'
            f'<link rel="icon" href="/static/favicon.svg"><link rel="stylesheet" href="/static/haven.css">{scripts}</head>'
            f"<body>{self.body}</body></html>"
        )


class Answering(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/static/"):
            self._answer(TYPES[Path(name).suffix], (STATIC / name).read_bytes())
        elif name == "openapi.json":
            described = {"openapi": "3.1.0", "info": {"title": "T", "version": "1", "description": "**as** written"}}
            self._answer("application/json", json.dumps(described | {"paths": {}}).encode())
        elif name == "elsewhere":
            self._answer("text/html", b'<title>Weather</title><link rel="icon" href="/static/favicon.svg">sunny')
        else:
            self._answer("text/html", self.server.page().encode())

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.posted.append((self.path, sent))
        if self.path == "/exit":
            self.send_response(303)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            # A fragment has a policy with a nonce of its own; the extension puts the page's in its place.
            body = '<p id="came"><a hx-get="/never" hx-trigger="never" hx-nonce="answer">a</a></p>'
            self._answer("text/html", body.encode(), nonce="answer")

    def _answer(self, kind: str, body: bytes, nonce: str = "page") -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Security-Policy", POLICY.format(nonce))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield site
    site.shutdown()
    site.server_close()


@pytest.fixture(scope="module")
def browser(without_part) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = os.environ.get("HAVEN_TEST_CHROMIUM") or shutil.which("chromium")
    if program is None:
        without_part("chromium", FileNotFoundError("there is none here; install Debian's package chromium"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, site: Site, complains_of: str = "", **settings: Any) -> Iterator[Any]:
    """The site's page; whatever else the browser complains of is a failure."""
    context = browser.new_context(**settings)
    complaints: list[str] = []
    page = context.new_page()
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto(site.url + "/first")
        page.goto(site.url + "/case")
        yield page
    finally:
        context.close()
    assert bool(complaints) == bool(complains_of), complaints
    assert [one for one in complaints if complains_of not in one] == []


EXIT = """<form class="haven-exit" method="post" action="/exit" data-leaving="Leaving" data-press-two="twice more"
data-press-one="once more"><input type="hidden" name="csrf" value="token"><input name="action" type="hidden" value="trap">
<span role="status"></span><button class="haven-exit__button" data-exit-to="/elsewhere">Leave</button></form>
<p>who and where</p><input id="field">"""


@pytest.mark.real
def test_leaving_empties_the_page_ends_the_session_and_leaves_no_way_back(browser: Any, site: Site) -> None:
    site.body = EXIT
    with opened(browser, site) as page:
        seen = page.evaluate("document.querySelector('.haven-exit__button').click(), document.body.innerText")
        assert seen.strip() == "Leaving"
        page.wait_for_url("**/elsewhere")
        page.go_back()
        assert page.url.endswith("/first")
    assert site.posted == [("/exit", "csrf=token&action=trap")]


@pytest.mark.real
def test_leaving_works_without_javascript(browser: Any, site: Site) -> None:
    site.body = EXIT
    with opened(browser, site, java_script_enabled=False) as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/elsewhere")
    assert site.posted == [("/exit", "csrf=token&action=trap")]


@pytest.mark.real
def test_shift_three_times_leaves_and_capital_letters_do_not(browser: Any, site: Site) -> None:
    site.body = EXIT
    with opened(browser, site) as page:
        page.focus("#field")
        for key in ("Shift+A", "Shift+B", "Shift+C", "Shift", "a", "Shift"):
            page.keyboard.press(key)
        assert page.inner_text("[role=status]") == "twice more"
        page.keyboard.press("Shift")
        assert page.inner_text("[role=status]") == "once more"
        assert site.posted == []
        page.keyboard.press("Shift")
        page.wait_for_url("**/elsewhere")
    assert len(site.posted) == 1


@pytest.mark.real
def test_a_clock_counts_on_the_servers_time_at_the_servers_speed(browser: Any, site: Site) -> None:
    site.now = datetime(2031, 3, 1, tzinfo=UTC)  # the browser's own clock says something else
    site.speed = 600

    def clock(minutes: float) -> str:
        due = (site.now + timedelta(minutes=minutes)).isoformat()
        return f'<time datetime="{due}" data-clock data-past="overdue by">server</time>'

    site.body = clock(6000) + clock(-90)
    with opened(browser, site) as page:
        running, past = (page.locator("time").nth(number) for number in (0, 1))
        page.wait_for_timeout(2_000)
        hours, minutes, _ = (int(part) for part in running.inner_text().split(":"))
        assert 5_400 < hours * 60 + minutes < 5_985
        assert running.get_attribute("data-state") == "running"
        assert re.fullmatch(r"overdue by \d+:\d\d:\d\d", past.inner_text())
        assert past.get_attribute("data-state") == "past"


@pytest.mark.real
def test_an_error_summary_takes_the_focus_and_leads_to_the_field(browser: Any, site: Site) -> None:
    site.body = """<div class="govuk-error-summary" tabindex="-1"><a href="#yes">Say whether</a></div>
        <fieldset><legend>Whether?</legend><input type="radio" id="yes"><label for="yes">Yes</label></fieldset>"""
    with opened(browser, site) as page:
        assert page.evaluate("document.activeElement.className") == "govuk-error-summary"
        page.click("a")
        assert page.evaluate("document.activeElement.id") == "yes"


@pytest.mark.real
def test_htmx_swaps_under_the_policy_what_carries_the_nonce(browser: Any, site: Site) -> None:
    site.scripts = ("haven.js", "htmx.js", "govuk.js")
    site.body = '<div id="there"><button hx-post="/part" hx-target="#there" hx-nonce="page">Go</button></div>'
    with opened(browser, site) as page:
        page.click("button")
        page.wait_for_selector("#came")
        assert page.locator("#came a").get_attribute("hx-nonce") == "page"
        assert page.evaluate("document.body.className") == "govuk-frontend-supported"


@pytest.mark.real
def test_htmx_does_nothing_for_what_carries_no_nonce(browser: Any, site: Site) -> None:
    site.scripts = ("htmx.js",)
    site.body = '<button id="injected" hx-post="/part">Go</button>'
    with opened(browser, site, complains_of="blocked <button#injected>") as page:
        page.wait_for_selector("#injected:not([hx-post])")
        page.click("button")
    assert site.posted == []


@pytest.mark.real
def test_the_api_is_shown_under_the_policy(browser: Any, site: Site) -> None:
    site.body = (
        '<link rel="stylesheet" href="/static/swagger-ui.css"><div id="api-docs" data-url="/openapi.json"></div>'
        '<script nonce="page" src="/static/swagger-ui.js"></script><script nonce="page" src="/static/api-docs.js"></script>'
    )
    with opened(browser, site) as page:
        page.get_by_text("**as** written").wait_for(timeout=30_000)


OVERRIDES = re.compile(r"govuk-![\w-]+")


def test_what_a_template_overrides_is_in_the_style_sheet() -> None:
    """Of the overrides of govuk-frontend only those of letters are built: the others weigh more than our own components."""
    templates = (ROOT / "services/gateway/templates").glob("*.html")
    used = {name for template in templates for name in OVERRIDES.findall(template.read_text())}
    assert used
    assert [name for name in used if f".{name.replace('!', chr(92) + '!')}" not in text("haven.css")] == []


@pytest.mark.parametrize(
    ("name", "size", "ground"), [("icon-192.png", 192, 0), ("icon-512.png", 512, 0), ("icon-maskable.png", 512, 255)]
)
@pytest.mark.real
def test_an_icon_is_the_disc_and_nothing_else(browser: Any, site: Site, name: str, size: int, ground: int) -> None:
    """Every point is the ground, the disc's blue, or at its edge between them; a launcher may cut off the outer tenth."""
    with opened(browser, site) as page:
        found = page.evaluate(
            """async ([name, ground]) => {
                const icon = await createImageBitmap(await (await fetch(`/static/${name}`)).blob());
                const canvas = new OffscreenCanvas(icon.width, icon.height).getContext("2d");
                canvas.drawImage(icon, 0, 0);
                const points = canvas.getImageData(0, 0, icon.width, icon.height).data;
                const middle = icon.width / 2, corner = [...points.slice(0, 4)];
                let strange = 0, furthest = 0;
                for (let at = 0; at < points.length; at += 4) {
                    const [red, green, blue, alpha] = points.slice(at, at + 4);
                    if (alpha === 0 || (ground && red === 255 && green === 255 && blue === 255)) continue;
                    const away = Math.hypot((at / 4) % icon.width + 0.5 - middle, Math.floor(at / 4 / icon.width) + 0.5 - middle);
                    furthest = Math.max(furthest, away / middle);
                    if (blue < red || (alpha === 255 && !ground && Math.abs(red - 0x1d) > 3)) strange++;
                }
                return [icon.width, icon.height, corner, strange, furthest];
            }""",
            [name, ground],
        )
    width, height, corner, strange, furthest = found
    assert (width, height) == (size, size)
    assert corner == ([255, 255, 255, 255] if ground else [0, 0, 0, 0])
    assert strange == 0
    assert furthest < (0.7 if ground else 0.9)
