"""What a device last said of itself, as far as it bears on whether to give it work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Condition:
    """One device's condition; None: it cannot tell.

    Attributes:
        battery: how full its battery is, 0 to 1.
        on_mains: whether it has power from outside.
        temperature: its hottest thermal zone, °C.
        throttled: whether it slows itself down, for heat or for want of power.
        metered: whether its connection costs by the byte.
        load: one-minute load average divided by the number of cores.
        site: the site that it enrolled at, and behind a slash where in it, as far as it says. Empty: unknown.
        shard: which part of its site's data it holds; boards with the same site and shard hold the same data. Empty:
            its data is its own.
    """

    battery: float | None = None
    on_mains: bool | None = None
    temperature: float | None = None
    throttled: bool | None = None
    metered: bool | None = None
    load: float | None = None
    site: str = ""
    shard: str = ""

    @property
    def unit(self) -> tuple[str, str] | None:
        """What its answer counts for: its site and shard; None: for itself alone."""
        return (self.site, self.shard) if self.site and self.shard else None


UNKNOWN = Condition()
"""That of a device that has told nothing."""
