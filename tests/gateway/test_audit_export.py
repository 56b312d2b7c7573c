"""The trail as a file: everything that was asked for and nothing else, written down before its first byte, harmless in a
spreadsheet, and seen to be broken off when it is."""

import csv
import http.client
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import OperationalError
from waitress.server import create_server
from werkzeug.test import TestResponse

from events.gateway import RecordConsulted, TrailQuery
from events.vocabulary import Stage, Verb
from services.gateway import audit_export
from services.gateway.audit_export import COLUMNS, Format, harmless, written
from services.gateway.read_model import Json, ReadModel
from tests.gateway.world import AUDITOR, CALLBACK, ORIGIN, RENDEZVOUS, STEPS, World, is_problem

WHY = {"Haven_Purpose": "lawfulness_check"}


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file here takes several reads."""
    monkeypatch.setattr("services.gateway.audit_routes.AT_ONCE", 7)


def exported(world: World, query: str) -> TestResponse:
    world.later(seconds=1)
    return world.get(AUDITOR, f"/audit/export?{query}", **WHY)


def as_table(answer: TestResponse) -> list[dict[str, str]]:
    assert answer.status_code == 200
    return list(csv.DictReader(io.StringIO(answer.get_data(as_text=True), newline="")))


def as_lines(answer: TestResponse) -> list[Json]:
    assert answer.status_code == 200
    assert answer.data.endswith(b"\n")
    return [json.loads(line) for line in answer.data.decode().splitlines()]


def every_page(world: World, query: str) -> list[Json]:
    """What the API says of it page by page."""
    entries: list[Json] = []
    path = f"/audit/events?{query}&limit=100"
    while path:
        answer = world.get(AUDITOR, path, **WHY)
        entries += world.done(answer)["events"]
        link = answer.headers.get("Link", "")
        path = link[len("</api/v1") : link.index(">")] if link else ""
    return entries


@pytest.fixture(scope="module")
def request_id(world: World) -> str:
    return world.bring_to(Stage.ARRIVED)


def test_both_forms_hold_every_entry_that_was_asked_for(world: World, request_id: str) -> None:
    wanted = [entry for entry in every_page(world, f"case={request_id}") if entry["actor"]["role"] != "auditor"]
    assert len(wanted) > 30, "several reads"
    lines = as_lines(exported(world, f"format=jsonl&case={request_id}"))
    assert [entry for entry in lines if entry["actor"]["role"] != "auditor"] == wanted
    table = [row for row in as_table(exported(world, f"format=csv&case={request_id}")) if row["role"] != "auditor"]
    for row, entry in zip(table, wanted, strict=True):
        assert json.loads(row.pop("detail")) == entry.pop("detail")
        assert row == {
            name: str(value or "") for name, value in (entry | entry.pop("actor")).items() if name != "actor"
        }
        assert row["time"].endswith("Z")


def test_every_filter_narrows_the_file(world: World, request_id: str) -> None:
    told = as_table(exported(world, f"format=csv&case={request_id}&verb=disclosure"))
    assert {row["verb"] for row in told} == {"disclosure"}
    mine = as_lines(exported(world, f"format=jsonl&actor={ORIGIN.person}"))
    assert {entry["actor"]["person"] for entry in mine} == {ORIGIN.person}
    tomorrow = (world.now + timedelta(days=1)).isoformat().replace("+", "%2B")
    assert exported(world, f"format=jsonl&since={tomorrow}").data == b""
    assert exported(world, f"format=csv&since={tomorrow}").data.count(b"\r\n") == 1


def test_that_it_was_made_is_written_down_with_its_purpose_before_the_first_byte(world: World, request_id: str) -> None:
    head = world.log.head()
    token = world.token(AUDITOR)
    answer = world.client.get(
        f"/api/v1/audit/export?format=csv&case={request_id}",
        base_url=world.node.settings.url,
        headers={"Authorization": f"Bearer {token}", "Haven-Purpose": "criminal_proceedings"},
        buffered=False,
    )
    (noted,) = world.appended_since(head)  # and not a line was read yet
    assert isinstance(noted.data, RecordConsulted)
    assert (noted.data.resource, noted.data.subjects) == ("export", (request_id,))
    assert noted.data.purpose == "criminal_proceedings"
    assert noted.actor.person == AUDITOR.person
    assert next(iter(answer.response))
    answer.close()


def test_a_file_holds_what_was_there_when_it_was_asked_for(world: World) -> None:
    first = as_lines(exported(world, "format=jsonl"))
    second = as_lines(exported(world, "format=jsonl"))
    assert second[: len(first)] == first
    assert [entry["detail"]["resource"] for entry in second[len(first) :]] == ["export"]
    assert second[-1]["actor"]["person"] == AUDITOR.person


def test_it_is_a_file_that_nobody_keeps_or_shows(world: World) -> None:
    for form, media_type in (("csv", "text/csv"), ("jsonl", "application/jsonl")):
        answer = exported(world, f"format={form}")
        assert answer.mimetype == media_type
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"].startswith('attachment; filename="haven-trail-2')
        assert answer.headers["Content-Disposition"].endswith(f'Z.{form}"')


def test_nothing_sealed_is_in_it(world: World, request_id: str) -> None:
    world.done(world.disclose(ORIGIN, request_id, "callback", "call_back"))
    world.later(seconds=1)
    for form in Format:
        text = exported(world, f"format={form}&case={request_id}").get_data(as_text=True)
        assert "disclosed" in text
        for secret in (CALLBACK, RENDEZVOUS, STEPS):
            assert secret not in text


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("format=xlsx", "format"),
        ("", "format"),
        ("format=csv&verb=peek", "verb"),
        ("format=csv&case=a%20b", "case"),
        ("format=csv&limit=5", "query"),
        ("format=csv&since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_is_no_entry(world: World, query: str, field: str) -> None:
    head = world.log.head()
    assert is_problem(exported(world, query), 400)["field"] == field
    assert is_problem(world.get(AUDITOR, "/audit/export?format=csv"), 400)["field"] == "Haven-Purpose"
    assert world.log.head() == head


def test_nobody_else_takes_the_trail_along(world: World) -> None:
    assert is_problem(world.get(ORIGIN, "/audit/export?format=csv", **WHY), 403)


# Spreadsheets


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "\uff0d1", "\uff0b1", "\uff201"]
)
@pytest.mark.attack(54)
def test_what_a_spreadsheet_would_compute_is_made_text(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "person-1", '{"a":-1}', "2026-11-26T03:00:00Z", "1"])
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def an_entry(**changes: str) -> Json:
    actor = {"person": "person-1", "role": "auditor", "organisation": "organisation-1", "country": "BE"}
    named = {"time": "2026-11-26T03:00:00.000000Z", "source": "gateway", "stream": "s", "version": 1, "event_id": "e"}
    said = {"type": "t", "verb": "v", "case_id": None, "correlation_id": "c", "causation_id": "c", "detail": {}}
    return {**named, **said, "actor": actor | changes}


@pytest.mark.attack(52, 54)
def test_a_table_stays_a_table_whatever_an_id_holds() -> None:
    wicked = '=cmd|"/c calc"!A0'
    (row,) = as_rows(Format.CSV, [an_entry(person=wicked, organisation='a"b,c;d\r\ne\tf', country="é")])
    assert row["person"] == f"'{wicked}"
    assert row["organisation"] == 'a"b,c;d\r\ne\tf'
    assert row["country"] == "é"
    assert row["case_id"] == ""


def as_rows(form: Format, entries: list[Json]) -> list[dict[str, str]]:
    text = b"".join(written(form, entries, lambda _after: [])).decode()
    assert text.startswith('"time","source"')
    assert text.endswith("\r\n")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_table_has_the_fields_the_api_has(world: World) -> None:
    (entry,) = world.done(world.get(AUDITOR, "/audit/events?limit=1", **WHY))["events"]
    assert set(COLUMNS) == {*entry, *entry["actor"]} - {"actor"}


# What is written down of it


EVERY_FILTER = (
    "actor=synthetic.be-police-antwerp-1&organisation=be-police-antwerp&verb=consultation"
    "&since=2026-11-23T00:00:00%2B01:00&until=2026-11-30T00:00:00%2B01:00"
)


@pytest.mark.parametrize("path", ["/audit/export?format=csv&", "/audit/events?"])
def test_the_entry_of_a_read_of_the_trail_names_every_filter(world: World, request_id: str, path: str) -> None:
    begun = world.log.head()
    assert world.get(AUDITOR, f"{path}case={request_id}&{EVERY_FILTER}", **WHY).status_code == 200
    (read,) = [event.data for event in world.appended_since(begun)]
    assert isinstance(read, RecordConsulted)
    assert read.subjects == (request_id,)
    assert read.narrowed_to == TrailQuery(
        case_id=request_id,
        person="synthetic.be-police-antwerp-1",
        organisation="be-police-antwerp",
        verb=Verb.CONSULTATION,
        since=datetime(2026, 11, 22, 23, tzinfo=UTC),
        until=datetime(2026, 11, 29, 23, tzinfo=UTC),
    )


def test_whoever_takes_everything_narrowed_it_to_nothing(world: World) -> None:
    begun = world.log.head()
    exported(world, "format=csv")
    (read,) = [event.data for event in world.appended_since(begun)]
    assert isinstance(read, RecordConsulted)
    assert read.narrowed_to is None


def test_whom_the_auditor_looks_at_is_for_the_auditors_alone(world: World, request_id: str) -> None:
    """Who follows a case learns that its trail was read, and not that it was because of them."""
    world.get(AUDITOR, f"/audit/events?case={request_id}&actor={ORIGIN.person}", **WHY)
    world.later(seconds=1)
    entries = world.read(ORIGIN, request_id, "/timeline").json["events"]
    reads = [entry["detail"] for entry in entries if entry["detail"].get("resource") == "trail"]
    assert reads[-1]["subjects"] == [request_id]
    assert not any("narrowed_to" in read for read in reads)
    seen = world.done(world.get(AUDITOR, f"/audit/events?case={request_id}&order=newest&limit=100", **WHY))["events"]
    assert ORIGIN.person in [(entry["detail"].get("narrowed_to") or {}).get("person") for entry in seen]


# When it breaks off


@pytest.fixture
def server(world: World) -> Iterator[tuple[str, int]]:
    server = create_server(world.node.app, host="127.0.0.1", port=0, threads=2)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield "127.0.0.1", int(server.effective_port)
    server.close()
    thread.join(5)


def test_a_file_that_broke_off_does_not_look_whole(
    world: World, server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trail, reads = ReadModel.trail, iter(range(100))

    def gone_at_the_third(*arguments: object, **named: object) -> list[Json]:
        if next(reads) == 2:
            raise OperationalError("synthetic", {}, Exception("gone"))
        return trail(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ReadModel, "trail", gone_at_the_third)
    monkeypatch.setattr(world.node.gateway.verifier, "verify", lambda *_: world.node.gateway.verifier.principal(token))
    token = world.token(AUDITOR)
    asked = http.client.HTTPConnection(*server, timeout=10)
    asked.request("GET", "/api/v1/audit/export?format=jsonl", headers={"Haven-Purpose": "lawfulness_check"})
    answer = asked.getresponse()
    assert answer.status == 200
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    asked.close()


def test_a_database_that_is_gone_at_the_start_is_a_problem_and_no_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> list[Json]:
        raise OperationalError("synthetic", {}, Exception("gone"))

    monkeypatch.setattr(ReadModel, "trail", gone)
    head = world.log.head()
    assert exported(world, "format=csv").status_code in (500, 503)
    assert world.log.head() == head


def test_the_size_of_a_read_changes_nothing(world: World, request_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(at_once: int) -> list[str]:
        monkeypatch.setattr("services.gateway.audit_routes.AT_ONCE", at_once)
        answer = exported(world, f"format=jsonl&case={request_id}&verb=alteration")
        return [entry["event_id"] for entry in as_lines(answer)]

    assert lines(1) == lines(3) == lines(audit_export.AT_ONCE)
