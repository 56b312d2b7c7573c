"""What was appended is what arrives, and what else arrives can do no harm."""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from events.envelope import CONTRACTS, Event, UnreadableEvent, decode, encode
from events.kafka.wire import (
    EXTENSIONS,
    LARGEST_ATTRIBUTE,
    LARGEST_BODY,
    LARGEST_VERSION,
    Malformed,
    Message,
    to_event,
    to_message,
)

GOLDEN = Path(__file__).resolve().parents[2] / "events" / "golden"
RECORDS = {file.stem: file.read_text().rstrip("\n") for file in sorted(GOLDEN.iterdir())}
DEPARTED = RECORDS["placement.journey.departed.v1"]
CANARY = "Anna-Kerkstraat-12"

every_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


def message_of(record: str) -> Message:
    return to_message(f"any.prefix.{msgspec.json.decode(record)['source']}", record)


def with_header(message: Message, name: str, value: bytes | None) -> Message:
    headers = {**message.headers, name: value}
    return replace(message, headers={name: value for name, value in headers.items() if value is not None})


def reason_of(message: Message) -> str:
    with pytest.raises(Malformed) as refused:
        to_event(message)
    assert str(refused.value) == refused.value.reason
    return refused.value.reason


# There and back


@every_record
def test_a_record_of_the_log_arrives_as_it_was_appended(record: str) -> None:
    event = to_event(message_of(record))
    assert isinstance(event, Event)
    assert event == decode(record)
    assert encode(event) == encode(decode(record))


@every_record
def test_the_body_is_the_data_byte_for_byte(record: str) -> None:
    body = message_of(record).body
    assert record.endswith(f'"data":{body.decode()}}}')


@every_record
def test_the_headers_are_those_of_cloudevents_and_our_extensions_and_no_others(record: str) -> None:
    headers = message_of(record).headers
    document = msgspec.json.decode(record)
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": document["id"].encode(),
        "ce_source": f"/haven/{document['source']}".encode(),
        "ce_type": document["data"]["type"].encode(),
        "ce_subject": document["stream"].encode(),
        "ce_time": document["time"].encode(),
        "content-type": b"application/json",
        "ce_streamversion": str(document["version"]).encode(),
        "ce_correlationid": document["correlation_id"].encode(),
        "ce_causationid": document["causation_id"].encode(),
        "ce_actorperson": document["actor"]["person"].encode(),
        "ce_actorrole": document["actor"]["role"].encode(),
        "ce_actororganisation": document["actor"]["organisation"].encode(),
        "ce_actorcountry": document["actor"]["country"].encode(),
    }


def test_names_of_attributes_are_lower_case_letters_and_digits_of_at_most_twenty() -> None:
    """CloudEvents 1.0.2, naming conventions."""
    assert all(re.fullmatch(r"ce_[a-z0-9]{1,20}", name) for name in EXTENSIONS)
    names = {name for record in RECORDS.values() for name in message_of(record).headers}
    assert all(re.fullmatch(r"ce_[a-z0-9]{1,20}", name) for name in names - {"content-type"})


@every_record
def test_the_key_is_the_stream(record: str) -> None:
    assert message_of(record).key == msgspec.json.decode(record)["stream"].encode()


@every_record
def test_no_header_says_anything_of_what_the_event_says(record: str) -> None:
    document = msgspec.json.decode(record)
    said = {"type": document["data"]["type"], "note": CANARY, "sealed": {"box": CANARY}}
    other = msgspec.json.encode({**document, "data": said}).decode()
    assert message_of(other).headers == message_of(record).headers
    assert CANARY.encode() not in message_of(other).key


def test_an_actor_without_a_country_has_no_header_for_it_and_comes_back_without() -> None:
    document = msgspec.json.decode(DEPARTED)
    document["actor"]["country"] = ""
    record = msgspec.json.encode(document).decode()
    message = message_of(record)
    assert "ce_actorcountry" not in message.headers
    assert encode(to_event(message)) == record


def test_a_header_that_is_not_of_ours_is_left_alone() -> None:
    traced = with_header(message_of(DEPARTED), "ce_traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")
    assert to_event(with_header(traced, "anything", b"\xff")) == decode(DEPARTED)


# Newer releases


def of_a_newer_release() -> str:
    document = msgspec.json.decode(DEPARTED)
    document["data"] = {"type": "placement.journey.departed.v2", "vehicle": {"kind": "Ü", "seats": 2**80}}
    return msgspec.json.encode(document).decode()


def test_what_a_newer_release_appended_passes_through_and_is_parked_whole() -> None:
    message = message_of(of_a_newer_release())
    event = to_event(message)
    assert isinstance(event, UnreadableEvent)
    assert (event.source, event.stream, event.version) == ("placement", "stream-1", 3)
    assert msgspec.json.decode(event.record) == msgspec.json.decode(of_a_newer_release())
    assert message_of(event.record) == message


def test_a_field_added_to_the_record_by_a_newer_release_stops_nobody() -> None:
    document = {**msgspec.json.decode(DEPARTED), "dataschema": "of the future"}
    assert to_event(message_of(msgspec.json.encode(document).decode())) == decode(DEPARTED)


# Hostile messages


@pytest.mark.parametrize(
    "name", ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_streamversion"]
)
@pytest.mark.parametrize("value", [None, b"", b"\xff", b"a\x00b", b"a\nb", b"x" * (LARGEST_ATTRIBUTE + 1)])
def test_without_a_readable_attribute_it_is_no_event(name: str, value: bytes | None) -> None:
    assert reason_of(with_header(message_of(DEPARTED), name, value))


@pytest.mark.parametrize("name", ["ce_actorperson", "ce_actorrole", "ce_actororganisation"])
def test_an_event_of_nobody_is_parked(name: str) -> None:
    assert isinstance(to_event(with_header(message_of(DEPARTED), name, None)), UnreadableEvent)


@pytest.mark.parametrize(
    "version",
    [
        b"0",
        b"-1",
        b"+3",
        b" 3",
        b"3_0",
        b"03",
        "\u0663".encode(),
        b"1.0",
        str(LARGEST_VERSION + 1).encode(),
        b"9" * 299,
    ],
)
def test_a_version_has_one_spelling_and_fits_into_its_column(version: bytes) -> None:
    assert reason_of(with_header(message_of(DEPARTED), "ce_streamversion", version))


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"placement.journey.departed.v1","request_id":"r"},"id":"another"',
        b'{"type":"placement.journey.departed.v1","request_id":"r"},"source":"capacity"',
        b'{"type":"placement.journey.departed.v1","request_id":"r"},"stream":"another","x":{}',
    ],
)
def test_a_body_cannot_overrule_the_headers(body: bytes) -> None:
    assert reason_of(replace(message_of(DEPARTED), body=body)) == "not an event"


def changed(**changes: object) -> Message:
    return replace(message_of(DEPARTED), **changes)


MALFORMED: dict[str, Callable[[], Message]] = {
    "source does not own the topic": lambda: changed(topic="haven.capacity"),
    "key is not the stream": lambda: changed(key=b"another"),
    "too large": lambda: changed(body=b" " * (LARGEST_BODY + 1)),
    "of another version of CloudEvents": lambda: with_header(message_of(DEPARTED), "ce_specversion", b"2.0"),
    "type is not the one its header names": lambda: with_header(message_of(DEPARTED), "ce_type", b"another.v1"),
    "not an event": lambda: changed(body=b"[" * 1_000_000),
}


@pytest.mark.parametrize("reason", MALFORMED)
def test_it_is_said_what_is_wrong(reason: str) -> None:
    assert reason_of(MALFORMED[reason]()) == reason


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{}", b"\xff", b'{"type":1}', b'{"type":"placement.journey.departed.v1"']
)
def test_a_body_that_says_nothing_is_no_event(body: bytes) -> None:
    assert reason_of(changed(body=body))


def test_what_no_database_could_store_is_refused_before_it_is_parked() -> None:
    for body in (
        b'{"type":"placement.journey.departed.v1","x":"\0"}',
        b'{"type":"placement.journey.departed.v1","x":"\xff"}',
    ):
        assert reason_of(changed(body=body)) == "not an event"


def test_a_refusal_quotes_nothing_of_the_message() -> None:
    hostile = [with_header(message_of(DEPARTED), name, f"{CANARY}\0".encode()) for name in message_of(DEPARTED).headers]
    hostile += [changed(key=CANARY.encode()), changed(body=CANARY.encode()), changed(topic=CANARY)]
    hostile.append(changed(body=msgspec.json.encode({"type": CANARY})))
    for message in hostile:
        if message.headers["content-type"].startswith(CANARY.encode()):
            continue  # nobody reads that one
        with pytest.raises(Malformed) as refused:
            to_event(message)
        assert CANARY not in str(refused.value)
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


header_values = st.one_of(
    st.binary(max_size=40), st.text(max_size=40).map(str.encode), st.integers().map(lambda n: str(n).encode())
)
bodies = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
        max_leaves=20,
    ).map(msgspec.json.encode),
    st.tuples(st.sampled_from(sorted(CONTRACTS)), st.dictionaries(st.text(), st.text())).map(
        lambda said: msgspec.json.encode({**said[1], "type": said[0]})
    ),
)


@settings(deadline=None, max_examples=400)
@given(
    record=st.sampled_from(list(RECORDS.values())),
    headers=st.dictionaries(
        st.one_of(st.sampled_from(sorted(message_of(DEPARTED).headers)), st.text(max_size=20)),
        header_values,
        max_size=4,
    ),
    dropped=st.sets(st.sampled_from(sorted(message_of(DEPARTED).headers)), max_size=2),
    body=st.one_of(st.none(), bodies),
    key=st.one_of(st.none(), st.binary(max_size=20)),
    cut=st.integers(0, 400),
)
def test_whatever_arrives_is_an_event_or_to_be_parked_or_malformed(
    record: str, headers: dict[str, bytes], dropped: set[str], body: bytes | None, key: bytes | None, cut: int
) -> None:
    message = message_of(record)
    message = replace(
        message,
        headers={name: value for name, value in {**message.headers, **headers}.items() if name not in dropped},
        body=message.body[: cut or None] if body is None else body,
        key=message.key if key is None else key,
    )
    try:
        event = to_event(message)
    except Malformed:
        return
    assert event.source == message.topic.rpartition(".")[2]
    assert event.stream.encode() == message.key
    assert 1 <= event.version <= LARGEST_VERSION
    assert event.id.encode() == message.headers["ce_id"]
    kept = encode(event) if isinstance(event, Event) else event.record
    assert "\0" not in event.id + event.stream + kept
    assert kept.encode().decode() == kept


@settings(deadline=None, max_examples=300)
@given(
    headers=st.dictionaries(st.text(max_size=20), header_values, max_size=8), key=st.binary(max_size=20), body=bodies
)
def test_what_was_never_ours_is_malformed(headers: dict[str, bytes], key: bytes, body: bytes) -> None:
    assert reason_of(Message(topic="haven.placement", key=key, headers=headers, body=body))
