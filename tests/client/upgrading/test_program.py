"""What root runs, with real apt and dpkg on a root of their own: a version is installed and kept, or gone back from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from argosy_client.upgrading.steps import REQUEST, Step
from tests.client.upgrading.board import LIBRARIES, NAMES, AptBoard, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AptBoard:
    """A board with version 1.0 whose repository has a good 1.1 and a bad 1.2 too."""
    made = AptBoard(tmp_path)
    monkeypatch.setenv("PATH", made.environment["PATH"])
    made.publish("1.0", "1.1", "1.2~bad")
    made.install("1.0")
    assert made.installed() == {"1.0"}
    return made


def outcome(board: AptBoard) -> tuple[Step, str, str]:
    assert board.record is not None
    return board.record.step, board.record.running, board.record.why


def test_a_version_that_is_well_stays_and_the_coordinator_may_call_it_back(board: AptBoard) -> None:
    board.ask(7, "1.1")
    assert board.run() == 0
    assert outcome(board) == (Step.UPGRADED, "1.1", "")
    assert board.installed() == {"1.1"}
    assert not (board.inbox / REQUEST).exists()
    board.withdraw("1.0")  # the way back needs no repository
    board.ask(7, "1.1", back=True)
    assert board.run() == 0
    assert outcome(board) == (Step.ROLLED_BACK, "1.0", "the coordinator called it back")
    assert board.installed() == {"1.0"}


def test_a_version_whose_daemon_does_not_come_is_gone_back_from(board: AptBoard) -> None:
    board.ask(8, "1.2~bad")
    assert board.run() == 0
    assert outcome(board) == (Step.ROLLED_BACK, "1.0", "the daemon did not run within 300 s")
    assert board.installed() == {"1.0"}
    assert (board.folder / "active").read_text() == "active\n"


def test_a_version_that_cannot_be_configured_is_gone_back_from(board: AptBoard) -> None:
    board.publish("1.3", script="#!/bin/sh\nexit 1\n")
    board.ask(9, "1.3")
    assert board.run() == 0
    step, running, why = outcome(board)
    assert (step, running, board.installed()) == (Step.ROLLED_BACK, "1.0", {"1.0"})
    assert "apt-get" in why


def test_what_will_not_do_is_refused_and_changes_nothing(board: AptBoard) -> None:
    board.ask(1, "9.9")
    board.run()
    assert outcome(board)[0] is Step.REFUSED
    assert "9.9" in outcome(board)[2]
    board.withdraw("1.0")
    board.ask(2, "1.1")
    board.run()
    assert "no way back" in outcome(board)[2]
    board.ask(3, "0.9")
    board.run()
    assert "a lower one" in outcome(board)[2]
    board.settings.write_text("[upgrade]\nallowed = 1\n")
    board.ask(4, "1.1")
    board.run()
    assert outcome(board) == (Step.REFUSED, "1.0", f"{board.settings} does not allow it")
    assert board.installed() == {"1.0"}
    assert (board.folder / "invocation").read_text() == "1\n", "its daemon was left alone"


def test_libraries_that_a_version_needs_come_with_it_and_go_back_with_it(board: AptBoard) -> None:
    board.publish("2.0", "2.1", names=(*LIBRARIES, *NAMES))
    board.install("2.0", names=(*LIBRARIES, *NAMES))
    board.ask(5, "2.1")
    board.run()
    assert (outcome(board), board.installed()) == ((Step.UPGRADED, "2.1", ""), {"2.1"})
    board.ask(5, "2.1", back=True)
    board.run()
    assert (outcome(board)[:2], board.installed()) == ((Step.ROLLED_BACK, "2.0"), {"2.0"})


def test_a_machine_with_a_coordinator_refuses(board: AptBoard) -> None:
    board.publish("1.0", "1.1", names=(*NAMES, "argosy-coordinator"))
    board.install("1.0", names=("argosy-coordinator",))
    board.ask(5, "1.1")
    board.run()
    assert outcome(board)[0] is Step.REFUSED
    assert "argosy-coordinator is installed here too" in outcome(board)[2]


def test_the_version_that_is_installed_is_no_change_and_calling_it_back_is_none_either(board: AptBoard) -> None:
    board.ask(6, "1.0")
    board.run()
    assert outcome(board) == (Step.UPGRADED, "1.0", "")
    board.ask(6, "1.0", back=True)
    board.run()
    assert outcome(board)[:2] == (Step.ROLLED_BACK, "1.0")
    assert (board.folder / "invocation").read_text() == "1\n"


def test_what_the_daemon_forges_is_not_followed(board: AptBoard) -> None:
    secret = board.folder / "secret"
    secret.write_bytes(b'{"rollout": 1, "version": "1.1", "back": false}')
    (board.inbox / REQUEST).symlink_to(secret)
    assert board.run() == 0
    os.mkfifo(board.inbox / REQUEST)
    assert board.run() == 0
    (board.inbox / REQUEST).write_bytes(b" " * 100_000)
    assert board.run() == 0
    assert secret.exists()
    assert not (board.inbox / REQUEST).exists()
    assert board.record is None
    board.inbox.rename(board.folder / "elsewhere")
    board.inbox.symlink_to(board.folder / "elsewhere")
    board.ask(1, "1.1")
    with pytest.raises(OSError, match="upgrade"):
        board.run()
    assert board.record is None
    assert board.installed() == {"1.0"}
