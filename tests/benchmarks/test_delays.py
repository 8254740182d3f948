from __future__ import annotations

import time
from statistics import fmean
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from argosy_common.flower.compat import become_task
from benchmarks.apps.boards.boards_app.delays import OnOff, Slow, delay_mod, parse_delay

ROUNDS = range(1, 2001)


def test_exponential_delays_have_their_mean_and_differ_by_board_and_round() -> None:
    delay = parse_delay("exponential:0.5")
    assert fmean(delay.seconds(7, number, 0.0) for number in ROUNDS) == pytest.approx(0.5, rel=0.1)
    assert len({delay.seconds(seed, number, 0.0) for seed in range(5) for number in range(5)}) == 25
    assert delay.seconds(3, 4, 0.0) == parse_delay("exponential:0.5").seconds(3, 4, 99.0)


def test_a_fixed_delay_is_always_the_same_and_none_is_none() -> None:
    assert {parse_delay("fixed:2").seconds(seed, seed, seed) for seed in range(9)} == {2.0}
    assert parse_delay("").seconds(1, 2, 3.0) == 0.0
    assert parse_delay("exponential:0").seconds(1, 2, 3.0) == 0.0


def test_a_slow_board_is_slow_in_every_round_and_so_is_its_share_of_boards() -> None:
    delay = parse_delay("slow:0.5:0.1:10")
    assert isinstance(delay, Slow)
    by_board = {seed: {delay.seconds(seed, number, 0.0) for number in range(20)} for seed in range(2000)}
    assert all(len(found) == 1 for found in by_board.values())
    slow = [seed for seed, found in by_board.items() if found == {5.0}]
    assert 140 < len(slow) < 260
    assert all(map(delay.is_slow, slow))


def test_a_board_that_goes_off_goes_on_where_it_stood() -> None:
    delay = OnOff(0.5, 10.0, 5.0)
    taken = [delay.seconds(seed, 1, at_s) for seed in range(400) for at_s in (0.0, 30.0, 60.0)]
    undisturbed = sum(seconds == pytest.approx(0.5) for seconds in taken) / len(taken)
    assert undisturbed == pytest.approx(10 / 15 * 0.95, abs=0.06)  # on as it begins, and not off before it ends
    assert min(taken) >= 0.5 - 1e-9


def test_whatever_begins_while_a_board_is_off_is_done_when_it_has_been_on_long_enough() -> None:
    delay = OnOff(0.5, 10.0, 50.0)
    seed = next(seed for seed in range(100) if delay.seconds(seed, 1, 0.0) > 10.0)
    assert 9.0 + delay.seconds(seed, 2, 9.0) == pytest.approx(1.0 + delay.seconds(seed, 1, 1.0))


@pytest.mark.parametrize(
    "text",
    [
        "slowly",
        "fixed",
        "fixed:",
        "fixed:-1",
        "fixed:nan",
        "fixed:1e3",
        "fixed: 1",
        "fixed:1:2",
        "exponential:1:",
        "slow:0.5:0.1",
        "slow:0.5:1.5:10",
        "onoff:0.5:10:0",
    ],
)
def test_what_is_no_delay_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}'"):
        parse_delay(text)


@pytest.mark.parametrize(
    ("kind", "node", "slept"),
    [
        ("train", {}, [0.5]),
        ("train.sharded", {"delay": "fixed:3"}, [3.0]),
        ("train", {"delay": ""}, [0.0]),
        ("evaluate", {"delay": "fixed:3"}, []),
        ("query", {}, []),
    ],
)
def test_only_trainings_are_delayed_and_a_board_s_own_delay_wins(
    kind: str, node: dict[str, str], slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    assert _through_the_mod(kind, node, {"delay": "fixed:0.5", "since": 0.0}) is _REPLY
    assert naps == slept


def test_the_draw_is_by_the_board_s_seed_and_the_message_s_round(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    for node in ({"seed": 5}, {}):
        _through_the_mod("train", node, {"delay": "exponential:1", "since": 0.0})
    delay = parse_delay("exponential:1")
    assert naps == [delay.seconds(5, 4, 0.0), delay.seconds(77, 4, 0.0)]  # 77: the node id


_REPLY = object()


def _through_the_mod(kind: str, node: dict[str, Any], run: dict[str, Any]) -> object:
    """Return what the mod makes of a message of round 4 at node 77."""
    become_task(run_id=1, node_id=1)
    message = Message(RecordDict({"config": ConfigRecord({"server-round": 4})}), dst_node_id=77, message_type=kind)
    context = Context(run_id=1, node_id=77, node_config=node, state=RecordDict(), run_config=run)
    return delay_mod(message, context, lambda _message, _context: cast("Message", _REPLY))
