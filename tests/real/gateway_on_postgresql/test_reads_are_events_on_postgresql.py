"""tests/gateway/test_reads_are_events.py, on PostgreSQL as it is deployed."""

from tests.gateway.test_reads_are_events import *  # noqa: F403
