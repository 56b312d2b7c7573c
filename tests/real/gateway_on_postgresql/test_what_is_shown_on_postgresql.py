"""tests/gateway/test_what_is_shown.py, on PostgreSQL as it is deployed."""

from tests.gateway.test_what_is_shown import *  # noqa: F403
