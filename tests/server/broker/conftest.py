"""The fixtures of these tests."""

from tests.brokers import broker, iotcore, make_link, mosquitto, own_mosquitto, pki, proxied

__all__ = ["broker", "iotcore", "make_link", "mosquitto", "own_mosquitto", "pki", "proxied"]
