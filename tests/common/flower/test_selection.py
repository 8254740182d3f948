"""Who is asked: over a fleet of which the test sets the pace."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from argosy_common.flower import compat
from argosy_common.flower.quorum import QuorumGrid
from argosy_common.flower.selection import SelectionGrid
from argosy_common.run_settings import StragglerSettings
from argosy_common.straggler.selection import Candidate, Choice, Spared
from tests.paced import Fleet, Pace, PatientPacedGrid


class LowestFirst:
    """Asks those with the lowest numbers."""

    def choose(self, candidates: Sequence[Candidate], wanted: int, rng: random.Random) -> Choice:  # noqa: ARG002  (it needs none)
        nodes = sorted(candidate.node for candidate in candidates)
        return Choice(tuple(nodes[:wanted]), spared={node: Spared("not-drawn", "high") for node in nodes[wanted:]})


class Bench:
    """A selection grid over a quorum grid over a fleet."""

    def __init__(self, pace: Pace, nodes: int, **settings: Any) -> None:  # noqa: ANN401  (of `StragglerSettings`)
        compat.become_task(run_id=1, node_id=1)
        self.fleet = Fleet(pace, list(range(2, nodes + 2)))
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        chosen = StragglerSettings(enabled=True, **settings)

        def report(name: str, data: Mapping[str, object]) -> None:
            self.told.append((name, data))

        below = PatientPacedGrid(self.fleet)
        self.quorum = QuorumGrid(below, settings=chosen, report=report, clock=self.fleet.clock)
        self.grid = SelectionGrid(
            self.quorum,
            self.quorum,
            settings=chosen,
            selector=LowestFirst(),
            rng=random.Random(1),
            report=report,
            clock=self.fleet.clock,
        )

    def round(self, number: int, drawn: list[int]) -> tuple[set[int], float]:
        record = RecordDict({"arrays": ArrayRecord([np.zeros(2)]), "config": ConfigRecord({"server-round": number})})
        began, before = self.fleet.clock.now, len(self.fleet.asked)
        replies = list(self.grid.send_and_receive([Message(record, node, "train") for node in drawn]))
        valid = {reply.metadata.src_node_id for reply in replies if reply.has_content()}
        assert valid <= {node for node, _ in self.fleet.asked[before:]}
        return valid, self.fleet.clock.now - began

    def asked(self, number: int) -> set[int]:
        of = [data for name, data in self.told if name == "selection" and data["round"] == number]
        return {int(device, 16) for device in of[0]["asked"]}

    def spared(self, number: int) -> dict[int, str]:
        of = [data for name, data in self.told if name == "selection" and data["round"] == number]
        return {int(device, 16): it["code"] for device, it in of[0]["spared"].items()}


def slow(*nodes: int) -> Pace:
    return lambda node, _kind: 20.0 if node in nodes else 2.0


def test_more_are_asked_than_are_wanted_and_the_first_are_enough() -> None:
    bench = Bench(slow(2, 3), 20, over_select=0.25)
    valid, seconds = bench.round(1, list(range(2, 18)))
    assert bench.asked(1) == set(range(2, 22))
    assert valid == set(range(4, 22))
    assert seconds < 2.1, "no deadline was needed"


def test_who_is_still_at_work_is_spared_and_another_asked() -> None:
    bench = Bench(slow(2, 3), 20, over_select=0.0)
    drawn = list(range(2, 18))
    bench.round(1, drawn)
    valid, seconds = bench.round(2, drawn)
    assert bench.spared(2)[2] == bench.spared(2)[3] == "busy"
    assert valid == {*range(4, 20)}
    assert seconds < 2.1


def test_who_is_at_work_is_asked_all_the_same_where_there_is_no_quorum_without() -> None:
    bench = Bench(slow(2, 3), 4, quorum=0.5, over_select=0.0)
    bench.round(1, [2, 3, 4, 5])
    assert bench.round(2, [2, 3, 4, 5])[0] == {4, 5}
    assert bench.asked(2) == {4, 5}
    bench.fleet.nodes.remove(5)
    valid, seconds = bench.round(3, [2, 3, 4])
    assert bench.asked(3) == {2, 4}
    assert 2 in valid or seconds > 10


def test_how_many_more_to_ask_is_learnt() -> None:
    bench = Bench(slow(18, 19, 20, 21), 40)
    drawn = list(range(2, 22))
    bench.round(1, drawn)
    assert len(bench.asked(1)) == 20
    bench.round(2, drawn)
    assert len(bench.asked(2)) == 25, "a fifth was late, so a quarter more"


def test_messages_that_differ_go_to_those_they_are_for() -> None:
    bench = Bench(slow(), 6)
    messages = [
        Message(RecordDict({"config": ConfigRecord({"server-round": 1, "for": node})}), node, "train")
        for node in (6, 7)
    ]
    list(bench.grid.send_and_receive(messages))
    assert [node for node, _ in bench.fleet.asked] == [6, 7]
    assert not [name for name, _ in bench.told if name == "selection"]


def test_what_is_no_phase_is_not_touched() -> None:
    bench = Bench(slow(), 6)
    record = RecordDict({"config": ConfigRecord({"a": 1})})
    list(bench.grid.send_and_receive([Message(record, node, "query") for node in (6, 7)]))
    assert [node for node, _ in bench.fleet.asked] == [6, 7]
