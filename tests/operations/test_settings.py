"""Settings that cannot be used: refused at start, by name and with the remedy, before anybody relies on them."""

from pathlib import Path

import pytest
from sqlalchemy.dialects import sqlite

from services.clock import real_time
from services.config import BadSetting, read_settings
from services.gateway.dpop import ProofVerifier
from services.gateway.identity import external_identity
from services.gateway.token_store import TokenStore
from services.operations.doctor import redacted


@pytest.mark.parametrize(
    "url",
    ["https://haven.example:99999", "https://haven.example:0", "https://[::1", "https://haven.example/path", "haven"],
)
def test_a_public_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="HAVEN_PUBLIC_URL"):
        read_settings({"HAVEN_PUBLIC_URL": url})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_every_loopback_address_makes_an_address_that_proofs_can_name(host: str) -> None:
    url = read_settings({"HAVEN_HOST": host}).url
    ProofVerifier(public_url=url, is_first_use=lambda *_: True, now=real_time)


@pytest.mark.parametrize(
    "database",
    [
        "postgresql://db:port/haven",
        "postgresql://db/haven?user=somebody",
        "postgresql://db/haven?password=PLOVER-41",
        "postgresql://somebody:PLOVER-41@db/haven",
        "mysql://db/haven",
        "haven",
    ],
)
def test_a_database_that_cannot_be_used_is_refused_and_not_repeated(database: str, tmp_path: Path) -> None:
    settings = read_settings({"HAVEN_DATABASE": database, "HAVEN_SECRETS_DIR": str(tmp_path)})
    secret = tmp_path / "haven_gateway_password"
    secret.write_text("secret")
    secret.chmod(0o600)
    with pytest.raises(BadSetting, match="HAVEN_DATABASE") as refused:
        settings.database_url("haven_gateway")
    assert "PLOVER-41" not in str(refused.value)


def test_a_gateway_for_others_must_know_the_address_they_use() -> None:
    """Without it every proof of a bound token would be about another place, and nobody would know why."""
    settings = read_settings({"HAVEN_ISSUER": "https://sign-in.example", "HAVEN_HOST": "0.0.0.0"})
    engine = type("Nowhere", (), {"dialect": sqlite.dialect()})()
    with pytest.raises(BadSetting, match="HAVEN_PUBLIC_URL"):
        external_identity(settings, ["BE"], TokenStore(engine, real_time), real_time)


def test_the_doctor_shows_nothing_of_credentials_in_a_setting_that_must_not_have_any() -> None:
    settings = read_settings({"HAVEN_DATABASE": "postgresql://db/haven?sslmode=require&user=bob&password=PLOVER-41"})
    shown = redacted(settings)["HAVEN_DATABASE"]
    assert shown == "postgresql://db/haven?sslmode=require&user=…&password=…"
