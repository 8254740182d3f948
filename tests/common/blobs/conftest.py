"""The fixtures of these tests."""

from tests.brokers import make_link, mosquitto, pki, proxied

__all__ = ["make_link", "mosquitto", "pki", "proxied"]
