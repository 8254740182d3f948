"""The codec layer by itself, on Flower's own SuperLink and SuperNodes: the example app, edited as docs/codecs.md says.

One wrapped grid in the server app, one mod in the client app; no coordinator, device or broker of ours.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.flower_native import NativeFederation, native_environment
from benchmarks.processes import Processes

HAR = Path(__file__).parents[2] / "examples" / "har"

WRAPPED = 'CodecGrid(grid, up="eden:2", down="int8", strategy=strategy, report=weigh)'
WATCHED = """
    told = []
    def weigh(traffic):
        told.append(vars(traffic))
    result = strategy.start("""
EDITS = {
    "har/client_app.py": [
        ("from har.data import", "from argosy_common.flower.codec.mod import codec_mod\nfrom har.data import"),
        ("app = ClientApp()", "app = ClientApp(mods=[codec_mod])"),
    ],
    "har/server_app.py": [
        ("from har.data import", "from argosy_common.flower.codec.grid import CodecGrid\nfrom har.data import"),
        ("        grid=grid,", f"        grid={WRAPPED},"),
        # what follows is the test's own, to see what happened
        ("    strategy.start(", WATCHED),
        ("\n\ndef central_evaluation", "\n    report(context, told, result)\n\n\ndef central_evaluation"),
    ],
}
REPORT = '''

def report(context, told, result):
    """Write down what happened."""
    import json
    from pathlib import Path

    central = {number: dict(metrics) for number, metrics in result.evaluate_metrics_serverapp.items()}
    Path(str(context.run_config["report"])).write_text(json.dumps({"told": told, "central": central}))
'''


def edited_app(folder: Path) -> Path:
    """Copy the example and edit it as its user would."""
    app = folder / "har-compressed"
    shutil.copytree(HAR, app, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    for name, edits in EDITS.items():
        text = (app / name).read_text()
        for before, after in edits:
            assert text.count(before) == 1, f"{name}: {before}"
            text = text.replace(before, after)
        (app / name).write_text(text)
    (app / "har/server_app.py").write_text((app / "har/server_app.py").read_text() + REPORT)
    project = app / "pyproject.toml"
    project.write_text(project.read_text().replace("seed = 0", 'seed = 0\nreport = ""'))
    return app


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_example_runs_compressed_on_flowers_own_transport(tmp_path: Path, har_data: Path) -> None:
    report = tmp_path / "report.json"
    config: dict[str, Any] = {
        "num-server-rounds": 3,
        "fraction-evaluate": 0.0,
        "min-devices": 3,
        "test-data": str(har_data),
        "report": str(report),
    }
    with Processes(tmp_path, native_environment(tmp_path)) as processes:
        federation = NativeFederation(tmp_path, processes)
        federation.start_link()
        federation.start_nodes([{"subject": subject, "data": str(har_data)} for subject in (1, 2, 3)])
        federation.submit(edited_app(tmp_path), config)
        processes.wait("the run ends", report.is_file, 300)
    seen = json.loads(report.read_text())
    model = seen["told"][0]["fp32_up"] // 3
    assert [each["round"] for each in seen["told"]] == [1, 2, 3]
    assert all(each["fp32_up"] == 3 * model for each in seen["told"]), "every device answered in every round"
    accuracies = [seen["central"][str(number)]["accuracy"] for number in range(4)]
    assert accuracies[3] > max(0.5, accuracies[0])
