"""Keeping the device's certificate good: when it is renewed, and how its successor is put in force.

    ASKING      how long is the certificate still good for? The coordinator says; this board's clock is not asked
    RESTING     until two thirds of its life, and a random bit more, are over; in between it is asked again
    REQUESTING  a new TLS key, signed for by the identity key (`renewing.prepare`, `keep`)
    PROVING     the next connection to the broker shows the new pair; once it is up, that is in force (`adopt`)

What fails is tried again after a growing random pause, for as long as the daemon runs: also long after the end of the
certificate, when the broker refuses it and the coordinator's grace is what is left.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Protocol, TypeVar

from argosy_client import renewing
from argosy_client.identity import Enrolment
from argosy_common import x509
from argosy_common.backoff import Backoff
from argosy_common.coordinator_https import Address
from argosy_common.enrolment_https import fetch_standing, send_renewal
from argosy_common.errors import ArgosyError, DeviceRefused, EnrolmentUnreachable, PinMismatch, RenewalRefused
from argosy_common.link import TlsFiles
from argosy_common.link.tls import client_context
from argosy_common.logs import get_logger
from argosy_common.renewal import RenewRequest, Standing

log = get_logger(__name__)

FIRST_LOOK_S = 10.0
"""After a start the coordinator is left in peace for a random part of this: a whole site may have its power back."""
LOOK_AGAIN_S = 12 * 3600.0
"""The longest that the coordinator is not asked how a certificate stands."""
PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
"""Between attempts: the ceiling of the first pause, and of any."""
REFUSED_PAUSE_S = 3600.0
"""The longest pause after a refusal that only an operator can change."""
PROOF_S = 20.0
"""How long a connection with the new pair may take to come up."""
REFUSALS = 3
"""So often may a broker that takes the old pair refuse the new one, until another is asked for."""

_LAST_WORDS = (RenewalRefused, DeviceRefused)

T = TypeVar("T")


class Step(Enum):
    """Where the renewal stands."""

    ASKING = "asking"
    RESTING = "resting"
    REQUESTING = "requesting"
    PROVING = "proving"


TRANSITIONS: dict[tuple[Step, str], Step] = {
    (Step.ASKING, "early"): Step.RESTING,
    (Step.ASKING, "due"): Step.REQUESTING,
    (Step.RESTING, "rested"): Step.ASKING,
    (Step.ASKING, "unknown"): Step.REQUESTING,
    (Step.REQUESTING, "answered"): Step.PROVING,
    (Step.REQUESTING, "refused"): Step.ASKING,
    (Step.PROVING, "connected"): Step.ASKING,
    (Step.PROVING, "useless"): Step.ASKING,
}
"""`useless`: the broker refuses the new pair, or it has ended before it could be tried. `unknown`: a coordinator that
was restored from a backup does not know what was issued since; it takes a certificate that is shown."""


class Connection(Protocol):
    """What a renewal needs of the link (`argosy_common.link.Link`)."""

    @property
    def connected(self) -> bool:
        """Whether it is up."""
        ...

    def reconnect(self) -> None:
        """Connect anew."""
        ...


class Renewal:
    """Renews the certificate of one device. `files` and `connected` are the link's to call, from any thread."""

    def __init__(
        self, enrolment: Enrolment, *, rng: random.Random, adopted: Callable[[Enrolment], None] = lambda _: None
    ) -> None:
        """Go on where the last process was. `adopted` is told of the enrolment once its certificate is a new one."""
        self.enrolment = enrolment
        self._rng = rng
        self._adopted = adopted
        self._link: Connection | None = None
        self._addresses = deque(_addresses(enrolment))
        self._backoff = Backoff(rng, base=PAUSE_S, cap=LONGEST_PAUSE_S, floor=1.0)
        self._jitter = rng.random()
        self._ended = False
        self._step = Step.ASKING
        self._lock = threading.Lock()
        self._shown: TlsFiles | None = None
        """The pair of the connection that is up or being made."""
        self._tried = False
        """Whether the new pair was shown since it was last found refused."""
        self._refusals = 0
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewed, name="renewal", daemon=True)
        renewing.forget_pairs(enrolment.state_dir, but=enrolment.pair)
        self._candidate = renewing.candidate(enrolment)
        if self._candidate is not None:
            self._step = Step.PROVING

    @property
    def step(self) -> Step:
        """Where it stands."""
        return self._step

    def start(self, link: Connection) -> None:
        """Begin; `link` is one that shows `files`."""
        self._link = link
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End; a question to the coordinator that is under way is abandoned after `timeout_s`."""
        self._stopping.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # --- what the link calls

    def files(self) -> TlsFiles:
        """Return what the next connection shows: the new pair, and after a failure the one in force, in turns."""
        with self._lock:
            old, new = self.enrolment.tls_files(), self._candidate
            self._shown = old if new is None or self._shown == new else new
            self._tried = self._tried or self._shown == new
            return self._shown

    def connected(self) -> None:
        """Learn that the connection for which `files` were asked last is up."""
        if self._step is Step.PROVING:
            self._news.set()

    # --- the thread

    def _keep_renewed(self) -> None:
        pause = self._rng.uniform(0.0, FIRST_LOOK_S)
        while True:
            self._news.wait(pause)
            self._news.clear()
            if self._stopping.is_set():
                return
            try:
                pause = self._advance()
            except Exception as error:  # noqa: BLE001  (the certificate must be renewed whatever went wrong this time)
                pause = self._failed(error)

    def _failed(self, error: Exception) -> float:
        pause = self._backoff.next()
        if isinstance(error, _LAST_WORDS):
            pause = max(pause, self._rng.uniform(0.5, 1.0) * REFUSED_PAUSE_S)
        if isinstance(error, ArgosyError):
            log.warning("renewal.failed", step=self._step, code=error.code, why=error.message, again_in_s=round(pause))
        else:
            log.error("renewal.failed", exc=error, step=self._step, again_in_s=round(pause))
        return pause

    def _advance(self) -> float:
        """Do what is to be done where the renewal stands; return the seconds until the next look."""
        doing: dict[Step, Callable[[], float]] = {
            Step.ASKING: self._ask,
            Step.RESTING: self._rested,
            Step.REQUESTING: self._request,
            Step.PROVING: self._prove,
        }
        return doing[self._step]()

    def _follow(self, event: str) -> None:
        self._step = TRANSITIONS[self._step, event]

    def _rested(self) -> float:
        self._follow("rested")
        return 0.0

    def _ask(self) -> float:
        try:
            standing = self._standing(self.enrolment.certificate_path)
        except RenewalRefused as error:
            log.warning("renewal.unknown", why=error.message)
            self._ended = False
            self._follow("unknown")
            return 0.0
        self._backoff.reset()
        self._ended = standing.ended
        due = standing.due_in_s(self._jitter)
        if due > 0:
            self._follow("early")
            log.debug("renewal.rests", due_in_s=round(due), left_s=round(standing.left_s))
            return min(due, LOOK_AGAIN_S)
        self._follow("due")
        log.info("renewal.due", left_s=round(standing.left_s), ended=standing.ended)
        return 0.0

    def _request(self) -> float:
        enrolment = self.enrolment
        asked = renewing.prepare(enrolment.state_dir)
        serial = x509.load_certificate(enrolment.certificate_path).serial_number
        identity = x509.load_key(enrolment.identity_key_path)
        request = RenewRequest(
            device=enrolment.device,
            serial=f"{serial:x}",
            csr_pem=asked.pem.decode(),
            identity_signature=x509.sign_renewal(identity, asked.der, serial).hex(),
        )
        # a certificate that has ended would end the handshake: then none is shown
        trust = x509.coordinator_trust(self._authority()) if self._ended else client_context(enrolment.tls_files())
        try:
            answer = self._told(lambda address: send_renewal(address, enrolment.pin, trust, request))
        except _LAST_WORDS:
            self._follow("refused")
            raise
        renewing.keep(enrolment, asked, answer)
        with self._lock:
            self._candidate, self._refusals, self._tried = renewing.candidate(enrolment), 0, False
        self._backoff.reset()
        self._follow("answered")
        self._reconnect()
        return PROOF_S

    def _prove(self) -> float:
        new = self._candidate
        up = self._link is not None and self._link.connected
        if new is None:
            return self._give_up("it does not hold together")
        if up and self._shown == new:
            return self._adopt()
        if not up:  # the link goes on trying, with either pair in turns
            if self._standing(new.cert).ended:
                return self._give_up("it has ended before it could be tried")
            return max(PROOF_S, self._backoff.next())
        self._refusals += self._tried
        if self._refusals >= REFUSALS:
            return self._give_up("the broker takes the old one and refuses this one")
        self._tried = False
        self._stopping.wait(self._backoff.next())
        self._reconnect()
        return PROOF_S

    def _adopt(self) -> float:
        with self._lock:
            self.enrolment = renewing.adopt(self.enrolment)
            self._candidate, self._shown = None, self.enrolment.tls_files()
        self._jitter = self._rng.random()
        self._backoff.reset()
        self._follow("connected")
        log.info("renewal.adopted", pair=self.enrolment.pair)
        self._adopted(self.enrolment)
        return 0.0

    def _give_up(self, why: str) -> float:
        log.error("renewal.useless", why=why)
        with self._lock:
            self._candidate = None
            renewing.give_up(self.enrolment.state_dir)
        self._follow("useless")
        return self._backoff.next()

    # --- means

    def _reconnect(self) -> None:
        if self._link is not None and not self._stopping.is_set():
            self._link.reconnect()

    def _authority(self) -> str:
        return self.enrolment.ca_path.read_text(encoding="ascii")

    def _standing(self, certificate: Path) -> Standing:
        serial, authority, pin = (
            x509.serial_text(x509.load_certificate(certificate)),
            self._authority(),
            self.enrolment.pin,
        )
        return self._told(lambda address: fetch_standing(address, pin, authority, serial))

    def _told(self, ask: Callable[[Address], T]) -> T:
        """Ask at the address that answered last, then at the others."""
        first: ArgosyError | None = None
        for _ in range(len(self._addresses)):
            try:
                return ask(self._addresses[0])
            except (EnrolmentUnreachable, PinMismatch) as error:  # what stands there need not be the coordinator
                first = first or error
                self._addresses.rotate(-1)
        raise first or EnrolmentUnreachable(url=self.enrolment.url, why="no address is known")


def _addresses(enrolment: Enrolment) -> list[Address]:
    """Return where the coordinator's own port may be: where this device joined, and where its brokers are."""
    joined = Address.parse(enrolment.url)
    hosts = dict.fromkeys([joined.host, *(host for host, _ in enrolment.brokers)])
    return [Address.at(host, joined.port) for host in hosts]
