"""The broker and the identity provider that all tests share, and parts of a test's own, to be killed, frozen and wiped."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.artifacts import PartUnavailable
from deploy.parts import Kafka, PostgreSQL
from deploy.process import Part

REALM = Path(__file__).resolve().parents[2] / "deploy" / "keycloak" / "realm.json"


@pytest.fixture(scope="session")
def kafka(shared_part) -> str:
    """The address of the shared broker. Use a `topic_prefix`; who wants to break it takes `own_kafka`."""
    return os.environ.get("HAVEN_TEST_KAFKA") or shared_part("kafka")["bootstrap"]


@pytest.fixture
def topic_prefix() -> str:
    """Topics and groups that begin with it are this test's alone."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture(scope="session")
def keycloak(shared_part) -> str:
    """The address of the shared Keycloak, which has our realm."""
    return os.environ.get("HAVEN_TEST_KEYCLOAK") or shared_part("keycloak", "--realm", str(REALM))["url"]


@pytest.fixture(scope="session")
def chromium(without_part) -> str:
    """The program of a browser, which no part of ours brings along."""
    program = os.environ.get("HAVEN_TEST_CHROMIUM") or shutil.which("chromium")
    if program is None:
        without_part("chromium", FileNotFoundError("there is none here; install Debian's package chromium"))
    return program


@pytest.fixture
def own_part(without_part) -> Iterator[Callable[[type[Part]], Part]]:
    """Starts parts in new folders, and takes both away afterwards."""
    started: list[Part] = []

    def start(make: Callable[[Path], Part]) -> Part:
        # Not tmp_path: under root PostgreSQL runs as another user, whom pytest's own folders do not let through.
        part = make(Path(tempfile.mkdtemp(prefix="haven-part-")))
        started.append(part)
        try:
            return part.start()
        except PartUnavailable as failure:
            without_part(part.name, failure)

    yield start
    for part in started:
        part.kill()
        shutil.rmtree(part.folder)


@pytest.fixture
def own_kafka(own_part) -> Kafka:
    """A running broker of the test's own, always native."""
    return own_part(Kafka)


@pytest.fixture
def own_postgresql(own_part) -> PostgreSQL:
    """A running server of the test's own, always native, that waits for the disk."""
    return own_part(PostgreSQL)
