"""Failures between two ends: the broker, envelopes, blobs and their transfer."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class BrokerUnreachable(ArgosyError):
    """The broker does not answer, or refuses the connection."""

    code = "broker-unreachable"
    exit_code = 20
    fault = Fault.NETWORK
    template = "The broker at {address} cannot be reached: {why}."
    remedy = "Check that it runs and that this machine may connect to it; attempts go on with growing pauses."


class EnvelopeMalformed(ArgosyError):
    """Bytes that are not an envelope of any version."""

    code = "envelope-malformed"
    exit_code = 21
    fault = Fault.PEER
    template = "A message from {peer} is not a valid envelope: {why}."
    remedy = "It was refused and changed nothing. If it came from your own device, bring both ends to the same version."


class VersionUnknown(ArgosyError):
    """An envelope of a version that this end does not speak."""

    code = "version-unknown"
    exit_code = 22
    fault = Fault.PEER
    template = "{peer} speaks protocol version {version}; this end speaks {supported}."
    remedy = "Upgrade the older of the two."


class KindUnknown(ArgosyError):
    """An envelope of a kind that this end does not know."""

    code = "kind-unknown"
    exit_code = 23
    fault = Fault.PEER
    template = "{peer} sent a message of the unknown kind '{kind}'."
    remedy = "Upgrade the older of the two ends."


class ChunkMalformed(ArgosyError):
    """A chunk of a blob whose header, bounds or checksum are wrong."""

    code = "chunk-malformed"
    exit_code = 24
    fault = Fault.PEER
    template = "A chunk from {peer} was refused: {why}."
    remedy = "Nothing to do: the missing range is asked for again."


class BlobUnknown(ArgosyError):
    """A blob was asked for that this end does not hold."""

    code = "blob-unknown"
    exit_code = 25
    fault = Fault.PEER
    template = "{peer} does not hold the blob {digest}."
    remedy = "It was removed before it was fetched; start the run again if this repeats."


class BlobCorrupt(ArgosyError):
    """A blob arrived whole, and its SHA-256 is not its name."""

    code = "blob-corrupt"
    exit_code = 26
    fault = Fault.PEER
    template = "The blob {digest} from {peer} does not match its SHA-256."
    remedy = "It was thrown away. If it repeats, check the sender's disk and memory."


class TransferRefused(ArgosyError):
    """The other end would not take a blob."""

    code = "transfer-refused"
    exit_code = 27
    fault = Fault.PEER
    template = "{peer} refused the blob {digest}: {why}."
    remedy = "Check the size limits and the free disk space at the other end."


class TransferTimedOut(ArgosyError):
    """A transfer made no progress within its session's life."""

    code = "transfer-timed-out"
    exit_code = 28
    fault = Fault.NETWORK
    template = "The transfer of {digest} with {peer} made no progress for {seconds} s."
    remedy = "Check the device's connection; what arrived is kept and the next attempt resumes from it."


class DownloadRefused(ArgosyError):
    """A blob was asked for by HTTPS and is not given, or not now."""

    code = "download-refused"
    exit_code = 71
    fault = Fault.PEER
    template = "The coordinator does not serve the blob {digest} by HTTPS: {why}."
    remedy = "Nothing to do: the device gets it over MQTT. If it repeats, compare both ends' versions and certificates."


class MessageUnsendable(ArgosyError):
    """A Flower message that an app made and that cannot be put into bytes."""

    code = "message-unsendable"
    exit_code = 29
    fault = Fault.OPERATOR
    template = "A message of the app cannot be sent: {why}."
    remedy = "Correct the app: records hold arrays, and numbers, texts and bytes that fit 64 bits."


class TransferCancelled(ArgosyError):
    """A transfer was ended at this end, because nobody wants the blob any more or the daemon stops."""

    code = "transfer-cancelled"
    exit_code = 65
    fault = Fault.OPERATOR
    template = "The transfer of {digest} with {peer} was cancelled."
    remedy = "Nothing to do; what arrived is kept, and another attempt resumes from it."
