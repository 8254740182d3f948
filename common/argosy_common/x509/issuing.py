"""Issuing certificates: what each kind of ours says, and for how long."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from argosy_common.x509.keys import PrivateKey, PublicKey
from argosy_common.x509.requests import distinguished_name

COORDINATOR = "coordinator"
"""Common name of the coordinator's certificates, and the name a device expects in its server certificate."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BACKDATED = timedelta(days=1)
CA_LIFE = timedelta(days=20 * 365)
INTERMEDIATE_LIFE = timedelta(days=5 * 365)
SERVER_LIFE = timedelta(days=825)
DEVICE_LIFE = timedelta(days=7)
"""Devices renew their certificates by themselves (`argosy_common.renewal`)."""


def self_signed_ca(key: PrivateKey, common_name: str, now: datetime, *, life: timedelta = CA_LIFE) -> x509.Certificate:
    """Make a root that may sign certificates of devices and of the coordinator, and one level of authority below."""
    usage = _usage(key_cert_sign=True, crl_sign=True, digital_signature=True)
    builder = (
        _builder(common_name, key.public_key(), EPOCH, now + life)
        .issuer_name(distinguished_name(common_name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def issue_intermediate(
    root: x509.Certificate,
    root_key: PrivateKey,
    public: PublicKey,
    common_name: str,
    now: datetime,
    *,
    life: timedelta = INTERMEDIATE_LIFE,
) -> x509.Certificate:
    """Issue the certificate of an authority below the root, which issues no further one."""
    usage = _usage(key_cert_sign=True, crl_sign=True, digital_signature=True)
    return (
        _builder(common_name, public, EPOCH, now + life)
        .issuer_name(root.subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority(root_key), critical=False)
        .sign(root_key, hashes.SHA256())
    )


def issue_server(
    ca: x509.Certificate,
    ca_key: PrivateKey,
    public: PublicKey,
    hosts: Iterable[str],
    now: datetime,
    *,
    life: timedelta = SERVER_LIFE,
) -> x509.Certificate:
    """Issue the coordinator's server certificate for `hosts` (names or IP addresses) and for the name `COORDINATOR`."""
    names: list[x509.GeneralName] = [_general_name(host) for host in dict.fromkeys([COORDINATOR, *hosts])]
    return _issue(
        ca,
        ca_key,
        _builder(COORDINATOR, public, EPOCH, now + life).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        ),
        ExtendedKeyUsageOID.SERVER_AUTH,
    )


def issue_client(
    ca: x509.Certificate,
    ca_key: PrivateKey,
    public: PublicKey,
    common_name: str,
    now: datetime,
    *,
    life: timedelta = DEVICE_LIFE,
) -> x509.Certificate:
    """Issue a client certificate for `common_name`, valid from a day ago for `life` from now."""
    builder = _builder(common_name, public, now - BACKDATED, now + life)
    return _issue(ca, ca_key, builder, ExtendedKeyUsageOID.CLIENT_AUTH)


def issue_signer(
    ca: x509.Certificate, ca_key: PrivateKey, public: PublicKey, common_name: str, now: datetime
) -> x509.Certificate:
    """Issue a certificate for signing what others run. Who checks signatures leaves dates out, so it is from 1970."""
    builder = _builder(common_name, public, EPOCH, now + SERVER_LIFE)
    return _issue(ca, ca_key, builder, ExtendedKeyUsageOID.CODE_SIGNING)


def _authority(key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _issue(
    ca: x509.Certificate, ca_key: PrivateKey, builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier
) -> x509.Certificate:
    return (
        builder.issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(_authority(ca_key), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(common_name: str, public: PublicKey, start: datetime, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(distinguished_name(common_name))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _usage(*, digital_signature: bool, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
