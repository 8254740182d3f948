"""Peak memory of process trees, sampled: resident bytes (RSS) of every process of a tree, summed at the same moment.

Two figures bound the truth. `peak` is the highest sum that a sample saw; it may miss a peak shorter than the interval.
`high_water` adds up the kernel's own high-water mark (VmHWM) of each kind of process; it hardly misses one, but adds
peaks that may not have come together. Shared pages count in every process that maps them, so both err upwards. Linux
only.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

_PAGE = os.sysconf("SC_PAGE_SIZE")

Classify = Callable[[str, str], tuple[str, str]]
"""(group of the tree's root, command line) → (group that the process counts in, its label)."""


@dataclass
class Peak:
    """Memory of one group of processes, in bytes."""

    idle: int = 0
    peak: int = 0
    by_label: dict[str, int] = field(default_factory=dict)
    high_water_by_label: dict[str, int] = field(default_factory=dict)

    @property
    def high_water(self) -> int:
        """The sum, over the kinds of process, of the highest VmHWM."""
        return sum(self.high_water_by_label.values())


@dataclass(frozen=True)
class _Member:
    """A process of one of the trees."""

    pid: int
    group: str
    label: str


class MemorySampler:
    """Samples the trees under `roots` (group → process id) every `interval_s` while the context is open.

    The trees are walked anew every `walk_s`; in between only their known members are read, which takes a fraction of a
    millisecond: the sampler must not slow down what it watches.
    """

    def __init__(
        self, roots: Mapping[str, int], classify: Classify, *, interval_s: float = 0.04, walk_s: float = 0.4
    ) -> None:
        self._roots = dict(roots)
        self._classify = classify
        self._interval_s = interval_s
        self._walk_s = walk_s
        self._kernel_threads: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="memory", daemon=True)
        self.groups: defaultdict[str, Peak] = defaultdict(Peak)

    def __enter__(self) -> MemorySampler:
        """Take the sample that counts as idle, then sample in a thread."""
        for group, total in self._sample(self._walk()).items():
            self.groups[group].idle = total
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Stop sampling, and note the high-water marks a last time."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._walk()

    def _loop(self) -> None:
        members: list[_Member] = []
        walk_at = 0.0
        while not self._stop.wait(self._interval_s):
            if time.monotonic() >= walk_at:
                members = self._walk()
                walk_at = time.monotonic() + self._walk_s
            self._sample(members)

    def _sample(self, members: list[_Member]) -> dict[str, int]:
        """Read the resident bytes of all members; return the sum of each group."""
        totals: defaultdict[str, int] = defaultdict(int)
        labels: defaultdict[tuple[str, str], int] = defaultdict(int)
        for member in members:
            pages = _read(Path("/proc", str(member.pid), "statm")).split()
            if pages:
                totals[member.group] += int(pages[1]) * _PAGE
                labels[member.group, member.label] += int(pages[1]) * _PAGE
        for group, total in totals.items():
            self.groups[group].peak = max(self.groups[group].peak, total)
        for (group, label), total in labels.items():
            by_label = self.groups[group].by_label
            by_label[label] = max(by_label.get(label, 0), total)
        return totals

    def _walk(self) -> list[_Member]:
        """Find the trees' members and note their high-water marks."""
        status = self._status_of_all()
        children: defaultdict[int, list[int]] = defaultdict(list)
        for pid, text in status.items():
            children[_field(text, "PPid:")].append(pid)
        members: list[_Member] = []
        for root_group, root in self._roots.items():
            pending = [root]
            while pending:
                pid = pending.pop()
                pending.extend(children[pid])
                command = _read(Path("/proc", str(pid), "cmdline")).replace("\0", " ")
                if pid not in status or not command:
                    continue
                if command == _read(Path("/proc", str(_field(status[pid], "PPid:")), "cmdline")).replace("\0", " "):
                    continue  # between fork and exec it is still its parent's image, whose pages count already
                group, label = self._classify(root_group, command)
                members.append(_Member(pid, group, label))
                marks = self.groups[group].high_water_by_label
                marks[label] = max(marks.get(label, 0), _field(status[pid], "VmHWM:") << 10)
        return members

    def _status_of_all(self) -> dict[int, str]:
        """Return /proc/PID/status of every process that has memory of its own."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in self._kernel_threads:
                continue
            text = _read(entry / "status")
            if "VmRSS:" in text:
                found[int(entry.name)] = text
            elif "\nPPid:\t2\n" in text:  # children of kthreadd
                self._kernel_threads.add(int(entry.name))
        return found


def _field(text: str, name: str) -> int:
    start = text.index(name) + len(name)
    return int(text[start : text.index("\n", start)].split(maxsplit=1)[0])


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # it ended between two looks
