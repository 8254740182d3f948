from __future__ import annotations

import socket
import threading
import time

import pytest

from benchmarks.proxy import CountingProxy, Meter


def _serve_once(listener: socket.socket, answer: bytes) -> bytearray:
    """Read to the peer's end, then answer and close; return what was read."""
    received = bytearray()
    peer, _ = listener.accept()
    with peer:
        while piece := peer.recv(65536):
            received += piece
        peer.sendall(answer)
    return received


@pytest.mark.parametrize(("up", "down"), [(0, 0), (1, 5), (3_000_000, 2_000_001)])
def test_both_ways_are_forwarded_whole_and_counted(up: int, down: int) -> None:
    sent, answer = b"u" * up, b"d" * down
    received: list[bytearray] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        server = threading.Thread(target=lambda: received.append(_serve_once(listener, answer)))
        server.start()
        with CountingProxy(listener.getsockname()) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                back = bytearray()
                while piece := client.recv(65536):
                    back += piece
            server.join(timeout=10)
            assert bytes(received[0]) == sent
            assert bytes(back) == answer
            assert (proxy.up.until(time.monotonic()), proxy.down.until(time.monotonic())) == (up, down)


def test_a_target_that_is_away_looks_like_a_closed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    with CountingProxy(nobody) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
        assert client.recv(1) == b""


def test_a_meter_tells_what_passed_between_two_moments() -> None:
    meter = Meter()
    before = time.monotonic()
    meter.add(5)
    between = time.monotonic()
    while time.monotonic() == between:  # the clock must tick, or both additions are one moment
        pass
    meter.add(7)
    after = time.monotonic()
    assert meter.between(before, between) == 5
    assert meter.between(between, after) == 7
    assert meter.until(before - 1) == 0
