"""Somebody at the pages, without a browser: cookies, forms, and what a page says."""

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

from werkzeug.test import TestResponse

from services.gateway.pages.sessions import Session
from tests.gateway.world import Who, World

CSRF = "synthetic-form-token"


class Reader:
    """One signed-in person in the world of the gateway's tests. What they send carries the token of their session."""

    def __init__(self, world: World, who: Who, language: str = "en") -> None:
        self.world = world
        self.who = who
        self.client = world.node.app.test_client()
        principal = world.node.gateway.verifier.principal(world.token(who))
        now = int(datetime.now(UTC).timestamp())
        self.cookie = world.node.sessions.begin(Session(csrf=CSRF, principal=principal, checked_at=now))
        self.client.set_cookie("haven", self.cookie, domain="127.0.0.1")
        self.client.set_cookie("haven-language", language, domain="127.0.0.1")

    def get(self, path: str, **options: Any) -> TestResponse:
        headers = {"Accept": "text/html"} | options.pop("headers", {})
        answer = self.client.get(path, base_url=self.world.node.settings.url, headers=headers, **options)
        self.world.core.settle()
        return answer

    def send(self, path: str, **fields: Any) -> TestResponse:
        """Sends a form; `csrf` may be another one."""
        answer = self.client.post(
            path,
            base_url=self.world.node.settings.url,
            data={"csrf": CSRF} | fields,
            headers={"Origin": self.world.node.settings.url},
        )
        self.world.core.settle()
        return answer

    def follow(self, answer: TestResponse) -> TestResponse:
        """The page a form led to."""
        assert answer.status_code == 303, words(answer)
        return self.get(answer.headers["Location"])


def words(answer: TestResponse) -> str:
    """What a page says, without its markup."""
    text = re.sub(r"<(script|style).*?</\1>", " ", answer.get_data(as_text=True), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())
