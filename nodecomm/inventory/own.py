# SPDX-License-Identifier: MIT
"""
Who this node is in its inventories: its id and its certificate, each made once.
"""

from __future__ import annotations

import os
import pwd
import uuid
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from nodecomm.identity.files import (
    ensure_folder,
    read_small,
    replace_file,
    write_new,
)
from nodecomm.identity.keys import CERTIFICATE_DAYS, KeyPair
from nodecomm.identity.own import KEYS_FOLDER, PRIVATE_NAME
from nodecomm.inventory.document import check_node_id
from nodecomm.inventory.keys import same_node
from nodecomm.wire.text import safe

__all__ = [
    "CERTIFICATE_NAME",
    "NODE_ID_NAME",
    "NodeIdError",
    "kept_node_id",
    "node_certificate",
    "own_certificate",
    "own_key_date",
    "own_node_id",
    "own_user",
]

#: The files in the state folder.
NODE_ID_NAME = "uuid"
CERTIFICATE_NAME = "agent.cert"


class NodeIdError(Exception):
    """
    The id of this node cannot be had, or is not to be used. The text says what to do.
    """


def own_node_id(state_dir: str | os.PathLike[str], named: str | None = None) -> str:
    """
    The id of this node: the one that is kept, else a new one, which is then kept.

    Args:
        state_dir: The state folder.
        named: The id that the node shall have, for one that has an id elsewhere.

    Raises:
        NodeIdError: *named* is no id, or not the one that is kept, or what is kept is
            none.
        OSError: It cannot be read or written.
    """
    if named is not None and not check_node_id(named):
        msg = (
            f"{safe(named[:80])} is no id of a node: 1 to 50 letters, digits and "
            "hyphens, a hyphen not first"
        )
        raise NodeIdError(msg)
    folder = os.fspath(state_dir)
    path = os.path.join(folder, NODE_ID_NAME)
    kept = _kept_node_id(path)
    if kept is None:
        ensure_folder(folder)
        made = named or str(uuid.uuid4())
        write_new(folder, NODE_ID_NAME, f"{made}\n".encode())
        # Whoever was first is right, if two do this at once.
        kept = _kept_node_id(path) or made
    if named is not None and not same_node(named, kept):
        msg = (
            f"this node is {kept}, not {named}: servers know it by that. Remove "
            f"{path} first if it shall be another node"
        )
        raise NodeIdError(msg)
    return kept


def kept_node_id(state_dir: str | os.PathLike[str]) -> str | None:
    """
    The id of this node; None if it has none yet.

    Raises:
        NodeIdError: What is kept is no id.
        OSError: It cannot be read.
    """
    return _kept_node_id(os.path.join(state_dir, NODE_ID_NAME))


def own_certificate(
    state_dir: str | os.PathLike[str], pair: KeyPair, node_id: str, now: datetime
) -> str:
    """
    The certificate of this node in PEM form: the one that is kept if it is of this key
    and this id and still valid, else a new one, which is then kept.

    Raises:
        OSError: It cannot be read or written.
    """
    folder = os.fspath(state_dir)
    path = os.path.join(folder, CERTIFICATE_NAME)
    try:
        kept = read_small(path)[1]
        if _is_ours(kept, pair, node_id, now):
            return kept.decode("ascii")
    except (FileNotFoundError, ValueError):
        # None, or something else in its place, which is worth no more than a new one.
        pass
    certificate = node_certificate(pair, node_id, now)
    made = certificate.public_bytes(serialization.Encoding.PEM)
    ensure_folder(folder)
    replace_file(path, made)
    return made.decode("ascii")


def node_certificate(pair: KeyPair, node_id: str, now: datetime) -> x509.Certificate:
    """
    A self-signed certificate that binds an id to a key; nobody else vouches for it.
    """
    # Source: Rudder 8.3, of its agents: the id is the UID of the subject; sha256,
    # 3650 days, a certificate authority with these usages.
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, node_id)])
    public = pair.private.public_key()
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=True,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(x509.random_serial_number())
        # A server whose clock is behind finds it valid as well.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public), critical=False
        )
        .add_extension(usage, critical=False)
        .sign(pair.private, hashes.SHA256())
    )


def own_key_date(state_dir: str | os.PathLike[str]) -> str:
    """
    When the private key was changed last, as `stat` prints it; "" if nobody knows. It
    stands in signatures, for people.
    """
    try:
        status = os.stat(os.path.join(state_dir, KEYS_FOLDER, PRIVATE_NAME))
    except OSError:
        return ""
    seconds, rest = divmod(status.st_mtime_ns, 10**9)
    moment = datetime.fromtimestamp(seconds, timezone.utc).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest:09} {moment:%z}"


def own_user() -> str:
    """
    The name of the user that this program runs as, as `whoami` prints it; the number
    of one without a name.
    """
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _kept_node_id(path: str) -> str | None:
    try:
        text = read_small(path)[1].decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except ValueError as error:
        msg = f"{path} {error}; put the id of this node there, or remove it"
        raise NodeIdError(msg) from error
    if not check_node_id(text):
        msg = f"{path} holds no id of a node; put it there, or remove the file"
        raise NodeIdError(msg)
    return text


def _is_ours(data: bytes, pair: KeyPair, node_id: str, now: datetime) -> bool:
    """
    Raises:
        ValueError: This is no certificate.
    """
    certificate = x509.load_pem_x509_certificate(data)
    uids = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    return (
        [str(uid.value) for uid in uids] == [node_id]
        and certificate.public_key() == pair.private.public_key()
        and certificate.not_valid_after_utc > now.astimezone(timezone.utc)
    )
