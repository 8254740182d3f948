"""The secure layer on Flower alone: a node's own side, refusals as replies, and a grid as Flower's SuperLink has it."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp.strategy import FedAvg

from argosy_common.errors import (
    AppRaised,
    ArgosyError,
    DeviceLost,
    FleetListInvalid,
    InstructionDiffers,
    MessageUnsendable,
    SecureMessageMalformed,
    SecureRequired,
    SecureRetryRefused,
    SecureStateLost,
)
from argosy_common.flower import compat
from argosy_common.flower.courier import Courier
from argosy_common.flower.secure import SECAGG, parcels
from argosy_common.flower.secure.grid import SecureGrid
from argosy_common.flower.secure.mod import Call
from argosy_common.flower.secure.parcels import Stage
from argosy_common.flower.secure.standalone import CARRIER, secure_grid, secure_mod
from argosy_common.secagg.messages import PrekeyBatch
from argosy_common.wire.envelope import new_id
from argosy_common.x509 import public_pem
from tests.common.flower.secure.fleet import Time, mean_of, model, trained
from tests.grids import BareGrid

BASE = model(500)
CONFIG: Mapping[str, Any] = {"lr": 0.1, "rounds": 3, "name": "x", "fast": True}


def never(_message: Message, _context: Context) -> Message:
    """The app where it must not be called."""
    raise AssertionError


def context(folder: Path | None, node: int = 5) -> Context:
    """A node's context, as Flower gives it."""
    where = {} if folder is None else {"argosy-secure-dir": str(folder)}
    return Context(1, node, dict(where), RecordDict(), dict(CONFIG))


def asked(stage: str = Stage.PREKEYS, **fields: int) -> Message:
    """A message of the secure layer as it reaches a node."""
    message = Message(RecordDict({SECAGG: ConfigRecord({"stage": stage, **fields})}), 5, CARRIER)
    compat.set_message_id(message, new_id())
    return message


def identity(reply: Message) -> bytes:
    """The identity that a node shows with its prekeys."""
    batch = parcels.config(parcels.accept(reply).content, peer="it")["batch"]
    return PrekeyBatch.parse(batch, peer="it").identity


# --- a node's own side


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    """In a folder that is there at first use, whatever else is to be found in it."""
    folder = tmp_path / "a" / "b"
    first, second = (secure_mod(asked(count=2), context(folder), never) for _ in range(2))
    assert identity(first) == identity(second)
    assert first.metadata.message_type == CARRIER
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"b": 0o700, "updates": 0o700, "identity.key": 0o600, "secure.db": 0o600, "lock": 0o600}


def test_processes_at_once_share_one_identity_and_one_journal(tmp_path: Path) -> None:
    """Flower has a process for each message."""
    with get_context("fork").Pool(4) as pool:
        identities = pool.map(_first_use, [tmp_path / "node"] * 8, chunksize=1)
    assert len(set(identities)) == 1


def _first_use(folder: Path) -> bytes:
    return identity(secure_mod(asked(count=3), context(folder), never))


def test_where_a_node_keeps_its_own_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration, the environment, the user's state folder, in that order."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("ARGOSY_SECURE_DIR", raising=False)
    secure_mod(asked(count=1), context(None, 7), never)
    monkeypatch.setenv("ARGOSY_SECURE_DIR", str(tmp_path / "env"))
    secure_mod(asked(count=1), context(None, 8), never)
    secure_mod(asked(count=1), context(tmp_path / "own", 9), never)
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("identity.key")}
    assert made == {"state/argosy-secure/7/identity.key", "env/8/identity.key", "own/identity.key"}


def test_a_refusal_is_a_reply_that_the_coordinator_reads_by_its_name(tmp_path: Path) -> None:
    """Flower would have made words of it."""
    reply = secure_mod(asked(Stage.VOTE), context(tmp_path), never)
    assert reply.has_content()
    with pytest.raises(SecureMessageMalformed, match=r"'argosy\.secagg\.round' has no 'message-1'"):
        parcels.accept(reply)


def test_a_folder_that_cannot_be_made_is_a_refusal_too(tmp_path: Path) -> None:
    """As is a key that is none."""
    (tmp_path / "file").touch()
    with pytest.raises(SecureStateLost, match="file"):
        parcels.accept(secure_mod(asked(count=1), context(tmp_path / "file"), never))
    (tmp_path / "identity.key").write_text("no key")
    with pytest.raises(ArgosyError, match=r"identity\.key"):
        parcels.accept(secure_mod(asked(count=1), context(tmp_path), never))


def test_plain_messages_reach_the_app_only_where_the_node_allows_it(tmp_path: Path) -> None:
    """A server that leaves the layer out is not to be given plain updates."""
    plain = Message(RecordDict(), 5, "train")
    with pytest.raises(SecureRequired, match="a plain 'train'"):
        secure_mod(plain, context(tmp_path), never)
    called = []
    allowed = context(tmp_path)
    allowed.node_config["argosy-secure"] = "allowed"
    secure_mod(plain, allowed, lambda message, _context: called.append(message) or message)  # type: ignore[func-returns-value]
    assert called == [plain]
    assert not list(tmp_path.iterdir())


# --- both halves


class Link(BareGrid):
    """Flower's SuperLink with nodes of a real `ClientApp`, in this process.

    Attributes:
        nodes: node ids.
        gone: nodes that the SuperLink knows no more, so that it takes no message for them.
        offline: nodes that it knows, and that do not answer.
        ttls: of all messages.
    """

    def __init__(self, folder: Path, count: int, app: Call = trained) -> None:
        compat.become_task(run_id=1, node_id=1)
        self.folder = folder
        self.nodes = [10**18 + number for number in range(count)]
        self.gone: set[int] = set()
        self.offline: set[int] = set()
        self.ttls: list[float] = []
        self.too_large = False
        self.time = Time()
        self.app = ClientApp(mods=[secure_mod])
        self.app.train()(app)
        self.app.evaluate()(app)
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.nodes if node not in self.offline | self.gone]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            compat.set_message_id(message, new_id())
            self.ttls.append(message.metadata.ttl)
            if message.metadata.dst_node_id in self.gone:
                ids.append("")
                continue
            ids.append(message.metadata.message_id)
            self._replies[message.metadata.message_id] = _carried(self._answer(_carried(message)))
        return [] if self.too_large else ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        assert all(each in self._replies for each in message_ids), "never asked for, or asked for again"
        return [self._replies.pop(each) for each in list(message_ids)[:3]]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node in self.offline:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "Error: Node Unavailable"), reply_to=message)
        try:
            return self.app(message, context(self.folder / str(node), node))
        except Exception as error:  # noqa: BLE001  (as Flower does)
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    def grid(self, *, config: Mapping[str, Any] = CONFIG, report: Callable[..., None] | None = None) -> SecureGrid:
        """A server app's grid around this one, whose time is not waited for."""
        grid = secure_grid(self, Context(1, 1, {}, RecordDict(), dict(config)), FedAvg(), report=report)
        grid._courier._sleep, grid._clock = self.time.sleep, self.time
        grid._courier._clock = grid._pool._clock = self.time
        return grid

    def instructions(self, number: int = 1, base: ArrayRecord = BASE) -> list[Message]:
        """Messages as FedAvg makes them."""
        content = RecordDict({"arrays": base, "config": ConfigRecord({"server-round": number})})
        return [Message(content, node, "train", group_id=str(number)) for node in self.nodes]


def _carried(message: Message) -> Message:
    """What comes out at the other end of Flower's transport."""
    return message_from_proto(message_to_proto(message))


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGOSY_SECURE_DIR", str(tmp_path / "server"))


def check(reply: Message, nodes: Iterable[int], number: int = 1) -> None:
    """The reply is the plain weighted mean of these nodes."""
    assert reply.has_content(), reply.error
    for name, expected in mean_of(nodes, BASE, number).items():
        found = reply.content.array_records["arrays"][name].numpy()
        assert np.allclose(found, expected, atol=1e-4, rtol=0), name


def test_a_clientapp_with_the_mod_and_the_grid_come_to_the_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two rounds; one node of five fails in the second, and its words stay with it."""
    failing: set[int] = set()

    def app(message: Message, context: Context) -> Message:
        if context.node_id in failing:
            raise ValueError("a secret of this node")
        return trained(message, context)

    link = Link(tmp_path, 5, app)
    events: list[tuple[str, Mapping[str, Any]]] = []
    grid = link.grid(report=lambda name, data: events.append((name, data)))
    with caplog.at_level(logging.INFO, "flwr"):
        (reply,) = grid.send_and_receive(link.instructions(1), timeout=100)
        check(reply, link.nodes)
        failing.add(link.nodes[0])
        (reply,) = grid.send_and_receive(link.instructions(2), timeout=100)
    check(reply, link.nodes[1:], 2)
    assert [(name, len(data["summed"])) for name, data in events] == [("secure-group", 5), ("secure-group", 4)]
    assert "[secure] round 1, train: 5 of 5 nodes summed by 5 holders, checked; weight" in caplog.text
    assert "is not in the sum: app-raised: " in caplog.text
    assert "a secret" not in json.dumps(events)
    assert min(link.ttls) >= 600


def test_nodes_that_are_gone_or_offline_are_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first round is of all; then one of eight goes for good, one goes offline. Six holders are enough."""
    link = Link(tmp_path, 8)
    grid = link.grid()
    (reply,) = grid.send_and_receive(link.instructions(1), timeout=100)
    check(reply, link.nodes)
    link.gone, link.offline = {link.nodes[0]}, {link.nodes[1]}
    (reply,) = grid.send_and_receive(link.instructions(2), timeout=100)
    check(reply, link.nodes[2:], 2)
    assert caplog.text.count("is not in the sum: device-lost: ") == 2


def test_another_run_configuration_on_the_server_is_refused_by_every_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That is why the grid is given the context."""
    link = Link(tmp_path, 4)
    replies = list(link.grid(config={**CONFIG, "lr": 1}).send_and_receive(link.instructions(), timeout=100))
    assert all(reply.has_error() for reply in replies)
    assert caplog.text.count(f"is not in the sum: {InstructionDiffers.code}: ") == 4
    assert "round 1, train: no sum: secure-too-few-devices" in caplog.text


def test_a_run_from_the_same_model_goes_on_where_the_server_kept_its_ledger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes take it for a retry, and want to see how the first one ended."""
    link = Link(tmp_path, 4)
    for _ in range(2):
        (reply,) = link.grid().send_and_receive(link.instructions(), timeout=100)
        check(reply, link.nodes)
    monkeypatch.setenv("ARGOSY_SECURE_DIR", str(tmp_path / "another"))
    replies = list(link.grid().send_and_receive(link.instructions(), timeout=100))
    assert all(reply.has_error() for reply in replies)
    assert caplog.text.count(f"is not in the sum: {SecureRetryRefused.code}: ") == 4


def test_an_operators_key_beside_the_identity_is_pinned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That node then goes by the operator's list only, of which this server has none."""
    link = Link(tmp_path, 4)
    folder = tmp_path / str(link.nodes[0])
    folder.mkdir()
    (folder / "operator.pub").write_bytes(public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()))
    (reply,) = link.grid().send_and_receive(link.instructions(), timeout=100)
    check(reply, link.nodes[1:])
    assert f"is not in the sum: {FleetListInvalid.code}: " in caplog.text
    assert f"SuperNode {link.nodes[0]} (vote): {FleetListInvalid.code}: " in caplog.text


# --- what carries it


def test_the_courier_names_what_flowers_own_grid_says_of_nodes(tmp_path: Path) -> None:
    """A message that is not taken, and errors that Flower makes, by code; and nothing is asked for twice."""
    link = Link(tmp_path, 4)
    courier = Courier(link, link.time, link.time.sleep)
    link.gone, link.offline = {link.nodes[0]}, {link.nodes[1]}
    ids = courier.push(
        [Message(RecordDict(), node, "train", ttl=3600.0) for node in link.nodes],
        timeout=1000,
    )
    assert link.ttls == [1000.0] * 4
    first = courier.take(ids, parcels.accept)
    assert len(first) == 4
    errors = {each.metadata.reply_to_message_id: parcels.error_of(each) for each in first}
    assert [errors[each].code for each in ids] == [DeviceLost.code, DeviceLost.code, AppRaised.code, AppRaised.code]
    assert "SecureRequired" in errors[ids[3]].message, "a plain message"
    assert courier.take(ids, parcels.accept) == []
    assert courier.nodes() == set(link.nodes[2:])


def test_messages_too_large_together_are_the_senders_to_mend(tmp_path: Path) -> None:
    """Flower's grid then takes none, and says how in its log."""
    link = Link(tmp_path, 4)
    link.too_large = True
    with pytest.raises(MessageUnsendable):
        Courier(link, link.time).push(link.instructions(), timeout=1000)
