"""The exchange over real links and a real broker, with a network that breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from argosy_common.blobs import BlobStore
from argosy_common.blobs.exchange import BlobExchange
from argosy_common.blobs.pacing import MAX_WINDOW
from argosy_common.clock import SystemClock
from argosy_common.link import Delivery, Link
from argosy_common.wire import topics
from argosy_common.wire.bodies import Body, open_body
from argosy_common.wire.envelope import Envelope, decode, encode
from argosy_common.x509 import COORDINATOR
from argosy_server.broker import Broker
from tests.brokers import MakeLink
from tests.common.blobs.pair import DEVICE, Outcomes, noise
from tests.proxy import Proxy
from tests.waiting import until

NAMES = topics.DeviceTopics("default", DEVICE)


class End:
    """A link with a store and an exchange, wired as the daemons wire them."""

    def __init__(self, link: Link, folder: Path, *, is_device: bool) -> None:
        self.link = link
        self.peer = COORDINATOR if is_device else DEVICE
        self.chunk_bytes_sent = 0
        self.store = BlobStore(folder)
        self._control_out = NAMES.control_up if is_device else NAMES.control_down
        self._chunks_out = NAMES.chunks_up("w1") if is_device else NAMES.chunks_down
        self.exchange = BlobExchange(
            self.store,
            clock=SystemClock(),
            sink="" if is_device else "w1",
            post=self._post,
            post_chunk=self._post_chunk,
            allow_upload=lambda _peer, _offer: None,
        )
        link.subscribe(NAMES.control_down if is_device else NAMES.control_up, self._take)
        chunks = NAMES.chunks_down if is_device else topics.chunk_filter("w1")
        link.subscribe(chunks, lambda each: self.exchange.handle_chunk(self.peer, each.payload), qos=0)
        link.on_up(lambda _: self.exchange.peer_up(self.peer))
        link.on_down(lambda _: self.exchange.peer_down(self.peer))
        link.start()
        assert link.wait_connected(10)

    def _post(self, _peer: str, body: Body) -> bool:
        return self.link.publish(self._control_out, encode(Envelope(kind=body.kind, body=body.pack())))

    def _post_chunk(self, _peer: str, _sink: str, frame: bytes) -> bool:
        self.chunk_bytes_sent += len(frame)
        return self.link.publish(self._chunks_out, frame, qos=0)

    def _take(self, delivery: Delivery) -> None:
        self.exchange.handle(self.peer, open_body(decode(delivery.payload, peer=self.peer), peer=self.peer))


@contextmanager
def ticking(*ends: End) -> Iterator[None]:
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.5):
            for end in ends:
                end.exchange.tick()

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)
        for end in ends:
            end.exchange.close()


def test_a_download_and_an_upload_cut_ten_times_send_again_only_what_was_under_way(
    mosquitto: Broker, make_link: MakeLink, proxied: Proxy, tmp_path: Path
) -> None:
    size = 24_000_000
    coordinator = End(make_link(mosquitto, COORDINATOR), tmp_path / "coordinator", is_device=False)
    device = End(make_link(mosquitto, DEVICE, address=proxied.address), tmp_path / "device", is_device=True)
    down, up = Outcomes(), Outcomes()

    def sent_enough(goal: float) -> bool:
        return coordinator.chunk_bytes_sent >= goal or bool(down and up)

    with ticking(coordinator, device):
        model = coordinator.store.put_bytes(noise(size, 1))
        update = device.store.put_bytes(noise(size, 2))
        device.exchange.fetch(COORDINATOR, model, down)
        device.exchange.send(COORDINATOR, update, up)
        for cut in range(1, 11):
            assert until(partial(sent_enough, cut * size / 11))
            proxied.cut()
        assert until(lambda: down and up, patience_s=60)
    assert down.error is None
    assert up.error is None
    assert device.store.path(model.digest).read_bytes() == noise(size, 1)
    assert coordinator.store.path(update.digest).read_bytes() == noise(size, 2)
    assert device.link.stats().connects >= 9  # a cut may fall into the time of another
    for end in (coordinator, device):
        assert end.chunk_bytes_sent <= size * 1.001 + 10 * MAX_WINDOW
    assert down[0].wire_bytes <= size * 1.001 + MAX_WINDOW  # what arrived, arrived once
