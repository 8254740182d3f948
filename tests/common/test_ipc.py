"""The channel between a daemon and its children: whole maps, ends that are noticed, bounds."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from argosy_common.ipc import MAX_FRAME, Channel, child_environment


def ends() -> tuple[Channel, Channel]:
    """Return both ends in this process."""
    ours, theirs = Channel.pair()
    return ours, Channel(theirs)


def test_maps_arrive_whole_and_in_order_from_many_threads() -> None:
    ours, theirs = ends()

    def send_all(number: int) -> None:
        for i in range(20):
            ours.send({"n": number, "i": i, "b": b"x" * 50_000})

    threads = [threading.Thread(target=send_all, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {n: [] for n in range(4)}
    for _ in range(80):
        message = theirs.receive(timeout=10)
        assert message is not None
        assert len(message["b"]) == 50_000
        seen[message["n"]].append(message["i"])
    assert all(order == list(range(20)) for order in seen.values())
    for thread in threads:
        thread.join()


def test_a_closed_end_reads_as_none() -> None:
    ours, theirs = ends()
    ours.close()
    assert theirs.receive(timeout=10) is None


def test_an_end_that_closes_inside_a_frame_reads_as_none() -> None:
    left, right = socket.socketpair()
    left.sendall(b"\x00\x00\x01\x00half")
    left.close()
    assert Channel(right).receive(timeout=10) is None


def test_waiting_is_bounded() -> None:
    ours, _theirs = ends()
    with pytest.raises(TimeoutError):
        ours.receive(timeout=0.05)


def test_bulk_data_is_refused() -> None:
    ours, _theirs = ends()
    with pytest.raises(ValueError, match="blob store"):
        ours.send({"b": b"\0" * (MAX_FRAME + 1)})


def test_a_child_inherits_its_end_and_nothing_more() -> None:
    ours, theirs = Channel.pair()
    code = "from argosy_common.ipc import Channel; c = Channel.inherited(); c.send({'got': c.receive(timeout=10)['n']})"
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[theirs.fileno()], env={**child_environment(theirs)}
        )
    ours.send({"n": 5})
    assert ours.receive(timeout=20) == {"got": 5}
    assert ours.receive(timeout=20) is None
    assert child.wait(20) == 0
