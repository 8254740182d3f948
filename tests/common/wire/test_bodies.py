"""Bodies: each kind reads what it writes, and refuses everything else by name."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.artefact.signature import Signature
from argosy_common.errors import EnvelopeMalformed, KindUnknown
from argosy_common.wire import bodies
from argosy_common.wire.bodies import KINDS, Body, open_body
from argosy_common.wire.envelope import Envelope

D = b"\x07" * 32
SIGNATURE = Signature(value="3045", certificate_pem="pem")
EXAMPLES: tuple[Body, ...] = (
    bodies.Birth(
        boot="00" * 16,
        session=1,
        name="pi",
        version="0.1",
        python="3.11",
        machine="aarch64",
        pending=[],
        site="hall",
        shard="3",
    ),
    bodies.Death(boot="00" * 16),
    bodies.Heartbeat(
        load=0.5,
        memory_used=1,
        memory_total=2,
        temperature=-3.5,
        doing="training",
        battery=0.87,
        on_mains=False,
        throttled=True,
        metered=False,
    ),
    bodies.Inventory(facts={"model": "Raspberry Pi 5", "memory": 8_000_000_000, "power": 2.5, "poe": True}),
    bodies.Accepted(),
    bodies.Progress(doing="fetching"),
    bodies.Reply(flower=b"x", blobs=[bodies.BlobPart(digest=D, size=3)], run_s=1.5, via="https"),
    bodies.Refused(error=bodies.ErrorPart(code="kind-unknown", message="m", facts={"kind": "x"})),
    bodies.Instruction(
        flower=b"f",
        app=bodies.BlobPart(digest=D, size=1),
        client_app="a:b",
        run_config={"lr": 0.1, "n": 3, "deep": True, "name": "x"},
        node_id=2**64 - 1,
    ),
    bodies.Cancel(),
    bodies.Received(),
    bodies.Rebirth(),
    bodies.Deploy(
        rollout=3,
        name="har",
        version=2,
        manifest=b"{}",
        signature=SIGNATURE,
        rollback=SIGNATURE,
        probation_s=60.0,
        max_errors=0.02,
    ),
    bodies.Withdraw(rollout=3, name="har", version=2),
    bodies.ModelState(
        rollout=3,
        name="har",
        version=2,
        state="rolled-back",
        error=bodies.ErrorPart(code="model-misfit", message="m"),
        in_force=1,
        backend="onnxruntime",
        ran_on="CPU",
        p95_ms=1.5,
        requests=7,
        drift=0.25,
    ),
    bodies.Upgrade(rollout=4, version="0.2.0~rc1", back=True),
    bodies.UpgradeState(
        rollout=4,
        version="0.2.0~rc1",
        state="refused",
        error=bodies.ErrorPart(code="upgrade-refused", message="m"),
        running="0.1.0",
    ),
    bodies.Fetch(digest=D),
    bodies.Offer(digest=D, size=1, chunk=65536, chunks_digest=D, urls=["https://c:8444/v1/blobs/00"]),
    bodies.Accept(digest=D, sink="c0", have=b"\x01"),
    bodies.ChunkAck(digest=D, upto=4, more=b"\x02"),
    bodies.Done(digest=D),
    bodies.TransferFailed(digest=D, error=bodies.ErrorPart(code="blob-unknown", message="m")),
)


def test_every_kind_has_an_example_here() -> None:
    assert {body.kind for body in EXAMPLES} == set(KINDS)


@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: body.kind)
def test_a_body_reads_what_it_writes(body: Body) -> None:
    assert open_body(Envelope(kind=body.kind, body=body.pack()), peer="p") == body


@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: body.kind)
def test_an_unknown_field_is_refused(body: Body) -> None:
    packed = msgpack.packb({**msgpack.unpackb(body.pack()), "surprise": 1})
    with pytest.raises(EnvelopeMalformed, match="surprise"):
        open_body(Envelope(kind=body.kind, body=packed), peer="p")


@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: body.kind)
@given(data=st.binary(max_size=200))
def test_rubbish_is_refused_and_raises_nothing_else(body: Body, data: bytes) -> None:
    with contextlib.suppress(EnvelopeMalformed):
        type(body).unpack(data, peer="p")


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(KindUnknown, match="teleport"):
        open_body(Envelope(kind="teleport"), peer="p")


@pytest.mark.parametrize("node", [0, 1])
def test_flowers_reserved_node_ids_are_refused(node: int) -> None:
    good = msgpack.unpackb(next(b for b in EXAMPLES if b.kind == "instruction").pack())
    with pytest.raises(EnvelopeMalformed, match="node_id"):
        bodies.Instruction.unpack(msgpack.packb({**good, "node_id": node}), peer="p")


def test_not_a_number_is_refused_where_seconds_are_due() -> None:
    good = msgpack.unpackb(next(b for b in EXAMPLES if b.kind == "reply").pack())
    with pytest.raises(EnvelopeMalformed, match="run_s"):
        bodies.Reply.unpack(msgpack.packb({**good, "run_s": float("nan")}), peer="p")


def test_a_board_that_tells_nothing_new_sends_what_it_sent_before_there_was_anything_new_to_tell() -> None:
    """The bytes of a birth and a heartbeat without site, battery and the like are those of version 0.1."""
    birth = bodies.Birth(boot="00" * 16, session=1, name="pi", version="0.1", python="3.11", machine="arm")
    assert msgpack.unpackb(birth.pack()).keys() == {"boot", "session", "name", "version", "python", "machine"}
    assert bodies.Heartbeat(load=0.5).pack() == b"\x81\xa4load\xcb\x3f\xe0" + bytes(6)


@pytest.mark.parametrize(
    "facts",
    [
        {str(number): number for number in range(65)},
        {"model": "x" * 257},
        {"x" * 257: 1},
        {"deep": {"er": 1}},
        {"model": b"bytes"},
        {"model": None},
        {"watts": float("nan")},
        ["model"],
    ],
    ids=["many", "long", "long name", "nested", "bytes", "nothing", "not a number", "list"],
)
def test_an_inventory_is_as_bounded_as_at_enrolment(facts: object) -> None:
    with pytest.raises(EnvelopeMalformed, match="inventory: facts"):
        bodies.Inventory.unpack(msgpack.packb({"facts": facts}), peer="p")


def test_the_bytes_of_an_inventory() -> None:
    assert bodies.Inventory(facts={"cores": 4}).pack() == b"\x81\xa5facts\x81\xa5cores\x04"


def test_the_bytes_of_a_condition() -> None:
    beat = bodies.Heartbeat(battery=0.5, on_mains=True, throttled=False, metered=True)
    half = b"\xcb\x3f\xe0" + bytes(6)
    assert beat.pack() == b"\x84\xa7battery" + half + b"\xa8on_mains\xc3\xa9throttled\xc2\xa7metered\xc3"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("battery", 1.01),
        ("battery", -0.01),
        ("battery", float("nan")),
        ("battery", True),
        ("on_mains", 1),
        ("throttled", "no"),
        ("metered", 0),
        ("load", float("inf")),
        ("temperature", float("nan")),
    ],
)
def test_a_condition_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(EnvelopeMalformed, match=field):
        bodies.Heartbeat.unpack(msgpack.packb({field: value}), peer="p")


def test_the_bytes_of_a_report_and_of_a_withdrawal() -> None:
    report = bodies.ModelState(rollout=1, name="har", version=2, state="active", in_force=2)
    assert report.pack() == (b"\x85\xa7rollout\x01\xa4name\xa3har\xa7version\x02\xa5state\xa6active\xa8in_force\x02")
    assert bodies.Withdraw(rollout=1, name="a", version=2).pack() == b"\x83\xa7rollout\x01\xa4name\xa1a\xa7version\x02"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../etc"),
        ("name", "Har"),
        ("version", 0),
        ("version", 2**53),
        ("rollout", 0),
        ("manifest", b"x" * (bodies.MAX_MANIFEST + 1)),
        ("max_errors", 1.1),
        ("report_s", 0.5),
        ("probation_s", float("nan")),
        ("signature", {"value": "zz", "certificate_pem": ""}),
    ],
)
def test_a_deploy_with_a_field_beyond_its_limits_is_refused(field: str, value: object) -> None:
    good = msgpack.unpackb(next(b for b in EXAMPLES if b.kind == "deploy").pack())
    with pytest.raises(EnvelopeMalformed, match=f"deploy: {field}"):
        bodies.Deploy.unpack(msgpack.packb({**good, field: value}), peer="p")


@pytest.mark.parametrize(
    ("field", "value"),
    [("state", "happy"), ("requests", -1), ("drift", float("inf")), ("p95_ms", -1.0), ("in_force", 0), ("name", "a/b")],
)
def test_a_report_with_a_field_beyond_its_limits_is_refused(field: str, value: object) -> None:
    good = msgpack.unpackb(next(b for b in EXAMPLES if b.kind == "model-state").pack())
    with pytest.raises(EnvelopeMalformed, match=f"model-state: {field}"):
        bodies.ModelState.unpack(msgpack.packb({**good, field: value}), peer="p")


@pytest.mark.parametrize(
    "version", ["--option", "1;rm -rf /", "../1", "argosy-device", "1=2", "1\n", "", "1:2", "9" * 65]
)
def test_what_is_no_version_of_a_package_reaches_no_device(version: str) -> None:
    packed = msgpack.packb({"rollout": 1, "version": version})
    with pytest.raises(EnvelopeMalformed, match="version"):
        open_body(Envelope(kind="upgrade", body=packed), peer="p")
