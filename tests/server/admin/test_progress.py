"""The state of a run as its events fold into it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, ConsoleDimensions

from argosy_common.errors import CutOff, ShardCounted, WorkerDied
from argosy_server.cli.watch.plain import has_line, line
from argosy_server.cli.watch.progress import RunProgress, headline
from argosy_server.cli.watch.view import RunView, devices_table, rounds_table

AT = "2026-03-01T12:00:00+00:00"
NOW = datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
ROW = {"run": 7, "app": "har", "status": "pending"}


class Told:
    """A run whose events are told by name."""

    def __init__(self, **row: object) -> None:
        self.run = RunProgress({**ROW, **row})
        self.seq = 0

    def tell(self, name: str, **data: object) -> Told:
        self.seq += 1
        self.run.apply({"seq": self.seq, "run": 7, "at": AT, "name": name, "data": data})
        return self


def started() -> Told:
    return Told().tell("run-started", strategy="FedAvg", rounds=4, app="har")


def test_a_duplicate_event_changes_nothing() -> None:
    told = started().tell("phase-started", round=1, phase="train", devices=["a", "b"])
    reply = {"seq": 3, "at": AT, "name": "device-reply", "data": {"round": 1, "phase": "train", "device": "a"}}
    told.run.apply(reply)
    told.run.apply(reply)
    assert told.run.rounds[1].phases["train"].replied == 1


def test_the_bar_never_goes_back_during_a_run() -> None:
    told = started()
    seen = [told.run.fraction()]
    for number in (1, 2, 3, 4):
        for phase in ("train", "evaluate"):
            told.tell("phase-started", round=number, phase=phase, devices=["a", "b"])
            seen.append(told.run.fraction())
            for device in ("a", "b"):
                told.tell("device-reply", round=number, phase=phase, device=device)
                seen.append(told.run.fraction())
            told.tell("phase-finished", round=number, phase=phase, seconds=1.0, replied=2, failed=0)
            seen.append(told.run.fraction())
        told.tell("central", round=number, metrics={"accuracy": 0.5})
        seen.append(told.run.fraction())
    assert seen == sorted(seen, key=lambda fraction: fraction or 0.0)
    assert seen[-1] == pytest.approx(1.0)


def test_waiting_for_devices_is_over_when_a_phase_starts() -> None:
    told = started().tell("waiting-for-devices", online=1, wanted=3)
    assert told.run.waiting == (1, 3)
    told.tell("phase-started", round=1, phase="train", devices=["a"])
    assert told.run.waiting is None


def test_accuracy_comes_before_loss_and_central_before_the_devices() -> None:
    told = started()
    told.tell("phase-finished", round=1, phase="train", metrics={"train_loss": 1.0, "num-examples": 9})
    told.tell("phase-finished", round=1, phase="evaluate", metrics={"loss": 1.0, "accuracy": 0.5, "note": "x"})
    told.tell("central", round=1, metrics={"accuracy": 0.6})
    columns = headline(told.run.rounds.values(), 10)
    assert columns == [("central", "accuracy"), ("evaluate", "accuracy"), ("evaluate", "loss"), ("train", "train_loss")]


def test_the_database_has_the_last_word_on_how_a_run_ended() -> None:
    told = started()
    told.run.settle({**ROW, "status": "failed", "error": {"code": "run-interrupted"}})
    assert told.run.over
    assert told.run.error == {"code": "run-interrupted"}


FACTS = st.dictionaries(
    st.sampled_from(["strategy", "app", "phase", "device", "status"]), st.text(max_size=5)
) | st.dictionaries(st.sampled_from(["seconds", "rounds", "bytes_up"]), st.none() | st.integers(1, 9))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "run-started",
                    "phase-started",
                    "device-reply",
                    "phase-finished",
                    "phase-compressed",
                    "secure",
                    "secure-group",
                    "secure-refused",
                    "secure-failed",
                    "selection",
                    "phase-settled",
                    "device-late",
                    "async-step",
                    "async-evaluation",
                    "central",
                    "new-one",
                ]
            ),
            FACTS,
        ),
        max_size=12,
    ),
    st.integers(1, 60),
    st.integers(20, 200),
)
def test_any_events_can_be_told_and_drawn_on_any_screen(
    events: list[tuple[str, dict[str, Any]]], height: int, width: int
) -> None:
    told = Told()
    for name, data in events:
        told.tell(name, **data)
        line({"at": AT, "name": name, "data": data}, lambda device: device, told.run)
    view = RunView(told.run)
    view.now = NOW
    view.live = [{"device": f"d{number}", "doing": "training"} for number in range(12)]
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    console.print(view.drawn(ConsoleDimensions(width, height)))


def test_phases_outside_rounds_are_shown_under_zero() -> None:
    progress = RunProgress({"run": 1, "app": "digits", "status": "running"})
    query = {"round": None, "phase": "query"}
    reply = {**query, "device": "d", "seconds": 0.1, "error": WorkerDied(why="SIGKILL").to_wire()}
    events: tuple[tuple[str, dict[str, Any]], ...] = (
        ("phase-started", {**query, "devices": ["d"]}),
        ("device-reply", reply),
        ("phase-finished", {**query, "seconds": 0.1, "replied": 0, "failed": 1, "metrics": {}}),
        ("waiting-for-devices", {"online": 1, "wanted": None}),
        ("strategy-started", {"strategy": "FedAvg", "rounds": 3}),
    )
    for seq, (name, data) in enumerate(events, start=1):
        progress.apply({"seq": seq, "name": name, "at": "2026-01-01T00:00:00+00:00", "data": data})
    assert list(progress.rounds) == [0]
    assert (progress.strategy, progress.total) == ("FedAvg", 3)
    assert progress.failures[0].round == 0


# --- a device that lost its model is asked again in the same round


def exchange(told: Told, devices: list[str], *, number: int | None = 1, up: int = 1000, down: int = 500) -> Told:
    told.tell("phase-started", round=number, phase="train", devices=devices)
    for device in devices:
        told.tell("device-reply", round=number, phase="train", device=device, bytes_up=up, bytes_down=down)
    count = len(devices)
    return told.tell(
        "phase-finished",
        round=number,
        phase="train",
        seconds=1.5,
        sent=count,
        replied=count,
        failed=0,
        bytes_up=count * up,
        bytes_down=count * down,
        metrics={"loss": float(count), "num-examples": 10 * count},
    )


def test_who_is_asked_again_in_a_round_adds_to_it() -> None:
    told = exchange(exchange(started(), ["a", "b", "c", "d"]), ["d"], down=10_000)
    told.tell("phase-compressed", round=1, phase="train", fp32_up=40_000, fp32_down=48_000)
    one = told.run.rounds[1]
    phase = one.phases["train"]
    assert (phase.sent, phase.replied, phase.failed, phase.seconds) == (4, 4, 0, 3.0)
    assert (one.bytes_up, one.bytes_down) == (5000, 12_000)
    assert (one.up_a_device, one.down_a_device) == (1250, 3000)
    assert (one.ratio_up, one.ratio_down) == (8.0, 4.0)
    assert phase.metrics == {"loss": pytest.approx((4.0 * 40 + 1.0 * 10) / 50)}


def test_who_fails_when_asked_again_has_failed() -> None:
    told = exchange(started(), ["a", "b"]).tell("phase-started", round=1, phase="train", devices=["b"])
    error = WorkerDied(why="SIGKILL").to_wire()
    told.tell("device-reply", round=1, phase="train", device="b", error=error)
    told.tell("phase-finished", round=1, phase="train", seconds=1.0, sent=1, replied=0, failed=1)
    phase = told.run.rounds[1].phases["train"]
    assert (phase.sent, phase.replied, phase.failed) == (2, 1, 1)
    assert phase.metrics == {"loss": 2.0}


def test_outside_rounds_each_exchange_stands_for_itself() -> None:
    told = exchange(exchange(started(), ["a", "b"], number=None), ["a"], number=None)
    phase = told.run.rounds[0].phases["train"]
    assert (phase.sent, phase.replied, phase.bytes_up, phase.metrics) == (1, 1, 1000, {"loss": 1.0})


def test_the_ratio_leaves_out_what_is_not_finished_yet() -> None:
    told = exchange(started(), ["a"]).tell("phase-compressed", round=1, phase="train", fp32_up=10_000, fp32_down=2000)
    told.tell("phase-started", round=1, phase="evaluate", devices=["a"])
    told.tell("device-reply", round=1, phase="evaluate", device="a", bytes_up=1000, bytes_down=9500)
    assert (told.run.rounds[1].ratio_up, told.run.rounds[1].ratio_down) == (10.0, 4.0)
    assert told.run.ratios() == (10.0, 4.0)
    told.tell("phase-finished", round=1, phase="evaluate", seconds=1.0, replied=1, failed=0)
    assert (told.run.rounds[1].ratio_up, told.run.rounds[1].ratio_down) == (5.0, 0.2)


def test_a_line_tells_bytes_a_device_and_how_many_times_fewer_they_are() -> None:
    told = exchange(started(), ["a", "b"])
    finished = {"round": 1, "phase": "train", "seconds": 1.5, "sent": 2, "replied": 2, "bytes_up": 2000}
    event = {"name": "phase-finished", "at": AT, "data": {**finished, "bytes_down": 1000}}
    assert line(event, str, told.run).endswith("up 2.00 kB, down 1.00 kB (a device: up 1.00 kB, down 500 B)")
    fp32 = {"round": 1, "phase": "train", "fp32_up": 20_000, "fp32_down": 4000}
    told.tell("phase-compressed", **fp32)
    event = {"name": "phase-compressed", "at": AT, "data": fp32}
    assert line(event, str, told.run).endswith("down 4.00 kB; fewer bytes: 10.0× up, 4.00× down")
    assert line(event, str).endswith("at full precision: up 20.0 kB, down 4.00 kB")
    assert has_line(event)
    assert not has_line({**event, "data": {**fp32, "fp32_up": 0, "fp32_down": 0}})


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_a_long_error_takes_no_column_away(width: int) -> None:
    error = {"code": "update-not-finite", "message": "The update of the array 'conv1.weight' holds NaN. " * 5}
    row: dict[str, object] = {"device": "d0", "name": "board-0", "doing": "idle", "round": 3, "seconds": 12.3}
    row |= {"bytes_up": 28_340, "bytes_down": 85_200, "error": error, "via": "https+mqtt"}
    console = Console(file=io.StringIO(), width=width)
    console.print(devices_table([row, {**row, "name": "board-1", "error": None}], most=9, width=width))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert all(len(told) <= width for told in lines)
    for name, cell in (("round", "3"), ("up", "28.3 kB"), ("down", "85.2 kB"), ("time", "12.3 s")):
        assert name in lines[0]
        assert all(cell in told for told in lines[1:])
    assert all(("HTTPS+MQTT" in told) == (width >= 100) for told in lines[1:])
    assert ("update-not" in lines[1]) == (width >= 90)


# --- devices that a round did without


CUT = CutOff(device="d", seconds=4.1).to_wire()
SHARD = ShardCounted(device="c", shard="2", site="line-3").to_wire()
TRAIN: dict[str, Any] = {"round": 1, "phase": "train"}


def cut_short() -> Told:
    """A round of four, of which one is cut off, and one's shard was counted already."""
    told = started().tell("selection", **TRAIN, asked=["a", "b", "c", "d"], spared={"e": {"code": "busy", "why": ""}})
    told.tell("phase-started", **TRAIN, devices=["a", "b", "c", "d"])
    told.tell("device-reply", **TRAIN, device="a", bytes_up=1000)
    told.tell("device-reply", **TRAIN, device="b", error=WorkerDied(why="SIGKILL").to_wire())
    told.tell("device-reply", **TRAIN, device="c", error=SHARD)
    return told.tell("device-reply", **TRAIN, device="d", seconds=4.1, error=CUT)


def printed(drawable: Any, width: int = 100) -> str:  # noqa: ANN401  (anything that rich can draw)
    console = Console(file=io.StringIO(), width=width)
    console.print(drawable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_whom_a_round_did_without_is_late_and_has_not_failed() -> None:
    told = cut_short()
    phase = told.run.rounds[1].phases["train"]
    assert (phase.sent, phase.replied, phase.failed, phase.late) == (4, 1, 1, {"c", "d"})
    assert [one.code for one in told.run.failures] == ["worker-died"]
    assert told.run.fraction() == pytest.approx(0.7 / 4)
    view = RunView(told.run)
    view.now = NOW
    assert "1 of 4 answered, 1 failed, 2 late" in printed(view.drawn(ConsoleDimensions(100, 40)))
    assert "1/4 2 late" in printed(rounds_table(told.run))


@pytest.mark.parametrize("failed", [1, 3])
def test_the_late_are_apart_from_the_failed_whether_the_coordinator_counts_them_together_or_not(failed: int) -> None:
    data = {**TRAIN, "seconds": 4.1, "sent": 4, "replied": 1, "failed": failed}
    told = cut_short().tell("phase-finished", **data)
    phase = told.run.rounds[1].phases["train"]
    assert (phase.replied, phase.failed, len(phase.late)) == (1, 1, 2)
    event = {"name": "phase-finished", "at": AT, "data": data}
    assert "1 of 4 replied, 1 failed, 2 late, up" in line(event, str, told.run)


def test_what_settles_a_phase_and_what_comes_after_it_leave_the_progress_as_it_is() -> None:
    told = cut_short().tell("phase-finished", **TRAIN, seconds=4.1, sent=4, replied=1, failed=3)
    told.tell("phase-settled", **TRAIN, how="deadline", seconds=4.1, counted={"a": 1.0})
    before = (told.run.current, told.run.fraction(), told.run.rounds[1].bytes_up)
    told.tell("device-late", **TRAIN, device="d", seconds=9.0, late_s=4.9, bytes_up=1000, error=None)
    phase = told.run.rounds[1].phases["train"]
    assert (phase.replied, phase.failed, phase.late) == (1, 1, {"c", "d"})
    assert (told.run.current, told.run.fraction(), told.run.rounds[1].bytes_up) == before


def test_lines_tell_the_late_in_words() -> None:
    def told(name: str, **data: object) -> str:
        return line({"name": name, "at": AT, "data": {**TRAIN, **data}}, str).split("  ", 1)[1]

    assert told("device-reply", device="d", seconds=4.1, error=CUT) == (
        "round 1 train d did not count: it had not answered after 4.10 s"
    )
    assert told("device-reply", device="c", seconds=1.0, error=SHARD) == (
        "round 1 train c did not count: shard 2 of site line-3 was counted already, by another board"
    )
    assert told("device-late", device="d", late_s=4.9, error=None) == "round 1 train d replied 4.90 s too late"
    died = WorkerDied(why="SIGKILL").to_wire()
    assert told("device-late", device="d", late_s=4.9, error=died).endswith(
        "d failed 4.90 s after its end: worker-died"
    )
    assert not has_line({"name": "selection", "data": TRAIN})
    assert not has_line({"name": "phase-settled", "data": TRAIN})


def test_who_is_cut_off_when_asked_again_is_late() -> None:
    told = exchange(started(), ["a", "d"]).tell("phase-started", **TRAIN, devices=["d"])
    told.tell("device-reply", **TRAIN, device="d", error=CUT)
    told.tell("phase-finished", **TRAIN, seconds=1.0, sent=1, replied=0, failed=1)
    phase = told.run.rounds[1].phases["train"]
    assert (phase.sent, phase.replied, phase.failed, phase.late) == (2, 1, 0, {"d"})


def test_a_device_that_was_cut_off_is_not_crossed_out() -> None:
    rows = [{"device": "d", "doing": "idle", "error": CUT}, {"device": "b", "doing": "idle", "error": {"code": "x"}}]
    late, failed = sorted(printed(devices_table(rows, most=9)).splitlines()[1:], key=lambda one: "✗" in one)
    assert late.startswith("d")
    assert "○ idle" in late
    assert failed.startswith("b")


# --- asynchronous runs


def test_an_asynchronous_run_is_told_by_its_steps() -> None:
    told = started()
    for device in ("a", "b", "c"):
        told.tell("phase-started", round=1, phase="train", devices=[device])
    assert told.run.rounds[1].phases["train"].devices == ("a", "b", "c")
    for device in ("a", "b"):
        told.tell("device-reply", round=1, phase="train", device=device, bytes_up=1000, bytes_down=2000)
    updates = [{"device": "a", "staleness": 0, "weight": 1.0}, {"device": "b", "staleness": 1, "weight": 0.7}]
    told.tell("async-step", round=1, updates=updates, seconds=2.5)
    told.tell("phase-started", round=2, phase="train", devices=["a"])
    one = told.run.rounds[1]
    assert one.step is not None
    assert (one.step.updates, one.step.staleness, one.seconds) == (2, 0.5, 2.5)
    assert told.run.fraction() == 0.25
    assert told.run.busy == {"a", "c"}
    head, *rows = printed(rounds_table(told.run)).splitlines()
    assert head.split() == ["step", "updates", "staleness", "up/dev", "down/dev", "time"]
    assert rows[0].split() == ["1", "2", "0.5", "1.00", "kB", "2.00", "kB", "2.50", "s"]
    assert rows[1].split()[0] == "2"
    view = RunView(told.run)
    view.now = NOW
    assert "step 1 of 4 · 2 devices at work" in printed(view.drawn(ConsoleDimensions(100, 40)))
    event = {"name": "async-step", "at": AT, "data": {"round": 1, "updates": updates, "seconds": 2.5}}
    assert line(event, str).endswith("step 1 made of 2 updates, 0.5 steps old on average, in 2.50 s")
    told.tell("async-evaluation", round=1, metrics={"accuracy": 0.5}, devices=2)
    assert told.run.rounds[1].metrics("evaluate") == {"accuracy": 0.5}
    event = {"name": "async-evaluation", "at": AT, "data": {"round": 1, "metrics": {"accuracy": 0.5}, "devices": 2}}
    assert line(event, str).endswith("step 1 evaluated by 2 devices, accuracy 0.5000")


def test_the_bar_of_an_asynchronous_run_never_goes_back() -> None:
    told = started()
    seen = [told.run.fraction()]
    for made in (1, 2, 3, 4):
        for device in ("a", "b"):
            told.tell("phase-started", round=made, phase="train", devices=[device])
            told.tell("device-reply", round=made, phase="train", device=device)
            seen.append(told.run.fraction())
        told.tell("async-step", round=made, updates=[{"device": "a", "staleness": 0}], seconds=1.0)
        seen.append(told.run.fraction())
    assert seen == sorted(seen, key=lambda fraction: fraction or 0.0)
    assert seen[-1] == 1.0
