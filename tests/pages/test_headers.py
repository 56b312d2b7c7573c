"""What every page tells the browser, one header at a time: pages of people, of strangers, that went wrong, files, the demo sign-in."""

import json
import re
from typing import Any

import pytest
from werkzeug.test import TestResponse

from services.gateway.pages.offline import static_address
from tests.gateway.world import MISSING, POLICE, World
from tests.pages.reader import Reader

PLACES = (
    "/",
    "/requests",
    "/requests/new",
    "/sessions",
    f"/requests/{MISSING}",
    "/help",
    "/help/paper",
    "/offline/nl",
    "/app.nl.webmanifest",
)
EVERYWHERE = pytest.mark.parametrize(
    "path", [*PLACES, "/worker.nl.js", static_address("haven.css"), "/nowhere", "/oauth", "sign-in"]
)
ON_PAGES = pytest.mark.parametrize("path", PLACES)


@pytest.fixture
def get(world: World) -> Any:
    reader = Reader(world, POLICE)

    def get(path: str, **options: Any) -> TestResponse:
        if path == "sign-in":  # the form of the demo sign-in, which is not one of the pages
            client, url = world.node.app.test_client(), world.node.settings.url
            return client.get(client.get("/sign-in", base_url=url).headers["Location"], base_url=url)
        return reader.client.get(path, base_url=world.node.settings.url, headers={"Accept": "text/html"}, **options)

    return get


def policy_of(answer: TestResponse) -> dict[str, list[str]]:
    rules = [rule.split() for rule in answer.headers["Content-Security-Policy"].split(";") if rule.strip()]
    return {name: values for name, *values in rules}


@EVERYWHERE
def test_nothing_is_taken_for_another_kind_of_file(get: Any, path: str) -> None:
    assert get(path).headers["X-Content-Type-Options"] == "nosniff"


@EVERYWHERE
def test_no_window_of_another_site_keeps_hold_of_ours(get: Any, path: str) -> None:
    assert get(path).headers["Cross-Origin-Opener-Policy"] == "same-origin"


@EVERYWHERE
def test_no_other_site_can_take_ours_into_its_own(get: Any, path: str) -> None:
    assert get(path).headers["Cross-Origin-Resource-Policy"] == "same-origin"


@EVERYWHERE
def test_place_camera_and_microphone_are_shut(get: Any, path: str) -> None:
    shut = get(path).headers["Permissions-Policy"]
    for what in ("geolocation", "camera", "microphone"):
        assert f"{what}=()" in shut


@EVERYWHERE
def test_no_other_site_learns_where_somebody_came_from(get: Any, path: str) -> None:
    assert get(path).headers["Referrer-Policy"] in ("same-origin", "no-referrer")


@EVERYWHERE
def test_no_frame_no_base_and_nothing_by_default(get: Any, path: str) -> None:
    policy = policy_of(get(path))
    for rule in ("default-src", "frame-ancestors"):
        assert policy[rule] == ["'none'"], rule


@EVERYWHERE
def test_nobody_says_what_serves_it(get: Any, path: str) -> None:
    assert "Server" not in get(path).headers
    assert "X-Powered-By" not in get(path).headers


@ON_PAGES
def test_only_scripts_that_this_very_page_names_run(get: Any, path: str) -> None:
    once, twice = policy_of(get(path))["script-src"], policy_of(get(path))["script-src"]
    assert once != twice
    assert [re.sub(r"nonce-[\w-]{22}", "nonce", value) for value in once] == ["'nonce'", "'strict-dynamic'"]


@ON_PAGES
def test_text_becomes_script_or_markup_by_two_policies_alone(get: Any, path: str) -> None:
    policy = policy_of(get(path))
    assert policy["require-trusted-types-for"] == ["'script'"]
    assert policy["trusted-types"] == ["htmx", "haven"]


@ON_PAGES
def test_everything_else_comes_from_us_or_from_nowhere(get: Any, path: str) -> None:
    policy = policy_of(get(path))
    for what in ("style-src", "font-src", "img-src", "connect-src", "manifest-src", "worker-src"):
        assert policy[what] == ["'self'"], what
    for what in ("base-uri", "object-src"):
        assert policy[what] == ["'none'"], what
    assert "unsafe" not in json.dumps(policy)


def test_a_form_leads_to_us_and_to_the_issuer(get: Any, world: World) -> None:
    assert policy_of(get("/sessions"))["form-action"] == ["'self'", world.node.settings.url]


@pytest.mark.parametrize(
    "path",
    ["/requests", "/sessions", f"/requests/{MISSING}", "/help", "/help/paper", "/nowhere", "sign-in", "/sign-in"],
)
def test_what_anybody_saw_is_not_kept(get: Any, path: str) -> None:
    assert get(path).headers["Cache-Control"] == "no-store"


def test_a_file_is_kept_for_ever_under_an_address_that_changes_with_it(get: Any) -> None:
    answer = get(static_address("haven.css"))
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert re.fullmatch(r"/static/haven\.css\?[0-9a-f]{12}", static_address("haven.css"))


def test_over_tls_the_browser_is_told_to_come_back_that_way_alone(
    world: World, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Strict-Transport-Security" not in get("/help").headers, "the embedded node has no TLS"
    monkeypatch.setattr(world.node.site.login, "url", "https://haven.example")
    assert get("/help").headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


def test_over_tls_a_cookie_is_nobody_elses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.node.site.login, "url", "https://haven.example")
    client = world.node.app.test_client()
    cookie = client.get("/sign-in", base_url="https://haven.example").headers["Set-Cookie"]
    assert cookie.startswith("__Host-")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
