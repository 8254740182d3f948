"""The fixtures of these tests."""

from tests.brokers import iotcore, make_link, pki

__all__ = ["iotcore", "make_link", "pki"]
