"""The view of the API in a browser: shown by us alone, and asking nobody for a token."""

from collections.abc import Mapping

import pytest

from tests.real.pages.visitor import AXE, RULES, THEIRS, People

pytestmark = pytest.mark.timeout(240)

NOT_REPAIRED: Mapping[str, str] = {}
"""Rules of axe that Swagger UI breaks and we could not repair, each with why. The page about accessibility says so too."""
OPENED = (
    "erasures-order_erasure",
    "relocation-requests-list_relocation_requests",
    "relocation-requests-open_relocation_request",
    "shelters-report_capacity",
)
"""A route of each colour, with what they take and give."""


def test_the_api_is_shown_whole_and_nothing_can_be_tried(people: People) -> None:
    with people.visit() as page:  # fails for whatever the policy refuses, and for a request to anybody else
        page.goto("/docs", wait_until="networkidle")
        operation = page.locator("#operations-erasures-order_erasure")
        operation.click()
        operation.locator(".opblock-body").get_by_text("request_id").first.wait_for()
        assert page.get_by_role("button", name="Try it out").count() == 0
        assert page.get_by_role("button", name="Authorize").count() == 0
        assert page.locator("input[type=password], .authorization__btn").count() == 0


def test_axe_finds_nothing_in_it_but_what_is_known(people: People) -> None:
    with people.visit() as page:
        page.goto("/docs", wait_until="networkidle")
        for operation in OPENED:
            page.locator(f"#operations-{operation} .opblock-summary-control").click()
            page.locator(f"#operations-{operation} .opblock-body .microlight").first.wait_for()
        page.evaluate(AXE)  # by the debugger: the page's own policy lets no foreign script in
        result = page.evaluate("([place, rules]) => axe.run(place, {runOnly: rules})", [THEIRS, RULES])
        assert len(result["passes"]) > 10, "there is something to look at"
        found = {one["id"]: [node["target"] for node in one["nodes"]][:5] for one in result["violations"]}
        assert found.keys() == NOT_REPAIRED.keys(), found
