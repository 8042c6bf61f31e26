# SPDX-License-Identifier: MIT
"""
This node's inventory: the machine it runs on, who it is, and the check that a server
will be able to read it.
"""

from __future__ import annotations

import os
from datetime import datetime

from attrs import frozen

from nodecomm import __version__
from nodecomm.identity.keys import KeyPair
from nodecomm.inventory.collecting import collect, describe
from nodecomm.inventory.document import is_hostname, read_document
from nodecomm.inventory.host import Host, Skipped
from nodecomm.inventory.model import AGENT_COMMUNITY, Agent, Inventory
from nodecomm.inventory.own import own_certificate, own_node_id, own_user
from nodecomm.inventory.writing import NodeSection, complete_document, write_inventory

__all__ = ["Made", "make_inventory"]


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


def _hostname(host: Host) -> str:
    names = (host.full_hostname(), host.hostname())
    # A server says what is wrong with the last one, if none will do.
    return next((name for name in names if is_hostname(name)), names[-1])
