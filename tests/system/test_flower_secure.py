"""The secure layer by itself, on Flower's own SuperLink and SuperNodes.

An app is edited as docs/secure-aggregation.md says: one wrapped grid in the server app, one mod in the client app; no
coordinator, device or broker of ours.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.flower_native import NativeFederation, native_environment
from benchmarks.processes import Processes
from tests.waiting import until

MASKED = Path(__file__).parent / "apps" / "masked"

EDITS = {
    "masked/client_app.py": [
        (
            "from flwr.clientapp import ClientApp",
            "from argosy_common.flower.secure.standalone import secure_mod\nfrom flwr.clientapp import ClientApp",
        ),
        ("app = ClientApp()", "app = ClientApp(mods=[secure_mod])"),
    ],
    "masked/server_app.py": [
        (
            "from flwr.serverapp import ServerApp",
            "from argosy_common.flower.secure.standalone import secure_grid\nfrom flwr.serverapp import ServerApp",
        ),
        ("made.start(grid,", "made.start(secure_grid(grid, context, made),"),
        # what follows is the test's own, to see what happened
        ('f"model-{round_}.npz"', "f\"{config['models']}/model-{round_}.npz\""),
    ],
    "pyproject.toml": [('fail-on = ""', 'fail-on = ""\nmodels = ""')],
}

PEOPLE = ("p1", "p2", "p3", "p4")
SENT = "Sent successfully"


def edited_app(folder: Path) -> Path:
    """Copy the app and edit it as its user would."""
    app = folder / "masked"
    shutil.copytree(MASKED, app, ignore=shutil.ignore_patterns("__pycache__"))
    for name, edits in EDITS.items():
        text = (app / name).read_text()
        for before, after in edits:
            assert text.count(before) == 1, f"{name}: {before}"
            text = text.replace(before, after)
        (app / name).write_text(text)
    return app


def node_config(folder: Path, data: Path, number: int) -> dict[str, str | int]:
    """What a node's operator says of it."""
    name = PEOPLE[number - 1]
    (folder / name).mkdir()
    return {
        "name": name,
        "subject": number,
        "data": str(data),
        "notes": str(folder / name),
        "argosy-secure-dir": str(folder / name / "secure"),
    }


def mean_of(folder: Path, round_: int, names: tuple[str, ...]) -> dict[str, Any]:
    """The mean of what nodes returned, under weights rounded to powers of two."""
    found = []
    for name in names:
        with np.load(folder / name / f"round-{round_}.npz") as file:
            found.append(dict(file))
    weights = [2 ** round(np.log2(each["num-examples"])) for each in found]
    return {name: np.average([each[name] for each in found], axis=0, weights=weights) for name in ("weights", "bias")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_app_is_summed_under_the_mask_on_flowers_own_transport(tmp_path: Path, har_data: Path) -> None:
    """Four nodes, one of which fails to train; in the second round another loses its power right after its update."""
    config: dict[str, Any] = {"num-server-rounds": 2, "evaluate": False, "fail-on": "p4", "models": str(tmp_path)}
    environment = native_environment(tmp_path) | {"ARGOSY_SECURE_DIR": str(tmp_path / "server")}
    with Processes(tmp_path, environment) as processes:
        federation = NativeFederation(tmp_path, processes)
        federation.start_link()
        roots = federation.start_nodes([node_config(tmp_path, har_data, number) for number in range(1, 5)])
        federation.submit(edited_app(tmp_path), config)
        # a node's messages: prekeys, update, vote and sum of round 1, update of round 2
        processes.wait("p1 sends its second update", lambda: _sent(processes, 0) == 5, 300)
        os.killpg(roots["device-0"], signal.SIGKILL)
        assert until((tmp_path / "model-2.npz").is_file, patience_s=120), processes.log("superlink").read_text()
        assert until(lambda: "Strategy execution finished" in _told(processes), patience_s=30)
        told, failing = _told(processes), processes.log("node-3").read_text()
    for round_ in (1, 2):
        with np.load(tmp_path / f"model-{round_}.npz") as model:
            for name, expected in mean_of(tmp_path, round_, PEOPLE[:3]).items():
                assert np.allclose(model[name], expected, atol=1e-3), (round_, name)
    assert "[secure] round 1, train: 3 of 4 nodes summed by 4 holders, checked" in told
    assert "[secure] round 2, train: 3 of 4 nodes summed by 3 holders, unchecked" in told
    assert "is not in the sum: app-raised: " in told
    assert "a secret of this device" in failing, "the node's own log"
    assert "a secret of this device" not in told
    keys = [tmp_path / name / "secure" / "identity.key" for name in PEOPLE]
    assert [stat.S_IMODE(key.stat().st_mode) for key in keys] == [0o600] * 4
    assert len({key.read_bytes() for key in keys}) == 4


def _sent(processes: Processes, number: int) -> int:
    """Return how many replies a node has sent."""
    return processes.log(f"node-{number}").read_text().count(SENT)


def _told(processes: Processes) -> str:
    """Return what Flower's user is shown of the run."""
    (run,) = re.findall(r"Created run (\d+)", processes.log("superlink").read_text())
    return processes.call([str(Path(sys.executable).parent / "flwr"), "log", run, "bench", "--show"], 40)
