"""A list shows several cases at once: the read is in the trail of each, and none of them learns of the others."""

from tests.gateway.world import ORIGIN, POLICE, World


def reads_of(world: World, request_id: str) -> list[dict]:
    events = world.read(ORIGIN, request_id, "/timeline").json["events"]
    return [e["detail"] for e in events if e["detail"].get("resource") == "list"]


def test_a_read_of_many_cases_is_in_the_timeline_of_each_and_names_no_other(world: World) -> None:
    first, second = world.open(), world.open()
    assert reads_of(world, first) == reads_of(world, second) == []
    listed = world.get(POLICE, "/relocation-requests").json["requests"]
    assert {first, second} <= {request["request_id"] for request in listed}
    world.node.core.settle()
    for request_id in (first, second):
        [read] = reads_of(world, request_id)
        assert read["subjects"] == [request_id]


def test_an_answer_that_shows_the_request_is_a_read_too(world: World) -> None:
    request_id = world.open()
    head = world.node.core.gateway_log.head()
    consent = {"scope": "placement", "country": "LU", "given": True, "by": "household"}
    assert world.act(POLICE, request_id, "consent", consent, Prefer="wait=5").status_code == 200
    kinds = [type(event.data).__name__ for event in world.appended_since(head)]
    assert kinds == ["RecordConsent", "RecordConsulted"]
