"""How often one address may try: a token bucket each, in bounded memory.

Source: the "leaky bucket as a meter" of ITU-T I.371. Addresses that have not been seen for longest are forgotten
first, so a stranger with many addresses gains fresh buckets and no memory of ours.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from dataclasses import dataclass

from argosy_common.clock import Clock
from argosy_common.errors import TooManyAttempts
from argosy_common.logs import get_logger

log = get_logger(__name__)

MAX_ADDRESSES = 10_000


@dataclass
class _Bucket:
    left: float
    at: float


class RateLimit:
    """`burst` attempts at once for each address, and `per_s` more a second. Safe to use from any thread."""

    def __init__(self, *, burst: float, per_s: float, clock: Clock) -> None:
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_for(self, address: str) -> float:
        """Return the seconds until this address has an attempt left; 0 where it has one. Takes none."""
        with self._lock:
            left = self._bucket(address).left
            return 0.0 if left >= 1 else (1 - left) / self._per_s

    def take(self, address: str) -> bool:
        """Use one attempt up. True if that was the last one: from now on the address must wait."""
        with self._lock:
            bucket = self._bucket(address)
            before, bucket.left = bucket.left, max(0.0, bucket.left - 1)
            return before >= 1 > bucket.left

    def _bucket(self, address: str) -> _Bucket:
        key, now = _network(address), self._clock.monotonic()
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._per_s)
        bucket.at = now
        return bucket


class Doorkeeper:
    """Slows those who ask too often, and much sooner those who were refused. Safe to use from any thread."""

    def __init__(self, clock: Clock) -> None:
        # A lab of boards behind one address may join at once; failures are another matter.
        self._attempts = RateLimit(burst=120, per_s=2.0, clock=clock)
        self._failures = RateLimit(burst=10, per_s=0.1, clock=clock)

    def admit(self, source: str) -> None:
        """Count an attempt from the address `source`.

        Raises:
            TooManyAttempts: the address must wait.
        """
        wait = max(self._attempts.wait_for(source), self._failures.wait_for(source))
        if wait:
            raise TooManyAttempts(seconds=round(wait + 0.5))
        self._attempts.take(source)

    def refused(self, source: str) -> None:
        """Count a refusal."""
        if self._failures.take(source):
            log.warning("enrolment.rate_limited", source=source)


def _network(address: str) -> str:
    """Return the IPv4 address, or the /64 of an IPv6 address: a whole /64 is one customer's."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return address
