"""A certificate authority of an installation's own: for TLS between its parts, where no other authority is at hand."""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from deploy.private import private_file

LOOPBACK = "127.0.0.1"
EARLY = dt.timedelta(hours=1)
"""A clock that is a little behind still accepts a certificate made now."""


@dataclass(frozen=True)
class Issued:
    """A private key and its certificate, as PEM."""

    key: str
    certificate: str


class Authority:
    """Signs certificates for `days` from now, and forgets its key with this object: what it did not sign, nobody can."""

    def __init__(self, days: int) -> None:
        self._valid_from = dt.datetime.now(dt.UTC) - EARLY
        self._valid_to = self._valid_from + EARLY + dt.timedelta(days=days)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("authority")
        certificate = (
            self._begun(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str, hosts: Sequence[str]) -> Issued:
        """A certificate for a server with these host names and addresses, which it may also show as a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._begun(_named(name), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Issued(private.decode(), certificate.public_bytes(pem).decode())

    def _begun(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._valid_from)
            .not_valid_after(self._valid_to)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def certificates(ca_file: Path, broker_file: Path) -> None:
    """Writes the authority's certificate, and the broker's key and certificate for 127.0.0.1 and localhost, as PEM, for 30 days.

    The broker shows the same certificate to clients and, as a client, to itself.
    """
    authority = Authority(days=30)
    broker = authority.issue("broker", ["localhost", LOOPBACK])
    private_file(broker_file, broker.key + broker.certificate + authority.certificate)
    # Last: that this file is there says that both are.
    private_file(ca_file, authority.certificate)
