"""What people are shown of a secure run: sums, not replies; refusals by name; what is unusual about a sum."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from argosy_server.api.server import AdminServer
from argosy_server.cli.watch.card import run_card
from argosy_server.cli.watch.plain import line
from argosy_server.cli.watch.progress import RunProgress
from argosy_server.cli.watch.view import RunView
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import RowsCoordinator

AT = "2026-03-01T12:00:00+00:00"
NOW = datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
DEVICES = [f"{number:016x}" for number in range(1, 13)]
NAMES = {device: f"board-{number}" for number, device in enumerate(DEVICES, 1)}
SECURE = {"enabled": True, "prime": 65521, "weights": "powers", "fleet": None}
LOST = {"code": "device-lost", "message": "it is gone", "remedy": "bring it back"}
ROW = {
    "run": 7, "app": "har", "status": "running", "error": None, "config": {}, "server_app": "a:b", "client_app": "c:d",
    "app_digest": "0" * 64, "app_size": 10, "started_at": AT, "finished_at": None, "final_model": None,
    "options": {"secure": SECURE},
}  # fmt: skip


def group(**changed: Any) -> dict[str, Any]:  # noqa: ANN401  (an event's data)
    """A group's round that went well but for one device and the check."""
    told = {
        "round": 1, "phase": "train", "group": 0, "devices": 12, "holders": 12, "needed": 9, "colluding": 3,
        "anonymity": 3, "updates": DEVICES[1:], "left_out": {DEVICES[0]: LOST}, "votes": 9, "complaints": {},
        "answers": 9, "bytes_up": 100, "bytes_down": 1000, "error": None, "summed": DEVICES[1:], "dropped": [],
        "checked": False, "wrong": [], "weight": 100, "capped": 0, "metrics": {"loss": 0.5, "num-examples": 100},
        "metrics_missing": [], "wrapped": 0, "blocks": 9,
    }  # fmt: skip
    return {**told, **changed}


def followed(*groups: dict[str, Any], refused: tuple[dict[str, Any], ...] = ()) -> RunProgress:
    """A run up to the end of its first round's training."""
    progress = RunProgress(ROW)
    events: list[tuple[str, dict[str, Any]]] = [
        ("run-started", {"strategy": "FedAvg", "rounds": 4}),
        ("secure", SECURE),
        ("phase-started", {"round": 1, "phase": "train", "devices": DEVICES}),
        ("device-reply", {"round": 1, "phase": "train", "device": DEVICES[0], "error": LOST}),
        *[("device-reply", {"round": 1, "phase": "train", "device": each, "bytes_up": 50}) for each in DEVICES[1:]],
        *[("secure-refused", data) for data in refused],
        *[("secure-group", data) for data in groups],
        ("phase-finished", {"round": 1, "phase": "train", "seconds": 2.0, "replied": 11, "failed": 1, "metrics": {}}),
    ]
    for seq, (name, data) in enumerate(events, 1):
        progress.apply({"seq": seq, "at": AT, "name": name, "data": data})
    return progress


def shown(progress: RunProgress, width: int = 100) -> str:
    """The card as text."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(run_card(ROW, progress, NAMES, NOW, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_metrics_are_those_of_the_sum_and_holders_bytes_count() -> None:
    """Of several groups the weighted mean."""
    other = group(group=1, weight=300, metrics={"loss": 0.9, "num-examples": 300})
    phase = followed(group(), other).rounds[1].phases["train"]
    assert phase.metrics == pytest.approx({"loss": 0.8})
    assert phase.weight == 400
    assert (phase.replied, phase.failed) == (11, 1)
    assert (phase.bytes_up, phase.bytes_down) == (11 * 50 + 200, 2000)


def test_the_card_says_who_is_trusted_and_how_many_may_collude() -> None:
    """In the specification's words."""
    text = shown(followed(group(checked=True, answers=12)), width=100)
    assert "no operator's key: coordinator trusted at enrolment" in text
    assert "any 9 of 12 holders finish a round; each update is hidden among 3" in text
    assert "3 holders may collude with the coordinator; mod 65521" in text
    assert "weights: powers of two" in text
    assert "about the sums" not in text
    assert "board-1" in text, "the device that is gone, among the errors"


def test_refusals_and_failed_groups_are_among_the_errors_by_name() -> None:
    """With the stage and the device."""
    refusal = {"code": "secure-set-refused", "message": "The holder refuses the set.", "remedy": "Look."}
    failed = {"code": "secure-sum-unrecoverable", "message": "The sum of round 1 stays masked.", "remedy": "Wait."}
    refused = {"round": 1, "phase": "train", "device": DEVICES[4], "stage": "vote", "error": refusal}
    progress = followed(group(error=failed, summed=[], metrics={}), refused=(refused,))
    text = shown(progress)
    assert "board-5" in text
    assert "train: vote 1" in text
    assert "secure-set-refused" in text
    assert "all devices" in text
    assert "secure-sum-unrecoverable" in text
    assert progress.rounds[1].phases["train"].metrics == {}


def test_what_is_unusual_about_a_sum_gets_a_line_each() -> None:
    """Wrong holders, malformed shares, overflows, weights that were cut, metrics that not all have."""
    text = shown(
        followed(
            group(
                wrong=[DEVICES[2]], dropped=[DEVICES[3]], wrapped=2, capped=5, metrics_missing=["f1"], checked=True,
                complaints={DEVICES[3]: DEVICES[5:9]},
            )
        ),
        width=120,
    )  # fmt: skip
    assert "round 1 train: wrong sums were put right; from board-3, or a client sent malformed shares" in text
    assert "left out for malformed shares: board-4" in text
    assert "2 of 9 blocks of the sum overflowed and count as zero" in text
    assert "the weights of 5 devices were cut" in text
    assert "not all devices report f1" in text


def test_in_a_pipe_each_event_is_a_line() -> None:
    """A sum, a sum that failed, a refusal."""

    def told(name: str, data: dict[str, Any]) -> str:
        return line({"seq": 1, "at": AT, "name": name, "data": data}, lambda device: NAMES.get(device, device))

    assert "Secure aggregation; no operator's key" in told("secure", SECURE)
    summed = told("secure-group", group())
    assert "round 1 train summed 11 of 12 devices under the mask: 9 of 9 holders needed answered, unchecked" in summed
    assert "loss 0.5" in summed
    failed = {"code": "secure-sum-unrecoverable", "message": "It stays masked."}
    assert "not unmasked (group 2): secure-sum-unrecoverable: It stays masked." in told(
        "secure-group", group(group=1, error=failed)
    )
    refused = {"round": 1, "phase": "train", "device": DEVICES[4], "stage": "vote", "error": LOST}
    assert "round 1 train board-5 (vote): device-lost: it is gone" in told("secure-refused", refused)
    assert "device-lost" in told("secure-failed", {"round": 1, "phase": "train", "error": LOST})
    assert "12 holders answered, 9 needed" in told("secure-group", group(checked=True, answers=12))


def again(progress: RunProgress, *groups: dict[str, Any], number: int = 1) -> RunProgress:
    """One more exchange of the training of a round."""
    where = {"round": number, "phase": "train"}
    told: list[tuple[str, dict[str, Any]]] = [("phase-started", {**where, "devices": DEVICES})]
    told += [("secure-group", {**each, "round": number}) for each in groups]
    told += [("phase-finished", {**where, "seconds": 2.0, "replied": 11, "failed": 1, "bytes_up": 550, "metrics": {}})]
    for name, data in told:
        progress.apply({"seq": progress.last_seq + 1, "at": AT, "name": name, "data": data})
    return progress


def test_a_second_exchange_of_a_round_counts_its_own_groups_only() -> None:
    """Those of the first are in what it came to already."""
    phase = again(followed(group()), group(metrics={"loss": 0.7, "num-examples": 100})).rounds[1].phases["train"]
    assert phase.bytes_up == 2 * (550 + 100)
    assert phase.bytes_down == 2 * 1000
    assert phase.weight == 200
    assert phase.metrics == pytest.approx({"loss": 0.6})
    assert len(phase.groups) == 2


def test_each_round_tells_its_sum_and_its_holders_and_what_is_unchecked_is_said_once() -> None:
    """Rounds alike share a line."""
    progress = again(again(followed(group()), group(), number=2), group(answers=12, checked=True), number=3)
    lines = [line.split() for line in shown(progress).splitlines()]
    assert ["round", "replies", "summed", "holders"] in [told[:4] for told in lines]
    assert [told[:4] for told in lines if told[1:2] == ["11/12"]] == [
        ["1", "11/12", "11/12", "9/12"],
        ["2", "11/12", "11/12", "9/12"],
        ["3", "11/12", "11/12", "12/12"],
    ]
    assert shown(progress).count("unchecked") == 1
    assert "rounds 1–2 train: unchecked" in shown(progress)


def test_a_group_that_failed_beside_another_is_named_by_its_number() -> None:
    """The other one's sum stands."""
    failed = {"code": "secure-sum-unrecoverable", "message": "It stays masked.", "remedy": "Wait."}
    halves = [{"devices": 6, "holders": 6, "needed": 5, "answers": 5}, {"devices": 6, "holders": 6, "answers": 3}]
    progress = followed(group(**halves[0], summed=DEVICES[:6]), group(group=1, **halves[1], error=failed, summed=None))
    assert "group 2" in shown(progress)
    assert "all devices" not in shown(progress)
    assert progress.rounds[1].phases["train"].metrics == {"loss": 0.5}
    assert ["1", "11/12", "6/12", "8/12"] in [line.split()[:4] for line in shown(progress).splitlines()]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_column_is_cut_on_the_live_screen_and_the_newest_sum_has_a_line(width: int) -> None:
    """Metrics give way."""
    metrics = {"loss": 0.5, "accuracy": 0.75, "f1-macro-average": 0.5, "num-examples": 100}
    view = RunView(followed(group(metrics=metrics)))
    view.now = NOW
    console = Console(width=width, height=30, file=io.StringIO(), color_system=None)
    console.print(view.drawn(ConsoleDimensions(width, 30)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "newest sum: round 1 train, 11 of 12 devices, 9 of 12 holders, unchecked\n" in text
    header = next(line for line in text.splitlines() if "up/dev" in line)
    assert header.rstrip().endswith("time")
    assert "…" not in text


def test_programs_get_each_phases_groups(argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator) -> None:
    """Under `secure`; phases in the clear have no such key."""
    run = coordinator.add_run()
    coordinator.tell(run, "secure", **SECURE)
    coordinator.tell(run, "phase-started", round=1, phase="train", devices=DEVICES)
    coordinator.tell(run, "secure-group", **group())
    coordinator.tell(run, "phase-finished", round=1, phase="train", seconds=2.0, replied=11, failed=1, metrics={})
    coordinator.tell_round(run, 2, DEVICES)
    told = json.loads(argosy("run", "show", str(run), "--json").stdout)
    assert told["secure"] == SECURE
    train = told["rounds"][0]["phases"]["train"]
    assert train["secure"] == [group()]
    assert train["metrics"] == {"loss": 0.5}
    assert "secure" not in told["rounds"][1]["phases"]["train"]
