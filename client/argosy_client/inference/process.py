"""The inference process: it serves the versions that are in force, and does what the daemon tells it on its input.

    python -m argosy_client.inference.process --models DIR --socket PATH [--http PORT] [--threads N] [--queue N]

One JSON object a line. In: {"do": "load", "name": …}, {"do": "drop", "name": …}, {"do": "stats"}, {"do": "pace"}. Out,
in the same order: the answer, or {"error": …}. It ends when its input ends, so it does not outlive the daemon; and with
no daemon's word it serves what the disk says is in force.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from argosy_client.inference.folder import Version, before, in_force, keep_samples, names
from argosy_client.inference.http import HttpServer
from argosy_client.inference.opening import opened
from argosy_client.inference.placement.plan import stamp
from argosy_client.inference.placement.watch import PlanWatch
from argosy_client.inference.server import SocketServer
from argosy_client.inference.serving import QUEUE, Serving, told
from argosy_common import logs
from argosy_common.logs import get_logger

log = get_logger(__name__)


class Process:
    """What runs in the process; the daemon's words come through `obey`."""

    def __init__(
        self,
        models: Path,
        serving: Serving,
        *,
        threads: int,
        budget_mb: float | None,
        state_dir: Path | None = None,
    ) -> None:
        self._models = models
        self._loading = threading.Lock()
        self._watch = PlanWatch(self._plan_changed)
        self._serving = serving
        self._threads = threads
        self._budget_mb = budget_mb
        self._state_dir = state_dir

    def load_all(self) -> None:
        """Serve what is in force; what cannot be is told of, and the others are served all the same.

        Where nothing runs it any more (a driver is gone, say), the version before answers until it is told otherwise.
        """
        for name in names(self._models):
            try:
                self._load(name)
            except Exception as error:  # noqa: BLE001  (one model's trouble is not the others')
                log.error("model.not_served", model=name, exc=error)
                self._load_before(name)
        self._watch.start()

    def obey(self, words: TextIO, answers: TextIO) -> None:
        """Answer each line until there are no more."""
        for line in words:
            try:
                answer = self._do(json.loads(line))
            except Exception as error:  # noqa: BLE001  (told to the daemon, by name where it has one)
                answer = {"error": told(error)}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    def keep(self) -> None:
        """Keep what the board has seen, for calibrating the next version."""
        for loaded in self._serving.all():
            samples = loaded.samples()
            if len(samples):
                keep_samples(self._models / loaded.manifest.name, samples)

    def _do(self, word: dict[str, Any]) -> dict[str, Any]:
        if word.get("do") == "load":
            self.keep()
            return self._load(str(word["name"]))
        if word.get("do") == "drop":
            self._watch.forget(str(word["name"]))
            self._serving.drop(str(word["name"]))
            return {}
        if word.get("do") == "pace":
            return {"models": [loaded.pace() for loaded in self._serving.all()]}
        if word.get("do") == "stats":
            return {"models": [loaded.stats() for loaded in self._serving.all()]}
        raise ValueError(f"there is no {word.get('do')!r}")

    def _plan_changed(self, name: str) -> None:
        try:
            self._load(name, anew=True)
        except Exception as error:  # noqa: BLE001  (what was open before goes on)
            log.error("plan.not_followed", model=name, exc=error)

    def _load(self, name: str, *, anew: bool = False) -> dict[str, Any]:
        return self._serve(in_force(self._models, name), anew=anew)

    def _load_before(self, name: str) -> None:
        try:
            told = self._serve(before(self._models, name))
        except Exception as error:  # noqa: BLE001  (as in `load_all`)
            log.error("model.none_before", model=name, exc=error)
        else:
            log.warning("model.before_served", model=name, version=told["version"])

    def _serve(self, version: Version, *, anew: bool = False) -> dict[str, Any]:
        name = version.manifest.name
        with self._loading:
            there = self._serving.get(name)
            if there is not None and there.manifest == version.manifest and not anew:
                return there.stats()
            plan = stamp(version)
            loaded = opened(
                version,
                threads=self._threads,
                budget_mb=self._budget_mb,
                queue=self._serving.queue,
                state_dir=self._state_dir,
            )
            if anew and not self._watch.watches(name):
                loaded.retire()  # it was dropped meanwhile
                return {}
            self._serving.put(loaded)
            self._watch.note(version, plan)
            return loaded.stats()


def main(argv: list[str] | None = None) -> int:
    """Be the process; return the exit code."""
    parser = argparse.ArgumentParser(prog="argosy-device inference")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--http", type=int, default=None, help="a port on 127.0.0.1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queue", type=int, default=QUEUE)
    parser.add_argument("--budget-mb", type=float, default=None)
    parser.add_argument("--state-dir", type=Path, default=None, help="this board's enrolment, to ask the coordinator")
    parser.add_argument("--log-level", default="INFO")
    given = parser.parse_args(argv)
    logs.configure(given.log_level)
    serving = Serving(given.queue)
    process = Process(
        given.models, serving, threads=given.threads, budget_mb=given.budget_mb, state_dir=given.state_dir
    )
    server = SocketServer(given.socket, serving)
    server.start()
    http = HttpServer(given.http, serving) if given.http is not None else None
    if http is not None:
        http.start()
    try:
        process.load_all()
        sys.stdout.write(json.dumps({"ready": True, "http": http.port if http else None}) + "\n")
        sys.stdout.flush()
        process.obey(sys.stdin, sys.stdout)
        process.keep()
    finally:
        server.stop()
        if http is not None:
            http.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
