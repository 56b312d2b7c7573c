"""The pages of the distributed runtime, with Keycloak saying who somebody is: in a browser, in and out."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.artifacts import PartUnavailable
from deploy.stack import Stack

WHO = "be-coordinator-1"


@pytest.fixture(scope="module")
def stack(without_part: Any) -> Iterator[Stack]:
    # Not tmp_path: under root PostgreSQL runs as another user, whom pytest's own folders do not let through.
    folder = tempfile.mkdtemp(prefix="haven-pages-")
    try:
        with Stack(folder, keycloak=True, secure=False, fsync=False) as stack:
            stack.sign_in_at_keycloak()
            yield stack
    except PartUnavailable as missing:
        without_part("keycloak", missing)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_somebody_signs_in_at_keycloak_and_out_again_everywhere(stack: Stack, chromium: str) -> None:
    from playwright.sync_api import sync_playwright

    password = json.loads((stack.data / "demo-logins.json").read_text())[WHO]
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        context = browser.new_context(base_url=stack.url)
        page = context.new_page()
        foreign: list[str] = []
        assert stack.keycloak is not None
        ours = (stack.url, stack.keycloak.url, "data:")
        page.on("request", lambda asked: foreign.append(asked.url) if not asked.url.startswith(ours) else None)

        page.goto("/sign-in")
        assert page.url.startswith(stack.keycloak.url)
        page.fill("#username", WHO)
        page.fill("#password", password)
        page.click("#kc-login")
        page.wait_for_url(f"{stack.url}/board")
        kept = {cookie["name"]: cookie for cookie in context.cookies(stack.url) if cookie["path"] == "/"}
        assert kept.keys() == {"haven"}
        assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"

        page.locator("form[action='/sign-out'] button").click()
        page.wait_for_url(f"{stack.url}/")
        page.goto("/board")
        assert page.url.startswith(stack.keycloak.url), "nobody is signed in any more, here or there"
        assert page.locator("#password").is_visible()
        assert foreign == []
        browser.close()
