# SPDX-License-Identifier: MIT
"""
OpenSSL contexts as this protocol needs them.

Both sides show a certificate and every certificate is accepted: it is an envelope
for the peer's key, and only the comparison of that key with a stored one, which
the session makes right after the handshake, authenticates anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, dump_certificate
from OpenSSL.crypto import Error as CryptoError

from nodecomm.transport.certificates import subject_public_key

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

#: The real server's list, `AES256-GCM-SHA384:AES256-SHA:TLS_AES_256_GCM_SHA384`,
#: with the suites that have forward secrecy before it. The last two use the key of
#: the certificate itself: a real server limited to TLS 1.2 has no other.
#: Source: CFEngine 3.21, the default of `allowciphers`.
DEFAULT_CIPHERS = (
    "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"
    ":ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"
    ":AES256-GCM-SHA384:AES256-SHA"
)

#: Keys of 1024 bits are still in use; OpenSSL's level 2 refuses them. TLS 1.1 and
#: SHA-1 signatures stay impossible at level 1.
SECURITY_LEVEL = "@SECLEVEL=1"

#: `allowtlsversion` accepts 1.0 and 1.1 too, but no current OpenSSL speaks them
#: without being told to lower its guard, so they mean 1.2.
_VERSIONS = {
    "1.0": SSL.TLS1_2_VERSION,
    "1.1": SSL.TLS1_2_VERSION,
    "1.2": SSL.TLS1_2_VERSION,
    "1.3": SSL.TLS1_3_VERSION,
}

#: SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets and does not name: a call
#: returns after each record. That a retry may come from another buffer stays set.
_PARTIAL_WRITE = 0x1

#: SSL_MODE_NO_AUTO_CHAIN: OpenSSL looks for no issuers of the own certificate, which
#: has none. With `_without_tickets` about 50 us of a handshake's 1.7 ms.
_NO_AUTO_CHAIN = 0x8

#: The prefix of TLS 1.3 suites, which OpenSSL keeps in a list of their own.
_TLS13 = "TLS_"


class Credentials(Protocol):
    """
    The part of `nodecomm.identity.keys.KeyPair` that TLS needs.
    """

    @property
    def private(self) -> RSAPrivateKey:
        """
        The private key.
        """

    def certificate(self) -> x509.Certificate:
        """
        A certificate that carries its public key.
        """


def server_context(
    key_pair: Credentials,
    *,
    ciphers: str = DEFAULT_CIPHERS,
    min_version: str = "1.2",
    max_version: str | None = None,
) -> SSL.Context:
    """
    The context for accepting connections. Make it once: it signs a certificate.

    Args:
        key_pair: The host's key.
        ciphers: Suites in order of preference, in OpenSSL's words, those of TLS 1.3
            among them. Without one of TLS 1.3 that version is off, and likewise 1.2.
        min_version: `1.2` or `1.3`; lower ones mean `1.2`.
        max_version: The same; None for no limit.

    Raises:
        ValueError: A version or a suite is unknown, or they exclude each other.
    """
    context = _context(
        SSL.TLS_SERVER_METHOD, key_pair, ciphers, min_version, max_version
    )
    if hasattr(SSL.Connection, "set_options"):
        # Older releases of pyOpenSSL send them, as the real server does.
        context.set_tlsext_servername_callback(_without_tickets)
    return context


def client_context(
    key_pair: Credentials,
    *,
    ciphers: str = DEFAULT_CIPHERS,
    min_version: str = "1.2",
    max_version: str | None = None,
) -> SSL.Context:
    """
    The context for making connections; arguments and errors as `server_context`.
    """
    return _context(SSL.TLS_CLIENT_METHOD, key_pair, ciphers, min_version, max_version)


def certificate_key(connection: SSL.Connection | None) -> PublicKeyTypes | None:
    """
    The key in the certificate the peer of *connection* showed, of whatever kind.

    It is cut out of the certificate, see `nodecomm.transport.certificates`.
    """
    certificate = None if connection is None else connection.get_peer_certificate()
    if certificate is None:
        return None
    try:
        # What OpenSSL received, not an encoding of what it made of it.
        whole = dump_certificate(FILETYPE_ASN1, certificate)
        return load_der_public_key(subject_public_key(whole))
    except (SSL.Error, CryptoError, UnsupportedAlgorithm, ValueError, TypeError):
        return None


def _without_tickets(connection: SSL.Connection) -> None:
    """
    Send no session tickets. OpenSSL asks for a choice by server name in every
    handshake, also when the client named none. In TLS 1.3 the option keeps it from
    sending tickets only if it is set there and not before; set before, it costs
    each connection two tickets that nobody can use.
    """
    connection.set_options(SSL.OP_NO_TICKET)


def _accept(*_arguments: object) -> bool:
    """
    Accept any certificate; whether its key is trusted is decided afterwards.
    """
    return True


def _context(
    method: int,
    key_pair: Credentials,
    ciphers: str,
    min_version: str,
    max_version: str | None,
) -> SSL.Context:
    lowest = _version(min_version)
    highest = SSL.TLS1_3_VERSION if max_version is None else _version(max_version)
    modern, older = _split(ciphers)
    if not modern:
        highest = min(highest, SSL.TLS1_2_VERSION)
    if not any(item[0] not in "!-+@" for item in older):
        lowest = SSL.TLS1_3_VERSION
    if lowest > highest:
        raise ValueError(
            f"no TLS version is left by the ciphers {ciphers!r}, the lowest version"
            f" {min_version} and the highest {max_version or '1.3'}"
        )
    context = SSL.Context(method)
    context.set_min_proto_version(lowest)
    context.set_max_proto_version(highest)
    if modern:
        context.set_tls13_ciphersuites(":".join(modern).encode("ascii"))
    if not any("@SECLEVEL" in item for item in older):
        older = [*(older or ["DEFAULT"]), SECURITY_LEVEL]
    _set_older(context, older, ciphers)
    context.set_options(
        SSL.OP_NO_COMPRESSION
        | SSL.OP_NO_RENEGOTIATION
        | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # An idle connection then keeps no 16 KiB record buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | _NO_AUTO_CHAIN)
    # One call then encrypts a whole chunk of a file: 300 MB take 0.29 s, not 0.42.
    context.clear_mode(_PARTIAL_WRITE)
    # Nothing in the peer's certificate counts but the key. Without this OpenSSL checks
    # the signatures of a whole chain first: half a second for one made to be dear.
    context.set_verify_depth(0)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept)
    context.use_certificate(key_pair.certificate())
    context.use_privatekey(key_pair.private)
    context.check_privatekey()
    return context


def _version(text: str) -> int:
    try:
        return _VERSIONS[text]
    except KeyError:
        raise ValueError(
            f"unknown TLS version {text!r}; write one of {', '.join(_VERSIONS)}"
        ) from None


def _split(ciphers: str) -> tuple[list[str], list[str]]:
    """
    The suites of TLS 1.3 and those of older versions, each one checked: OpenSSL
    itself passes over a name it does not know, and a list with a misspelt name
    would quietly be another list.
    """
    items = ciphers.replace(",", ":").replace(" ", ":").split(":")
    modern: list[str] = []
    older: list[str] = []
    for item in filter(None, items):
        if item.startswith(_TLS13):
            modern.append(item)
            try:
                SSL.Context(SSL.TLS_METHOD).set_tls13_ciphersuites(_encode(item))
            except SSL.Error:
                raise _bad_cipher(item, ciphers) from None
        else:
            older.append(item)
            if item[0] not in "!-+@":
                _set_older(SSL.Context(SSL.TLS_METHOD), [item], ciphers)
    if not modern and not older:
        raise ValueError(f"the list of ciphers is empty: {ciphers!r}")
    return modern, older


def _set_older(context: SSL.Context, items: list[str], ciphers: str) -> None:
    text = ":".join(items)
    try:
        context.set_cipher_list(_encode(text))
    except SSL.Error:
        raise _bad_cipher(text, ciphers) from None


def _encode(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")


def _bad_cipher(item: str, ciphers: str) -> ValueError:
    return ValueError(
        f"unknown TLS cipher {item!r} in {ciphers!r}; `openssl ciphers -s` prints the"
        " names OpenSSL knows"
    )
