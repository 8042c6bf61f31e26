# SPDX-License-Identifier: MIT
"""
This node's inventory: the machine it runs on, who it is, and the check that a server
will be able to read it; and the two files that are sent of it.
"""

from __future__ import annotations

import gzip
import os
import secrets
import socket
from datetime import datetime, timezone

from attrs import frozen

from nodecomm import __version__
from nodecomm.identity.keys import KeyPair
from nodecomm.inventory.collecting import collect, describe
from nodecomm.inventory.document import is_hostname, read_document
from nodecomm.inventory.host import Host, Skipped
from nodecomm.inventory.limits import DocumentLimits, DocumentRefused
from nodecomm.inventory.model import AGENT_COMMUNITY, Agent, Inventory
from nodecomm.inventory.own import (
    own_certificate,
    own_key_date,
    own_node_id,
    own_user,
)
from nodecomm.inventory.signature import read_signature, sign, verify
from nodecomm.inventory.writing import NodeSection, complete_document, write_inventory

__all__ = ["Made", "UploadFiles", "files_to_send", "make_inventory"]


@frozen
class Made:
    """
    An inventory of this node.

    Attributes:
        document: To be signed and sent, byte for byte.
        inventory: What a server reads in it.
        skipped: What could not be found out about the machine.
    """

    document: bytes
    inventory: Inventory
    skipped: tuple[Skipped, ...] = ()


@frozen
class UploadFiles:
    """
    The two files of an inventory as they are sent, whose names belong to no other
    inventory.

    Attributes:
        document_name: `NAME.ocs.gz`, or `NAME.ocs` where it is not compressed.
        document: The content of the one.
        signature_name: `NAME.ocs.sign`.
        signature: The content of the other.
    """

    document_name: str
    document: bytes
    signature_name: str
    signature: bytes


def make_inventory(
    state_dir: str | os.PathLike[str],
    pair: KeyPair,
    now: datetime,
    *,
    policy_server_id: str,
    policy_server: str | None = None,
    node_id: str | None = None,
    hostname: str | None = None,
    foreign: bytes | None = None,
    host: Host | None = None,
) -> Made:
    """
    Make this node's inventory. Blocks: call it in a thread.

    Args:
        state_dir: Where the node's id and certificate are kept.
        pair: The node's own key.
        now: The present, with a zone.
        policy_server_id: The id of the policy server.
        policy_server: What this node calls it.
        node_id: The id that the node shall have, see `own_node_id`.
        hostname: What the node is called; else the name with a domain, if the machine
            has one.
        foreign: A document of the machine that another program wrote, which is
            completed; None: this machine is looked at.
        host: The machine; this one by default.

    Raises:
        NodeIdError: The node's id cannot be had.
        IncompleteDocument: The foreign document is none that could be completed.
        DocumentRefused: No server would take the result, and why.
        OSError: Id or certificate cannot be kept.
    """
    host = Host() if host is None else host
    if hostname is not None and not is_hostname(hostname):
        # A server would take another name out of the document, without a word.
        msg = f"{hostname[:60]!r} is no name for a node"
        raise DocumentRefused("bad-hostname", msg, "RUDDER/HOSTNAME")
    own_id = own_node_id(state_dir, node_id)
    section = NodeSection(
        node_id=own_id,
        hostname=hostname or _hostname(host),
        owner=own_user(),
        policy_server_id=policy_server_id,
        policy_server_hostname=policy_server,
        agent=Agent(
            name=AGENT_COMMUNITY,
            version=__version__,
            certificate=own_certificate(state_dir, pair, own_id, now),
            # For servers from before there were certificates.
            key=pair.public.to_pem().decode("ascii"),
        ),
    )
    if foreign is not None:
        document = complete_document(foreign, section, now.astimezone())
        return Made(document, read_document(document))
    machine = collect(now, host)
    document = write_inventory(describe(machine, section))
    return Made(document, read_document(document), machine.skipped)


def files_to_send(
    state_dir: str | os.PathLike[str],
    pair: KeyPair,
    now: datetime,
    document: bytes,
    node_id: str,
) -> UploadFiles:
    """
    Sign a document and compress it. Blocks: call it in a thread.

    Args:
        state_dir: Where the node's key is kept.
        pair: The node's own key.
        now: The present, with a zone.
        document: The document.
        node_id: Whose it is.

    Raises:
        DocumentRefused: `too-large`: no server would take it.
    """
    limits = DocumentLimits()
    limits.check_size(len(document))
    signature = sign(
        document, pair, hostname=socket.gethostname(), key_date=own_key_date(state_dir)
    )
    # What leaves has been seen to hold.
    verify(document, read_signature(signature), pair.public)
    # Source: Rudder 7.3: the id and the time. Two inventories of one second, or of a
    # clock that was set back, must not have the same name: their halves would meet.
    when = now.astimezone(timezone.utc).isoformat(timespec="seconds")
    name = f"{node_id}_{when}-{secrets.token_hex(4)}.ocs"
    compressed = gzip.compress(document, mtime=0)
    limits.check_compressed(len(compressed))
    try:
        limits.check_ratio(len(compressed), len(document))
    except DocumentRefused:
        # A server could not tell it from an attack.
        return UploadFiles(name, document, f"{name}.sign", signature)
    return UploadFiles(f"{name}.gz", compressed, f"{name}.sign", signature)


def _hostname(host: Host) -> str:
    names = (host.full_hostname(), host.hostname())
    # A server says what is wrong with the last one, if none will do.
    return next((name for name in names if is_hostname(name)), names[-1])
