"""Manifests, golden vectors and signatures: what holds, and what a board refuses."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common import x509
from argosy_common.artefact import Manifest
from argosy_common.artefact.golden import agrees, pack_golden, unpack_golden
from argosy_common.artefact.signature import SIGNER, Purpose, Signature, sign, verify
from argosy_common.errors import ArtefactInvalid, SignatureInvalid

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DIGEST = "ab" * 32


def plain(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  (of JSON)
    """Return a manifest's fields."""
    fields = {
        "name": "har",
        "version": 3,
        "parent": 2,
        "run": 7,
        "round": 40,
        "metrics": {"accuracy": 0.94},
        "created_at": "2026-11-01T00:00:00+00:00",
        "onnx": {"digest": DIGEST, "size": 1000},
        "input": {"name": "x", "shape": [6, 128]},
        "output": {"name": "y", "shape": [6]},
        "preprocessing": {"kind": "standardise", "mean": [0.0] * 6, "deviation": [1.0] * 6},
        "labels": ["walking", "upstairs", "downstairs", "sitting", "standing", "lying"],
        "golden": {"blob": {"digest": DIGEST, "size": 500}, "count": 2},
    }
    return {**fields, **changes}


def manifest(**changes: Any) -> Manifest:  # noqa: ANN401  (of JSON)
    return Manifest.model_validate_json(json.dumps(plain(**changes)))


# --- manifests -----------------------------------------------------------------------------------------------------


def test_a_manifest_reads_back_and_has_one_form() -> None:
    made = manifest()
    assert Manifest.parse(made.canonical()) == made
    assert made.reference == "har:3"
    with pytest.raises(ArtefactInvalid, match="canonical"):
        Manifest.parse(json.dumps(json.loads(made.canonical())).encode())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "../etc"}, "name"),
        ({"version": 0}, "version"),
        ({"parent": 3}, "parent"),
        ({"extra": 1}, "extra"),
        ({"labels": ["one"]}, "labels"),
        ({"preprocessing": {"kind": "standardise", "mean": [0.0], "deviation": [1.0]}}, "6 channels"),
        ({"preprocessing": {"kind": "standardise", "mean": [0.0] * 6, "deviation": [0.0] * 6}}, "deviation"),
        ({"preprocessing": {"kind": "image"}}, "preprocessing"),
        ({"preprocessing": {"kind": "pickle"}}, "preprocessing"),
        ({"onnx": {"digest": "no", "size": 1}}, "onnx.digest"),
        ({"input": {"name": "x", "shape": [6, 128], "dtype": "object"}}, "input.dtype"),
        ({"form": 2}, "form"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_manifest_may_not_say(changes: dict[str, Any], why: str) -> None:
    text = json.dumps(plain(**changes), sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ArtefactInvalid, match=why):
        Manifest.parse(text)


@given(st.binary(max_size=300) | st.integers(0, 900))
def test_rubbish_and_cut_manifests_are_refused_by_name(data: bytes | int) -> None:
    whole = manifest().canonical()
    with pytest.raises(ArtefactInvalid):
        Manifest.parse(whole[: min(data, len(whole) - 1)] if isinstance(data, int) else data)


# --- golden vectors ------------------------------------------------------------------------------------------------


def test_golden_vectors_read_back() -> None:
    inputs, outputs = np.ones((2, 6, 128), np.float32), np.zeros((2, 6), np.float32)
    got = unpack_golden(pack_golden(inputs, outputs), manifest())
    assert np.array_equal(got[0], inputs)
    assert np.array_equal(got[1], outputs)


def test_golden_vectors_of_other_shapes_or_with_objects_are_refused() -> None:
    good = np.ones((2, 6, 128), np.float32), np.zeros((2, 6), np.float32)
    for inputs, outputs in ((good[0][:1], good[1]), (good[0], good[1].astype(np.float64))):
        with pytest.raises(ArtefactInvalid, match="golden vectors"):
            unpack_golden(pack_golden(inputs, outputs), manifest())
    data = pack_golden(*good)
    for length in (0, 5, 100, len(data) - 1):
        with pytest.raises(ArtefactInvalid):
            unpack_golden(data[:length], manifest())
    with pytest.raises(ValueError, match=r"[Pp]ickle|[Oo]bject"):
        pack_golden(np.array([{}]), good[1])


def test_outputs_agree_within_the_tolerance_and_never_with_nan() -> None:
    golden = np.array([[10.0, -20.0]])
    assert agrees(golden + 0.019, golden, 1e-3)
    assert not agrees(golden + 0.021, golden, 1e-3)
    assert not agrees(np.array([[np.nan, -20.0]]), golden, 1.0)
    assert not agrees(golden[0], golden, 1.0)


# --- signatures ----------------------------------------------------------------------------------------------------


class Authority:
    """A root, an intermediate, and what they issue."""

    def __init__(self) -> None:
        self.root_key, self.key = x509.generate_key(), x509.generate_key()
        self.root = x509.self_signed_ca(self.root_key, "root", NOW)
        self.issuer = x509.issue_intermediate(self.root, self.root_key, self.key.public_key(), "below", NOW)
        self.pem = x509.certificate_pem(self.root).decode()

    def signer(self, name: str = SIGNER) -> tuple[x509.PrivateKey, str]:
        key = x509.generate_key()
        issued = x509.issue_signer(self.issuer, self.key, key.public_key(), name, NOW)
        return key, x509.chain_pem(issued, self.issuer).decode()

    def device(self, name: str = SIGNER) -> tuple[x509.PrivateKey, str]:
        """A certificate for something else, whatever its name says."""
        key = x509.generate_key()
        issued = x509.issue_client(self.issuer, self.key, key.public_key(), name, NOW)
        return key, x509.chain_pem(issued, self.issuer).decode()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_what_the_authoritys_signer_signed_holds(authority: Authority) -> None:
    signature = sign(*authority.signer(), Purpose.MANIFEST, b"model")
    verify(Signature.model_validate_json(signature.model_dump_json()), Purpose.MANIFEST, b"model", authority.pem)


def test_other_bytes_another_purpose_and_a_changed_signature_do_not_hold(authority: Authority) -> None:
    signature = sign(*authority.signer(), Purpose.MANIFEST, b"model")
    for purpose, data in ((Purpose.MANIFEST, b"modem"), (Purpose.ROLLBACK, b"model")):
        with pytest.raises(SignatureInvalid, match="does not fit"):
            verify(signature, purpose, data, authority.pem)
    for value in ("", "00", signature.value[:-2], signature.value.replace(signature.value[-2:], "00")):
        changed = signature.model_copy(update={"value": value})
        with pytest.raises(SignatureInvalid):
            verify(changed, Purpose.MANIFEST, b"model", authority.pem)


def test_neither_a_device_nor_another_name_nor_another_authority_signs_models(authority: Authority) -> None:
    for key, chain in (authority.device(), authority.signer("coordinator"), Authority().signer()):
        with pytest.raises(SignatureInvalid):
            verify(sign(key, chain, Purpose.MANIFEST, b"model"), Purpose.MANIFEST, b"model", authority.pem)


def test_a_device_that_poses_as_an_authority_signs_nothing(authority: Authority) -> None:
    key, chain = authority.device("0" * 16)
    evil = x509.generate_key()
    issued = x509.issue_signer(x509.parse_chain(chain.encode())[0], key, evil.public_key(), SIGNER, NOW)
    forged = x509.certificate_pem(issued).decode() + chain
    with pytest.raises(SignatureInvalid, match="another authority"):
        verify(sign(evil, forged, Purpose.MANIFEST, b"model"), Purpose.MANIFEST, b"model", authority.pem)
