"""Who may import what, beyond what import-linter can say: each ban with its reason."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("common/argosy_common", "client/argosy_client", "server/argosy_server", "provisioning/argosy_provisioning")
PUBLIC_FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp.mod"}
SEAM = ROOT / "common/argosy_common/flower/compat.py"

LIGHT = {
    "argosy_client.daemon": "the supervisor stays small on a board; only its worker hosts apps",
    "argosy_client.inference.host": "the supervisor starts the inference process",
    "argosy_server.daemon": "user code and its libraries live in the run's process",
    "argosy_common.blobs": "the supervisor moves blobs",
    "argosy_common.link": "the supervisor holds the connection",
    "argosy_common.wire": "anybody may read the wire",
    "argosy_common.bundle": "the supervisor unpacks apps",
}
HEAVY = ("flwr", "numpy", "torch")

CODEC = ROOT / "common/argosy_common/codec"
NOT_FOR_CODECS = {
    "flwr": "a codec turns numbers to bytes; what they belong to is for argosy_common.flower.codec",
    "torch": "a codec is numpy only, as a board may have nothing else",
    "paho": "bytes are carried by the link",
    "pydantic": "a codec's bytes are its own; nothing in them is a message",
    "sqlalchemy": "nothing here is kept",
    **dict.fromkeys(("socket", "ssl", "http", "urllib", "asyncio", "select"), "a codec touches no socket"),
    **dict.fromkeys(("os", "io", "pathlib", "shutil", "tempfile", "mmap", "subprocess"), "a codec touches no file"),
    **dict.fromkeys(("time", "datetime"), "a codec reads no clock"),
    **dict.fromkeys(("random", "secrets"), "randomness is handed in, so that tests and peers can repeat it"),
}
CODECS = sorted(CODEC.rglob("*.py"))

COMMON = ROOT / "common/argosy_common"
SECAGG = [*sorted((COMMON / "secagg").rglob("*.py")), COMMON / "field.py", COMMON / "prg.py", COMMON / "statement.py"]
NOT_FOR_SECAGG = {
    **{name: why for name, why in NOT_FOR_CODECS.items() if name != "pydantic"},  # what comes from outside is checked
    "flwr": "a cryptographer reads this beside its specification; Flower is for argosy_common.flower.secure",
    **dict.fromkeys(("os", "random", "secrets"), "entropy is handed in: what draws it by itself cannot be tested"),
}

SERIAL = sorted((COMMON / "serial").rglob("*.py"))
NOT_FOR_SERIAL = {
    "serial": "a port is handed in: the station's is pyserial's, the board's is termios's, the tests' is in memory",
    "termios": "likewise",
    "threading": "one exchange at a time, in the caller's thread",
    **{name: why for name, why in NOT_FOR_CODECS.items() if name in ("flwr", "torch", "paho", "sqlalchemy")},
    **dict.fromkeys(("socket", "ssl", "http", "urllib", "asyncio", "select"), "a cable is no network"),
    **dict.fromkeys(("os", "io", "pathlib", "shutil", "tempfile", "subprocess"), "nothing here opens a device"),
    **dict.fromkeys(("time", "secrets"), "time and randomness are handed in, so that tests need not wait"),
}

ROLLOUT = [ROOT / "server/argosy_server/models/rollout.py"]
NOT_FOR_ROLLOUTS = {
    "sqlalchemy": "the driver keeps what the engine decides",
    "argosy_common": "reports come in the engine's own terms",
    "threading": "one decision at a time, on the caller's thread",
    **dict.fromkeys(("os", "io", "pathlib", "socket"), "it decides, and does nothing"),
    **dict.fromkeys(("time", "random", "secrets"), "time is handed in, so that a restart can decide the same again"),
}


def sources() -> Iterator[Path]:
    """Yield every module of the four packages."""
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def imports(path: Path) -> Iterator[str]:
    """Yield the names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_flowers_private_parts_are_imported_in_one_module_only() -> None:
    """Flower changes them in minor releases; one module with contract tests follows."""
    guilty = {
        (str(path.relative_to(ROOT)), name)
        for path in sources()
        for name in imports(path)
        if name.split(".")[0] == "flwr" and name not in PUBLIC_FLOWER and path != SEAM
    }
    assert not guilty


def test_nothing_imports_torch_but_what_an_app_calls_to_export_its_own() -> None:
    """A board that only serves a model need not have it, and neither need a coordinator."""
    found = {path for path in sources() for name in imports(path) if name.split(".")[0] == "torch"}
    assert found == {ROOT / "server/argosy_server/models/torch_export.py"}


@pytest.mark.parametrize("module", LIGHT, ids=str)
def test_the_daemons_stay_light(module: str) -> None:
    """Import it in a fresh interpreter and look."""
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"{module}: {LIGHT[module]}"


@pytest.mark.parametrize(
    ("modules", "bans"),
    [(CODECS, NOT_FOR_CODECS), (SECAGG, NOT_FOR_SECAGG), (SERIAL, NOT_FOR_SERIAL), (ROLLOUT, NOT_FOR_ROLLOUTS)],
    ids=["codec", "secagg", "serial", "rollout"],
)
def test_the_cores_are_pure(modules: list[Path], bans: dict[str, str]) -> None:
    """Values and randomness in, bytes out: they are read, tested, timed and fuzzed as functions."""
    assert modules
    guilty = [
        f"{path.name} imports {name}: {bans[name.split('.')[0]]}"
        for path in modules
        for name in imports(path)
        if name.split(".")[0] in bans
    ]
    opening = [
        f"{path.name} calls open"
        for path in modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]
    assert not guilty + opening
