"""Whether this board's clock can be believed, and the earliest that it can possibly be.

A Raspberry Pi has no clock battery: it boots in 1970, or with the time of its last shutdown. TLS to the coordinator
leaves the time out altogether (`x509.coordinator_trust`), and nothing here changes that. But whoever judges a date on
the board, a certificate's end above all, asks here first.

The *floor* is a time that has surely passed. It errs to the early side only: it is the latest of the program's own
date, the certificate's beginning (the coordinator's clock, a day back), and what was kept of earlier runs, and it goes
on with the monotonic clock. The wall clock raises it only while it is synchronised, and never beyond the certificate's
end: a time server that says 2036 must not make the right time look wrong for ten years.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.errors import CertificateInvalid
from argosy_common.files import write_atomic
from argosy_common.logs import get_logger

log = get_logger(__name__)

FILE = "time-floor"
PROGRAM = datetime(2026, 1, 1, tzinfo=UTC)
"""No copy of this program is older."""
SLACK = timedelta(minutes=5)
"""How far below the floor a clock may be: time servers correct by seconds, and that is no reason to doubt one."""
KEEP_EVERY = timedelta(hours=1)
"""The file is written when the floor has risen by so much: each write wears out an SD card."""
PATIENCE_S = 60.0
"""How long after a start a clock may be wrong until the log says so: after a boot, time servers take a while."""
LOOK_EVERY_S = 5.0

TIMESYNC = Path("run/systemd/timesync")
_TIME_ERROR = 5  # adjtimex(2): "the clock is not synchronised"


class ClockState(Enum):
    """What can be said of the wall clock."""

    SYNCHRONISED = "synchronised"
    PLAUSIBLE = "plausible"
    """Not before the floor, and nothing on this board tells whether it is synchronised."""
    UNSYNCHRONISED = "not synchronised"
    BEHIND = "behind"
    """Before the floor: wrong for certain."""

    @property
    def trusted(self) -> bool:
        """Whether dates may be judged by it."""
        return self in (ClockState.SYNCHRONISED, ClockState.PLAUSIBLE)


def judge(wall: datetime, floor: datetime, *, synchronised: bool | None) -> ClockState:
    """Say what the wall clock is worth; `synchronised` is None where nobody knows."""
    if wall < floor - SLACK:
        return ClockState.BEHIND
    if synchronised is None:
        return ClockState.PLAUSIBLE
    return ClockState.SYNCHRONISED if synchronised else ClockState.UNSYNCHRONISED


def is_synchronised(root: Path = Path("/")) -> bool | None:
    """Tell whether the system's clock is kept right by a time server; None where that cannot be told.

    systemd-timesyncd leaves a file. Others (chrony, ntpd) tell the kernel only, and asking it (adjtimex) kills a
    service whose unit allows the calls of `@system-service` alone. So it is asked only where no filter is on.
    """
    if (root / TIMESYNC / "synchronized").exists():
        return True
    if "Seccomp:\t0" in _text(root / "proc/self/status") and (told := _kernel_says()) is not None:
        return told
    return False if (root / TIMESYNC).is_dir() else None


def _kernel_says() -> bool | None:
    import ctypes  # noqa: PLC0415  (a daemon under a filter, as it should be, has no use for it)

    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref((ctypes.c_byte * 512)()))  # struct timex: 208 bytes; modes 0
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


class TimeFloor:
    """The floor of one state directory. `tick` and `stop` are for the daemon; others only read."""

    def __init__(
        self,
        state_dir: Path,
        certificate: Path | None,
        *,
        clock: Clock,
        synchronised: Callable[[], bool | None] = is_synchronised,
    ) -> None:
        """Read what was kept. `certificate` is the device's, if it has one that can be read."""
        self._path = state_dir / FILE
        self._clock = clock
        self._synchronised = synchronised
        begins, self._ends = _life(certificate)
        kept = _kept(self._path)
        self._kept = min(kept or PROGRAM, self._ends)
        self._base = max(PROGRAM, begins, self._kept)
        self._began = self._looked = clock.monotonic()
        self._doubted = False

    @property
    def floor(self) -> datetime:
        """A time that has surely passed."""
        return self._base + timedelta(seconds=self._clock.monotonic() - self._began)

    @property
    def state(self) -> ClockState:
        """What the wall clock is worth at this moment."""
        return judge(self._clock.wall(), self.floor, synchronised=self._synchronised())

    def tick(self) -> None:
        """Look at the clock now and then: raise the floor and keep it, or say, once, that it cannot be trusted."""
        now = self._clock.monotonic()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._look(patient=now - self._began < PATIENCE_S)

    def renewed(self, certificate: Path) -> None:
        """Learn of the device's next certificate: what it says of the time is newer."""
        begins, self._ends = _life(certificate)
        self._base += max(timedelta(0), begins - self.floor)

    def stop(self) -> None:
        """Keep the floor at a clean stop, however little it has risen."""
        self._raise(self.state)
        self._keep()

    def _look(self, *, patient: bool) -> None:
        state = self.state
        self._raise(state)
        if self.floor - self._kept >= KEEP_EVERY:
            self._keep()
        if not state.trusted and not patient and not self._doubted:
            self._doubted = True
            log.warning("clock.untrusted", state=state.value, wall=self._clock.wall(), floor=self.floor)
        elif state.trusted and self._doubted:
            self._doubted = False
            log.info("clock.trusted", state=state.value, wall=self._clock.wall())

    def _raise(self, state: ClockState) -> None:
        if state is ClockState.SYNCHRONISED:
            self._base += max(timedelta(0), min(self._clock.wall(), self._ends) - self.floor)

    def _keep(self) -> None:
        self._kept = self.floor  # also where it fails: the next attempt is an hour away, not a second
        try:
            write_atomic(self._path, f"{self._kept.isoformat(timespec='seconds')}\n".encode())
        except OSError as error:
            log.warning("clock.floor_not_kept", path=self._path, why=error.strerror)


def _life(certificate: Path | None) -> tuple[datetime, datetime]:
    """Return when the certificate begins and ends; the widest life where there is none."""
    try:
        found = x509.load_certificate(certificate) if certificate is not None else None
    except CertificateInvalid as error:
        log.debug("clock.no_certificate", why=error.message)
        found = None
    if found is None:
        return PROGRAM, PROGRAM
    return found.not_valid_before_utc, found.not_valid_after_utc


def _kept(path: Path) -> datetime | None:
    try:
        found = datetime.fromisoformat(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
    return found if found.tzinfo else None
