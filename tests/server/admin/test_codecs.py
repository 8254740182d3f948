"""Codecs on the command line: what is asked for, what is refused, what is shown."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console, ConsoleDimensions

from argosy_common.errors import AdminRequestInvalid, ArgosyError, CodecUnknown, CodecUnsuitable, RunConfigInvalid
from argosy_server.api.server import AdminServer
from argosy_server.cli.client import AdminClient
from argosy_server.cli.watch.card import run_card
from argosy_server.cli.watch.plain import line
from argosy_server.cli.watch.view import RunView
from argosy_server.cli.words import codec_text, times
from argosy_server.store import RunStatus
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import RowsCoordinator
from tests.server.admin.test_cli import APP
from tests.server.admin.test_progress import AT, NOW, ROW, Told

BUNDLE = "0" * 64


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(APP)
    (tmp_path / "app.py").write_text("client = server = None")
    return tmp_path


# --- asked for


def test_flags_reach_the_coordinator(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator, app: Path
) -> None:
    flags = ["--codec", "eden:2", "--codec-down", "int8", "--codec-arrays", "a=b.*=fp16", "--codec-arrays", "*=exact"]
    done = argosy("run", "start", str(app), *flags)
    assert done.stdout == "1\n", done.stderr
    codec = {"up": "eden:2", "down": "int8", "arrays": [["a=b.*", "fp16"], ["*", "exact"]]}
    assert coordinator.store.runs.get(1).options["codec"] == codec
    assert json.loads(argosy("run", "list", "--json").stdout)[0]["options"]["codec"] == codec


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--codec", "eden"], (CodecUnknown, "as in eden:2")),
        (["--codec", "eden:5"], (CodecUnknown, "1, 2, 3 or 4")),
        (["--codec-down", "int4"], (CodecUnknown, "int8")),
        (["--codec-arrays", "w=zip"], (CodecUnknown, "zip")),
        (["--codec", "ring:65521"], (CodecUnsuitable, "--secure")),
        (["--codec", ""], (RunConfigInvalid, "codec.up")),
    ],
)
def test_a_codec_that_there_is_not_is_told_before_anything_is_sent(
    argosy: Argosy, app: Path, flags: list[str], expected: tuple[type[ArgosyError], str]
) -> None:  # nobody listens at the socket, and that is not what is told
    error, told = expected
    done = argosy("run", "start", str(app), *flags)
    assert done.returncode == error.exit_code, done.stderr
    assert told in " ".join(done.stderr.split())


def test_a_pattern_without_a_codec_is_wrong_usage(argosy: Argosy, app: Path) -> None:
    done = argosy("run", "start", str(app), "--codec-arrays", "w")
    assert done.returncode == 2
    assert "PATTERN=CODEC" in done.stderr


def test_a_misspelt_key_of_the_app_is_told(argosy: Argosy, server: AdminServer, app: Path) -> None:
    (app / "pyproject.toml").write_text(APP + '[tool.argosy.codec]\nupp = "eden:2"\n')
    done = argosy("run", "start", str(app))
    assert done.returncode == RunConfigInvalid.exit_code
    assert "codec.upp" in done.stderr
    assert "up, down, arrays" in " ".join(done.stderr.split())


def test_help_shows_how(argosy: Argosy) -> None:
    told = argosy("run", "start", "--help", COLUMNS="120").stdout
    assert "--codec eden:2 --codec-down eden:4" in told
    assert "topk:0.01" in told


@pytest.mark.parametrize(
    "codec", [{"up": 3}, {"sideways": "int8"}, {"arrays": [["w"]]}, {"arrays": [["w", "x y"]]}, "eden:2", {"up": ""}]
)
def test_the_api_refuses_what_is_no_codec_request(api: AdminClient, codec: object) -> None:
    with pytest.raises(AdminRequestInvalid):
        api.post("/runs", {"bundle": BUNDLE, "size": 1, "codec": codec})


# --- shown


def compressed(rounds: int = 2) -> Told:
    told = Told().tell("run-started", strategy="FedAvg", rounds=rounds, app="har")
    told.tell("codec", up="eden:2", down="int8", arrays=[["embedding.*", "fp16"]], folded=True)
    for number in range(1, rounds + 1):
        for phase, up, down in (("train", 13_900, 600), ("evaluate", 270, 42_000)):
            told.tell("phase-started", round=number, phase=phase, devices=["a", "b"])
            for device in ("a", "b"):
                told.tell(
                    "device-reply", round=number, phase=phase, device=device, bytes_up=up, bytes_down=down, via="https"
                )
            told.tell(
                "phase-finished",
                round=number,
                phase=phase,
                seconds=1.0,
                replied=2,
                failed=0,
                bytes_up=2 * up,
                bytes_down=2 * down,
                metrics={"accuracy": 0.9},
            )
            fp32 = {"fp32_up": 302_000, "fp32_down": 0} if phase == "train" else {"fp32_up": 0, "fp32_down": 302_000}
            told.tell("phase-compressed", round=number, phase=phase, **fp32)
    return told


def drawn(width: int, *, card: bool = False) -> str:
    told = compressed()
    console = Console(file=io.StringIO(), width=width)
    if card:
        row = {
            **ROW, "server_app": "a:b", "client_app": "c:d", "app_digest": "0" * 64, "app_size": 1, "config": {},
            "started_at": AT, "finished_at": None, "final_model": None, "error": None,
        }  # fmt: skip
        console.print(run_card(row, told.run, {}, NOW, width=width))
    else:
        view = RunView(told.run)
        view.now = datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
        console.print(view.drawn(ConsoleDimensions(width, 40)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_bytes_of_a_device_and_round_are_what_its_phases_cost_it() -> None:
    one = compressed().run.rounds[1]
    assert (one.up_a_device, one.down_a_device) == (14_170, 42_600)
    assert one.ratio_up == pytest.approx(302_000 / 28_340)
    assert one.ratio_down == pytest.approx(302_000 / 85_200)


def test_without_a_codec_there_is_no_ratio() -> None:
    told = Told().tell("phase-started", round=1, phase="train", devices=["a"])
    told.tell("device-reply", round=1, phase="train", device="a", bytes_up=10, bytes_down=20)
    assert told.run.rounds[1].ratio_up is None
    assert told.run.ratios() == (None, None)


@pytest.mark.parametrize("width", [80, 100, 132])
@pytest.mark.parametrize("card", [True, False])
def test_bytes_and_their_ratio_fit_on_the_screen(width: int, *, card: bool) -> None:
    text = drawn(width, card=card)
    assert all(len(row) <= width for row in text.splitlines())
    assert text.count("14.2 kB 10.7×") == 2
    assert text.count("42.6 kB 3.54×") == 2
    assert "eden:2 up, int8 down" in text
    assert "…" not in text


def test_show_tells_the_codec_what_it_saved_and_how_blobs_came() -> None:
    text = drawn(100, card=True)
    assert "embedding.*: fp16" in text
    assert "fewer bytes than at full precision: 10.7× up, 3.54× down" in text
    assert "summed up as they arrive" in text
    assert "by HTTPS" in text


def test_show_prints_the_numbers_as_json(argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator) -> None:
    run = coordinator.add_run(status=RunStatus.RUNNING)
    via = {"via": "mqtt"}
    events: list[tuple[str, dict[str, object]]] = [
        ("phase-started", {"round": 1, "phase": "train", "devices": ["a"]}),
        ("device-reply", {"round": 1, "phase": "train", "device": "a", "bytes_up": 100, "bytes_down": 50, **via}),
        ("phase-compressed", {"round": 1, "phase": "train", "fp32_up": 1000, "fp32_down": 400}),
        ("codec", {"up": "eden:2", "down": "none", "arrays": [], "folded": False}),
    ]
    for name, data in events:
        coordinator.tell(run, name, **data)
    told = json.loads(argosy("run", "show", str(run), "--json").stdout)
    assert told["codec"]["up"] == "eden:2"
    assert told["blobs_via"] == {"mqtt": 1}
    (one,) = told["rounds"]
    assert (one["bytes_up_a_device"], one["ratio_up"], one["ratio_down"]) == (100, 10.0, 8.0)
    assert one["phases"]["train"]["fp32_up"] == 1000


def test_plain_lines_tell_codecs_and_ways() -> None:
    def told(name: str, **data: object) -> str:
        return line({"name": name, "at": AT, "data": data}, lambda device: device)

    assert told("codec", up="eden:2", down="none").endswith("codec: eden:2 up")
    assert told("phase-compressed", round=1, phase="train", fp32_up=2000, fp32_down=0).endswith(
        "round 1 train at full precision: up 2.00 kB, down 0 B"
    )
    reply = told("device-reply", round=1, phase="train", device="a", seconds=1, bytes_up=1, bytes_down=2, via="https")
    assert reply.endswith("down 2 B by HTTPS")


def test_words() -> None:
    assert [times(value) for value in (1.024, 10.73, 163.2)] == ["1.02", "10.7", "163"]
    assert codec_text(None) == codec_text({"up": "none", "down": "none"}) == ""
    assert codec_text({"up": "none", "down": "none", "arrays": [["w", "int8"]]}) == "by array"
    assert codec_text({"up": "a\x1b[2J", "down": "none"}) == "a [2J up"
