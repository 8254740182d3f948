"""What is said over the cable. The station asks, the board answers; every request may be repeated.

    Hello    → Board       who are you?
    Prepare  → Prepared    make your keys, and give me your request (public halves only)
             → Installed   this very token has enrolled the board already
    Install  → Installed   here is what the coordinator answered; write it
    any      → Failed      a named error, as `ArgosyError.to_wire` writes it

The token is not in here: the board does not need it, and a cable has listeners.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from argosy_common.enrolment import EnrolAnswer, Fact, Pem, Text
from argosy_common.errors import ArgosyError, SerialMessageInvalid

DeviceId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Url = Annotated[str, Field(max_length=512)]
_M = TypeVar("_M")
Prose = Annotated[str, Field(max_length=4096)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Invitation(_Message):
    """Where the board is to join, by which token (its name only), and whose fleet lists it is to take."""

    url: Url
    pin: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    token_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    operator_pem: Pem | None = None
    force: bool = False
    """Replace another enrolment, or another operator's key."""


class Hello(_Message):
    """Who are you?"""

    kind: Literal["hello"] = "hello"
    version: Literal[1] = 1


class Prepare(_Message):
    """Make your keys, if you have none, and give me your request."""

    kind: Literal["prepare"] = "prepare"
    invitation: Invitation


class Install(_Message):
    """Write your enrolment."""

    kind: Literal["install"] = "install"
    invitation: Invitation
    answer: EnrolAnswer
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """What people call the board; None: it keeps its own."""


class Board(_Message):
    """Who the board is. Nothing was written for this."""

    kind: Literal["board"] = "board"
    version: Literal[1] = 1
    name: Text
    model: Text
    device: DeviceId | None
    """None: not enrolled."""
    url: Url | None


class Prepared(_Message):
    """The board's half of `EnrolRequest`."""

    kind: Literal["prepared"] = "prepared"
    csr_pem: Pem
    identity_public_pem: Pem
    identity_signature: Annotated[str, Field(max_length=256, pattern=r"^(?:[0-9a-f]{2})*$")]
    name: Text
    inventory: Annotated[dict[Text, Fact], Field(max_length=64)]


class Installed(_Message):
    """The board is enrolled, and has read it back."""

    kind: Literal["installed"] = "installed"
    device: DeviceId
    site: Text
    name: Text
    operator: DeviceId | None
    """The short fingerprint of the operator's key that is pinned."""


class WireError(_Message):
    """An `ArgosyError` on its way."""

    code: Text
    message: Prose
    remedy: Prose
    facts: Annotated[dict[Text, Prose], Field(max_length=16)]


class Failed(_Message):
    """The board could not."""

    kind: Literal["failed"] = "failed"
    error: WireError


Request = Hello | Prepare | Install
Answer = Board | Prepared | Installed | Failed

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])


def write(message: Request | Answer) -> bytes:
    """Return a message's bytes."""
    return message.model_dump_json().encode()


def read_request(body: bytes) -> Request:
    """Read what a station says.

    Raises:
        SerialMessageInvalid: it is no request that this version knows.
    """
    return _read(_REQUEST, body)


def read_answer(body: bytes) -> Answer:
    """Read what a board says.

    Raises:
        SerialMessageInvalid: it is no answer that this version knows.
    """
    return _read(_ANSWER, body)


def failed(error: ArgosyError) -> Failed:
    """Return a named error as an answer; a long text is cut."""
    facts = {name[:256]: fact[:512] for name, fact in list(error.facts.items())[:16]}
    told = WireError(code=error.code, message=error.message[:2048], remedy=error.remedy_text[:2048], facts=facts)
    return Failed(error=told)


def _read(form: TypeAdapter[_M], body: bytes) -> _M:
    try:
        return form.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SerialMessageInvalid(why=f"{where}: {first['msg']}" if where else first["msg"]) from None
