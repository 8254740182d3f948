"""Joins that are refused, as whoever types the command sees them, and the tricks of those who type another one.

Over the real enrolment server and real TLS. Strangers come from other addresses of loopback, which is all 127.0.0.0/8.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as cx509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from argosy_client.identity import Enrolment
from argosy_common import x509
from argosy_common.errors import (
    CertificateInvalid,
    DeviceRefused,
    PinMismatch,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
    TooManyAttempts,
)
from argosy_common.link.tls import client_context
from argosy_server.ca import CertificateAuthority
from tests.client.rogue_coordinator import RogueCoordinator
from tests.client.rogue_coordinator import http as http_answer
from tests.client.yard import Yard, open_yard


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield from open_yard(tmp_path, datetime.now(UTC))


def typed(
    yard: Yard, token: str, *, name: str = "pi", pin: str = "", url: str = ""
) -> subprocess.CompletedProcess[str]:
    """Do what the line says that `argosy token create` printed."""
    words = ["join", url or yard.server.url, "--token", token, "--pin", pin or yard.ca.pin, "--name", name]
    command = [sys.executable, "-m", "argosy_client.cli", *words, "--state-dir", str(yard.folder / name)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def audited(yard: Yard) -> list[tuple[str, str, str]]:
    return [(row.actor, row.action, row.subject) for row in yard.store.audit.tail()]


def refusal(kind: type[Exception], source: str = "127.0.0.1") -> tuple[str, str, str]:
    return (source, "device.enrol-refused", str(kind.code))  # type: ignore[attr-defined]  # an ArgosyError


class Thief:
    """Somebody with a certificate request of his own making, at an address of his own."""

    def __init__(self, yard: Yard, address: str = "127.0.0.2") -> None:
        self._yard, self._address = yard, address
        self.identity, self.tls = x509.generate_identity_key(), x509.generate_key()

    def body(self, token: str, **changes: object) -> dict[str, Any]:
        csr = x509.make_csr(self.tls)
        signature = x509.sign_enrolment(self.identity, x509.csr_der(x509.verify_csr(csr)))
        return {
            "token": token,
            "csr_pem": csr.decode(),
            "identity_public_pem": x509.public_pem(self.identity.public_key()).decode(),
            "identity_signature": signature.hex(),
            "name": "thief",
            "inventory": {},
            **changes,
        }

    def post(self, body: dict[str, Any], context: ssl.SSLContext | None = None) -> tuple[int, dict[str, Any]]:
        """Send it; return the status and the answer."""
        plain = socket.create_connection(self._yard.server.address, 20, source_address=(self._address, 0))
        connection = http.client.HTTPConnection("127.0.0.1")
        trust = context or x509.coordinator_trust(self._yard.ca.pem)
        connection.sock = trust.wrap_socket(plain, server_hostname=x509.COORDINATOR)
        try:
            connection.request("POST", "/v1/enrol", json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


# --- what the person at the board sees -----------------------------------------------------------------------------


def test_each_refusal_has_its_exit_code_its_words_its_remedy_and_its_row_and_changes_nothing(yard: Yard) -> None:
    used, old, good = yard.token(), yard.token(ttl_s=60), yard.token()
    yard.join("other", used)
    yard.clock.shift += timedelta(seconds=61)
    wrong_secret, no_such_token = good[:9] + "A" * 32, "0" * 8 + "." + "A" * 32
    cases = [(used, TokenExhausted), (old, TokenExpired), (wrong_secret, TokenUnknown), (no_such_token, TokenUnknown)]
    before = audited(yard)
    told: list[str] = []
    for token, kind in cases:
        done = typed(yard, token)
        assert (done.returncode, done.stdout) == (kind.exit_code, ""), done.stderr
        assert "argosy token create" in done.stderr, "the remedy"
        assert "Traceback" not in done.stderr
        assert token[9:] not in done.stderr
        told.append(done.stderr)
    assert audited(yard) == before + [refusal(kind) for _, kind in cases]
    assert told[2] == told[3], "a guesser does not learn which ids there are"
    assert len(set(told)) == 3
    assert typed(yard, "nonsense").returncode == TokenMalformed.exit_code
    assert len(audited(yard)) == len(before) + len(cases), "that was not even sent"
    assert typed(yard, good).returncode == 0
    assert yard.used() == 2


def test_a_wrong_pin_and_a_server_of_another_authority_exit_alike_and_hear_no_token(yard: Yard) -> None:
    token = yard.token()
    assert typed(yard, token, pin="sha256:" + "0" * 64).returncode == PinMismatch.exit_code
    rogue_ca = CertificateAuthority.open(yard.folder / "rogue", yard.clock)

    def answer(_request: bytes) -> Iterator[bytes]:
        yield http_answer(200, yard.ca.pem.encode())  # the right authority, which anybody may have fetched

    with RogueCoordinator(rogue_ca.issue_server(["127.0.0.1"]), answer) as rogue:
        done = typed(yard, token, url=rogue.url)
        assert done.returncode == PinMismatch.exit_code, done.stderr
        assert rogue.heard, "or it would have been silent for another reason"
        assert all(token[9:].encode() not in heard for heard in rogue.heard)
    assert audited(yard) == []
    assert yard.used() == 0


def test_an_address_that_tries_too_often_is_told_how_long_to_wait_and_others_are_served(yard: Yard) -> None:
    guesser, wrong = Thief(yard, "127.0.0.1"), "0" * 8 + "." + "A" * 32
    for _ in range(60):
        status, told = guesser.post(guesser.body(wrong))
        if status == 429:
            break
        assert (status, told["code"]) == (403, TokenUnknown.code)
    assert (status, told["code"]) == (429, TooManyAttempts.code)
    assert 1 <= int(told["facts"]["seconds"]) <= 11
    rows = len(audited(yard))
    assert rows >= 10
    token = yard.token()
    done = typed(yard, token)  # from the same address, with a good token
    if done.returncode:  # unless ten seconds passed meanwhile
        assert done.returncode == TooManyAttempts.exit_code, done.stderr
        assert " s." in done.stderr
        assert len(audited(yard)) == rows, "a stranger cannot fill the log"
    other = Thief(yard, "127.0.0.9")
    assert other.post(other.body(yard.token()))[0] == 200


# --- what a thief makes of what he has ------------------------------------------------------------------------------


def test_a_used_token_lets_in_neither_another_request_nor_the_same_one_changed(yard: Yard) -> None:
    token = yard.token()
    victim = Thief(yard, "127.0.0.1")
    request = victim.body(token)
    first = victim.post(request)
    thief = Thief(yard)
    assert thief.post(thief.body(token))[1]["code"] == TokenExhausted.code
    replayed = thief.post(request)
    assert replayed == first, "the victim's own certificate, which is of no use without its key"
    assert thief.post({**request, "name": "other"}) == first, "and nothing of it can be changed"
    assert [row.name for row in yard.store.devices.list()] == ["thief"]
    theirs = thief.body(token)
    mixed = {**theirs, "csr_pem": request["csr_pem"]}  # signed by another identity than that of the request
    assert thief.post(mixed)[1]["code"] == "request-invalid"
    assert yard.used() == 1
    assert refusal(TokenExhausted, "127.0.0.2") in audited(yard)
    assert ("127.0.0.2", "device.enrol-refused", "request-invalid") in audited(yard)


def _resigned(pem: bytes) -> bytes:
    """Return a certificate request whose own signature is of the right form and wrong."""
    csr = cx509.load_pem_x509_csr(pem)
    r, s = decode_dss_signature(csr.signature)
    whole, signature = csr.public_bytes(serialization.Encoding.DER), csr.signature
    for step in range(1, 300):  # one of the same length: those of DER vary
        wrong = encode_dss_signature(r, s - step)
        if len(wrong) == len(signature):
            return cx509.load_der_x509_csr(whole.replace(signature, wrong)).public_bytes(serialization.Encoding.PEM)
    raise AssertionError("none found")


def test_signatures_that_do_not_fit_the_request_enrol_nobody(yard: Yard) -> None:
    token, thief = yard.token(), Thief(yard)
    good = thief.body(token)
    forged = _resigned(good["csr_pem"].encode())
    assert not cx509.load_pem_x509_csr(forged).is_signature_valid
    forged_der = cx509.load_pem_x509_csr(forged).public_bytes(serialization.Encoding.DER)
    another = x509.csr_der(x509.verify_csr(x509.make_csr(thief.tls)))
    cases = {
        "the request's own": {
            "csr_pem": forged.decode(),
            "identity_signature": x509.sign_enrolment(thief.identity, forged_der).hex(),
        },
        "the identity's, over another request": {
            "identity_signature": x509.sign_enrolment(thief.identity, another).hex()
        },
        "the TLS key's in place of the identity's": {
            "identity_signature": x509.sign_enrolment(
                thief.tls, x509.csr_der(x509.verify_csr(good["csr_pem"].encode()))
            ).hex()
        },
    }
    for case, changes in cases.items():
        status, told = thief.post({**good, **changes})
        assert (status, told["code"]) == (400, "request-invalid"), case
    assert audited(yard) == [("127.0.0.2", "device.enrol-refused", "request-invalid")] * len(cases)
    assert (yard.used(), yard.store.devices.list()) == (0, [])
    assert thief.post(good)[0] == 200, "the rest of it was right"


def test_an_identity_key_on_a_second_board_is_the_same_device_and_not_one_more(yard: Yard) -> None:
    first = yard.join("pi")
    (yard.folder / "copy").mkdir()
    shutil.copy(yard.folder / "pi" / "identity.key", yard.folder / "copy" / "identity.key")
    second = yard.join("copy")
    assert second.device == first.device
    assert [row.device for row in yard.store.devices.list()] == [first.device]
    assert [row[1:] for row in audited(yard)] == [("device.enrol", first.device)] * 2, (
        "it can be seen that it came twice"
    )
    yard.store.devices.decide(first.device, "revoke", "test")
    for name in ("pi", "copy"):
        with pytest.raises(DeviceRefused):
            yard.join(name, force=True)
    serials = {x509.load_certificate(each.certificate_path).serial_number for each in (first, second)}
    assert set(yard.store.devices.shut_out().serials) == serials


def test_a_stolen_key_and_certificate_without_the_identity_key_enrol_nobody_as_the_victim(yard: Yard) -> None:
    victim = yard.join("pi")
    stolen = yard.folder / "stolen"
    shutil.copytree(yard.folder / "pi", stolen)
    (stolen / "identity.key").unlink()
    with pytest.raises(CertificateInvalid, match=r"identity\.key"):
        Enrolment.load(stolen)
    # asked to join anew, the board makes an identity of its own, and that is another device
    assert yard.join("stolen", force=True).device != victim.device
    # by hand: the victim's public key, shown under its good certificate, and a signature of any other key
    thief, files = Thief(yard), victim.tls_files()
    thief.tls = x509.load_key(files.key)
    public = x509.public_pem(x509.load_key(yard.folder / "pi" / "identity.key").public_key()).decode()
    status, told = thief.post(thief.body(yard.token(), identity_public_pem=public), client_context(files))
    assert (status, told["code"]) == (400, "request-invalid")
    assert yard.store.devices.get(victim.device).certificate_pem == victim.certificate_path.read_text()
