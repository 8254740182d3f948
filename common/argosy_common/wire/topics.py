"""Topic names (specs/transport.md, "Topics"): at most 7 slashes; a device is named by its certificate's common name."""

from __future__ import annotations

import re
from dataclasses import dataclass

ROOT = "argosy/v1"
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?\Z")


def _checked(name: str) -> str:
    if not NAME.match(name):
        raise ValueError(f"{name!r} is not a topic name: lower-case letters, digits and inner hyphens, at most 64")
    return name


@dataclass(frozen=True)
class DeviceTopics:
    """The topics of one device of one site."""

    site: str
    device: str

    def __post_init__(self) -> None:
        """Refuse names that could reach into another device's topics."""
        _checked(self.site)
        _checked(self.device)

    @property
    def _device(self) -> str:
        return f"{ROOT}/{self.site}/d/{self.device}"

    @property
    def birth(self) -> str:
        """Retained birth; the last will is its death."""
        return f"{ROOT}/{self.site}/s/{self.device}"

    @property
    def events(self) -> str:
        """Acknowledgements, progress and replies, device to coordinator."""
        return f"{self._device}/up/evt"

    @property
    def heartbeat(self) -> str:
        """Small, rare signs of life."""
        return f"{self._device}/up/hb"

    @property
    def control_up(self) -> str:
        """Transfer control, device to coordinator."""
        return f"{self._device}/up/rpc"

    @property
    def control_down(self) -> str:
        """Transfer control and receipts, coordinator to device."""
        return f"{self._device}/dn/rpc"

    @property
    def jobs(self) -> str:
        """Instructions."""
        return f"{self._device}/dn/job"

    @property
    def chunks_down(self) -> str:
        """Chunks of blobs that the device pulls."""
        return f"{self._device}/dn/x"

    def chunks_up(self, sink: str) -> str:
        """Chunks of blobs that the device sends to the worker named `sink`."""
        return f"{self._device}/up/x/{_checked(sink)}"


def coordinator_state(site: str) -> str:
    """The coordinator's retained STATE."""
    return f"{ROOT}/{_checked(site)}/b/coord"


@dataclass(frozen=True)
class Address:
    """A topic taken apart, as the coordinator receives it."""

    site: str
    device: str
    leaf: str
    """One of `s`, `evt`, `hb`, `rpc`, `x`."""


_DEVICE_TOPIC = re.compile(rf"{ROOT}/([^/]+)/d/([^/]+)/up/(evt|hb|rpc|x)(?:/[^/]+)?\Z")
_BIRTH_TOPIC = re.compile(rf"{ROOT}/([^/]+)/s/([^/]+)\Z")

COORDINATOR_FILTERS = (
    f"{ROOT}/+/d/+/up/evt",
    f"{ROOT}/+/d/+/up/hb",
    f"{ROOT}/+/d/+/up/rpc",
    f"{ROOT}/+/s/+",
)


def chunk_filter(sink: str) -> str:
    """The filter of all chunks for the coordinator's worker `sink`."""
    return f"{ROOT}/+/d/+/up/x/{_checked(sink)}"


def parse(topic: str) -> Address | None:
    """Take an upward topic apart; None if it is none of ours."""
    if match := _DEVICE_TOPIC.match(topic):
        site, device, leaf = match.groups()
    elif match := _BIRTH_TOPIC.match(topic):
        (site, device), leaf = match.groups(), "s"
    else:
        return None
    return Address(site, device, leaf) if NAME.match(site) and NAME.match(device) else None
