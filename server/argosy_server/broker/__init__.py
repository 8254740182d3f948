"""The MQTT broker: a managed Mosquitto where it is installed, else the embedded iotcore, or an external one by URL.

Nothing is ever kept by the broker that Argosy could not lose: it may be killed and restarted empty at any moment.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from argosy_common.clock import Clock
from argosy_common.errors import CertificateInvalid
from argosy_common.link import TlsFiles
from argosy_server.broker.external import ExternalBroker
from argosy_server.broker.iotcore import IotcoreBroker
from argosy_server.broker.mosquitto import MosquittoBroker, find_mosquitto
from argosy_server.settings import BrokerTable


class Broker(Protocol):
    """Who carries the messages."""

    @property
    def kind(self) -> str:
        """`mosquitto`, `iotcore` or `external`."""
        ...

    @property
    def address(self) -> tuple[str, int]:
        """Host and port at which this machine reaches it."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process, where it is a child of ours that runs."""
        ...

    def start(self) -> None:
        """Start it and return once it listens; from then on it is started again whenever it dies.

        Raises:
            PortInUse: another program listens on its port.
            BrokerFailedToStart: it did not come up; with its own last words.
        """
        ...

    def stop(self) -> None:
        """End it, in bounded time; harmless when called twice or before `start`."""
        ...

    def alive(self) -> bool:
        """Whether it runs and listens."""
        ...

    def kept(self) -> bool:
        """Whether it will be started again when it dies: by us, or by whoever runs it where it is not ours."""
        ...

    def shut_out(self, devices: Collection[str]) -> None:
        """Refuse everything to these devices, and to no others, and read the authority's revocation list again.

        Takes hold within about a second. A broker without an access list of ours does nothing here.

        Raises:
            OSError: the list cannot be written.
        """
        ...


def open_broker(
    settings: BrokerTable,
    tls: TlsFiles,
    folder: Path,
    *,
    clock: Clock,
    rng: random.Random,
    crl: Path | None = None,
) -> Broker:
    """Return the broker that `settings` ask for, not yet started; its files go to `folder`.

    `crl` is the file of the authority's revocation list, for a broker that reads one.

    `tls` is the broker's own side: the authority that clients' certificates must come from, its server certificate
    and its key.

    Raises:
        BrokerFailedToStart: Mosquitto is asked for and not installed.
        PortInUse: see `Broker.start`.
        CertificateInvalid: a file of `tls` cannot be used; the embedded broker would start all the same.
    """
    external = settings.external_address
    if external is not None:
        return ExternalBroker(*external)
    _check(tls)
    if settings.kind == "mosquitto" or (settings.kind == "auto" and find_mosquitto() is not None):
        return MosquittoBroker(settings.host, settings.port, tls, folder, clock=clock, rng=rng, crl=crl)
    return IotcoreBroker(settings.port, tls, folder, clock=clock, rng=rng)


def _check(tls: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(tls.ca)
    except OSError as error:
        raise CertificateInvalid(path=tls.ca, why=error) from error
    try:
        context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:
        raise CertificateInvalid(path=f"{tls.cert} or {tls.key}", why=error) from error


__all__ = ["Broker", "ExternalBroker", "IotcoreBroker", "MosquittoBroker", "find_mosquitto", "open_broker"]
