"""tests/gateway/test_intents.py, on PostgreSQL as it is deployed."""

from tests.gateway.test_intents import *  # noqa: F403
