"""The whole runtime under load while it is broken: nothing acknowledged is lost, nothing happens twice. And what the campaign
that says so is worth: it catches bugs that are put in on purpose."""

from collections.abc import Iterator

import pytest

from deploy.artifacts import PartUnavailable
from faults.campaign import Campaign, folder
from faults.campaigns import FAULTS
from faults.seeded import tried
from faults.site import Site

pytestmark = [pytest.mark.real, pytest.mark.slow]

SHORT = ("kill -9 relay", "kill -9 capacity", "kill -9 PostgreSQL", "projection dies before commit", "every message")


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_done_twice_while_everything_is_broken(site: Site) -> None:
    campaign = Campaign(site)
    chosen = [fault for fault in FAULTS if fault.name.startswith(SHORT)]
    assert len(chosen) == len(SHORT)
    rows = [campaign.run(fault, 1) for fault in chosen]
    assert [row for row in rows if not row.clean] == []
    assert sum(row.acknowledged for row in rows) > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", ["claims without a constraint", "event not published"])
def test_a_bug_that_is_put_in_is_caught(bug: str, part_is_there: None) -> None:
    caught = tried(bug, seed=1)
    assert caught.caught, caught


@pytest.fixture
def part_is_there(without_part) -> None:
    from deploy.artifacts import java, kafka_jars

    try:
        java(), kafka_jars()
    except PartUnavailable as missing:
        without_part("kafka", missing)


@pytest.fixture
def site(part_is_there: None) -> Iterator[Site]:
    with Site(folder(), seed=1, rate=5.0, counts={"relay": 2, "placement": 2}) as site:
        yield site
