"""The common form of every benchmark: flags, machine, rows, bars, a readable table, one JSON object last.

A benchmark is one function that measures and tells a `Benchmark` what it found:

    def measure(bench: Benchmark) -> None:
        bench.row(size_mb=4, seconds=0.2)
        bench.bar("mb_s", 212.0, ">= 100", against="raw TLS socket, same minute")

    if __name__ == "__main__":
        raise SystemExit(main("transfer", __doc__, measure))

Rules: a bar compares with what ran in the same process run, never with a remembered figure; a peer that could not run
becomes a row and its bars are left out; a quick run says what it left out. Exit 0 when it ran, whatever holds. With
`--json` the object is the only thing on stdout; everything meant for people goes to stderr then.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import operator
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

OUT = Path(__file__).parent / "out"
Value = float | int | str | bool | None

_PACKAGES = ("argosy", "flwr", "numpy", "paho-mqtt", "cryptography")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}
_GOAL = re.compile(r"(<=|>=|<|>|==) (-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Bar:
    """One claim: `value` measured, `goal` such as "<= 0.01", `against` the peer or limit it was measured beside."""

    id: str
    value: float
    goal: str
    against: str

    def __post_init__(self) -> None:
        """Refuse what the form cannot carry.

        Raises:
            ValueError: the value is no finite number, or the goal is not an operator and a number.
        """
        if not math.isfinite(self.value):
            raise ValueError(f"bar {self.id}: {self.value} is not a finite number")
        if not _GOAL.fullmatch(self.goal):
            raise ValueError(f"bar {self.id}: the goal {self.goal!r} is not an operator, a space and a number")

    @property
    def holds(self) -> bool:
        """Whether the value meets the goal."""
        sign, limit = self.goal.split(" ")
        return _COMPARE[sign](self.value, float(limit))

    def to_json(self) -> dict[str, Value]:
        """Return the bar as specs/benchmarks.md writes it."""
        return {"id": self.id, "value": self.value, "goal": self.goal, "holds": self.holds, "against": self.against}


@dataclass(frozen=True)
class Options:
    """The two flags that every benchmark has."""

    json: bool = False
    quick: bool = False


@dataclass
class Benchmark:
    """What one run of a benchmark found, told by the measuring function row by row."""

    name: str
    options: Options = field(default_factory=Options)
    packages: tuple[str, ...] = ()
    rows: list[dict[str, Value]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    _remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Choose where people read: stdout, or stderr where stdout belongs to the JSON object."""
        self.console = Console(stderr=self.options.json)
        if not self.console.is_terminal:
            self.console = Console(stderr=self.options.json, width=160)

    @property
    def quick(self) -> bool:
        """Whether it must end within 50 s on two cores."""
        return self.options.quick

    def row(self, **values: Value) -> None:
        """Add one line of the table. Rows may have different columns; units belong in the names (`seconds`, `mb_s`)."""
        self.rows.append({name: _plain(value) for name, value in values.items()})

    def bar(self, bar_id: str, value: float, goal: str, against: str) -> None:
        """Add one claim; see `Bar`."""
        self.bars.append(Bar(bar_id, float(value), goal, against))

    def left_out(self, what: str) -> None:
        """Say what a quick run did not measure; it stands in the table and in the JSON rows."""
        self._remarks.append(f"Left out: {what}")
        self.rows.append({"left_out": what})

    def could_not_run(self, peer: str, why: str) -> None:
        """Say that a peer did not run, and why; the caller leaves the bars against it out."""
        self._remarks.append(f"Could not run: {peer}: {why}")
        self.rows.append({"peer": peer, "could_not_run": why})

    def say(self, line: str) -> None:
        """Show one line to the person who waits."""
        self.console.print(line, markup=False, highlight=False)

    @contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator[Callable[[str], None]]:
        """Show a progress bar; call the yielded function with what comes next as each step begins."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as shown:
            task = shown.add_task(title, total=total)
            begun = 0

            def step(what: str) -> None:
                nonlocal begun
                shown.update(task, completed=begun, description=f"{title}: {what}")
                begun += 1
                if not self.console.is_terminal:
                    self.say(f"{title}: {what}")

            yield step

    def png(self, suffix: str = "") -> Path:
        """Return where this benchmark's picture goes, `benchmarks/out/NAME[-suffix].png`; the folder exists then."""
        OUT.mkdir(exist_ok=True)
        return OUT / f"{self.name}{f'-{suffix}' if suffix else ''}.png"

    def to_json(self) -> dict[str, object]:
        """Return the object of specs/benchmarks.md."""
        return {
            "name": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(self.packages),
            "rows": self.rows,
            "bars": [bar.to_json() for bar in self.bars],
        }

    def show(self) -> None:
        """Print tables and bars for people and, where asked for, the JSON object as the last line of stdout."""
        for table in _tables(self.name, [row for row in self.rows if not {"left_out", "could_not_run"} & row.keys()]):
            self.console.print(table)
        if self.bars:
            self.console.print(_bar_table(self.bars))
        for remark in self._remarks:
            self.say(remark)
        if self.options.json:
            print(json.dumps(self.to_json(), allow_nan=False), flush=True)


def main(
    name: str,
    description: str | None,
    measure: Callable[[Benchmark], None],
    *,
    packages: tuple[str, ...] = (),
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the flags, measure, show. Returns the exit status: 0 when it ran, whatever the bars say.

    `packages` are distributions whose versions matter beside the usual ones.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=(description or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on stdout")
    parser.add_argument("--quick", action="store_true", help="end within 50 s on two cores; says what it left out")
    given = parser.parse_args(arguments)
    bench = Benchmark(name, Options(json=given.json, quick=given.quick), packages)
    measure(bench)
    bench.show()
    return 0


def machine(packages: tuple[str, ...] = ()) -> dict[str, object]:
    """Describe where the figures come from: cpu, cores this process may use, Python, versions of what was measured."""
    versions = {package: _version(package) for package in (*_PACKAGES, *packages)}
    versions["mosquitto"] = _mosquitto_version()
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version for name, version in versions.items() if version},
    }


def _cpu() -> str:
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _mosquitto_version() -> str:
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        return ""
    told = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"mosquitto version (\S+)", told.stdout + told.stderr)
    return found.group(1) if found else ""


def _plain(value: Value) -> Value:
    """Turn numpy scalars into Python's and non-finite floats into None: JSON knows neither."""
    item = getattr(value, "item", None)
    plain: Value = item() if callable(item) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _tables(name: str, rows: list[dict[str, Value]]) -> Iterator[Table]:
    """Yield one table for each set of columns, in the order in which the sets first appear."""
    groups: dict[tuple[str, ...], list[dict[str, Value]]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    for columns, members in groups.items():
        table = Table(title=name, title_justify="left")
        for column in columns:
            table.add_column(column, justify="left" if isinstance(members[0][column], str) else "right")
        for row in members:
            table.add_row(*(_shown(row[column]) for column in columns))
        yield table


def _bar_table(bars: list[Bar]) -> Table:
    table = Table(title="bars", title_justify="left")
    for column in ("id", "value", "goal", "holds", "against"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for bar in bars:
        verdict = "[green]yes[/]" if bar.holds else "[red]NO[/]"
        table.add_row(bar.id, _shown(bar.value), bar.goal, verdict, bar.against)
    return table


def _shown(value: Value) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
