"""A secure round over real messages, keys and journals: what the strategy gets, with devices gone at any point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from argosy_common.errors import SecureTooFewDevices, SecureUnsuitable
from argosy_common.secagg.parameters import MOST_CLIENTS
from tests.common.flower.secure.fleet import SecureFleet, examples_of, instructions, loss_of, mean_of, model, trained

BASE = model()


def check(reply: Message, nodes: Sequence[int], number: int = 1, atol: float = 2e-5) -> None:
    """The reply is the plain weighted mean of these nodes."""
    assert reply.has_content(), reply.error
    expected = mean_of(nodes, BASE, number)
    for name, array in reply.content.array_records["arrays"].items():
        assert np.allclose(array.numpy(), expected[name], atol=atol, rtol=0), name
    metrics = reply.content.metric_records["metrics"]
    weights = [examples_of(node) for node in nodes]
    assert metrics["num-examples"] == sum(weights)
    assert metrics["loss"] == pytest.approx(np.average([loss_of(node) for node in nodes], weights=weights), abs=1e-6)
    assert metrics["by-class"] == pytest.approx([1.0, np.average([node % 5 for node in nodes], weights=weights)])


def test_the_reply_is_the_weighted_mean_of_all(tmp_path: Path) -> None:
    """Arrays, metrics and weights; the first round, whose scales are a guess, and those after it."""
    fleet = SecureFleet(tmp_path, 4)
    grid = fleet.grid()
    for number in (1, 2, 3):
        (reply,) = grid.send_and_receive(instructions(fleet, BASE, number), timeout=100)
        check(reply, fleet.nodes, number, atol=2e-5 if number == 1 else 1e-4)
    assert [group["checked"] for group in fleet.told("secure-group")] == [True] * 3


def test_with_the_small_prime_the_mean_is_near_and_the_bytes_are_half(tmp_path: Path) -> None:
    """From the round on in which the scales are known."""
    fleet = SecureFleet(tmp_path, 4)
    grid = fleet.grid(settings={"prime": 251})
    for number in (1, 2, 3):
        (reply,) = grid.send_and_receive(instructions(fleet, BASE, number), timeout=100)
        check(reply, fleet.nodes, number, atol=2e-5 if number == 1 else 5e-3)
    assert [group["p"] for group in fleet.told("secure-group")] == [65521, 251, 251]


def test_evaluations_are_summed_under_the_mask_too(tmp_path: Path) -> None:
    """Only metrics come back."""
    fleet = SecureFleet(tmp_path, 5)
    messages = [
        Message(RecordDict({"arrays": BASE, **dict(_config(each))}), each.metadata.dst_node_id, "evaluate")
        for each in instructions(fleet, BASE)
    ]
    (reply,) = fleet.grid().send_and_receive(messages, timeout=100)
    assert not reply.content.array_records
    weights = [examples_of(node) for node in fleet.nodes]
    mean = np.average([loss_of(node) for node in fleet.nodes], weights=weights)
    assert reply.content.metric_records["metrics"]["loss"] == pytest.approx(mean, abs=1e-6)


def _config(message: Message) -> dict[str, ConfigRecord]:
    return dict(message.content.config_records)


def test_devices_may_be_gone_at_every_stage(tmp_path: Path) -> None:
    """Of twelve, one before its update, one before it votes, one before it adds up."""
    fleet = SecureFleet(tmp_path, 12)
    a, b, c, *rest = fleet.nodes
    fleet.away = {(a, "update"), (a, "vote"), (a, "sum"), (b, "vote"), (b, "sum"), (c, "sum")}
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, [b, c, *rest])
    (group,) = fleet.told("secure-group")
    assert list(group["left_out"]) == [f"{a:016x}"]
    assert (group["votes"], group["answers"], group["checked"]) == (10, 9, False)


def test_with_too_few_holders_the_round_fails_by_name_and_the_next_goes_on(tmp_path: Path) -> None:
    """Four of twelve are gone for good after their updates: 8 of the 9 holders needed are left."""
    fleet = SecureFleet(tmp_path, 12)
    grid = fleet.grid()
    gone = fleet.nodes[:4]
    fleet.away = {(node, stage) for node in gone for stage in ("vote", "sum", "abort")}
    began = fleet.time.now
    replies = list(grid.send_and_receive(instructions(fleet, BASE, 1), timeout=100))
    assert fleet.time.now - began < 20 + 45 + 3  # recovery, abort, and a look
    assert all(reply.has_error() for reply in replies)
    (group,) = fleet.told("secure-group")
    assert group["error"]["code"] == "secure-sum-unrecoverable"
    assert all(f"{node:016x}" in group["error"]["message"] for node in gone)
    assert "summed" not in group
    assert group["answers"] == 0
    fleet.away.clear()
    (reply,) = grid.send_and_receive(instructions(fleet, BASE, 2), timeout=100)
    check(reply, fleet.nodes, 2, atol=1e-3)


def test_a_holder_that_comes_back_in_time_finishes_the_round(tmp_path: Path) -> None:
    """It is asked again until the time for recovery is over."""
    fleet = SecureFleet(tmp_path, 4)
    back = fleet.nodes[0]
    fleet.away = {(fleet.nodes[1], stage) for stage in ("vote", "sum")} | {(back, "vote"), (back, "sum")}

    def sleep(seconds: float) -> None:
        fleet.time.now += seconds
        if fleet.time.now > 1005:
            fleet.away = {pair for pair in fleet.away if pair[0] != back}

    (reply,) = fleet.grid(sleep=sleep).send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, fleet.nodes)


def test_a_large_cohort_is_split_and_a_group_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve devices make two groups where six are the most; two holders of one are gone after their updates."""
    monkeypatch.setitem(MOST_CLIENTS, 65521, 6)
    fleet = SecureFleet(tmp_path, 12)
    failing: set[int] = set()

    def lose(node: int, stage: str, message: Message) -> None:
        if stage == "vote" and len(failing) < 2:
            failing.add(node)
        if node in failing and stage in {"vote", "sum"}:
            raise SecureUnsuitable(what="a test", why="it is gone")

    fleet.down = lose
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    first, second = fleet.told("secure-group")
    assert {first["devices"], second["devices"]} == {6}
    assert first["error"]["code"] == "secure-sum-unrecoverable"
    assert second["error"] is None
    check(reply, [int(device, 16) for device in second["summed"]])
    refused = {each["device"] for each in fleet.told("secure-refused")}
    assert refused == {f"{node:016x}" for node in failing}


def test_the_mean_of_several_groups_is_that_of_all_their_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weighted by what each group weighs."""
    monkeypatch.setitem(MOST_CLIENTS, 65521, 6)
    fleet = SecureFleet(tmp_path, 14)
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    assert sorted(group["devices"] for group in fleet.told("secure-group")) == [4, 5, 5]
    check(reply, fleet.nodes)


def test_what_cannot_be_summed_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """Too few devices, instructions that differ, queries, single replies."""
    fleet = SecureFleet(tmp_path, 5)
    grid = fleet.grid()
    messages = instructions(fleet, BASE)
    with pytest.raises(SecureTooFewDevices, match="at least 4 devices"):
        grid.send_and_receive(messages[:3], timeout=100)
    messages[0].content = RecordDict({**dict(messages[0].content), "more": _config(messages[0])["config"]})
    with pytest.raises(SecureUnsuitable, match="instructions that differ"):
        grid.send_and_receive(messages, timeout=100)
    queries = [Message(RecordDict(), node, "query") for node in fleet.nodes]
    with pytest.raises(SecureUnsuitable, match="'query' messages"):
        grid.send_and_receive(queries, timeout=100)
    with pytest.raises(SecureUnsuitable, match="push_messages"):
        grid.push_messages(messages)
    assert not fleet.calls


def test_a_device_whose_app_fails_is_left_out_and_its_words_stay_at_home(tmp_path: Path) -> None:
    """What an app says when it fails may tell of its data."""
    fleet = SecureFleet(tmp_path, 5)

    def app(message: Message, context: Context) -> Message:
        if context.node_id == fleet.nodes[0]:
            raise ValueError("the patient's name is Alice")
        return trained(message, context)

    fleet.app = app
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, fleet.nodes[1:])
    (group,) = fleet.told("secure-group")
    (error,) = group["left_out"].values()
    assert error["code"] == "app-raised"
    assert "ValueError" in error["message"]
    assert "Alice" not in str(fleet.events)


def test_an_app_may_empty_the_record_it_is_given_and_return_a_plain_list(tmp_path: Path) -> None:
    """As memory-thrifty apps do; arrays are matched by their place then."""
    fleet = SecureFleet(tmp_path, 4)

    def app(message: Message, context: Context) -> Message:
        reply = trained(message, context)
        named = reply.content.array_records["arrays"]
        reply.content["arrays"] = ArrayRecord([array.numpy() for array in named.values()])
        message.content.array_records["arrays"].clear()
        return reply

    fleet.app = app
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, fleet.nodes)


def test_the_names_that_most_devices_give_count_and_the_odd_one_is_left_out_by_name(tmp_path: Path) -> None:
    """Whoever is first: one device must not stop the others."""
    fleet = SecureFleet(tmp_path, 6)

    def app(message: Message, context: Context) -> Message:
        reply = trained(message, context)
        if context.node_id == fleet.nodes[0]:
            reply.content.metric_records["metrics"]["more"] = 1.0
        return reply

    fleet.app = app
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, fleet.nodes[1:])
    (refused,) = fleet.told("secure-refused")
    assert (refused["device"], refused["error"]["code"]) == (f"{fleet.nodes[0]:016x}", "reply-invalid")
