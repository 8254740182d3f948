"""Who is in a secure round: prekeys of the devices that are there, and groups of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict

from argosy_common.clock import Clock
from argosy_common.errors import (
    ArgosyError,
    PeerUnlisted,
    RosterInvalid,
    SecureMessageMalformed,
    SecureSignatureInvalid,
)
from argosy_common.flower.courier import Courier
from argosy_common.flower.secure import HOLDER, SECAGG, parcels
from argosy_common.flower.secure.parcels import Stage
from argosy_common.secagg.fleet import FleetList
from argosy_common.secagg.messages import Prekey, PrekeyBatch
from argosy_common.secagg.parameters import FEWEST_CLIENTS, MOST_CLIENTS
from argosy_common.secagg.sealing import agrees, fingerprint, verifying_key
from argosy_common.secure_ledger import Attempt

BATCH = 32
"""Prekeys that a device is asked for at once."""
PREKEYS_S = 60.0
"""How long a device may take to make them."""

Refused = Callable[[int, str, ArgosyError], None]
"""Is told of a node, a stage and an error."""


class PrekeyPool:
    """Unused prekeys by node. A node's identity never changes within a run.

    Args:
        courier: to ask for more.
        fleet: the operator's list; devices that it does not name are left out, as the others would refuse to take part
            with one of them. None: there is none.
        node_ids_are_identities: whether a node id is that of an identity (its fingerprint's first 8 bytes), or means
            nothing, as on Flower's own transport.
    """

    def __init__(
        self,
        courier: Courier,
        clock: Clock,
        refused: Refused,
        *,
        fleet: FleetList | None = None,
        node_ids_are_identities: bool,
    ) -> None:
        self._courier = courier
        self._clock = clock
        self._refused = refused
        self._fleet = fleet
        self._strict = node_ids_are_identities
        self._unused: dict[int, list[Prekey]] = {}
        self._identities: dict[int, bytes] = {}

    def nodes_of(self, members: Sequence[bytes]) -> tuple[int, ...]:
        """Return the nodes of these fingerprints, in their order; empty where node ids tell nothing."""
        return tuple(int.from_bytes(member[:8], "big") for member in members) if self._strict else ()

    def take(self, nodes: Sequence[int]) -> dict[int, Prekey]:
        """Return one prekey of each node that has or gives one; what the others did instead is told."""
        lacking = [node for node in nodes if not self._unused.get(node)]
        for node in lacking:
            if (error := self._unlisted(self._identities.get(node))) is not None:
                self._refused(node, Stage.PREKEYS, error)
        if asked := [node for node in lacking if self._unlisted(self._identities.get(node)) is None]:
            self._ask(asked)
        return {node: self._unused[node].pop() for node in nodes if self._unused.get(node)}

    def _ask(self, nodes: Sequence[int]) -> None:
        content = RecordDict({SECAGG: ConfigRecord({"stage": Stage.PREKEYS, "count": BATCH})})
        messages = [Message(content, node, HOLDER, ttl=PREKEYS_S) for node in nodes]
        waiting = dict(zip(self._courier.push(messages, timeout=PREKEYS_S), nodes, strict=True))
        ids = list(waiting)
        until = self._clock.monotonic() + PREKEYS_S
        while waiting and (left := until - self._clock.monotonic()) > 0:
            for reply in self._courier.take(list(waiting), parcels.accept):
                self._take_in(waiting.pop(reply.metadata.reply_to_message_id), reply)
            self._courier.wait(list(waiting), left)
        self._courier.end(ids)

    def _take_in(self, node: int, reply: Message) -> None:
        try:
            self._unused[node] = self._read(node, reply)
        except ArgosyError as error:
            self._refused(node, Stage.PREKEYS, error)

    def _read(self, node: int, reply: Message) -> list[Prekey]:
        peer = f"node {node:016x}"
        content = parcels.content_of(reply)
        batch = PrekeyBatch.parse(parcels.config(content, peer=peer).get("batch"), peer=peer)
        prekeys = batch.prekeys()
        self._check(node, prekeys[0], peer)
        if not all(agrees(each.key) for each in prekeys):  # else no member of its groups could send an update
            raise SecureMessageMalformed(peer=peer, why="one of its prekeys agrees on nothing secret")
        return prekeys

    def _check(self, node: int, prekey: Prekey, peer: str) -> None:
        try:
            verifying_key(prekey.identity)
        except ValueError as error:
            raise SecureMessageMalformed(peer=peer, why=str(error)) from None
        own = fingerprint(prekey.identity)
        known = self._identities.setdefault(node, own)
        if known != own or (self._strict and int.from_bytes(own[:8], "big") != node):
            raise RosterInvalid(why=f"the {peer} shows the identity of another device")
        if (unlisted := self._unlisted(own)) is not None:
            raise unlisted
        if not prekey.holds():
            raise SecureSignatureInvalid(peer=peer, what="its prekeys")

    def _unlisted(self, identity: bytes | None) -> PeerUnlisted | None:
        """Return why a device is left out that the operator does not vouch for; None for one whose identity is new."""
        if self._fleet is None or identity is None or self._fleet.lists(identity):
            return None
        return PeerUnlisted(peer=identity.hex()[:16], version=self._fleet.version)


@dataclass(frozen=True)
class Cohort:
    """The nodes of one group, and the attempt that this one repeats."""

    nodes: tuple[int, ...]
    before: Attempt | None = None


def in_groups(prekeys: dict[int, Prekey], p: int, attempts: Sequence[Attempt]) -> list[Cohort]:
    """Return the nodes in groups of nearly equal size, none above what p allows.

    Those of an earlier attempt at the same instruction stay together, since each group's set must be the same again.
    Groups of fewer than four are left out.
    """
    node_of = {fingerprint(prekey.identity): node for node, prekey in prekeys.items()}
    cohorts: list[Cohort] = []
    for attempt in attempts:
        nodes = tuple(sorted(node_of.pop(each) for each in attempt.members if each in node_of))
        if nodes:
            cohorts.append(Cohort(nodes, attempt))
    left = sorted(node_of.values())
    secrets.SystemRandom().shuffle(left)
    count = -(-len(left) // MOST_CLIENTS[p])
    cohorts += [Cohort(tuple(sorted(left[number::count]))) for number in range(count)]
    return [cohort for cohort in cohorts if len(cohort.nodes) >= FEWEST_CLIENTS]
