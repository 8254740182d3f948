"""A fleet of secure devices in this process: messages really are bytes, and keys and journals really lie in files.

Each message opens its device's journal anew, so that every step is also one after a restart. Tests say who is away at
which stage, and may change what passes in either direction, as a malicious coordinator, device or network would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from argosy_common.blobs import BlobStore
from argosy_common.errors import ArgosyError, DeviceLost
from argosy_common.flower import compat
from argosy_common.flower.messages import dump_message, load_message
from argosy_common.flower.secure import SECAGG
from argosy_common.flower.secure.grid import SecureGrid
from argosy_common.flower.secure.keep import Keep
from argosy_common.flower.secure.mod import SecureMod
from argosy_common.run_settings import SecureSettings
from argosy_common.secagg import fleet as fleet_lists
from argosy_common.secagg.sealing import fingerprint, public_der
from argosy_common.secure_home import SecureHome
from argosy_common.wire.envelope import new_id
from argosy_common.x509 import generate_identity_key, load_key, public_pem, save_key
from tests.grids import BareGrid

App = Callable[[Message, Context], Message]
Hook = Callable[[int, str, Message], Message | None]
"""Sees a message with its node and stage, and may return another in its place."""


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def wall(self) -> datetime:
        """Always the same."""
        return datetime(2026, 1, 1, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds


class SecureFleet(BareGrid):
    """See the module.

    Attributes:
        nodes: node ids, by index.
        away: (node, stage) that are not answered: `update`, `prekeys`, `vote`, `sum`, `abort`.
        down, up: hooks on what a device gets and what it answers.
        seen: every instruction as it arrived, with its node and stage.
    """

    def __init__(self, folder: Path, count: int, app: App | None = None, *, operator: bool = False) -> None:
        compat.become_task(run_id=1, node_id=1)
        self.folder = folder
        self.time = Time()
        self.app = app or trained
        self.keys = [generate_identity_key() for _ in range(count)]
        self.fingerprints = [fingerprint(public_der(key.public_key())) for key in self.keys]
        self.nodes = [int.from_bytes(each[:8], "big") for each in self.fingerprints]
        self.away: set[tuple[int, str]] = set()
        self.offline: set[int] = set()
        self.down: Hook = lambda _node, _stage, message: message
        self.up: Hook = lambda _node, _stage, message: message
        self.seen: list[tuple[int, str, Message]] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.calls: list[int] = []
        self.operator = ec.generate_private_key(ec.SECP256R1()) if operator else None
        self.ours = BlobStore(folder / "coordinator")
        self._replies: dict[str, Message] = {}
        for node, key in zip(self.nodes, self.keys, strict=True):
            home = self.home(node)
            home.folder.mkdir(parents=True)
            save_key(home.identity_key, key)
            if home.operator_key is not None and self.operator is not None:
                home.operator_key.write_bytes(public_pem(self.operator.public_key()))

    def grid(self, **given: Any) -> SecureGrid:  # noqa: ANN401  (as `SecureGrid`)
        """Return a coordinator's grid around this fleet."""
        settings = SecureSettings(enabled=True, recovery=20.0, **given.pop("settings", {}))
        given = {"clock": self.time, "sleep": self.time.sleep, "node_ids_are_identities": True, **given}
        return SecureGrid(self, settings=settings, report=lambda *event: self.events.append(event), **given)

    def listed(self, nodes: Iterable[int] | None = None, version: int = 1) -> tuple[int, bytes]:
        """Return a fleet list that the operator signed, of these nodes."""
        assert self.operator is not None
        wanted = set(self.nodes if nodes is None else nodes)
        members = [
            fleet_lists.Member(print_, f"board-{node:016x}")
            for node, print_ in zip(self.nodes, self.fingerprints, strict=True)
            if node in wanted
        ]
        previous = None if version == 1 else bytes(32)
        payload = fleet_lists.compose(version, previous, "2026-01-01T00:00:00Z", members)
        return version, fleet_lists.sign(payload, self.operator)

    def home(self, node: int) -> SecureHome:
        """Return where a device keeps what it needs."""
        folder = self.folder / f"{node:016x}"
        return SecureHome(
            folder / "secure", folder / "identity.key", folder / "operator.pub" if self.operator else None
        )

    def keep(self, node: int) -> Keep:
        """Open a device's own side."""
        return Keep(self.home(node))

    def told(self, name: str) -> list[Mapping[str, Any]]:
        """Return the data of the events of a name."""
        return [data for event, data in self.events if event == name]

    # --- the Grid interface

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.nodes if node not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            compat.set_message_id(message, new_id())
            ids.append(message.metadata.message_id)
            self._replies[message.metadata.message_id] = self._answer(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(each) for each in list(message_ids)[:3] if each in self._replies]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        stage = str(message.content.config_records[SECAGG]["stage"])
        if node in self.offline or (node, stage) in self.away:
            return compat.error_reply(message, DeviceLost(device=f"{node:016x}", seconds=10))
        theirs = BlobStore(self.folder / f"{node:016x}")
        try:
            changed = self.down(node, stage, load_message(dump_message(message, theirs).flower, theirs))
            arrived = load_message(dump_message(changed or message, theirs).flower, theirs)
            compat.set_message_id(arrived, message.metadata.message_id)
            self.seen.append((node, stage, arrived))
            reply = self.deliver(node, arrived)
            reply = self.up(node, stage, reply) or reply
        except ArgosyError as error:
            return compat.error_reply(message, error)
        dumped = dump_message(reply, self.ours)
        return compat.addressed(load_message(dumped.flower, self.ours), compat.head_of(message))

    def deliver(self, node: int, message: Message) -> Message:
        """Have a device answer a message, as its worker does after a restart."""
        context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        keep = self.keep(node)
        try:
            return SecureMod(keep)(message, context, self._called)
        finally:
            keep.journal.close()

    def _called(self, message: Message, context: Context) -> Message:
        self.calls.append(context.node_id)
        return self.app(message, context)


def model(size: int = 5000, seed: int = 0) -> ArrayRecord:
    """A small model: weights, a bias, a counter."""
    rng = np.random.default_rng(seed)
    record = ArrayRecord()
    for name, array in {
        "dense.weight": rng.standard_normal((size // 10, 10)).astype(np.float32),
        "dense.bias": rng.standard_normal(10),
        "norm.counter": np.array(7, np.int64),
    }.items():
        record[name] = Array(np.asarray(array))
    return record


def instructions(fleet: SecureFleet, arrays: ArrayRecord | None = None, number: int = 1) -> list[Message]:
    """Messages as FedAvg makes them: one content for all; `evaluate` where there are no arrays of its own."""
    records: dict[str, Any] = {"config": ConfigRecord({"server-round": number, "lr": 0.1})}
    content = RecordDict({"arrays": model() if arrays is None else arrays, **records})
    return [Message(content, node, "train") for node in fleet.nodes]


def examples_of(node: int) -> int:
    """Return how many examples a node has: a power of two."""
    return int(2 ** (node % 7))


def update_of(node: int, base: ArrayRecord, round_: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Return what training changes on a node, array by array."""
    rng = np.random.default_rng([node % 2**32, round_])
    changes = {}
    for name, array in base.items():
        values = array.numpy()
        noise = 0.01 * rng.standard_normal(values.shape)
        changes[name] = np.ones_like(values) if values.dtype.kind == "i" else noise.astype(values.dtype)
    return changes


def trained(message: Message, context: Context) -> Message:
    """An app that adds noise of its own, and reports a loss of its own."""
    assert not [name for name in message.content if name.startswith(SECAGG)]
    node = context.node_id
    told: dict[str, int | float | list[int] | list[float]] = {
        "num-examples": examples_of(node),
        "loss": loss_of(node),
        "by-class": [1.0, float(node % 5)],
    }
    content = RecordDict({"metrics": MetricRecord(told)})
    if message.metadata.message_type == "train":
        base = message.content.array_records["arrays"]
        round_ = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]  # it is one
        changes = update_of(node, base, round_)
        made = ArrayRecord()
        for name, array in base.items():
            made[name] = Array(np.asarray(array.numpy() + changes[name]))
        content["arrays"] = made
    return Message(content, reply_to=message)


def loss_of(node: int) -> float:
    """Return a node's loss."""
    return 0.5 + node % 11 / 10


def mean_of(nodes: Iterable[int], base: ArrayRecord, round_: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Return the plain weighted mean of some nodes' models."""
    wanted = list(nodes)
    weights = np.array([examples_of(node) for node in wanted], float)
    changes = [update_of(node, base, round_) for node in wanted]
    return {
        name: array.numpy()
        + sum(w * each[name].astype(float) for w, each in zip(weights, changes, strict=True)) / weights.sum()
        for name, array in base.items()
    }


def key_of(home: SecureHome) -> ec.EllipticCurvePrivateKey:
    """Return a device's identity key."""
    return load_key(home.identity_key)
