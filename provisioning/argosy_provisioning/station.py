"""How a station enrols a board (docs/protocol.md, "Serial"). The board needs no network and never sees the token.

1. Who is there?
2. The board makes its keys, or has them already, and gives its request.
3. The coordinator's authority is fetched and believed only if it is the pinned one.
4. The request goes to that coordinator with the token, which leaves this machine here for the first time.
5. The board gets the answer, writes it, and says that it has.

Interrupted anywhere, the same command again completes it, and the token is used once: the board repeats the same
request, and the coordinator answers it with the same certificate.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.coordinator_https import Address
from argosy_common.enrolment import EnrolRequest, JoinToken
from argosy_common.enrolment_https import fetch_authority, parse_pin, send_request
from argosy_common.errors import SerialMessageInvalid, SiteDiffers, error_from_wire
from argosy_common.serial.exchange import BytePort, Caller, Patience
from argosy_common.serial.messages import (
    Board,
    Failed,
    Hello,
    Install,
    Installed,
    Invitation,
    Prepare,
    Prepared,
    Request,
    read_answer,
    write,
)

STEPS = ("looking for the board", "making its keys", "checking the coordinator", "enrolling", "writing", "done")
"""What is going on, in this order, as a person reads it."""

Told = Callable[[str, Board | None], None]
"""Hears of each step, and of the board as soon as it is known."""


@dataclass(frozen=True)
class Order:
    """Whom boards are to join, and how."""

    address: Address
    token: JoinToken
    pin: str
    operator: x509.PublicKey | None = None
    site: str | None = None
    """The site that the token must lead to; None: any."""
    force: bool = False

    @classmethod
    def parse(
        cls,
        url: str,
        token: str,
        pin: str,
        *,
        operator: x509.PublicKey | None = None,
        site: str | None = None,
        force: bool = False,
    ) -> Order:
        """Take what a person typed.

        Raises:
            SettingsInvalid, TokenMalformed: the URL, the pin or the token is none.
        """
        return cls(Address.parse(url), JoinToken.parse(token), parse_pin(pin), operator, site, force)

    def invitation(self) -> Invitation:
        """Return what the board is told of it: all but the token's secret."""
        pem = None if self.operator is None else x509.public_pem(self.operator).decode()
        return Invitation(
            url=self.address.url, pin=self.pin, token_id=self.token.id, operator_pem=pem, force=self.force
        )


@dataclass(frozen=True)
class Enrolled:
    """A board that is in the fleet now."""

    device: str
    site: str
    name: str
    model: str
    url: str
    operator: str | None
    """The short fingerprint of the operator's key that the board has pinned."""
    already: bool
    """Whether this very token had enrolled it before."""


def enrol(
    port: BytePort,
    port_name: str,
    order: Order,
    *,
    clock: Clock,
    rng: random.Random,
    name: str | None = None,
    baud: int = 115200,
    told: Told = lambda _step, _board: None,
) -> Enrolled:
    """Enrol the board at `port`; `name` is what people call it, its own name if None. Takes some minutes at most.

    Raises:
        SerialSilent, SerialGarbled, SerialWrongAnswers, SerialStopped, SerialUnplugged: the cable.
        SerialMessageInvalid: the board speaks another version.
        AlreadyEnrolled, OperatorKeyDiffers, AlreadyRunning, DiskFull, …: the board says so.
        PinMismatch, EnrolmentUnreachable, TokenUnknown, TokenExpired, TokenExhausted, …: the coordinator.
        SiteDiffers: the token leads elsewhere.
    """
    caller = Caller(port, port_name, clock=clock, rng=rng, patience=Patience.at(baud))
    invitation = order.invitation()
    told(STEPS[0], None)
    board = _ask(caller, Hello())
    if not isinstance(board, Board):
        raise _unexpected(board)
    told(STEPS[1], board)
    prepared = installed = _ask(caller, Prepare(invitation=invitation))
    if isinstance(prepared, Installed):
        _check_site(order, prepared.site)
    elif isinstance(prepared, Prepared):
        told(STEPS[2], board)
        ca_pem = fetch_authority(order.address, order.pin)
        told(STEPS[3], board)
        answer = send_request(order.address, order.pin, ca_pem, _request(order, prepared, name))
        _check_site(order, answer.site)
        told(STEPS[4], board)
        install = Install(invitation=invitation, answer=answer.model_copy(update={"ca_pem": ca_pem}), name=name)
        installed = _ask(caller, install)
    if not isinstance(installed, Installed):
        raise _unexpected(installed)
    _check_device(prepared, installed)
    _check_operator(order, installed)
    told(STEPS[5], board)
    return Enrolled(
        device=installed.device,
        site=installed.site,
        name=installed.name,
        model=board.model,
        url=order.address.url,
        operator=installed.operator,
        already=isinstance(prepared, Installed),
    )


def _ask(caller: Caller, request: Request) -> Board | Prepared | Installed:
    """Return the board's answer; raise the error that it tells."""
    answer = read_answer(caller.ask(write(request)))
    if isinstance(answer, Failed):
        raise error_from_wire(answer.error.model_dump())
    return answer


def _unexpected(answer: Board | Prepared | Installed) -> SerialMessageInvalid:
    return SerialMessageInvalid(why=f"the board answers something else than it was asked: {answer.kind}")


def _request(order: Order, prepared: Prepared, name: str | None) -> EnrolRequest:
    return EnrolRequest(
        token=f"{order.token.id}.{order.token.secret}",
        csr_pem=prepared.csr_pem,
        identity_public_pem=prepared.identity_public_pem,
        identity_signature=prepared.identity_signature,
        name=name or prepared.name,
        inventory=prepared.inventory,
    )


def _check_site(order: Order, site: str) -> None:
    if order.site is not None and site != order.site:
        raise SiteDiffers(found=site, wanted=order.site)


def _check_device(prepared: Board | Prepared | Installed, installed: Installed) -> None:
    if isinstance(prepared, Prepared):
        identity = x509.parse_public_pem(prepared.identity_public_pem.encode())
        if installed.device != x509.device_id(identity):
            raise SerialMessageInvalid(why="another board has answered than the one that was asked first")


def _check_operator(order: Order, installed: Installed) -> None:
    if order.operator is not None and installed.operator != x509.short_fingerprint(order.operator):
        raise SerialMessageInvalid(why="the board does not say that it has pinned the operator's key")
