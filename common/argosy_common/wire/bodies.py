"""The bodies of envelopes, one class a kind, checked on arrival (DESIGN.md: pydantic for messages from outside).

A body is a msgpack map of the class's fields. Unknown fields are refused. Add a kind by adding a class with its `kind`
and a row in docs/protocol.md; both ends find it through `KINDS`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_common.artefact.manifest import Name
from argosy_common.artefact.signature import Signature
from argosy_common.enrolment import Facts
from argosy_common.errors import EnvelopeMalformed, KindUnknown
from argosy_common.wire.envelope import Envelope

Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
Identifier = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Short = Annotated[str, Field(max_length=256)]
Text = Annotated[str, Field(max_length=8192)]
Url = Annotated[str, Field(max_length=512)]
Scalar = bool | int | float | Annotated[str, Field(max_length=4096)]
Size = Annotated[int, Field(ge=0, le=2**40)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Milliseconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Version = Annotated[int, Field(ge=1, lt=2**53)]
RolloutNumber = Annotated[int, Field(ge=1, lt=2**63)]
PackageVersion = Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.+~-]{0,63}$", max_length=64)]
"""A Debian version without an epoch: never an option, a path, or the name of a package."""

MAX_MANIFEST = 48 * 1024
"""Bytes of a manifest in a `Deploy`: with both signatures it must fit into an envelope."""

KINDS: dict[str, type[Body]] = {}


class Body(BaseModel):
    """The base of all bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    kind: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:  # noqa: ANN401  (pydantic's own signature)
        """Register the kind."""
        if cls.kind in KINDS:
            raise TypeError(f"the kind {cls.kind!r} is taken")
        KINDS[cls.kind] = cls

    def pack(self) -> bytes:
        """Return the wire form; what is as by default is left out."""
        packed: bytes = msgpack.packb(self.model_dump(exclude_defaults=True), use_bin_type=True)
        return packed

    @classmethod
    def unpack(cls, data: bytes, *, peer: str) -> Self:
        """Check and return a body.

        Raises:
            EnvelopeMalformed: it is not msgpack or breaks a field's limits.
        """
        try:
            return cls.model_validate(msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise EnvelopeMalformed(peer=peer, why=f"{cls.kind}: {where}: {first['msg']}") from None
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise EnvelopeMalformed(peer=peer, why=f"{cls.kind}: {error}") from None


def open_body(envelope: Envelope, *, peer: str) -> Body:
    """Return the checked body of an envelope.

    Raises:
        KindUnknown: no such kind.
        EnvelopeMalformed: the body is not what its kind says.
    """
    known = KINDS.get(envelope.kind)
    if known is None:
        raise KindUnknown(peer=peer, kind=envelope.kind)
    return known.unpack(envelope.body, peer=peer)


class _Part(BaseModel):
    """A piece of a body."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BlobPart(_Part):
    """A blob by name."""

    digest: Digest
    size: Size


class ErrorPart(_Part):
    """A named error (argosy_common.errors) on its way."""

    code: Short
    message: Text
    remedy: Text = ""
    facts: Annotated[dict[Short, Text], Field(max_length=32)] = {}


# --- device → coordinator, topic s/{dev} (retained) ---------------------------------------------------------------


class Birth(Body):
    """The device is here. `boot` changes at every start of the daemon, `session` at every connection."""

    kind = "birth"
    boot: Identifier
    session: Annotated[int, Field(ge=0)]
    name: Short
    version: Short
    python: Short
    machine: Short
    pending: Annotated[list[Identifier], Field(max_length=1000)] = []
    """Instructions that are journaled and not yet answered for good."""
    site: Short = ""
    """Where in the site that it enrolled at the board says that it stands."""
    shard: Short = ""
    """Which part of the data there it says that it holds; see docs/protocol.md, "Names"."""


class Death(Body):
    """The last will, and what a clean stop publishes."""

    kind = "death"
    boot: Identifier
    clean: bool = False


# --- device → coordinator, topic up/hb ------------------------------------------------------------------------------


class Heartbeat(Body):
    """A sign of life; absent fields could not be read on this board."""

    kind = "heartbeat"
    load: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """One-minute load average divided by the number of cores."""
    memory_used: Size | None = None
    """Bytes in use on the whole board."""
    memory_total: Size | None = None
    temperature: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Hottest thermal zone, °C."""
    daemon_rss: Size | None = None
    worker_rss: Size | None = None
    doing: Short = "idle"
    yielding: Short | None = None
    """`lowered` or `paused`: the priority of what it trains, since its models answer too slowly."""
    battery: Share | None = None
    """How full it is; the mean of several."""
    on_mains: bool | None = None
    """Whether the board has power from outside."""
    throttled: bool | None = None
    """Whether it slows itself down, for heat or for want of power."""
    metered: bool | None = None
    """Whether its connection costs by the byte."""


# --- device → coordinator, topic up/evt -----------------------------------------------------------------------------


class Inventory(Body):
    """What the board is, after each birth. A kind of its own: a birth is never refused for what a board says it is."""

    kind = "inventory"
    facts: Facts


class Accepted(Body):
    """The instruction `reply_to` is in the journal: it will be answered, also after a power cut."""

    kind = "accepted"


class Progress(Body):
    """What the device does about the instruction `reply_to`: fetching, running, uploading."""

    kind = "progress"
    doing: Short


class Reply(Body):
    """The answer to the instruction `reply_to`: a Flower message, or a named error."""

    kind = "reply"
    flower: Annotated[bytes, Field(max_length=60 * 1024)] = b""
    """A message as `argosy_common.flower.messages` writes it; empty when `error` is set."""
    blobs: Annotated[list[BlobPart], Field(max_length=128)] = []
    error: ErrorPart | None = None
    fetch_s: Seconds = 0.0
    run_s: Seconds = 0.0
    worker_peak_rss: Size = 0
    bytes_down: Size = 0
    """Bytes of blobs, with the headers of chunks or HTTP, and of the envelope, received for this instruction."""
    via: Short = ""
    """How its large blobs came, or the others where there is none: mqtt, https, https+mqtt; empty: all were here."""


class ModelState(Body):
    """What became of the version of a model that a `Deploy` or a `Withdraw` was about: at each change, after each
    connect, and now and then while its probation lasts.
    """

    kind = "model-state"
    rollout: RolloutNumber
    name: Name
    version: Version
    state: Literal["fetching", "refused", "active", "rolled-back"]
    error: ErrorPart | None = None
    """Why it was refused, or why the device went back by itself."""
    in_force: Version | None = None
    """The version that answers requests now; absent: none does."""
    backend: Short = ""
    """Empty until it was loaded; `none` where no inference is installed."""
    ran_on: Short = ""
    """The device that the backend really ran on."""
    p50_ms: Milliseconds | None = None
    p95_ms: Milliseconds | None = None
    requests: Count = 0
    """Since it was loaded."""
    errors: Count = 0
    """Of these requests, those that failed."""
    drift: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class UpgradeState(Body):
    """What became of an `Upgrade`: at each change, and after each connect."""

    kind = "upgrade-state"
    rollout: RolloutNumber
    version: PackageVersion
    """Of the upgrade, also where it is about going back from it."""
    state: Literal["fetching", "refused", "active", "rolled-back"]
    """`fetching` from the order to its end: packages are fetched, installed and tried."""
    error: ErrorPart | None = None
    """Why it was refused, or why the device went back by itself."""
    running: Short = ""
    """The version of the package that is installed now; empty where no package is."""


class Refused(Body):
    """The message `reply_to` was not understood or not allowed. Either direction; never answered itself."""

    kind = "refused"
    error: ErrorPart


# --- coordinator → device, topic dn/job -----------------------------------------------------------------------------


class Instruction(Body):
    """Run the client app on one Flower message. `expires_in` of the envelope is the round's deadline."""

    kind = "instruction"
    flower: Annotated[bytes, Field(max_length=48 * 1024)]
    blobs: Annotated[list[BlobPart], Field(max_length=128)] = []
    app: BlobPart
    client_app: Short
    """`module:attribute` inside the app bundle."""
    run_config: Annotated[dict[Short, Scalar], Field(max_length=512)] = {}
    node_id: Annotated[int, Field(ge=2, lt=2**64)]


class Cancel(Body):
    """The envelope's run is over: drop its unanswered instructions, its app and its context."""

    kind = "cancel"


# --- coordinator → device, topic dn/rpc -----------------------------------------------------------------------------


class Received(Body):
    """The reply to the instruction `reply_to` is in the coordinator's database; the device may forget it."""

    kind = "received"


class Rebirth(Body):
    """Please publish your birth again."""

    kind = "rebirth"


class Deploy(Body):
    """Put this version of a model in force. The device fetches its two blobs, checks everything, and says how it went.

    The same deploy again changes nothing and is answered again.
    """

    kind = "deploy"
    rollout: RolloutNumber
    name: Name
    """As in the manifest, which a device of an older version may not be able to read."""
    version: Version
    manifest: Annotated[bytes, Field(min_length=2, max_length=MAX_MANIFEST)]
    """In canonical form (`argosy_common.artefact.manifest`): the bytes that were signed."""
    signature: Signature
    rollback: Signature | None = None
    """Over the same bytes, for another purpose: a device may take this version though a higher one is in force."""
    probation_s: Seconds = 0.0
    """For so long the device reports now and then, and goes back by itself if too many requests fail."""
    report_s: Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False)] = 30.0
    max_errors: Share = 1.0
    """The share of requests that may fail."""


class Withdraw(Body):
    """Put a version of a model out of force, where there is none before it. It puts nothing else in its place."""

    kind = "withdraw"
    rollout: RolloutNumber
    name: Name
    version: Version


class Upgrade(Body):
    """Have this version of the device's own packages installed, or go back from it to what was installed before.

    The same upgrade again changes nothing and is answered again.
    """

    kind = "upgrade"
    rollout: RolloutNumber
    version: PackageVersion
    back: bool = False


# --- transfer control, both directions, topics up/rpc and dn/rpc (specs/transport.md, "Blobs") ---------------------


class Fetch(Body):
    """Please offer me this blob."""

    kind = "fetch"
    digest: Digest


class Offer(Body):
    """The manifest of a blob that the sender holds (≤ 4 kB)."""

    kind = "offer"
    digest: Digest
    size: Size
    chunk: Annotated[int, Field(ge=1024, le=1024 * 1024)]
    chunks_digest: Digest
    """SHA-256 of the concatenated SHA-256 digests of the chunks."""
    urls: Annotated[list[Url], Field(max_length=4)] = []
    """Where the blob can be had by HTTPS as well; the coordinator's offers only."""
    expires: Seconds = 86400.0


class Accept(Body):
    """Send me what I lack. Sent again after a reconnect or a stall, with the bitmap of that moment."""

    kind = "accept"
    digest: Digest
    sink: Short = ""
    """The worker whose chunk topic to use (upward only)."""
    have: Annotated[bytes, Field(max_length=56 * 1024)] = b""
    """Bit i (least significant first) of this bitmap is set if chunk i is here; may be shorter than the blob."""


class ChunkAck(Body):
    """Chunks 0 … `upto`−1 are here, and those of the bitmap, whose bit 0 is chunk `upto`."""

    kind = "chunk-ack"
    digest: Digest
    upto: Annotated[int, Field(ge=0)]
    more: Annotated[bytes, Field(max_length=4096)] = b""


class Done(Body):
    """The blob is whole, checked, synced to disk and renamed. Only this counts as delivered."""

    kind = "done"
    digest: Digest


class TransferFailed(Body):
    """The blob cannot be had, or will not be taken."""

    kind = "transfer-failed"
    digest: Digest
    error: ErrorPart


TRANSFER_KINDS: tuple[type[Body], ...] = (Fetch, Offer, Accept, ChunkAck, Done, TransferFailed)
"""Transfer control: what the two exchanges say to each other."""
