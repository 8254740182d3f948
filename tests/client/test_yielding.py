"""Training yields to inference, and goes on: what follows from each look, and that it never starves."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from argosy_client.worker.priority import Priority
from argosy_client.yielding import CALM_LOOKS, LATE_LOOKS, LEFT_ALONE_S, LONGEST_PAUSE_S, Course, Pace, Yielding
from argosy_common.errors import InferenceUnreachable

LATE = [Pace("har", 50, 30.0, 10.0)]
SO_SO = [Pace("har", 50, 9.0, 10.0)]
CALM = [Pace("har", 50, 2.0, 10.0)]
QUIET = [Pace("har", 2, 500.0, 10.0)]


def looks(course: Course, paces: Sequence[Pace], count: int, at: float = 0.0) -> list[Priority]:
    return [course.look(paces, at + second) for second in range(count)]


def test_it_falls_step_by_step_and_comes_back_step_by_step() -> None:
    course = Course()
    fall = looks(course, LATE, 2 * LATE_LOOKS)
    assert fall == [Priority.FULL, Priority.LOWERED, Priority.LOWERED, Priority.PAUSED]
    back = looks(course, CALM, 2 * CALM_LOOKS, 10.0)
    assert back[CALM_LOOKS - 1] is Priority.LOWERED
    assert back[-1] is Priority.FULL


def test_one_late_look_a_few_requests_or_barely_good_ones_change_nothing() -> None:
    course = Course()
    for paces in (LATE, SO_SO, LATE, QUIET, LATE, []):
        assert course.look(paces, 0.0) is Priority.FULL
    looks(course, LATE, LATE_LOOKS)
    assert set(looks(course, SO_SO, 20)) == {Priority.LOWERED}, "it is neither late nor at ease"


def test_a_model_that_is_late_for_other_reasons_leaves_training_alone() -> None:
    course = Course()
    looks(course, LATE, 2 * LATE_LOOKS)
    assert course.priority is Priority.PAUSED
    after = looks(course, LATE, int(LONGEST_PAUSE_S) + 2, 4.0)
    assert after[-1] is Priority.FULL
    alone = looks(course, LATE, int(LEFT_ALONE_S) - 10, 36.0)
    assert set(alone) == {Priority.FULL}
    assert looks(course, LATE, 3 * LATE_LOOKS, 200.0)[-1] is Priority.PAUSED


@given(st.lists(st.sampled_from([LATE, SO_SO, CALM, QUIET, []]), min_size=200, max_size=400))
def test_whatever_requests_come_training_is_never_paused_for_long(seen: list[list[Pace]]) -> None:
    course, paused = Course(), 0
    for second, paces in enumerate([*seen, *[LATE] * 40]):
        paused = paused + 1 if course.look(paces, float(second)) is Priority.PAUSED else 0
        assert paused <= LONGEST_PAUSE_S + CALM_LOOKS + 1


class HandClock:
    now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def test_the_worker_is_told_of_changes_only_and_begins_anew_with_all_it_can_get() -> None:
    given_: list[Priority] = []
    training, paces = [True], LATE
    yielding = Yielding(
        paces=lambda: paces,
        training=lambda: training[0],
        give=given_.append,
        clock=HandClock(),  # type: ignore[arg-type]  # it never asks for the wall's
    )
    for _ in range(6):
        yielding.look()
    assert given_ == [Priority.LOWERED, Priority.PAUSED]
    assert yielding.told == "paused"
    training[0] = False
    yielding.look()
    assert given_[-1] is Priority.FULL
    assert yielding.told == ""


def test_an_inference_process_that_does_not_answer_leaves_nothing_paused() -> None:
    given_: list[Priority] = []

    def unreachable() -> list[Pace]:
        raise InferenceUnreachable(path="s", why="gone")

    answers = [lambda: LATE] * 4 + [unreachable] + [lambda: None] * 5

    def paces() -> Sequence[Pace] | None:
        return answers.pop(0)() if answers else None

    yielding = Yielding(
        paces=paces,
        training=lambda: True,
        give=given_.append,
        clock=HandClock(),  # type: ignore[arg-type]  # it never asks for the wall's
    )
    for _ in range(30):
        try:
            yielding.look()
        except InferenceUnreachable:
            continue
    assert given_[-1] is Priority.FULL
