"""What every device checks of message 1 before it computes anything (specs/secure-aggregation.md, 1 to 3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from argosy_common.codec.hadamard import block_count
from argosy_common.codec.vector import LARGEST
from argosy_common.errors import (
    PeerUnlisted,
    RosterInvalid,
    SecureMessageMalformed,
    SecureParametersRefused,
    SecureSignatureInvalid,
)
from argosy_common.prg import Suite
from argosy_common.secagg.fleet import FleetList
from argosy_common.secagg.messages import COORDINATOR, Announcement, Signed, run_id
from argosy_common.secagg.parameters import FEWEST_CLIENTS, Parameters
from argosy_common.secagg.sealing import VerifyingKey, fingerprint, signed, verifying_key

ALL_SUITES = frozenset(Suite)


@dataclass(frozen=True)
class Policy:
    """What a device insists on.

    Attributes:
        fleet: the operator's list, verified and not older than any before; None where no operator's key is pinned.
        suites: the ciphers it accepts.
        least: the fewest clients of a group that it takes part in.
    """

    fleet: FleetList | None = None
    suites: Collection[Suite] = ALL_SUITES
    least: int = FEWEST_CLIENTS


@dataclass(frozen=True)
class Admission:
    """A message 1 that holds, as seen by one member of its roster.

    Attributes:
        announcement: message 1.
        parameters: recomputed from n and A.
        identities: public keys of the roster, by index.
        index: this device's own place in it.
    """

    announcement: Announcement
    parameters: Parameters
    identities: tuple[VerifyingKey, ...]
    index: int

    @cached_property
    def fingerprints(self) -> tuple[bytes, ...]:
        """Full fingerprints of the roster, by index."""
        return tuple(fingerprint(member.identity) for member in self.announcement.roster)

    @property
    def sid(self) -> bytes:
        """Of the round."""
        return self.announcement.sid


def opened(data: object) -> Announcement:
    """Return the message 1 in its signed blob.

    Raises:
        SecureMessageMalformed: it is none.
        SecureSignatureInvalid: the run's key did not sign it, or it is not the key of the run that it names.
    """
    blob = Signed.parse(data, peer=COORDINATOR)
    announcement = Announcement.parse(blob.announcement, peer=COORDINATOR)
    try:
        key = verifying_key(announcement.coordinator)
    except ValueError as error:
        raise SecureMessageMalformed(peer=COORDINATOR, why=str(error)) from None
    sound = signed(key, blob.signature, "argosy/secagg/announcement", blob.announcement)
    if not sound or announcement.run != run_id(announcement.coordinator):
        raise SecureSignatureInvalid(peer=COORDINATOR, what="message 1")
    return announcement


def admit(announcement: Announcement, own: bytes, policy: Policy) -> Admission:
    """Check message 1 for the device with the fingerprint `own`.

    Raises:
        SecureParametersRefused: numbers that are not those of the specification, or below this device's own floors.
        RosterInvalid: members that are not distinct or not who they say they are; this device is not among them.
        PeerUnlisted: a member that the operator's fleet list does not name.
    """
    # 1 the suite is one that this device accepts (section 5)
    if announcement.prg not in policy.suites:
        raise SecureParametersRefused(why=f"it does not accept the cipher {announcement.suite}")
    # 2 the parameters are those that n and A make (section 1), and the group is not smaller than this device wants
    parameters = _parameters(announcement)
    if parameters.n < policy.least:
        raise SecureParametersRefused(
            why=f"the group has {parameters.n} devices, and it joins none of under {policy.least}"
        )
    # 3 scales that fit the size
    scales = announcement.block_scales
    fits = len(announcement.scales) == 4 * block_count(announcement.size)
    if not fits or not bool(((scales >= 0) & (scales <= LARGEST)).all()):
        raise SecureParametersRefused(why="the scales do not fit the size of the update")
    # 4 distinct identities and distinct keys (section 1)
    roster = announcement.roster
    fingerprints = [fingerprint(member.identity) for member in roster]
    if len(set(fingerprints)) != len(roster) or len({member.key for member in roster}) != len(roster):
        raise RosterInvalid(why="a device or a key is in it twice")
    if own not in fingerprints:
        raise RosterInvalid(why="this device is not in it")
    # 5 each listed by the operator (section 2)
    _require_listed(announcement, fingerprints, policy.fleet)
    # 6 each prekey signed by its holder's identity key (section 6, message 0)
    identities = []
    for print_, member in zip(fingerprints, roster, strict=True):
        try:
            identity = verifying_key(member.identity)
        except ValueError as error:
            raise RosterInvalid(why=f"member {print_.hex()[:16]}: {error}") from None
        if not member.holds():
            raise RosterInvalid(why=f"the key of member {print_.hex()[:16]} is not signed by that device")
        identities.append(identity)
    return Admission(announcement, parameters, tuple(identities), fingerprints.index(own))


def _parameters(announcement: Announcement) -> Parameters:
    n = len(announcement.roster)
    if n != announcement.A:
        raise SecureParametersRefused(why=f"it names {announcement.A} holders; the roster has {n}")
    try:
        parameters = Parameters(n, announcement.A, announcement.U, announcement.T, announcement.p)
    except ValueError as error:
        raise SecureParametersRefused(why=str(error)) from None
    if announcement.n_min < parameters.n_min:
        raise SecureParametersRefused(why=f"it sums {announcement.n_min} updates or more; at least {parameters.n_min}")
    return parameters


def _require_listed(announcement: Announcement, fingerprints: list[bytes], fleet: FleetList | None) -> None:
    if fleet is None:
        return
    if announcement.fleet_version != fleet.version:
        why = f"it goes by version {announcement.fleet_version} of the fleet list, this device by {fleet.version}"
        raise SecureParametersRefused(why=why)
    for print_ in fingerprints:
        if not fleet.lists(print_):
            raise PeerUnlisted(peer=print_.hex()[:16], version=fleet.version)
