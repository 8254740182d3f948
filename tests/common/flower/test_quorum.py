"""Whom a round waits for, on grids of both kinds, by a clock that moves only while somebody waits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from argosy_common.flower import compat
from argosy_common.flower.courier import PatientGrid
from argosy_common.flower.quorum import Expected, QuorumGrid
from argosy_common.flower.streaming import StreamingGrid, as_it_is
from argosy_common.run_settings import StragglerSettings
from argosy_common.straggler.conditions import Condition
from tests.paced import Fleet, ImpatientGrid, Pace, PatientPacedGrid

ON = StragglerSettings(enabled=True)


class Bench:
    """A quorum grid over a fleet, and what it tells."""

    def __init__(
        self,
        pace: Pace,
        nodes: int,
        settings: StragglerSettings = ON,
        *,
        patient: bool = True,
        conditions: Mapping[int, Condition] | None = None,
    ) -> None:
        compat.become_task(run_id=1, node_id=1)
        self.fleet = Fleet(pace, list(range(2, nodes + 2)), conditions=dict(conditions or {}))
        self.clock = self.fleet.clock
        self.below = (PatientPacedGrid if patient else ImpatientGrid)(self.fleet)
        self.told: list[tuple[str, Mapping[str, object]]] = []
        self.grid = QuorumGrid(
            self.below,
            settings=settings,
            report=lambda name, data: self.told.append((name, data)),
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def messages(self, number: int = 1, kind: str = "train", nodes: list[int] | None = None) -> list[Message]:
        content = RecordDict({"arrays": ArrayRecord([np.zeros(2)]), "config": ConfigRecord({"server-round": number})})
        return [Message(content, node, kind) for node in nodes or self.fleet.nodes]

    def round(
        self, number: int = 1, *, timeout: float = 3600.0, nodes: list[int] | None = None
    ) -> tuple[set[int], float]:
        """Run a phase; return whose valid replies came, and how long it took."""
        began = self.clock.now
        replies = list(self.grid.send_and_receive(self.messages(number, nodes=nodes), timeout=timeout))
        valid = {reply.metadata.src_node_id for reply in replies if reply.has_content()}
        return valid, self.clock.now - began

    @property
    def settled(self) -> list[Mapping[str, object]]:
        return [data for name, data in self.told if name == "phase-settled"]


def slow(*nodes: int, fast: float = 2.0, factor: float = 10.0) -> Pace:
    return lambda node, _kind: fast * (factor if node in nodes else 1.0)


@pytest.fixture(params=[True, False], ids=["patient", "impatient"])
def patient(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_it_is_both_kinds_of_grid_that_layers_build_on() -> None:
    grid = Bench(slow(), 2).grid
    assert isinstance(grid, StreamingGrid)
    assert isinstance(grid, PatientGrid)


def test_the_slow_set_no_pace_from_the_first_round_on(patient: bool) -> None:
    bench = Bench(slow(20, 21), 20, patient=patient)
    for number in (1, 2, 3):
        valid, seconds = bench.round(number, nodes=[node for node in bench.fleet.nodes if node < 20 or number == 1])
        assert valid == set(range(2, 20))
        assert seconds < 6
    assert [data["how"] for data in bench.settled] == ["deadline", "all", "all"]


def test_without_the_setting_everybody_is_waited_for(patient: bool) -> None:
    bench = Bench(slow(20, 21), 20, StragglerSettings(), patient=patient)
    valid, seconds = bench.round()
    assert valid == set(bench.fleet.nodes)
    assert 20 <= seconds < 23
    assert bench.told == []


def test_a_deadline_without_a_quorum_waits_for_the_quorum() -> None:
    bench = Bench(lambda node, _kind: float(node), 10, StragglerSettings(enabled=True, deadline=3.0, quorum=0.5))
    valid, seconds = bench.round()
    assert valid == {2, 3, 4, 5, 6}
    assert 6 <= seconds < 6.1
    assert bench.settled[0]["how"] == "deadline"
    assert (bench.settled[0]["quorum"], bench.settled[0]["deadline_s"]) == (5, 3.0)


def test_a_number_of_devices_may_be_the_quorum() -> None:
    bench = Bench(lambda node, _kind: float(node), 10, StragglerSettings(enabled=True, deadline=0.5, quorum=3))
    assert bench.round()[0] == {2, 3, 4}


def test_as_many_as_are_enough_end_the_phase_at_once() -> None:
    bench = Bench(lambda node, _kind: float(node), 10)
    bench.grid.expect(1, "train", Expected(asked=10, enough=4, quorum=4))
    valid, seconds = bench.round()
    assert valid == {2, 3, 4, 5}
    assert 5 <= seconds < 5.1
    assert bench.settled[0]["how"] == "enough"


def test_who_must_be_heard_is_waited_for_as_long_as_it_usually_takes() -> None:
    bench = Bench(slow(11), 10)
    bench.round(1)
    bench.clock.sleep(60)
    bench.round(2, nodes=[2, 3])  # it is known by now how slow the slow one is
    bench.grid.expect(3, "train", Expected(asked=10, enough=10, quorum=8, heard=frozenset({11})))
    valid, seconds = bench.round(3)
    assert 11 in valid
    assert seconds >= 20


def test_a_late_answer_is_nobodys_answer_and_frees_its_device(patient: bool) -> None:
    bench = Bench(slow(11), 10, patient=patient)
    valid, _ = bench.round(1)
    assert 11 not in valid
    assert set(bench.grid.track.busy(bench.clock.now)) == {11}
    bench.clock.sleep(60)
    valid, _ = bench.round(2, nodes=[2, 3, 4])
    assert valid == {2, 3, 4}
    assert bench.grid.track.busy(bench.clock.now) == {}
    assert 20 <= (bench.grid.track.seconds(11, "train") or 0) <= 70


def test_a_device_that_vanished_is_done_without_after_the_grace() -> None:
    bench = Bench(slow(), 5, StragglerSettings(enabled=True, deadline=500.0, grace=5.0))
    bench.fleet.gone[6] = bench.clock.now + 1.0
    valid, seconds = bench.round()
    assert valid == {2, 3, 4, 5}
    assert 5 < seconds < 8.5
    assert bench.settled[0]["away"] == [f"{6:016x}"]


def test_a_failure_is_handed_on_and_not_waited_for(patient: bool) -> None:
    bench = Bench(slow(), 4, patient=patient)
    bench.fleet.failing.add(3)
    replies = list(bench.grid.send_and_receive(bench.messages()))
    assert {reply.metadata.src_node_id for reply in replies if reply.has_error()} == {3}
    assert len(replies) == 4


def test_its_bound_ends_a_phase_in_which_nobody_answers(patient: bool) -> None:
    bench = Bench(lambda _node, _kind: None, 3, patient=patient)
    valid, seconds = bench.round(timeout=30.0)
    assert valid == set()
    assert 30 <= seconds < 34
    assert bench.settled[0]["how"] == "timeout"


def shards(boards: int, per_shard: int) -> dict[int, Condition]:
    return {node: Condition(site="line", shard=str((node - 2) // per_shard)) for node in range(2, boards + 2)}


def test_a_site_is_complete_with_one_board_of_each_shard_and_each_counts_once() -> None:
    bench = Bench(lambda node, _kind: 1.0 if node % 2 else 30.0, 8, StragglerSettings(), conditions=shards(8, 2))
    valid, seconds = bench.round()
    assert valid == {3, 5, 7, 9}
    assert seconds < 2


def test_a_board_that_was_given_data_of_its_own_counts_for_itself_again() -> None:
    bench = Bench(slow(), 2, conditions=shards(2, 2))
    assert len(bench.round(1)[0]) == 1
    bench.fleet.conditions.clear()
    assert len(bench.round(2)[0]) == 2


def test_the_second_board_of_a_shard_is_refused_by_name(patient: bool) -> None:
    bench = Bench(slow(), 4, conditions=shards(4, 2))
    replies = list(bench.grid.send_and_receive(bench.messages()))
    reasons = sorted(str(reply.error.reason).partition(":")[0] for reply in replies if reply.has_error())
    assert reasons == ["shard-counted", "shard-counted"]
    assert sum(reply.has_content() for reply in replies) == 2


def test_step_by_step_everyone_cut_off_is_answered_for_once() -> None:
    """As the secure layer uses it: it pushes, waits and takes, and ends when nothing more is to come."""
    bench = Bench(slow(11), 10)
    ids = bench.grid.push(bench.messages(), timeout=100.0)
    replies: list[Message] = []
    while len(replies) < len(ids):
        bench.grid.wait(ids, 60.0)
        waiting = set(ids) - {reply.metadata.reply_to_message_id for reply in replies}
        replies += bench.grid.take(waiting, as_it_is)
    cut = [reply for reply in replies if reply.has_error()]
    assert [str(reply.error.reason).partition(":")[0] for reply in cut] == ["cut-off"]
    assert bench.clock.now - 1000.0 < 10
    bench.grid.end(ids)
    assert [data["how"] for data in bench.settled] == ["deadline"]


def test_what_is_no_phase_of_a_round_passes_untouched() -> None:
    bench = Bench(slow(3), 2)
    message = Message(RecordDict({"m": MetricRecord({"a": 1.0})}), 3, "query")
    ids = bench.grid.push([message], timeout=100.0)
    bench.grid.wait(ids, 60.0)
    (reply,) = bench.grid.take(ids, as_it_is)
    assert reply.has_content()
    bench.grid.end(ids)
    assert bench.told == []


def test_parts_of_one_phase_are_complete_with_their_part_of_what_is_enough() -> None:
    bench = Bench(lambda node, _kind: float(node), 8)
    bench.grid.expect(1, "train", Expected(asked=8, enough=6, quorum=6))
    for nodes in ([2, 3, 4, 5], [6, 7, 8, 9]):
        ids = bench.grid.push(bench.messages(nodes=nodes), timeout=100.0)
        replies: list[Message] = []
        while len(replies) < 4:
            bench.grid.wait(ids, 60.0)
            replies += bench.grid.take(set(ids) - {it.metadata.reply_to_message_id for it in replies}, as_it_is)
        bench.grid.end(ids)
        assert sum(reply.has_content() for reply in replies) == 3
