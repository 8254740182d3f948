"""The life of an instruction on a device, as data: states, events, transitions, and where each state resumes.

    received → running → answered → delivered          and cancelled, from wherever it was

Pure: no database, no clock. `journal.py` keeps the states; a stored state is what the next start goes by.
"""

from __future__ import annotations

from enum import StrEnum

from argosy_common.errors import ProgrammingError


class State(StrEnum):
    """Where an instruction stands."""

    RECEIVED = "received"
    RUNNING = "running"
    ANSWERED = "answered"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What happens to an instruction."""

    START = "start"
    """The job thread takes it up."""
    INTERRUPT = "interrupt"
    """The daemon stops in good order before it is answered."""
    ANSWER = "answer"
    """Its reply, or the error that stands for it, is known."""
    RECEIPT = "receipt"
    """The coordinator has the reply in its database."""
    CANCEL = "cancel"
    """Its run is over."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.RECEIVED, Event.START): State.RUNNING,
    (State.RECEIVED, Event.ANSWER): State.ANSWERED,  # it expired, or was tried too often
    (State.RECEIVED, Event.RECEIPT): State.DELIVERED,  # of an error that a full disk kept out of the journal
    (State.RECEIVED, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.START): State.RUNNING,  # once more, after a power cut
    (State.RUNNING, Event.INTERRUPT): State.RECEIVED,
    (State.RUNNING, Event.ANSWER): State.ANSWERED,
    (State.RUNNING, Event.RECEIPT): State.DELIVERED,  # likewise
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
    (State.ANSWERED, Event.RECEIPT): State.DELIVERED,
    (State.ANSWERED, Event.CANCEL): State.CANCELLED,
    (State.DELIVERED, Event.RECEIPT): State.DELIVERED,  # a repeated receipt
    (State.DELIVERED, Event.CANCEL): State.DELIVERED,
    (State.CANCELLED, Event.START): State.CANCELLED,  # the cancel overtook the job thread: nothing comes of it
    (State.CANCELLED, Event.INTERRUPT): State.CANCELLED,
    (State.CANCELLED, Event.ANSWER): State.CANCELLED,
    (State.CANCELLED, Event.RECEIPT): State.CANCELLED,
    (State.CANCELLED, Event.CANCEL): State.CANCELLED,
}


class Resume(StrEnum):
    """What the next start of the daemon does with an instruction."""

    RUN = "run"
    SEND = "send"
    NOTHING = "nothing"


RESUME: dict[State, Resume] = {
    State.RECEIVED: Resume.RUN,
    State.RUNNING: Resume.RUN,
    State.ANSWERED: Resume.SEND,
    State.DELIVERED: Resume.NOTHING,
    State.CANCELLED: Resume.NOTHING,
}


def after(state: State, event: Event) -> State:
    """Return the state that `event` leads to from `state`.

    Raises:
        ProgrammingError: the event cannot happen there; the state stays as it is.
    """
    try:
        return TRANSITIONS[(state, event)]
    except KeyError:
        raise ProgrammingError(what=f"an instruction that is {state} met the event '{event}'") from None
