"""MQTT 5 clients that do little and cost little, so that a thousand fit into a test: connect, be born, wait.

When the connection breaks they come back after a short pause, all at once: the worst that a fleet does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from dataclasses import dataclass

from argosy_common.link import TlsFiles
from argosy_common.wire.bodies import Birth
from argosy_common.wire.envelope import Envelope, encode
from argosy_common.wire.topics import DeviceTopics
from argosy_common.x509 import COORDINATOR

PAUSE_S = 0.5
ANSWER_S = 60.0
CONNACK, PUBACK = 0x20, 0x40


@dataclass
class LightClient:
    """One of them."""

    device: str
    site: str
    context: ssl.SSLContext
    boot: str = "1" * 32
    """What its births say."""

    async def live(self, host: str, port: int) -> None:
        """Be there until it is cancelled."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    reader, writer = await asyncio.open_connection(
                        host, port, ssl=self.context, server_hostname=COORDINATOR, ssl_handshake_timeout=ANSWER_S
                    )
                try:
                    async with asyncio.timeout(ANSWER_S):
                        await self._be_born(reader, writer)
                    await reader.read()  # to the end of the connection
                finally:
                    writer.close()
            await asyncio.sleep(PAUSE_S)

    async def _be_born(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clean_start, keep_alive = 0x02, 600
        head = _text("MQTT") + struct.pack("!BBHB", 5, clean_start, keep_alive, 0)
        writer.write(_packet(0x10, head + _text(self.device)))
        await self._expect(reader, CONNACK)
        body = Birth(boot=self.boot, session=0, name=f"light-{self.device}", version="0", python="3", machine="light")
        envelope = encode(Envelope(kind=body.kind, body=body.pack()))
        topic = DeviceTopics(self.site, self.device).birth
        at_least_once_retained = 0x33
        writer.write(_packet(at_least_once_retained, _text(topic) + struct.pack("!HB", 1, 0) + envelope))
        await self._expect(reader, PUBACK)

    @staticmethod
    async def _expect(reader: asyncio.StreamReader, kind: int) -> None:
        head = await reader.readexactly(2)  # answers of less than 128 bytes
        await reader.readexactly(head[1])
        if head[0] != kind:
            raise ConnectionError(f"a packet of kind {head[0]:x}, not {kind:x}")


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """Return what a client shows and trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)
    return context


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


def _packet(kind: int, body: bytes) -> bytes:
    length, count = b"", len(body)
    while True:
        count, digit = divmod(count, 128)
        length += bytes([digit | (0x80 if count else 0)])
        if not count:
            return bytes([kind]) + length + body
