"""What the daemon tells a run of its devices' condition, read with care: it began on boards.

A field that is not known here is passed over, so is a value of another type or out of its range: it then counts as not
known, which costs nothing but a preference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from argosy_common.straggler.conditions import Condition

_LONGEST_NAME = 256
"""As `Birth` has it."""
_LONGEST_SITE = 64 + 1 + _LONGEST_NAME
"""As `DeviceView.condition` has it: the site of a topic, a slash, and what a birth says."""


def read_conditions(told: Mapping[str, Mapping[str, Any]]) -> dict[int, Condition]:
    """Return the conditions by node id; in `told` they stand by device id, as `Registry.conditions` has them."""
    return {int(device, 16): read_condition(fields) for device, fields in told.items()}


def read_condition(fields: Mapping[str, Any]) -> Condition:
    """Return the condition that the fields tell of."""
    return Condition(
        battery=_number(fields.get("battery"), 0.0, 1.0),
        on_mains=_truth(fields.get("on_mains")),
        temperature=_number(fields.get("temperature"), -273.15, 1000.0),
        throttled=_truth(fields.get("throttled")),
        metered=_truth(fields.get("metered")),
        load=_number(fields.get("load"), 0.0, math.inf),
        site=_name(fields.get("site"), _LONGEST_SITE),
        shard=_name(fields.get("shard"), _LONGEST_NAME),
    )


def _number(value: object, least: float, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        return None
    return float(value) if math.isfinite(value) else None


def _truth(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _name(value: object, longest: int) -> str:
    return value if isinstance(value, str) and len(value) <= longest else ""
