"""Notices that a plan was made, changed or forgotten while the version that it is for is served."""

from __future__ import annotations

import threading
from collections.abc import Callable

from argosy_client.inference.folder import Version
from argosy_client.inference.placement.plan import stamp

EVERY_S = 1.0


class PlanWatch:
    """Calls `changed` with a model's name, on a thread of its own, whenever its plan is another one."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._seen: dict[str, tuple[Version, object]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="plans", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Notice nothing more."""
        self._stopping.set()

    def note(self, version: Version, seen: object) -> None:
        """Watch the plan of the version that is served from now on; `seen` is its plan's stamp before it was opened."""
        self._seen[version.manifest.name] = (version, seen)

    def watches(self, name: str) -> bool:
        """Tell whether a model's plan is still of interest."""
        return name in self._seen

    def forget(self, name: str) -> None:
        """Watch a model's plan no more."""
        self._seen.pop(name, None)

    def _watch(self) -> None:
        while not self._stopping.wait(EVERY_S):
            for name, (version, seen) in list(self._seen.items()):
                now = stamp(version)
                if now != seen and self._seen.get(name) == (version, seen):
                    self._seen[name] = (version, now)
                    self._changed(name)
