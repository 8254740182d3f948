"""A broker as our child process: started, waited for, started again when it dies, and gone when we are gone."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

from argosy_common.backoff import Backoff
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, BrokerFailedToStart, PortInUse
from argosy_common.logs import get_logger

log = get_logger(__name__)

START_S = 10.0
"""How long a broker may take until it listens."""
STOP_S = 5.0
_POLL_S = 0.02
_PROBE_S = 1.0
_SETTLED_S = 30.0
"""A broker that lived this long was a good one: its next death is answered quickly again."""
_LAST_WORDS = 5
_LOG_LIMIT = 4 * 1024 * 1024
_SETTING = "broker.port"
_TETHER = Path(__file__).with_name("tether.py")


class Child:
    """One program that listens on one port.

    All of the process's life is led by one thread of ours, the keeper: the kernel kills a tethered child with the
    thread that started it, so it must not be started from a thread that may end before.
    """

    def __init__(
        self, name: str, command: list[str], host: str, port: int, log_path: Path, *, clock: Clock, rng: random.Random
    ) -> None:
        """Prepare to run `command`, which will listen on `host` and `port` and whose output goes to `log_path`."""
        self.name = name
        self.log_path = log_path
        self._command = command
        self._host = host
        self._port = port
        self._clock = clock
        self._backoff = Backoff(rng, base=0.25, cap=30.0)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._decided = threading.Event()
        self._ready = False
        self._error: ArgosyError | None = None
        self._keeper: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The process now running, if one is."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def alive(self) -> bool:
        """Whether the process runs and has been seen to listen."""
        return self._ready and self.pid is not None

    def kept(self) -> bool:
        """Whether the keeper is at work, which starts the program again when it dies."""
        return self._keeper is not None and self._keeper.is_alive()

    def start(self) -> None:
        """Start the program and return once it listens; from then on it is started again whenever it dies.

        Raises:
            PortInUse: another program listens there.
            BrokerFailedToStart: it ended, or did not listen in time; with its own last words.
        """
        if self._keeper is not None:
            raise RuntimeError("a child is started once")
        require_free(self._host, self._port)
        self._keeper = threading.Thread(target=self._keep, name=f"{self.name}-keeper", daemon=True)
        self._keeper.start()
        self._decided.wait()  # bounded: the first start takes START_S and STOP_S at most
        if self._error is not None:
            self._keeper.join()
            raise self._error

    def stop(self) -> None:
        """End the program, by force after `STOP_S`; harmless when called twice."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
        if self._keeper is not None:
            self._keeper.join(STOP_S * 2)

    # --- the keeper ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            error = self._run_once()
            self._ready = False
            if not self._decided.is_set():
                self._error = error
                self._decided.set()
                return
            if self._stopping.is_set():
                return
            if self._clock.monotonic() - began > _SETTLED_S:
                self._backoff.reset()
            wait = self._backoff.next()
            log.error("broker.died", broker=self.name, why=error.message, restart_s=wait)
            self._stopping.wait(wait)

    def _run_once(self) -> ArgosyError:
        """Run the program until it ends; return how it ended."""
        offset = self._rotated()
        try:
            process = self._spawn()
        except OSError as error:
            return BrokerFailedToStart(broker=self.name, why=error, log=self.log_path)
        with process:
            self._process = process
            try:
                if self._listens(process):
                    self._ready = True
                    self._decided.set()
                    log.info("broker.listens", broker=self.name, host=self._host, port=self._port, pid=process.pid)
                    self._wait_for_end(process)
                ended_with = process.poll()
            finally:
                _end(process)
        return self._explained(ended_with, offset)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", str(_TETHER), str(os.getpid()), *self._command]
        with self.log_path.open("ab") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _listens(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = self._clock.monotonic() + START_S
        while self._clock.monotonic() < deadline and process.poll() is None and not self._stopping.is_set():
            if _answers(self._host, self._port) and process.poll() is None:
                return True
            self._stopping.wait(_POLL_S)
        return False

    def _wait_for_end(self, process: subprocess.Popen[bytes]) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
                return

    def _explained(self, code: int | None, offset: int) -> ArgosyError:
        words = self._last_words(offset)
        if "ddress already in use" in words:
            return port_in_use(self._host, self._port)
        ending = f"it ended with {code}" if code is not None else f"it did not listen within {START_S:g} s"
        return BrokerFailedToStart(broker=self.name, why=f"{ending}: {words}" if words else ending, log=self.log_path)

    def _last_words(self, offset: int) -> str:
        with contextlib.suppress(OSError), self.log_path.open("rb") as stream:
            stream.seek(max(offset, stream.seek(0, os.SEEK_END) - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
            return " | ".join(line.strip() for line in lines[-_LAST_WORDS:])
        return ""

    def _rotated(self) -> int:
        """Keep one old log once it is large; return where this run's words begin."""
        with contextlib.suppress(FileNotFoundError):
            size = self.log_path.stat().st_size
            if size <= _LOG_LIMIT:
                return size
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _answers(host: str, port: int) -> bool:
    """Whether a TLS handshake gets its answer. A connection alone says little: Mosquitto listens, then reads its key.

    Nothing is verified, since nothing is said; the broker logs that somebody showed no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((reachable(host), port), timeout=_PROBE_S) as sock, context.wrap_socket(sock):
            return True
    except OSError:
        return False


def reachable(host: str) -> str:
    """Return the address under which this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (no socket is bound)


def port_in_use(host: str, port: int) -> PortInUse:
    """Return the error that says whose setting to change."""
    return PortInUse(port=port, host=host, purpose="the MQTT broker", setting=_SETTING)


def require_free(host: str, port: int) -> None:
    """Check that a program of ours could listen there.

    Raises:
        PortInUse: another one does.
        BrokerFailedToStart: the address is none of this machine's, or the port is reserved to root.
    """
    _bind(host, port)


def choose_port(host: str, port: int) -> int:
    """Return `port`, or a free one for 0."""
    return port or _bind(host, 0)


def _bind(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_in_use(host, port) from None
            raise BrokerFailedToStart(broker="MQTT", why=f"{host}:{port}: {error}", log="the system's log") from error
        return int(sock.getsockname()[1])
