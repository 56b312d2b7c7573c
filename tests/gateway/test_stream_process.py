"""The two processes that serve people in the distributed runtime: together they serve what the embedded node does, and nothing twice."""

from pathlib import Path

import pytest
from flask import Flask

from deploy.secrets import make
from events import sealing
from events.log.engines import sqlite_engine
from services import connections, gateway_process
from services.config import read_settings
from services.gateway_process import GatewayProcess
from tests.gateway.world import World

EVERYBODYS = {"/healthz", "/readyz", "/api/v1/openapi.json", "/static/<path:filename>"}


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, GatewayProcess]:
    secrets = tmp_path / "secrets"
    make(secrets, lambda *_: None)
    engine = sqlite_engine(":memory:")
    sealing.metadata.create_all(engine)
    monkeypatch.setattr(connections, "postgresql_engine", lambda *_, **__: engine)
    monkeypatch.setattr(gateway_process, "latest", lambda: None)
    settings = read_settings(
        {
            "HAVEN_DATABASE": "postgresql://127.0.0.1:1/haven",
            "HAVEN_SECRETS_DIR": str(secrets),
            "HAVEN_DATA_DIR": str(tmp_path / "data"),
        }
    )
    gateway = GatewayProcess(settings)
    (secrets / "key-file").unlink()  # whoever serves streams has none
    return {"gateway": gateway, "stream": GatewayProcess(settings, only_streams=True)}


def paths(app: Flask) -> set[str]:
    return {rule.rule for rule in app.url_map.iter_rules()}


def test_streams_are_served_by_one_process_and_everything_else_by_the_other(
    world: World, processes: dict[str, GatewayProcess]
) -> None:
    gateway, stream = (paths(processes[kind].app) for kind in ("gateway", "stream"))
    assert stream - EVERYBODYS == {"/live", "/api/v1/stream"}
    assert gateway & stream == EVERYBODYS
    assert gateway | stream == paths(world.node.app)


def test_the_document_of_the_api_says_the_same_at_both(processes: dict[str, GatewayProcess]) -> None:
    documents = [one.app.test_client().get("/api/v1/openapi.json").json for one in processes.values()]
    assert documents[0] == documents[1]
    assert "/api/v1/stream" in documents[0]["paths"]


def test_a_stream_of_nobody_is_refused_there_as_everywhere(processes: dict[str, GatewayProcess]) -> None:
    assert processes["stream"].app.test_client().get("/api/v1/stream").status_code == 401
