"""Mosquitto as a managed child: its program, its configuration, its access list.

What the configuration must guarantee (each is tested):
- Nobody connects without a certificate of our authority, and nobody chooses a name: user and client id are the
  certificate's common name.
- A device writes under its own topics only, and reads only what is for it or for all (specs/transport.md, "Topics").
- A device that is shut out reads and writes nothing, also in a session that it has; see `argosy_server/revocation.py`.
- Nothing is kept on disk: the broker may lose everything at any moment.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from argosy_common.clock import Clock
from argosy_common.errors import BrokerFailedToStart
from argosy_common.files import private_folder, write_atomic
from argosy_common.link import TlsFiles
from argosy_common.wire.topics import ROOT
from argosy_common.x509 import COORDINATOR
from argosy_server.broker.child import Child, choose_port, reachable

MAX_PACKET = 1_100_000
"""Bytes of one MQTT packet: the largest a `Link` sends."""
MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""Bytes the broker keeps for one client that is slow or away; beyond that it drops, and the layers above send again."""
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")


def find_mosquitto() -> Path | None:
    """Return the program, from PATH or from where distributions put daemons; None where it is not installed."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which("mosquitto", path=os.pathsep.join([*folders, *_SYSTEM_FOLDERS]))
    return Path(found) if found else None


class MosquittoBroker:
    """See `broker.Broker`."""

    kind = "mosquitto"

    def __init__(
        self,
        host: str,
        port: int,
        tls: TlsFiles,
        folder: Path,
        *,
        clock: Clock,
        rng: random.Random,
        crl: Path | None = None,
    ) -> None:
        """Write configuration and access list into `folder`, for a broker on `host` and `port` (0: a free one).

        `crl` is the authority's revocation list, a file that must be there before the broker is started.

        Raises:
            BrokerFailedToStart: Mosquitto is not installed.
        """
        program = find_mosquitto()
        if program is None:
            raise BrokerFailedToStart(broker=self.kind, why="it is not installed", log="nothing")
        private_folder(folder)
        port = choose_port(host, port)
        config = folder / "mosquitto.conf"
        self._access = folder / "access.list"
        write_atomic(self._access, access_list().encode())
        write_atomic(config, configuration(host, port, tls, self._access, crl).encode())
        self.address = (reachable(host), port)
        self._child = Child(
            self.kind,
            [str(program), "-c", str(config)],
            host,
            port,
            folder / "mosquitto.log",
            clock=clock,
            rng=rng,
        )
        self.start = self._child.start
        self.stop = self._child.stop
        self.alive = self._child.alive
        self.kept = self._child.kept

    @property
    def pid(self) -> int | None:
        """The broker's process."""
        return self._child.pid

    def shut_out(self, devices: Collection[str]) -> None:
        """See `broker.Broker`. A broker that does not run reads both lists when it starts."""
        write_atomic(self._access, access_list(devices).encode())
        pid = self.pid
        if pid is not None:
            with suppress(ProcessLookupError):  # it has just died, and is started anew
                os.kill(pid, signal.SIGHUP)


def configuration(host: str, port: int, tls: TlsFiles, access: Path, crl: Path | None = None) -> str:
    """Return the configuration file."""
    user = pwd.getpwuid(os.geteuid()).pw_name  # a change of user would also drop the tie to our life
    return f"""\
# Written by Argosy at each start. Changes here are lost.
per_listener_settings false
user {user}
persistence false
allow_anonymous false
acl_file {access}
max_packet_size {MAX_PACKET}
max_queued_bytes {MAX_QUEUED_BYTES}
set_tcp_nodelay true
sys_interval 0
log_dest stderr
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type error
log_type warning
log_type notice

listener {port} {host}
cafile {tls.ca}
certfile {tls.cert}
keyfile {tls.key}
{f"crlfile {crl}" if crl else "# no crlfile"}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
tls_version tlsv1.3
"""


def access_list(shut_out: Collection[str] = ()) -> str:
    """Return the access list. `%u` is the certificate's common name; the broker refuses names with wildcards.

    A `deny` goes before whatever a pattern allows.
    """
    denied = "".join(f"\nuser {device}\ntopic deny #\n" for device in sorted(set(shut_out)))
    return f"""\
user {COORDINATOR}
topic readwrite #
{denied}
pattern write {ROOT}/+/d/%u/up/#
pattern write {ROOT}/+/s/%u
pattern read {ROOT}/+/d/%u/dn/#
pattern read {ROOT}/+/b/#
"""
