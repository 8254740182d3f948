"""`argosy` as a process against the real admin API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from argosy_common.errors import CoordinatorUnreachable, RunNotFound, RunStopped
from argosy_server.api.server import AdminServer
from argosy_server.store import RunStatus
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import RowsCoordinator

APP = """
[project]
name = "tiny"
version = "1.0.0"
[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"
[tool.flwr.app.config]
lr = 0.1
"""


def test_without_a_coordinator_a_command_says_so_and_exits_with_the_errors_code(argosy: Argosy, folder: Path) -> None:
    done = argosy("device", "list")
    assert done.returncode == CoordinatorUnreachable.exit_code
    assert "there is no such socket" in done.stderr
    assert "argosy-coordinator run" in done.stderr
    assert done.stdout == ""


def test_doctor_without_a_coordinator_is_a_failed_check(argosy: Argosy) -> None:
    done = argosy("doctor")
    assert done.returncode == CoordinatorUnreachable.exit_code
    assert "✗" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["run", "watch", "seven"],
        ["run", "start", "no-such-folder"],
        ["token", "create", "--ttl", "soon"],
        ["run", "list", "--status", "odd"],
    ],
)
def test_wrong_usage_exits_with_two(argosy: Argosy, words: list[str]) -> None:
    done = argosy(*words)
    assert done.returncode == 2
    assert done.stdout == ""


def test_a_token_is_printed_as_the_line_to_run_on_the_device(argosy: Argosy, server: AdminServer) -> None:
    done = argosy("token", "create", "--uses", "2", "--ttl", "30m")
    assert done.stdout.startswith("argosy-device join https://coordinator:8444 --token ")
    assert "\x1b" not in done.stdout
    made = json.loads(argosy("token", "create", "--json").stdout)
    assert made["token"] in made["command"]
    assert len(json.loads(argosy("token", "list", "--json").stdout)) == 2
    argosy("token", "revoke", made["id"])
    assert "revoke" in argosy("audit").stdout


def test_devices_are_listed_and_shown(argosy: Argosy, server: AdminServer) -> None:
    listed = argosy("device", "list").stdout
    assert "attic" in listed
    assert "offline" in listed
    assert [row["name"] for row in json.loads(argosy("device", "list", "--online", "--json").stdout)] == [
        "attic",
        "bench",
        "cellar",
    ]
    assert "Raspberry Pi 5" in argosy("device", "show", "attic").stdout
    missing = argosy("device", "show", "../runs")
    assert missing.returncode == 38
    assert "argosy device list" in missing.stderr


def test_the_condition_of_devices_is_shown_where_anything_is_known(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    assert "condition" not in argosy("device", "list").stdout
    conditions: dict[str, dict[str, object]] = {
        "attic": {"battery": 0.874, "on_mains": True, "throttled": False, "metered": False},
        "bench": {"battery": 0.12, "on_mains": False, "throttled": True, "site": "hall", "shard": "3"},
        "cellar": {"on_mains": False, "metered": True, "site": "\x1b[2Jx"},
    }
    for row in coordinator.store.devices.list():
        if row.name in conditions:
            present = coordinator.present[row.device]
            coordinator.present[row.device] = {**present, "condition": conditions[row.name]}
    listed = {line.split()[0]: line for line in argosy("device", "list").stdout.splitlines() if line.strip()}
    assert "condition" in listed["device"]
    assert "version" not in listed["device"], "they are all the same, and there is no room for both"
    assert "● training   87\u00a0% ⚡  " in listed["attic"]
    assert "● training   12\u00a0% throttled hall/3  " in listed["bench"]
    assert "● training   no mains metered  [2Jx  " in listed["cellar"]
    card = argosy("device", "show", "bench").stdout
    assert "battery 12 %, not on the mains" in card
    assert "shard 3 of site hall" in card
    told = json.loads(argosy("device", "show", "bench", "--json").stdout)["presence"]["condition"]
    assert told == conditions["bench"]


def test_a_fleet_with_conditions_fits_into_a_hundred_columns(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    much = {"battery": 0.12, "throttled": True, "metered": True, "site": "hall", "shard": "wall-3"}
    coordinator.present = {id_: {**present, "condition": much} for id_, present in coordinator.present.items()}
    lines = argosy("device", "list", COLUMNS="100").stdout.splitlines()
    text = " ".join(word for line in lines for word in line.split())
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    for word in ("throttled", "metered", "hall/wall-3", "seen", "42%"):
        assert word in text


def test_a_devices_name_cannot_give_the_terminal_orders(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    coordinator.add_device("evil\x1b[2J[red]", 0x2000)
    listed = argosy("device", "list", FORCE_COLOR="1").stdout
    assert "\x1b[2J" not in listed
    assert "[red]" in listed


def test_run_start_sends_the_app_and_prints_the_number_alone_in_a_pipe(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(APP)
    (tmp_path / "app.py").write_text("client = server = None")
    done = argosy("run", "start", str(tmp_path), "-c", "lr=0.5", "--rounds", "2")
    assert done.stdout == "1\n", done.stderr
    run = coordinator.store.runs.get(1)
    assert run.run_config == {"lr": "0.5"}
    assert coordinator.blobs.size(bytes.fromhex(run.app_digest)) == run.app_size
    again = argosy("run", "start", str(tmp_path), "--json")
    assert json.loads(again.stdout) == {"run": 2}
    assert coordinator.store.runs.get(2).app_digest == run.app_digest
    coordinator.refuse_runs = True
    refused = argosy("run", "start", str(tmp_path))
    assert refused.returncode == 53
    assert "only 1 are online" in refused.stderr


def test_run_start_refuses_a_misspelt_key_before_anything_is_sent(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(APP)
    done = argosy("run", "start", str(tmp_path), "-c", "lrr=0.5")
    assert done.returncode == 51
    assert "lrr" in done.stderr
    assert coordinator.store.audit.tail() == []


def test_run_list_and_show_tell_rounds_and_errors_with_remedies(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    run = coordinator.add_run()
    devices = [row.device for row in coordinator.store.devices.list()]
    coordinator.tell(run, "run-started", strategy="FedAvg", rounds=3, app="har")
    for number in (1, 2, 3):
        coordinator.tell_round(run, number, devices, failing=devices[1] if number < 3 else None)
    coordinator.finish(run)
    assert "finished" in argosy("run", "list").stdout
    shown = argosy("run", "show").stdout
    assert "3/4" in shown
    assert "0.8667" in shown
    assert "train 1–2" in shown
    assert "Look at its memory." in shown
    told = json.loads(argosy("run", "show", str(run), "--json").stdout)
    assert [one["round"] for one in told["rounds"]] == [1, 2, 3]
    assert told["errors"][0] | {"message": ""} == {
        "device": devices[1],
        "name": coordinator.store.devices.get(devices[1]).name,
        "phase": "train",
        "rounds": [1, 2],
        "code": "worker-died",
        "message": "",
        "remedy": "Look at its memory.",
    }


def test_a_run_is_started_again_as_it_was(argosy: Argosy, coordinator: RowsCoordinator, server: AdminServer) -> None:
    run = coordinator.add_run(status=RunStatus.FINISHED)
    again = int(argosy("run", "repeat", str(run)).stdout)
    first, second = coordinator.store.runs.get(run), coordinator.store.runs.get(again)
    assert again != run
    assert (first.app_digest, first.run_config, first.options) == (
        second.app_digest,
        second.run_config,
        second.options,
    )
    assert "run.repeat" in argosy("audit").stdout
    assert argosy("run", "repeat", "99").returncode == RunNotFound.exit_code


def test_watching_a_run_that_is_over_prints_it_and_exits_by_its_end(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    finished = coordinator.add_run()
    coordinator.finish(finished)
    assert argosy("run", "watch").returncode == 0
    failed = coordinator.add_run()
    facts = {"component": "har.server:app", "why": "No module named 'torch'"}
    error = {"code": "app-import-failed", "message": "m", "remedy": "r", "facts": facts}
    coordinator.finish(failed, RunStatus.FAILED, error)
    done = argosy("run", "watch", str(failed))
    assert done.returncode == 41
    assert "No module named 'torch'" in done.stderr
    stopped = coordinator.add_run()
    assert "stopping" in argosy("run", "stop", str(stopped)).stderr
    assert "already" in argosy("run", "stop", str(stopped)).stderr
    assert argosy("run", "watch", str(stopped)).returncode == RunStopped.exit_code
    assert argosy("run", "watch", "99").returncode == RunNotFound.exit_code


def test_logs_are_printed_to_their_end_without_control_sequences(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    run = coordinator.add_run(status=RunStatus.FINISHED)
    long = "".join(f"line {number}\n" for number in range(60_000))
    coordinator.run_log_path(run).write_text(long + "\x1b]0;title\x07\x1b[31mred\x1b[0m\n")
    done = argosy("run", "logs", "-f")
    assert done.stdout.startswith("line 0\nline 1\n")
    assert done.stdout.endswith("line 59999\n]0;titlered\n")


def test_audit_and_version_speak_json(argosy: Argosy, server: AdminServer) -> None:
    assert json.loads(argosy("audit", "--json").stdout) == []
    assert "argosy" in json.loads(argosy("version", "--json").stdout)


@pytest.mark.parametrize("columns", ["100", "200"])
def test_a_long_detail_in_the_audit_log_takes_neither_who_nor_what_nor_to_whom_away(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator, columns: str
) -> None:
    coordinator.store.audit.write("2001:db8::17", "device.enrol-refused", "token-exhausted", why="word " * 100)
    line = argosy("audit", COLUMNS=columns).stdout.splitlines()[1]
    assert all(text in line for text in ("2001:db8::17", "device.enrol-refused", "token-exhausted", "why=word")), line
    assert len(line) <= int(columns)


def test_a_failed_check_of_the_doctor_shows_its_remedy_and_exits_with_one(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    assert argosy("doctor").returncode == 0
    coordinator.checks = [{"name": "disk", "ok": False, "detail": "full", "remedy": "Free some space."}]
    done = argosy("doctor")
    assert done.returncode == 1
    assert "Free some space." in done.stdout


def test_the_shell_completes_run_numbers_and_device_names(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    run = coordinator.add_run()
    asked = {"_ARGOSY_COMPLETE": "complete_bash", "_TYPER_COMPLETE_ARGS": "argosy run watch "}
    assert argosy(COMP_WORDS="argosy run watch ", COMP_CWORD="3", **asked).stdout.split() == [str(run)]
    asked = {"_ARGOSY_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "argosy device show ce"}
    assert "cellar" in argosy(**asked).stdout


def test_completion_without_a_coordinator_offers_nothing_and_says_nothing(argosy: Argosy) -> None:
    asked = {"_ARGOSY_COMPLETE": "complete_bash", "COMP_WORDS": "argosy run watch ", "COMP_CWORD": "3"}
    done = argosy(**asked)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_an_operator_lets_in_shuts_out_renames_and_tags(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    assert "out" in argosy("device", "revoke", "attic").stderr  # no terminal, so it is not asked
    assert coordinator.out == [coordinator.store.devices.get("attic").device]
    row = json.loads(argosy("device", "revoke", "attic", "--yes", "--json").stdout)
    assert (row["state"], row["session_ended"]) == ("revoked", True)
    assert "✗ revoked" in argosy("device", "list").stdout
    assert argosy("device", "reject", "attic").returncode == 120
    assert "may join" in argosy("device", "approve", "attic").stderr
    assert coordinator.out == []
    assert "turned away" in argosy("device", "reject", "attic").stderr
    assert json.loads(argosy("device", "rename", "bench", "workbench", "--json").stdout)["name"] == "workbench"
    assert argosy("device", "rename", "workbench", "cellar").returncode == 123
    assert "north camera" in argosy("device", "tag", "workbench", "camera").stderr
    assert "no tags" in argosy("device", "tag", "workbench", "--remove", "north", "--remove", "camera").stderr
    assert argosy("device", "tag", "workbench").returncode == 2
    actions = [entry["action"] for entry in json.loads(argosy("audit", "--json").stdout)]
    assert actions.count("device.revoke") == 1
    assert "Examples" in argosy("device", "revoke", "--help").stdout
    for verb in ("approve", "reject", "revoke", "rename", "tag"):
        assert f"device.{verb}" in actions
    made = json.loads(argosy("token", "create", "--site", "lab", "--tag", "camera", "--no-approve", "--json").stdout)
    assert (made["site"], made["tags"], made["approve"]) == ("lab", ["camera"], False)
    assert "to be approved" in argosy("token", "list").stdout


@pytest.mark.parametrize(
    ("done", "told", "untold"),
    [
        ({"session_ended": True, "broker": "mosquitto"}, "is shut out", "broker"),
        ({"session_ended": False, "broker": "mosquitto"}, "did not let its session be ended", "devices.crl"),
        ({"session_ended": True, "broker": "external"}, "Give your broker the new ca/devices.crl", "did not let"),
    ],
)
def test_a_revocation_says_what_is_left_to_do(  # noqa: PLR0917  (pytest's fixtures and parameters)
    argosy: Argosy,
    server: AdminServer,
    coordinator: RowsCoordinator,
    monkeypatch: pytest.MonkeyPatch,
    done: dict[str, object],
    told: str,
    untold: str,
) -> None:
    monkeypatch.setattr(coordinator, "shut_out", lambda _device: done)
    words = argosy("device", "revoke", "attic").stderr
    assert told in words
    assert untold not in words
