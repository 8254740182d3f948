from __future__ import annotations

from argosy_common.link.watchdog import Watchdog


def test_it_asks_after_a_quiet_period_and_once_only() -> None:
    dog = Watchdog(period=10, patience=20)
    assert not dog.due(9.9)
    assert dog.due(10)
    dog.ask(10)
    assert not dog.due(25)


def test_an_answer_starts_the_next_period() -> None:
    dog = Watchdog(period=10, patience=20)
    dog.ask(10)
    dog.answer(11)
    assert not dog.expired(1000)
    assert not dog.due(20)
    assert dog.due(21)


def test_silence_after_the_question_ends_the_connection() -> None:
    dog = Watchdog(period=10, patience=20)
    dog.ask(10)
    assert not dog.expired(29.9)
    assert dog.expired(30)


def test_a_slow_line_that_still_moves_bytes_is_not_dead() -> None:
    dog = Watchdog(period=10, patience=20)
    dog.ask(10)
    dog.hear(29)
    assert not dog.expired(48)
    assert dog.expired(49)


def test_nothing_expires_before_it_was_asked() -> None:
    assert not Watchdog(period=10, patience=20).expired(1e9)
