"""Whoever looks around: the first page, and its links that fill in a name."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from werkzeug.test import TestResponse

from services.config import Settings
from services.gateway.principals import GUESTS
from services.node import Node
from tests.gateway.world import ORIGIN, World
from tests.pages.reader import Reader, words


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the shelters it comes with: a guest is one of its accounts."""
    node = Node(Settings(data_dir=tmp_path_factory.mktemp("guests")))
    yield node
    node.stop()


def opened(node: Node, path: str, language: str = "en") -> TestResponse:
    client = node.app.test_client()
    client.set_cookie("haven-language", language, domain="127.0.0.1")
    return client.get(path, base_url=node.settings.url, headers={"Accept": "text/html"})


def test_the_first_page_leads_to_every_guest_and_tells_no_password(node: Node) -> None:
    page = opened(node, "/").get_data(as_text=True)
    assert re.findall(r'href="/sign-in\?as=([\w.-]+)"', page) == list(GUESTS)
    assert not any(secret in page for secret in node.logins.values())


@pytest.mark.parametrize(("language", "said"), [("nl", "Rondkijken"), ("fr", "Faire un tour"), ("de", "Sich umsehen")])
def test_a_guest_is_welcome_in_each_language(node: Node, language: str, said: str) -> None:
    assert said in words(opened(node, "/", language))


def test_nobody_looks_around_where_people_sign_in_for_real() -> None:
    from services.gateway.pages import add_pages
    from services.gateway.pages.frame import Site

    assert Site.__dataclass_fields__["guests"].default is tuple
    assert inspect.signature(add_pages).parameters["guests"].default is tuple
    source = (Path(__file__).parents[2] / "services/gateway_process.py").read_text()
    assert "guests" not in source


@pytest.mark.parametrize("guest", GUESTS)
def test_a_link_fills_in_the_name_and_leaves_the_password_to_them(node: Node, guest: str) -> None:
    client, url = node.app.test_client(), node.settings.url
    sent = client.get(f"/sign-in?as={guest}", base_url=url)
    assert parse_qs(urlsplit(sent.headers["Location"]).query)["login_hint"] == [guest]
    form = client.get(sent.headers["Location"], base_url=url).get_data(as_text=True)
    assert re.search(rf'name="username"[^>]* value="{guest}"', form)
    assert not re.search(r'name="password"[^>]* value=', form)
    csrf = re.search(r'name="csrf"[^>]*value="(\w+)"', form)
    assert csrf
    fields = {"username": guest, "password": node.logins[guest], "csrf": csrf[1]}
    came_back = client.post(sent.headers["Location"], base_url=url, data=fields, headers={"Origin": url})
    assert came_back.headers["Location"].startswith(f"{url}/signed-in?code=")


@pytest.mark.parametrize("name", ["", "a b", '"><script>', "x" * 81, "-leading", "a%0d%0ab"])
def test_a_name_that_is_none_is_not_passed_on(node: Node, name: str) -> None:
    client = node.app.test_client()
    sent = client.get("/sign-in", query_string={"as": name}, base_url=node.settings.url)
    assert "login_hint" not in sent.headers["Location"]


def test_what_somebody_puts_into_the_address_of_the_form_stays_text(node: Node) -> None:
    client, url = node.app.test_client(), node.settings.url
    address = client.get("/sign-in", base_url=url).headers["Location"]
    form = client.get(f'{address}&login_hint="><script>alert(1)</script>', base_url=url).get_data(as_text=True)
    assert "<script>" not in form
    assert "&#34;&gt;&lt;script&gt;" in form


def test_whoever_is_signed_in_becomes_somebody_else_by_the_link(world: World) -> None:
    reader = Reader(world, ORIGIN)
    assert reader.get("/sign-in").headers["Location"] == "/"
    assert "login_hint=nl-coordinator-1" in reader.get("/sign-in?as=nl-coordinator-1").headers["Location"]
    assert world.node.sessions.find(reader.cookie) is not None, "until they are signed in"
