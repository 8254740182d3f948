"""A device's keys for secure rounds, and what it insists on: files of its own that never leave it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from argosy_common.errors import CertificateInvalid, FleetListInvalid
from argosy_common.flower.secure.journal import SecureJournal
from argosy_common.prg import Suite
from argosy_common.secagg import fleet
from argosy_common.secagg.admission import ALL_SUITES, Policy
from argosy_common.secagg.messages import COORDINATOR
from argosy_common.secagg.sealing import SigningKey, VerifyingKey, fingerprint, public_der
from argosy_common.secure_home import SecureHome
from argosy_common.x509 import load_key, parse_public_pem


class Keep:
    """A device's own side of secure rounds: its key, its journal, its policy."""

    def __init__(self, home: SecureHome) -> None:
        """Open it.

        Raises:
            CertificateInvalid: a key cannot be read.
            SecureStateLost: the journal cannot be used.
        """
        self.home = home
        self.key: SigningKey = load_key(home.identity_key)
        self.operator: VerifyingKey | None = None if home.operator_key is None else _public(home.operator_key)
        self.journal = SecureJournal(home.folder)

    @cached_property
    def fingerprint(self) -> bytes:
        """This device's own."""
        return fingerprint(public_der(self.key.public_key()))

    def policy(self, offered: bytes | None) -> Policy:
        """Return what to insist on in a round, given the fleet list that came with it; None: the last one known.

        Raises:
            FleetListInvalid: the operator's list is missing or not signed by the pinned key.
            FleetListOutdated: it is older than one known, or another of the same version.
        """
        if self.operator is None:
            return self._policy(None)
        known = self.journal.fleet()
        data = offered if offered is not None else known[2] if known else None
        if data is None:
            why = "there is none, and this device goes by the operator's list only"
            raise FleetListInvalid(where=f"of {COORDINATOR}", why=why)
        found = fleet.verify(data, self.operator, where=f"of {COORDINATOR}")
        floor = fleet.follow(known[:2] if known else None, found)
        if known is None or known[0] != found.version:
            self.journal.write_fleet(*floor, data)
        return self._policy(found)

    def _policy(self, found: fleet.FleetList | None) -> Policy:
        suites = frozenset(map(Suite, self.home.ciphers)) or ALL_SUITES
        return Policy(fleet=found, suites=suites, least=self.home.least)


def _public(path: Path) -> VerifyingKey:
    try:
        return parse_public_pem(path.read_bytes())
    except Exception as error:
        raise CertificateInvalid(path=path, why=error) from error
