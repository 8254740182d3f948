"""Group commit: in order, together, and never lost in silence."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from argosy_server.group_commit import GroupCommit


def test_what_arrives_during_a_commit_shares_the_next() -> None:
    commits: list[list[int]] = []
    first, go_on = threading.Event(), threading.Event()

    def commit(records: Sequence[int]) -> None:
        commits.append(list(records))
        first.set()
        assert go_on.wait(10)

    group = GroupCommit("test", commit)
    group.put(0)
    assert first.wait(10)
    for number in range(1, 6):
        group.put(number)
    assert not group.flush(0.01)
    go_on.set()
    assert group.flush(10)
    assert commits == [[0], [1, 2, 3, 4, 5]]
    group.close()


def test_a_commit_that_fails_is_told_and_the_next_goes_on() -> None:
    told: list[tuple[list[str], str]] = []
    kept: list[str] = []

    def commit(records: Sequence[str]) -> None:
        if "bad" in records:
            raise OSError("no room")
        kept.extend(records)

    group = GroupCommit("test", commit, lambda records, error: told.append((list(records), str(error))))
    group.put("bad")
    assert group.flush(10)
    group.put("good")
    assert group.flush(10)
    assert told == [(["bad"], "no room")]
    assert kept == ["good"]
    group.close()


def test_closing_commits_what_waits_and_takes_nothing_more() -> None:
    kept: list[int] = []
    group = GroupCommit("test", kept.extend)
    for number in range(1000):
        group.put(number)
    group.close()
    group.put(1000)
    group.close()
    assert kept == list(range(1000))
