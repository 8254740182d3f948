"""Installs a version of this board's own packages, waits for the daemon's health, and goes back where it does not come.

Run by root, from `argosy-device-upgrade.service`, whenever the daemon has left a request. The daemon talks to the
network, and so nothing that it writes is trusted: a request names a version and a number, both checked, and is read
without following links. It does nothing unless the administrator allowed it in the daemon's settings file.

Every step is on disk before it is done, and the request stays until its end is: after a power cut the next boot finds
both, and goes on (`steps.RESUME`). A way back that fails is tried again, by the service manager, until it succeeds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from argosy_client.upgrading.packages import CODE, COORDINATOR, DEVICE, Packages, PackagesFailed
from argosy_client.upgrading.steps import (
    HEALTHY,
    INBOX,
    MAX_BYTES,
    RECORD,
    REQUEST,
    ROOT_FOLDER,
    TRANSITIONS,
    Record,
    Request,
    Step,
)

SERVICE = "argosy-device.service"
SETTINGS = Path("/etc/argosy/device.toml")
STATE = Path("/var/lib/argosy-device")
HEALTH_S = 300.0
LEAST_HEALTH_S, MOST_HEALTH_S = 1.0, 86_400.0
SYSTEMCTL_S = 120.0
MAX_ATTEMPTS = 3
"""A version that takes the whole board down with it each time is given up after so many."""
BEFORE = "before"


class Inbox:
    """The daemon's folder. All of it may be forged: links, pipes, anything."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def read(self, name: str) -> bytes | None:
        """Return a small file; None if there is none, or it is nothing to be read.

        Raises:
            OSError: the folder cannot be used.
        """
        folder = self._open()
        if folder is None:
            return None
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError:
            return b""  # a link, or worse: not a request
        finally:
            os.close(folder)
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return b""
            return stream.read(MAX_BYTES + 1)

    def remove(self, name: str) -> None:
        """Remove a file, or a link itself.

        Raises:
            OSError: it cannot be removed.
        """
        folder = self._open()
        if folder is None:
            return
        try:
            os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)

    def _open(self) -> int | None:
        try:
            state = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            return os.open(INBOX, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=state)
        except FileNotFoundError:
            return None
        finally:
            os.close(state)


@dataclass(frozen=True)
class Allowance:
    """What the administrator set, in the daemon's settings file."""

    allowed: bool = False
    health_s: float = HEALTH_S

    @classmethod
    def read(cls, file: Path) -> Allowance:
        """Return what a file says; nothing is allowed by one that cannot be read."""
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8")).get("upgrade", {})
            health_s = float(table.get("health_s", HEALTH_S))
            return cls(table.get("allowed") is True, min(max(LEAST_HEALTH_S, health_s), MOST_HEALTH_S))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            sys.stderr.write(f"{file}: {error}\n")
            return cls()


class Service:
    """The daemon, as the service manager has it."""

    def is_active(self) -> bool:
        """Tell whether it said that it is ready, and runs."""
        return self._systemctl("is-active", SERVICE) == "active"

    def invocation(self) -> str:
        """Return what tells this start of it from all others; empty where it was not started."""
        return self._systemctl("show", "--property=InvocationID", "--value", SERVICE)

    def restart(self) -> None:
        """Have it started anew, without waiting for that."""
        self._systemctl("restart", "--no-block", SERVICE)

    @staticmethod
    def _systemctl(*words: str) -> str:
        command = ["systemctl", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMCTL_S, check=False)
        return done.stdout.strip()


class Program:
    """One run of the program. Folders and time may be others in a test."""

    def __init__(
        self,
        *,
        state: Path = STATE,
        folder: Path = ROOT_FOLDER,
        settings: Path = SETTINGS,
        packages: Packages | None = None,
        service: Service | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox = Inbox(state)
        self._folder = folder
        self._settings = settings
        self._packages = packages or Packages()
        self._service = service or Service()
        self._sleep = sleep
        self._monotonic = monotonic
        self._stopping = False

    def stop(self, *_: object) -> None:
        """End after the command that is under way, which is better not cut short; the next start goes on."""
        self._stopping = True

    def run(self) -> int:
        """Do what is asked for until nothing is; return the exit code: 1 asks to be started again later."""
        while (data := self._inbox.read(REQUEST)) is not None:
            request = Request.parse(data)
            try:
                self._go_on()
                if request is None:
                    sys.stderr.write("passed over a request that is none\n")
                elif request.back:
                    self._back(request)
                else:
                    self._upgrade(request)
            except PackagesFailed as error:
                sys.stderr.write(f"not done, and tried again later: {error}\n")
                return 1
            if self._inbox.read(REQUEST) == data:  # another one may have come meanwhile
                self._inbox.remove(REQUEST)
        return 0

    # --- what is asked for

    def _upgrade(self, request: Request) -> None:
        known = self._record()
        if known is not None and (known.rollout, known.version) == (request.rollout, request.version):
            return
        new = Record(request.rollout, request.version, Step.INSTALLING, running=self._running())
        try:
            new = self._prepared(new)
        except PackagesFailed as error:
            self._keep(replace(new, step=Step.REFUSED, why=str(error)))
            return
        self._keep(new)
        self._tidy(keep=new.rollout)
        self._go_on()

    def _back(self, request: Request) -> None:
        known = self._record()
        if known is None or (known.rollout, known.version) != (request.rollout, request.version):
            return
        if known.step is not Step.UPGRADED:
            return
        if not self._allowance().allowed:
            self._keep(replace(known, why=f"{self._settings} does not allow that it goes back"))
            return
        returning = _followed(known, "back", why="the coordinator called it back")
        self._keep(returning if known.previous else _followed(returning, "returned"))
        self._go_on()

    def _prepared(self, new: Record) -> Record:
        """Check that a version may and can be installed, and make sure of the way back; nothing is changed.

        Raises:
            PackagesFailed: it says why not.
        """
        if not self._allowance().allowed:
            raise PackagesFailed(f"{self._settings} does not allow it")
        here = self._packages.installed()
        if DEVICE not in here:
            raise PackagesFailed(f"the package {DEVICE} is not installed")
        if COORDINATOR in here:
            raise PackagesFailed(f"{COORDINATOR} is installed here too, and has to be of the same version")
        if self._packages.is_lower(new.version, here[DEVICE]):
            raise PackagesFailed(f"version {here[DEVICE]} is installed, and a lower one is only gone back to")
        if all(here.get(name) in (None, new.version) for name in CODE):
            return replace(new, step=Step.UPGRADED)
        self._packages.refresh()
        self._packages.fetch_before(self._packages.plan(new.version), self._before(new))
        return replace(new, previous=here[DEVICE])

    # --- the steps

    def _go_on(self) -> None:
        """Follow the record from where it is to an end.

        Raises:
            PackagesFailed: the version before could not be installed, or the system goes down.
        """
        while (record := self._record()) is not None and record.step in _STEPS:
            self._end_if_told()
            if record.step is not Step.RETURNING:
                record = replace(record, attempts=record.attempts + 1)
                self._keep(record)
            if record.attempts > MAX_ATTEMPTS and record.step is not Step.RETURNING:
                why = f"the board itself went down {MAX_ATTEMPTS} times meanwhile"
                self._keep(_followed(record, "fail", why=why))
                continue
            self._keep(_STEPS[record.step](self, record))

    def _end_if_told(self) -> None:
        if self._stopping:
            raise PackagesFailed("the system goes down")

    def _install(self, record: Record) -> Record:
        before = self._service.invocation()
        try:
            self._packages.install(record.version)
        except PackagesFailed as error:
            return _followed(record, "fail", why=str(error))
        self._restart_unless_new(before)
        return _followed(replace(record, running=self._running(), attempts=0), "installed")

    def _check(self, record: Record) -> Record:
        bound = self._allowance().health_s
        deadline = self._monotonic() + bound
        while not self._is_healthy():
            if self._monotonic() >= deadline:
                state = "was not connected to its coordinator" if self._service.is_active() else "did not run"
                return _followed(record, "fail", why=f"the daemon {state} within {bound:.0f} s")
            self._end_if_told()
            self._sleep(1.0)
        return _followed(record, "healthy")

    def _return(self, record: Record) -> Record:
        before = self._service.invocation()
        self._packages.install_before(self._before(record))
        self._restart_unless_new(before)
        return _followed(replace(record, running=self._running()), "returned")

    # --- the daemon

    def _is_healthy(self) -> bool:
        """Tell whether the daemon of this very start of its service was connected."""
        try:
            told = json.loads(self._inbox.read(HEALTHY) or b"{}")
        except (ValueError, RecursionError):
            return False
        invocation = self._service.invocation()
        heard = isinstance(told, dict) and told.get("invocation") == invocation
        return heard and bool(invocation) and self._service.is_active()

    def _restart_unless_new(self, before: str) -> None:
        """Have the daemon started anew, where the packages' own scripts have not."""
        if self._service.invocation() in ("", before):
            self._service.restart()

    # --- what is kept

    def _record(self) -> Record | None:
        try:
            return Record.parse((self._folder / RECORD).read_bytes())
        except FileNotFoundError:
            return None

    def _keep(self, record: Record) -> None:
        path, partial = self._folder / RECORD, self._folder / f".{RECORD}.partial"
        with partial.open("wb") as stream:
            partial.chmod(0o644)
            stream.write(record.pack())
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        sys.stderr.write(
            f"upgrade {record.rollout} to {record.version}: {record.step}{record.why and f', {record.why}'}\n"
        )

    def _before(self, record: Record) -> Path:
        return self._folder / BEFORE / str(record.rollout)

    def _tidy(self, *, keep: int) -> None:
        """Remove the packages that led back from earlier upgrades."""
        for each in (self._folder / BEFORE).glob("*"):
            if each.name != str(keep):
                shutil.rmtree(each)

    def _running(self) -> str:
        return self._packages.installed().get(DEVICE, "")

    def _allowance(self) -> Allowance:
        return Allowance.read(self._settings)


_STEPS: dict[Step, Callable[[Program, Record], Record]] = {
    Step.INSTALLING: Program._install,
    Step.CHECKING: Program._check,
    Step.RETURNING: Program._return,
}


def _followed(record: Record, event: str, *, why: str = "") -> Record:
    return replace(record, step=TRANSITIONS[record.step, event], why=why or record.why)


def main() -> int:
    """Run the program; return the exit code."""
    program = Program()
    signal.signal(signal.SIGTERM, program.stop)
    return program.run()


if __name__ == "__main__":
    sys.exit(main())
