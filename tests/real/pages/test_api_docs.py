"""The view of the API in a browser: shown by us alone, and asking nobody for a token."""

import pytest

from tests.real.pages.visitor import People

pytestmark = pytest.mark.timeout(120)


def test_the_api_is_shown_whole_and_nothing_can_be_tried(people: People) -> None:
    with people.visit() as page:  # fails for whatever the policy refuses, and for a request to anybody else
        page.goto("/docs", wait_until="networkidle")
        operation = page.locator("#operations-erasures-order_erasure")
        operation.click()
        operation.locator(".opblock-body").get_by_text("request_id").first.wait_for()
        assert page.get_by_role("button", name="Try it out").count() == 0
        assert page.get_by_role("button", name="Authorize").count() == 0
        assert page.locator("input[type=password], .authorization__btn").count() == 0
