"""The node of the gateway's tests, one per test module."""

from tests.gateway.conftest import world

__all__ = ["world"]
