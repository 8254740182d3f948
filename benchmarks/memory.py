"""Peak memory of process trees, sampled: resident bytes (RSS) of every process of a tree, summed at the same moment.

Two figures bound the truth. `peak` is the highest sum that a sample saw; it may miss a peak shorter than the interval.
`high_water` adds up the kernel's own high-water mark (VmHWM) of each kind of process; it hardly misses one, but adds
peaks that may not have come together. Shared pages count in every process that maps them, so both err upwards. Linux
only.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

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
class _Sample:
    parent: int
    rss: int
    high_water: int


class MemorySampler:
    """Samples the trees under `roots` (group → process id) every `interval_s` while the context is open."""

    def __init__(self, roots: Mapping[str, int], classify: Classify, *, interval_s: float = 0.03) -> None:
        self._roots = dict(roots)
        self._classify = classify
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="memory", daemon=True)
        self.groups: defaultdict[str, Peak] = defaultdict(Peak)

    def __enter__(self) -> MemorySampler:
        """Take the sample that counts as idle, then sample in a thread."""
        for group, total in self._sample().items():
            self.groups[group].idle = total
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> dict[str, int]:
        """Look at all trees once; return the sum of each group."""
        seen = _processes()
        children: defaultdict[int, list[int]] = defaultdict(list)
        for pid, sample in seen.items():
            children[sample.parent].append(pid)
        totals: defaultdict[str, int] = defaultdict(int)
        labels: defaultdict[tuple[str, str], int] = defaultdict(int)
        for root_group, root in self._roots.items():
            members = [root]
            while members:
                pid = members.pop()
                members.extend(children[pid])
                if pid not in seen:
                    continue
                group, label = self._classify(root_group, _read(Path("/proc", str(pid), "cmdline")).replace("\0", " "))
                totals[group] += seen[pid].rss
                labels[group, label] += seen[pid].rss
                marks = self.groups[group].high_water_by_label
                marks[label] = max(marks.get(label, 0), seen[pid].high_water)
        for group, total in totals.items():
            self.groups[group].peak = max(self.groups[group].peak, total)
        for (group, label), total in labels.items():
            by_label = self.groups[group].by_label
            by_label[label] = max(by_label.get(label, 0), total)
        return totals


def _processes() -> dict[int, _Sample]:
    found: dict[int, _Sample] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            text = _read(entry / "status")
            if "VmRSS:" in text:  # kernel threads and zombies have none
                parent, rss, high_water = (_field(text, name) for name in ("PPid:", "VmRSS:", "VmHWM:"))
                found[int(entry.name)] = _Sample(parent, rss << 10, high_water << 10)
    return found


def _field(text: str, name: str) -> int:
    start = text.index(name) + len(name)
    return int(text[start : text.index("\n", start)].split(maxsplit=1)[0])


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # it ended between two looks
