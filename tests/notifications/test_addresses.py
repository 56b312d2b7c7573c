"""The operator's file: what it may say, and that a mistake in it is told without telling what is secret in it."""

from datetime import time
from pathlib import Path

import pytest

from events.vocabulary import Role
from reference import load
from services.config import BadSetting, Settings
from services.notifications.addresses import Organisation, load_organisations
from services.operations.doctor import Finding
from services.operations.installation import checks

SECRET = "CURLEW-77"
GOOD = f"""
# whom we ring

[organisations.nl-shelter-01]
role = "shelter"
country = "NL"
language = "nl"
quiet_hours = "22:00-07:00"
[organisations.nl-shelter-01.channels]
desk-phone = "json://user:{SECRET}@127.0.0.1:1/desk"
mailbox = "mailto://127.0.0.1:1?smtp=127.0.0.1&from=haven@haven.example&to=desk@shelter.example"

[organisations.nl-coordinator]
role = "coordinator"
country = "NL"
language = "fr"
channels = {{ duty = "json://user:{SECRET}@127.0.0.1:1/duty" }}
"""


def read(folder: Path, text: str, mode: int = 0o600) -> dict[str, Organisation]:
    file = folder / "notify-file"
    file.write_text(text)
    file.chmod(mode)
    return load_organisations(Settings(notify_file="notify-file", secrets_dir=folder), load().countries)


def test_the_file_says_who_is_rung_where_and_when(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    shelter, coordinator = found["nl-shelter-01"], found["nl-coordinator"]
    assert (shelter.role, shelter.language, list(shelter.channels)) == (Role.SHELTER, "nl", ["desk-phone", "mailbox"])
    assert shelter.quiet is not None
    assert (shelter.quiet.begins, shelter.quiet.ends, shelter.quiet.zone.key) == (time(22), time(7), "Europe/Amsterdam")
    assert (shelter.party, coordinator.party) == ("shelter:nl-shelter-01", "coordinator:NL")
    assert coordinator.quiet is None


def test_a_file_that_names_nobody_is_fine(tmp_path: Path) -> None:
    assert read(tmp_path, "# nobody yet") == {}


def test_it_may_lie_elsewhere_than_the_secrets(tmp_path: Path) -> None:
    read(tmp_path, GOOD)
    settings = Settings(notify_file=str(tmp_path / "notify-file"))
    assert set(load_organisations(settings, load().countries)) == {"nl-shelter-01", "nl-coordinator"}


SHELTER = "organisation nl-shelter-01: "
MISTAKES = [
    ('role = "shelter"', 'role = "referrer"', SHELTER + "role must be one of shelter, coordinator, guardian"),
    ('country = "NL"\nlanguage = "nl"', 'language = "nl"', SHELTER + "country must be one of BE, NL, LU"),
    ('language = "nl"', 'language = "xx"', SHELTER + "language must be one of nl, fr, de, lb, en"),
    ('"22:00-07:00"', '"22:00-22:00"', SHELTER + "quiet_hours must be"),
    ('"22:00-07:00"', '"10pm-7am"', SHELTER + "quiet_hours must be"),
    ('"22:00-07:00"', "2200", SHELTER + "quiet_hours must be"),
    ("desk-phone =", '"Desk phone" =', SHELTER + "the name of a channel"),
    ("json://user", "jsonn://user", SHELTER + "channel desk-phone: no address that Apprise knows"),
    ("1/desk", "1/desk?verify=no", SHELTER + "channel desk-phone: verify=no"),
    (f'"json://user:{SECRET}@127.0.0.1:1/desk"', "[]", SHELTER + "channel desk-phone: must be one address"),
    ('quiet_hours = "22', 'quiet = "22', SHELTER + "holds channels, country, language, quiet_hours, role and nothing"),
    ("[organisations.nl-shelter-01]", "[organisations]\nx = 1\n[organisations.nl-shelter-01]", "organisation x: holds"),
    ("[organisations.nl-coordinator]", '[organisations."a b"]', "holds a name that is no id"),
    ("# whom we ring", "everybody = 1", "holds something else than"),
    (f'{SECRET}@127.0.0.1:1/desk"', f"{SECRET}@127.0.0.1:1/desk", "is no TOML at line 10, column"),
    ("mailbox =", f'desk-phone = "{SECRET}"\nmailbox =', "is no TOML at line 11, column"),
    ("channels = {", "channel = {", "organisation nl-coordinator: holds"),
    (
        f'channels = {{ duty = "json://user:{SECRET}@127.0.0.1:1/duty" }}',
        "",
        "organisation nl-coordinator: needs a table",
    ),
]


@pytest.mark.parametrize(("said", "instead", "told"), MISTAKES)
def test_a_mistake_is_told_by_its_place_and_shows_no_address(
    tmp_path: Path, said: str, instead: str, told: str
) -> None:
    assert said in GOOD
    with pytest.raises(BadSetting) as refused:
        read(tmp_path, GOOD.replace(said, instead, 1))
    text = str(refused.value)
    assert text.startswith(f"HAVEN_NOTIFY_FILE: {told}")
    assert SECRET not in text
    assert "127.0.0.1" not in text
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("mode", [0o604, 0o620])
def test_a_file_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BadSetting, match="chmod 600"):
        read(tmp_path, GOOD, mode)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="notify-file cannot be read"):
        load_organisations(Settings(notify_file="notify-file", secrets_dir=tmp_path), load().countries)


# The doctor


def examined(folder: Path, text: str) -> list[Finding]:
    (folder / "notify-file").write_text(text)
    (folder / "notify-file").chmod(0o600)
    settings = Settings(notify_file="notify-file", secrets_dir=folder)
    return [*checks(settings, 1)["notifications"]()]


def test_the_doctor_names_who_is_rung_by_which_service_and_whom_nobody_rings(tmp_path: Path) -> None:
    found = {finding.name: finding for finding in examined(tmp_path, GOOD)}
    assert found["rings nl-shelter-01"].finding == "shelter of NL: desk-phone (json), mailbox (mailto)"
    assert {name: finding.ok for name, finding in found.items()} == {
        "rings nl-shelter-01": True,
        "rings nl-coordinator": True,
        "rings BE": False,
        "rings LU": False,
    }
    assert "HAVEN_NOTIFY_FILE" in found["rings BE"].remedy
    assert not any(secret in str(found) for secret in (SECRET, "127.0.0.1", "shelter.example"))


def test_the_doctor_tells_a_mistake_and_shows_no_address(tmp_path: Path) -> None:
    (found,) = examined(tmp_path, GOOD.replace('language = "nl"', 'language = "xx"'))
    assert (found.ok, found.finding) == (False, "HAVEN_NOTIFY_FILE")
    assert "organisation nl-shelter-01: language" in found.remedy
    assert SECRET not in str(found)


def test_without_a_file_there_is_nothing_to_examine(tmp_path: Path) -> None:
    assert "notifications" not in checks(Settings(secrets_dir=tmp_path), 1)
