"""The board's end of an enrolment over a serial cable (docs/protocol.md, "Serial").

Both keys are made here and stay here; a station carries the public halves to the coordinator and brings the answer
back. What it does on disk is `joining`'s, so a power cut at any moment leaves the board enrolled or not, and the
station's same command completes it. Whatever comes over the cable, this goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from argosy_client import joining
from argosy_client.identity import Enrolment
from argosy_client.inventory import take_inventory
from argosy_client.joining import confirm, exclusively, kept_keys, settle, standing
from argosy_client.serial_port import SerialPort
from argosy_client.settings import DeviceSettings, remember_name, shown_name
from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.errors import (
    ArgosyError,
    EnrolmentUnreachable,
    NotEnrolled,
    ProgrammingError,
    RequestInvalid,
    SerialPortMissing,
)
from argosy_common.logs import get_logger
from argosy_common.serial.exchange import Answerer
from argosy_common.serial.frames import FrameDecoder, encode
from argosy_common.serial.messages import (
    Answer,
    Board,
    Hello,
    Install,
    Installed,
    Invitation,
    Prepare,
    Prepared,
    Request,
    failed,
    read_request,
    write,
)

log = get_logger(__name__)

REOPEN_S = 1.0
"""Between attempts to open a port that is not there, as a gadget port is while no cable is in it."""
QUIET_S = 5.0
"""With `once`: how long nothing must come after the enrolment, so that the station surely has its confirmation."""
_TICK_S = 0.5


class Desk:
    """Carries out what a station asks. Every request may be repeated."""

    def __init__(self, settings: DeviceSettings) -> None:
        self._settings = settings
        self._state_dir = settings.state_dir
        self.enrolled = False
        """Whether a station was told that this board is enrolled by its token."""

    def handle(self, body: bytes) -> bytes:
        """Return the answer to a request's bytes. Never raises: a failure is an answer too."""
        try:
            answer = self._carry_out(read_request(body))
        except ArgosyError as error:
            log.warning("serial.refused", code=error.code, why=error.message)
            answer = failed(error)
        except Exception as error:  # noqa: BLE001  (what comes over a cable must not end the service)
            log.error("serial.failed", exc=error)
            answer = failed(ProgrammingError(what=type(error).__name__))
        return write(answer)

    def _carry_out(self, request: Request) -> Answer:
        match request:
            case Hello():
                return self._introduce()
            case Prepare():
                return self._prepare(request.invitation)
            case Install():
                return self._install(request)

    def _introduce(self) -> Board:
        try:
            there: Enrolment | None = Enrolment.load(self._state_dir)
        except ArgosyError as error:
            if not isinstance(error, NotEnrolled):
                log.warning("serial.enrolment_broken", code=error.code, why=error.message)
            there = None
        facts = take_inventory().facts()
        return Board(
            name=shown_name(self._settings),
            model=str(facts.get("model", facts["machine"])),
            device=there.device if there else None,
            url=there.url if there else None,
        )

    def _prepare(self, invitation: Invitation) -> Prepared | Installed:
        with exclusively(self._state_dir):
            there, operator = self._standing(invitation)
            if there is not None:
                return self._installed(confirm(there, operator))
            keys = kept_keys(self._state_dir)
            log.info("serial.prepared", fingerprint=x509.in_groups(keys.device))
            asked = keys.request("", shown_name(self._settings))
            return Prepared(**asked.model_dump(exclude={"token"}))

    def _install(self, request: Install) -> Installed:
        invitation, answer = request.invitation, request.answer
        with exclusively(self._state_dir):
            there, operator = self._standing(invitation)
            if there is not None:
                return self._installed(confirm(there, operator))
            _check_authority(invitation, answer.ca_pem)
            if request.name is not None:
                remember_name(self._settings.model_copy(update={"name": request.name}))
            enrolment = settle(
                self._state_dir,
                kept_keys(self._state_dir),
                _told(invitation),
                answer,
                ca_pem=answer.ca_pem,
                operator=operator,
            )
            return self._installed(enrolment)

    def _standing(self, invitation: Invitation) -> tuple[Enrolment | None, x509.PublicKey | None]:
        pem = invitation.operator_pem
        operator = None if pem is None else x509.parse_public_pem(pem.encode())
        return standing(self._state_dir, _told(invitation), operator, force=invitation.force)

    def _installed(self, enrolment: Enrolment) -> Installed:
        self.enrolled = True
        operator = None if enrolment.operator is None else x509.short_fingerprint(enrolment.operator)
        log.info(
            "serial.enrolled",
            fingerprint=x509.in_groups(enrolment.device),
            site=enrolment.site,
            url=enrolment.url,
            operator=operator or "none",
        )
        return Installed(
            device=enrolment.device, site=enrolment.site, name=shown_name(self._settings), operator=operator
        )


def _told(invitation: Invitation) -> joining.Invitation:
    return joining.Invitation(invitation.url, invitation.pin, invitation.token_id)


def _check_authority(invitation: Invitation, ca_pem: str) -> None:
    """Take no authority but the pinned one, as by HTTPS: the station may have mixed up two coordinators."""
    try:
        authority = x509.parse_certificate(ca_pem.encode())
    except RequestInvalid as error:
        raise EnrolmentUnreachable(url=invitation.url, why=f"its answer cannot be used: {error.message}") from None
    if x509.spki_pin(authority) != invitation.pin or not x509.issued_by(authority, authority):
        why = "its answer cannot be used: it names another authority than the pin"
        raise EnrolmentUnreachable(url=invitation.url, why=why)


def serve(
    open_port: Callable[[], SerialPort],
    desk: Desk,
    *,
    clock: Clock,
    stopping: threading.Event,
    once: bool = False,
    reopen: bool = True,
) -> None:
    """Answer stations until `stopping`; with `once`, until the board is enrolled.

    A port that is not there, or goes away, is opened again, unless `reopen` is false.

    Raises:
        SerialPortDenied, SerialPortUnusable: as `open_port` does.
    """
    answerer = Answerer(desk.handle)
    waited = False
    while not stopping.is_set():
        try:
            with open_port() as port:
                waited = False
                log.info("serial.waiting_for_a_station")
                return _talk(port, answerer, desk, clock=clock, stopping=stopping, once=once)
        except SerialPortMissing as error:
            if not waited:
                log.info("serial.no_port_yet", why=error.message)
            waited = True
        except OSError as error:
            log.info("serial.port_lost", why=error.strerror or error)
            if not reopen:
                return None
        stopping.wait(REOPEN_S)
    return None


def _talk(
    port: SerialPort, answerer: Answerer, desk: Desk, *, clock: Clock, stopping: threading.Event, once: bool
) -> None:
    """Answer what comes over `port`. Returns when it is time to end; raises OSError when the port goes away."""
    decoder = FrameDecoder()
    last = clock.monotonic()
    while not stopping.is_set():
        for frame in decoder.feed(port.read(_TICK_S)):
            last = clock.monotonic()
            answer = answerer.take(frame)
            if answer is not None:
                port.write(encode(answer))
        if once and desk.enrolled and clock.monotonic() - last >= QUIET_S:
            return
