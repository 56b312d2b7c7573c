"""tests/gateway/test_live_stream.py, on PostgreSQL as it is deployed."""

from tests.gateway.test_live_stream import *  # noqa: F403
