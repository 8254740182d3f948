"""A PostgreSQL of our own: a cluster in a folder, reached by a Unix socket there, gone with the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

FAST = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=16MB", "-c", "listen_addresses=")
"""It need not survive a power cut, and listens on its socket only."""


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, also where a distribution keeps them off PATH; None without."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return Path(found).resolve().parent if found else folders[-1].parent if folders else None


def why_not() -> str:
    """Return why there can be no PostgreSQL here; empty where there can."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed (the extra `postgres`)"
    return "" if programs() else "PostgreSQL is not installed (no initdb)"


class Cluster:
    """A running PostgreSQL."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.folder = folder
        self._user = user
        self._run("initdb", "--no-sync", "--auth=trust", "--username=argosy", "--encoding=UTF8", "--locale=C")
        self.start()

    @property
    def url(self) -> str:
        """Its database, as the coordinator's setting names it."""
        return f"postgresql+psycopg://argosy@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = " ".join([*FAST, "-k", str(self.folder)])
        self._run("pg_ctl", "start", "--wait", "--silent", "--log", str(self.folder / "log"), "--options", options)

    def stop(self) -> None:
        """End it at once, as a kill would."""
        self._run("pg_ctl", "stop", "--mode=immediate", "--silent")

    def empty(self) -> None:
        """Take away whatever tests made."""
        engine = create_engine(self.url)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()

    def _run(self, program: str, *arguments: str) -> None:
        where = programs()
        assert where is not None
        command = [str(where / program), "--pgdata", str(self.folder / "data"), *arguments]
        # not on pipes: the server would keep them open
        with (self.folder / f"{program}.out").open("w+") as output:
            done = subprocess.run(
                command, user=self._user, cwd="/", stdout=output, stderr=output, timeout=60, check=False
            )
            output.seek(0)
            assert done.returncode == 0, output.read()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster, or skip the test by name where there is no PostgreSQL. It refuses to be root: root is `nobody`."""
    if why := why_not():
        pytest.skip(why)
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="argosy-pg-", dir="/tmp"))
    try:
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        made = Cluster(folder, user)
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)
