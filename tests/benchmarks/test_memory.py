from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.memory import MemorySampler

_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "the-child"], stdin=subprocess.PIPE)
child.stdin.write(sys.stdin.buffer.readline()); child.stdin.flush()
sys.stdin.read()
child.stdin.close(); child.wait()
"""
_CHILD = "import sys; sys.stdin.readline(); big = bytearray(b'x' * 80_000_000); sys.stdin.read()"


def _label(group: str, command: str) -> tuple[str, str]:
    return group, "child" if command.rstrip().endswith("the-child") else "parent"


def test_a_descendants_memory_counts_in_its_trees_peak() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT, _CHILD], stdin=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        with MemorySampler({"tree": parent.pid}, _label) as sampler:
            parent.stdin.write(b"go\n")
            parent.stdin.flush()
            deadline = time.monotonic() + 20
            while sampler.groups["tree"].by_label.get("child", 0) < 80_000_000 and time.monotonic() < deadline:
                time.sleep(0.05)
        parent.stdin.close()
        parent.wait(timeout=20)
    peak = sampler.groups["tree"]
    assert peak.by_label["child"] >= 80_000_000
    assert peak.peak >= peak.by_label["child"]
    assert peak.high_water >= 80_000_000
    assert peak.idle < 80_000_000
