"""Which device a message is for, and which phase of which round it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.app import Message

from argosy_common.flower.messages import round_of

PHASES = ("train", "evaluate")
"""The kinds of work that rounds are made of; an app may name kinds of its own below them, `train.warm-up`."""

Report = Callable[[str, Mapping[str, object]], None]
"""Is told what happens in a round: an event's name and its data."""


def device_id(node_id: int) -> str:
    """Return the device id of a Flower node id."""
    return f"{node_id:016x}"


def phase_of(message: Message) -> tuple[int | None, str]:
    """Return the round, if it is of one, and the type of a message."""
    return round_of(message.content, message.metadata.group_id), message.metadata.message_type


def is_phase(message_type: str) -> bool:
    """Tell whether messages of this type make a phase of a round; a query does not."""
    return message_type.split(".", maxsplit=1)[0] in PHASES
