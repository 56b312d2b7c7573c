"""A page asks the API inside its own process, and the two keep apart what each knows of its request."""

from flask import Flask, g, request, request_finished

from tests.gateway.world import ORIGIN, World
from tests.pages.reader import Reader


def test_what_a_call_of_the_api_notes_is_not_noted_of_the_page(world: World) -> None:
    noted: dict[str, list[object]] = {}

    def note(_app: Flask, **_: object) -> None:
        # The notes themselves, not their address, which the next may have again.
        noted.setdefault(request.path, []).append(g._get_current_object())

    with request_finished.connected_to(note, world.node.app):
        assert Reader(world, ORIGIN).get("/board").status_code == 200
    (page,) = noted.pop("/board")
    assert noted.keys() >= {"/api/v1/relocation-requests", "/api/v1/availability"}
    assert all(page is not of_call for calls in noted.values() for of_call in calls)
