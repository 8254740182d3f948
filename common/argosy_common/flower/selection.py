"""SelectionGrid: a Grid around the layers of a run that decides who is asked.

A strategy draws devices at random and knows nothing of them. Where it sends the same to all of them, so that it is
all the same to it who answers, the run's selector has the last word: devices that are still at work for a round that
is over are spared, others are asked in their place, and as many more as are likely not to answer in time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from argosy_common.clock import Clock, SystemClock
from argosy_common.flower.layer import GridLayer
from argosy_common.flower.quorum import Expected, QuorumGrid
from argosy_common.flower.rounds import Report, device_id, is_phase, phase_of
from argosy_common.run_settings import StragglerSettings
from argosy_common.straggler.conditions import UNKNOWN
from argosy_common.straggler.selection import Candidate, Selector, Spared
from argosy_common.straggler.track import Overdue


class SelectionGrid(GridLayer):
    """See the module. Used by one thread, the server app's.

    Args:
        grid: the layers around `quorum`.
        quorum: the layer that will wait for the answers.
        settings: the run's choices.
        selector: chooses among the devices that are online and free.
        rng: for the selector.
        report: is told `selection`.
    """

    def __init__(
        self,
        grid: Grid,
        quorum: QuorumGrid,
        *,
        settings: StragglerSettings,
        selector: Selector,
        rng: random.Random,
        report: Report | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(grid)
        self._quorum = quorum
        self._settings = settings
        self._selector = selector
        self._rng = rng
        self._report = report or (lambda _name, _data: None)
        self._clock = clock or SystemClock()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages, perhaps to other devices than they are for, and wait for their replies; see `QuorumGrid`."""
        outgoing = list(messages)
        del messages
        if _any_will_do(outgoing):
            outgoing = self._selected(outgoing)
        return self._grid.send_and_receive(outgoing, timeout=timeout)

    def _selected(self, messages: list[Message]) -> list[Message]:
        """Return the messages for the devices that are asked in place of those that were drawn."""
        first = messages[0]
        round_, kind = phase_of(first)
        drawn = {message.metadata.dst_node_id: message for message in messages}
        self._quorum.late()
        busy = self._quorum.track.busy(self._clock.monotonic())
        choice = self._selector.choose(self._free(drawn, busy, kind), self._wanted(len(drawn), kind), self._rng)
        asked = [*choice.asked, *self._needed(drawn, choice.asked, busy)]
        if not asked:
            return messages  # nobody is there: let the grid below say so
        enough, quorum = min(len(drawn), len(asked)), self._quorum.quorum(len(drawn))
        self._quorum.expect(round_, kind, Expected(len(asked), enough, quorum, choice.heard))
        spared = {**choice.spared, **{node: _at_work(it) for node, it in busy.items()}}
        self._report(
            "selection",
            {
                "round": round_,
                "phase": kind,
                "selector": self._settings.selector,
                "wanted": len(drawn),
                "enough": enough,
                "asked": [device_id(node) for node in asked],
                "heard": sorted(map(device_id, choice.heard)),
                "spared": {device_id(node): vars(it) for node, it in spared.items() if node not in asked},
            },
        )
        return [drawn.get(node) or _addressed(first, node) for node in asked]

    def _free(self, drawn: Collection[int], busy: Collection[int], kind: str) -> list[Candidate]:
        """Return the devices that could be asked: those drawn, and all others online, but for those at work."""
        conditions, track = self._quorum.conditions(), self._quorum.track
        return [
            Candidate(
                node,
                drawn=node in drawn,
                condition=conditions.get(node, UNKNOWN),
                seconds=track.seconds(node, kind),
                unheard=track.unheard(node, kind),
            )
            for node in dict.fromkeys([*drawn, *conditions])
            if node not in busy
        ]

    def _wanted(self, drawn: int, kind: str) -> int:
        """Return how many to ask where the strategy drew so many."""
        more = self._settings.over_select
        return drawn + math.ceil(drawn * (self._quorum.track.shortfall(kind) if more == "auto" else more))

    def _needed(self, drawn: Collection[int], asked: Collection[int], busy: Mapping[int, Overdue]) -> list[int]:
        """Return those at work who are asked all the same, the longest at it first: there is no quorum without them."""
        lacking = self._quorum.quorum(len(drawn)) - len(asked)
        at_work = sorted((node for node in drawn if node in busy), key=lambda node: busy[node].since)
        return at_work[: max(0, lacking)]


def _any_will_do(messages: Sequence[Message]) -> bool:
    """Tell whether it is all the same who is asked: each device at most once, and all of them the same."""
    if not messages or not is_phase(messages[0].metadata.message_type):
        return False
    first = messages[0]
    nodes = {message.metadata.dst_node_id for message in messages}
    alike = all(
        each.content is first.content
        and each.metadata.message_type == first.metadata.message_type
        and each.metadata.group_id == first.metadata.group_id
        for each in messages
    )
    return alike and len(nodes) == len(messages)


def _addressed(message: Message, node: int) -> Message:
    """Return the same message for another node."""
    meta = message.metadata
    return Message(message.content, node, meta.message_type, ttl=meta.ttl, group_id=meta.group_id)


def _at_work(overdue: Overdue) -> Spared:
    of = "" if overdue.round is None else f" of round {overdue.round}"
    return Spared("busy", f"it was still at work on {overdue.kind}{of}")
