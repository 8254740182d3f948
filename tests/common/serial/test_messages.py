"""What is said comes back as it was; what is not in the form is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.errors import AlreadyEnrolled, SerialMessageInvalid, error_from_wire
from argosy_common.serial.frames import MAX_MESSAGE
from argosy_common.serial.messages import (
    Board,
    Failed,
    Hello,
    Installed,
    Invitation,
    Prepare,
    failed,
    read_answer,
    read_request,
    write,
)

INVITATION = Invitation(url="https://c:8444", pin="sha256:" + "0" * 64, token_id="0" * 8)


def test_golden_bytes() -> None:
    assert write(Hello()) == b'{"kind":"hello","version":1}'


@pytest.mark.parametrize("request_", [Hello(), Prepare(invitation=INVITATION)])
def test_requests_come_back(request_: Hello | Prepare) -> None:
    assert read_request(write(request_)) == request_


@pytest.mark.parametrize(
    "answer",
    [
        Board(name="pi", model="", device=None, url=None),
        Installed(device="0" * 16, site="lab", name="pi", operator=None),
    ],
)
def test_answers_come_back(answer: Board | Installed) -> None:
    assert read_answer(write(answer)) == answer


def test_a_named_error_keeps_its_name_and_fits() -> None:
    error = AlreadyEnrolled(state_dir="x" * 100_000, device="d", url="u")
    told = read_answer(write(failed(error)))
    assert isinstance(told, Failed)
    assert isinstance(error_from_wire(told.error.model_dump()), AlreadyEnrolled)
    assert len(write(told)) < MAX_MESSAGE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"kind":"fly"}',
        b'{"kind":"hello","version":2}',
        b'{"kind":"hello","version":1,"more":1}',
        json.dumps({"kind": "prepare", "invitation": {"url": "u", "pin": "p", "token_id": "t"}}).encode(),
    ],
)
def test_what_is_not_in_the_form_is_refused(body: bytes) -> None:
    with pytest.raises(SerialMessageInvalid):
        read_request(body)


@given(st.binary(max_size=200))
def test_nothing_else_is_raised(body: bytes) -> None:
    for read in (read_request, read_answer):
        with pytest.raises(SerialMessageInvalid):
            read(body)
