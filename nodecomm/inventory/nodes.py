# SPDX-License-Identifier: MIT
"""
What is kept about a node, as values.

`nodecomm.inventory.lifecycle` makes one of another, and whoever keeps them
(`nodecomm.inventory.records`) knows nothing of what they mean.
"""

from __future__ import annotations

import enum
import zlib
from datetime import datetime

from attrs import evolve, field, frozen

from nodecomm.identity.accepted import WithdrawnKey
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.judgement import Known
from nodecomm.inventory.model import Inventory, Refusal

__all__ = [
    "Alternation",
    "Conflict",
    "Event",
    "Facts",
    "KeptDocument",
    "Machine",
    "Node",
    "NodeNews",
    "NodesAt",
    "OtherNode",
    "Rejected",
    "Status",
]


#: Level of zlib for documents.
_LEVEL = 6

#: Characters of each text, and addresses, that are kept of a document besides the whole
#: of it: they are read and shown again and again, and anybody may have written them.
_TEXT = 255
_ADDRESSES = 256


class Status(enum.Enum):
    """
    Where a node stands.
    """

    #: It has sent an inventory that is believed, and waits for an operator.
    PENDING = "pending"
    #: An operator has said yes: its files are open to its key.
    ACCEPTED = "accepted"
    #: An operator has said no. Its next inventory makes it pending again.
    REFUSED = "refused"
    #: It was removed. Its next inventory makes it pending again.
    DELETED = "deleted"
    #: Nothing is taken from it until an operator lifts this.
    BLOCKED = "blocked"

    @property
    def is_live(self) -> bool:
        """
        Whether there is such a node, as far as operators are concerned.
        """
        return self in (Status.PENDING, Status.ACCEPTED)


@frozen
class Facts:
    """
    What a node's newest document says, as far as decisions and lists need it. Of long
    texts it is the first 255 characters, of many addresses the first 256.

    Attributes:
        hostname: What it is called.
        policy_server_id: The server that it belongs to.
        owner: The user whom its agent runs as.
        agent_name: Kind of agent.
        agent_version: Its release.
        system: What runs on it, for people.
        addresses: All of its interfaces, in the document's order.
        device_id: What the installation of the collector calls itself.
        machine_id: A UUID of the firmware or hypervisor.
        in_certificate: Whether its key came in a certificate.
    """

    hostname: str
    policy_server_id: str
    owner: str
    agent_name: str
    agent_version: str
    system: str
    addresses: tuple[str, ...]
    device_id: str
    machine_id: str | None
    in_certificate: bool

    @classmethod
    def of(cls, inventory: Inventory) -> Facts:
        """
        Those of a document.
        """
        os, agent = inventory.os, inventory.agent
        return cls(
            hostname=inventory.hostname,
            policy_server_id=inventory.policy_server_id,
            owner=inventory.owner,
            agent_name=agent.name,
            agent_version=agent.version[:_TEXT],
            system=(os.full_name or os.name or os.kernel_name or "")[:_TEXT],
            addresses=inventory.addresses[:_ADDRESSES],
            device_id=inventory.device_id,
            machine_id=_machine_id(inventory),
            in_certificate=agent.certificate is not None,
        )


@frozen
class Machine:
    """
    By what one machine is told from another that has the same id and the same key.
    Addresses are not among it: they change by themselves.
    """

    device_id: str
    machine_id: str | None
    hostname: str

    @classmethod
    def of(cls, inventory: Inventory) -> Machine:
        """
        The one that wrote a document.
        """
        return cls(inventory.device_id, _machine_id(inventory), inventory.hostname)


def _machine_id(inventory: Inventory) -> str | None:
    text = inventory.hardware.machine_id
    return None if text is None else text[:_TEXT]


@frozen
class Conflict:
    """
    A document of this id came that another key had signed, and was refused.

    Attributes:
        when: The last time.
        key: The digest of that key (MD5).
        hostname: What that machine is called.
    """

    when: datetime
    key: str
    hostname: str


@frozen
class Alternation:
    """
    Documents of this id and key come from two machines in turn.

    Attributes:
        when: The last time that one followed the other.
        one: The machine that wrote the newest document.
        other: The one before.
    """

    when: datetime
    one: Machine
    other: Machine


@frozen
class Rejected:
    """
    The last document of this id that was not believed. Anybody may have sent it.
    """

    when: datetime
    refusal: Refusal


@frozen
class Node:
    """
    A node.

    Attributes:
        known: Its id, its key and what was taken of it. `Known.blocked` is False
            here whatever the status is, see `for_judgement`.
        status: Where it stands.
        since: Since when.
        facts: What its newest document says; None if it has not sent any that is
            believed.
        received: When that came.
        machines: Those that wrote its last documents, each once, the newest last.
        conflict: Another machine has its id, with another key, as far as can be seen.
        alternation: Another machine has its id and its key.
        rejected: The last document that was not believed, if none was since.
    """

    known: Known
    status: Status
    since: datetime
    facts: Facts | None = None
    received: datetime | None = None
    machines: tuple[Machine, ...] = field(default=(), repr=False)
    conflict: Conflict | None = None
    alternation: Alternation | None = field(default=None, repr=False)
    rejected: Rejected | None = field(default=None, repr=False)

    @property
    def node_id(self) -> str:
        """
        Its id, as it came first. Upper and lower case are the same node.
        """
        return self.known.node_id

    @property
    def key(self) -> PublicKey | None:
        """
        Its key; None while the next document decides.
        """
        return self.known.key

    @property
    def hostname(self) -> str | None:
        """
        What it is called, if it has said so.
        """
        return None if self.facts is None else self.facts.hostname

    @property
    def for_judgement(self) -> Known:
        """
        What decides about its next document.
        """
        return evolve(self.known, blocked=self.status is Status.BLOCKED)

    @property
    def opens(self) -> object:
        """
        All that says what is open to this node: while this is the same, nobody may
        have more or less than before.
        """
        if self.status is not Status.ACCEPTED or self.key is None:
            return None
        facts = self.facts
        if facts is None:
            return (self.node_id, self.key)
        names = (facts.hostname, facts.policy_server_id, facts.owner, facts.addresses)
        return (self.node_id, self.key, *names)

    @property
    def follows(self) -> object:
        """
        All that says what follows from this node for its connections: while this is
        the same, nobody needs to look at it again.
        """
        return self.opens or (self.status, self.key)


@frozen
class Event:
    """
    Something that happened to a node, for its history.

    Attributes:
        when: Civil time, with a zone.
        what: A stable word: `pending`, `accepted`, `refused`, `deleted`, `blocked`,
            `lifted`, `registered`, `key`, `trust-again`, `reset-date`, `hostname`,
            `policy-server`, `conflict`, `alternating`.
        by: Who did it: an operator's name, or `inventory`.
        text: The same for people. It may hold text of whoever sent a document: make
            it safe before it reaches a terminal.
    """

    when: datetime
    what: str
    by: str
    text: str


@frozen
class KeptDocument:
    """
    The newest document of a node.

    Attributes:
        packed: All of it, compressed (zlib).
        signature: The content of its signature's file; None if there was none.
    """

    packed: bytes = field(repr=False)
    signature: bytes | None = field(repr=False)

    @classmethod
    def of(cls, document: bytes, signature: bytes | None) -> KeptDocument:
        """
        One to keep. Blocks: 4 ms for 180 KB, of which a tenth is left.
        """
        return cls(zlib.compress(document, _LEVEL), signature)

    @property
    def document(self) -> bytes:
        """
        The document, not compressed.
        """
        return zlib.decompress(self.packed)


@frozen
class NodesAt:
    """
    Nodes, all as they were at one moment.

    Attributes:
        generation: A number that grows whenever `Node.follows` of any node changes.
        nodes: In the order of their ids.
    """

    generation: int
    nodes: tuple[Node, ...]


@frozen
class OtherNode:
    """
    A node that is not accepted, as far as connections are concerned.

    Attributes:
        node_id: Its id.
        status: Where it stands.
        digest: The SHA digest of its key, as it is printed; None if it has none.
    """

    node_id: str
    status: Status
    digest: str | None


@frozen
class NodeNews:
    """
    What has changed since somebody looked last, all of one moment.

    Attributes:
        generation: As for `NodesAt`.
        whole: Whether this is all there is, and what was known before is to be
            forgotten.
        accepted: The accepted nodes among those that have changed.
        others: The others among them.
        number: How many keys were withdrawn in all.
        withdrawn: Those that were since, in order.
    """

    generation: int
    whole: bool
    accepted: tuple[Node, ...]
    others: tuple[OtherNode, ...]
    number: int
    withdrawn: tuple[WithdrawnKey, ...]
