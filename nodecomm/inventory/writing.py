# SPDX-License-Identifier: MIT
"""
The document of an inventory, written; and one that another program wrote, completed.

A document is XML of a form that FusionInventory made: `REQUEST` holds `CONTENT`, below
which repeated things are siblings of the same name. What makes it an inventory of a
node, and not only of a machine, is its section `RUDDER`: the node's id and key, its
agent and its policy server. Programs that only know machines leave that out;
`complete_document` adds it and leaves every other byte as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from xml.parsers import expat

from attrs import frozen

from nodecomm.inventory.elements import longest_text
from nodecomm.inventory.model import (
    Address,
    Agent,
    Bios,
    Filesystem,
    Hardware,
    Interface,
    Inventory,
    MemorySlot,
    OperatingSystem,
    Processor,
    Software,
    SoftwareUpdate,
    Storage,
)
from nodecomm.wire.text import safe

__all__ = [
    "IncompleteDocument",
    "NodeSection",
    "complete_document",
    "plain",
    "write_inventory",
]

#: What XML 1.0 cannot carry in any form, not even as a reference.
_UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: What is markup, and what a parser would change: it reads a carriage return as the
#: end of a line.
_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_ESCAPES = str.maketrans(_MARKUP)

_BLANKS = re.compile("[ \t]+")

_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)")

#: How LOGDATE is written; civil time of the node, the zone stands elsewhere.
_LOGDATE = "%Y-%m-%d %H:%M:%S"

#: Encodings in which the characters of ASCII are what they are in ASCII, so that what
#: is added is right whatever the rest holds. Others are not met.
_ENCODINGS = frozenset({"utf-8", "us-ascii", "iso-8859-1", "iso-8859-15"})

#: Levels of elements in a document that is completed; real ones have five.
_DEEPEST = 64

#: For each class of the model, its attributes and the elements that they are written
#: as, in the order of documents in the field.
#: Source: FusionInventory 2.6, and what Rudder 8.3 reads of it.
_BIOS = {
    "bios_date": "BDATE",
    "bios_maker": "BMANUFACTURER",
    "bios_version": "BVERSION",
    "board_maker": "MMANUFACTURER",
    "maker": "SMANUFACTURER",
    "model": "SMODEL",
    "serial": "SSN",
}
_CPUS = {
    "architecture": "ARCH",
    "cores": "CORE",
    "maker": "MANUFACTURER",
    "name": "NAME",
    "speed": "SPEED",
    "threads": "THREAD",
}
_DRIVES = {
    "kind": "FILESYSTEM",
    "free": "FREE",
    "letter": "LETTER",
    "files": "NUMFILES",
    "total": "TOTAL",
    "mount": "TYPE",
    "device": "VOLUMN",
}
_HARDWARE = {
    "architecture": "ARCHNAME",
    "last_login": "DATELASTLOGGEDUSER",
    "last_user": "LASTLOGGEDUSER",
    "memory": "MEMORY",
    "name": "NAME",
    "os_comments": "OSCOMMENTS",
    "os_version": "OSVERSION",
    "swap": "SWAP",
    "machine_id": "UUID",
    "virtual_system": "VMSYSTEM",
}
_MEMORIES = {
    "capacity": "CAPACITY",
    "caption": "CAPTION",
    "description": "DESCRIPTION",
    "slot": "NUMSLOTS",
    "serial": "SERIALNUMBER",
    "speed": "SPEED",
    "kind": "TYPE",
}
_OPERATINGSYSTEM = {
    "architecture": "ARCH",
    "fqdn": "FQDN",
    "full_name": "FULL_NAME",
    "kernel_name": "KERNEL_NAME",
    "kernel_version": "KERNEL_VERSION",
    "name": "NAME",
    "service_pack": "SERVICE_PACK",
    "version": "VERSION",
}
_SOFTWARES = {
    "comments": "COMMENTS",
    "name": "NAME",
    "publisher": "PUBLISHER",
    "source_name": "SOURCE_NAME",
    "source_version": "SOURCE_VERSION",
    "version": "VERSION",
}
_SOFTWAREUPDATES = {
    "architecture": "ARCH",
    "date": "DATE",
    "description": "DESCRIPTION",
    "origin": "FROM",
    "identifier": "ID",
    "kind": "KIND",
    "name": "NAME",
    "severity": "SEVERITY",
    "source": "SOURCE",
    "version": "VERSION",
}
_STORAGES = {
    "description": "DESCRIPTION",
    "size": "DISKSIZE",
    "firmware": "FIRMWARE",
    "maker": "MANUFACTURER",
    "model": "MODEL",
    "name": "NAME",
    "serial": "SERIALNUMBER",
    "kind": "TYPE",
}

_Described = (
    Bios
    | Filesystem
    | Hardware
    | MemorySlot
    | OperatingSystem
    | Processor
    | Software
    | SoftwareUpdate
    | Storage
)


class IncompleteDocument(ValueError):  # noqa: N818
    """
    This document cannot be completed. The text says why; what made the document should
    be looked at.
    """


@frozen(kw_only=True)
class NodeSection:
    """
    The section `RUDDER`: what makes a node of a machine. The attributes are those of
    `Inventory`.
    """

    node_id: str
    hostname: str
    owner: str
    policy_server_id: str
    agent: Agent
    policy_server_hostname: str | None = None
    capabilities: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    properties: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, inventory: Inventory) -> NodeSection:
        """
        The section of an inventory.
        """
        return cls(
            node_id=inventory.node_id,
            # The other name comes from a property, which is written as well.
            hostname=inventory.original_hostname or inventory.hostname,
            owner=inventory.owner,
            policy_server_id=inventory.policy_server_id,
            agent=inventory.agent,
            policy_server_hostname=inventory.policy_server_hostname,
            capabilities=inventory.capabilities,
            roles=inventory.roles,
            properties=inventory.properties,
        )


@frozen
class _Element:
    """
    An element with text or with elements. Those without either are not written.
    """

    name: str
    content: str | Sequence[_Element]

    @property
    def is_empty(self) -> bool:
        return not self.content

    def lines(self, indent: str) -> Iterator[str]:
        if isinstance(self.content, str):
            text = self.content.translate(_ESCAPES)
            yield f"{indent}<{self.name}>{text}</{self.name}>\n"
            return
        yield f"{indent}<{self.name}>\n"
        for child in self.content:
            if not child.is_empty:
                yield from child.lines(indent + "  ")
        yield f"{indent}</{self.name}>\n"


def plain(text: str) -> str:
    """
    *text* as a reader of the document gets it: trimmed, runs of blanks as one, and in
    place of each character that XML cannot carry (controls, lone surrogates) `\\xNN`
    for each byte of it.
    """
    found = _UNSPEAKABLE.sub(lambda match: safe(match[0]), text)
    return _BLANKS.sub(" ", found).strip()


def write_inventory(inventory: Inventory) -> bytes:
    """
    The document that says what *inventory* says. Texts are written as `plain` has
    them, as much of each as a server reads; what is None or empty is left out.
    """
    content = _Element("CONTENT", [x for x in _content(inventory) if not x.is_empty])
    request = _Element(
        "REQUEST",
        [
            content,
            _Element("DEVICEID", plain(inventory.device_id)),
            _Element("QUERY", "INVENTORY"),
        ],
    )
    lines = ['<?xml version="1.0" encoding="UTF-8" ?>\n', *request.lines("")]
    return "".join(lines).encode()


def complete_document(document: bytes, section: NodeSection, now: datetime) -> bytes:
    """
    Add a node's section to a document of a machine, and the date if it has none; every
    other byte stays.

    Args:
        document: As another program wrote it, for example Debian's
            `fusioninventory-inventory`.
        section: What is added.
        now: When it was made, for documents that do not say it; with a zone.

    Raises:
        IncompleteDocument: It is no document of that form, or it has such a section
            already. Whether a server takes the rest is for its reader to say.
    """
    found = _Places.of(document)
    added = [_rudder(section)]
    if "REQUEST/CONTENT/ACCESSLOG/LOGDATE" not in found.paths:
        # Without a zone a reader takes it for UTC.
        has_zone = "REQUEST/CONTENT/OPERATINGSYSTEM/TIMEZONE/OFFSET" in found.paths
        moment = now if has_zone else now.astimezone(timezone.utc)
        logdate = _Element("LOGDATE", moment.strftime(_LOGDATE))
        added.insert(0, _Element("ACCESSLOG", [logdate]))
    text = "".join(line for each in added for line in each.lines("    "))
    # References for all that is not ASCII, whatever the document's encoding is.
    piece = text.encode("ascii", "xmlcharrefreplace")
    if b"\r\n" in document:
        piece = piece.replace(b"\n", b"\r\n")
    # What the end tag is indented with stays in front of it.
    head = document[: found.end].rstrip(b" \t")
    return head + piece + document[len(head) :]


def _content(inventory: Inventory) -> Iterator[_Element]:
    """
    What stands below CONTENT, in the order of its names.
    """
    if inventory.written is not None:
        zone = _zone(inventory.os.offset)
        logdate = inventory.written.astimezone(zone).strftime(_LOGDATE)
        yield _Element("ACCESSLOG", [_Element("LOGDATE", logdate)])
    yield _described("BIOS", inventory.bios, _BIOS)
    for processor in inventory.processors:
        yield from [_described("CPUS", processor, _CPUS)] * processor.quantity
    for filesystem in inventory.filesystems:
        yield _described("DRIVES", filesystem, _DRIVES)
    yield _described("HARDWARE", inventory.hardware, _HARDWARE)
    for user in inventory.users:
        yield _Element("LOCAL_USERS", _texts([("LOGIN", user)]))
    for slot in inventory.memories:
        yield _described("MEMORIES", slot, _MEMORIES)
    for interface in inventory.interfaces:
        yield from _networks(interface)
    zone_facts = [("NAME", inventory.os.time_zone), ("OFFSET", inventory.os.offset)]
    system = _described("OPERATINGSYSTEM", inventory.os, _OPERATINGSYSTEM)
    time_zone = _Element("TIMEZONE", _texts(zone_facts))
    yield _Element(system.name, [*_children(system), time_zone])
    yield _rudder(NodeSection.of(inventory))
    for software in inventory.software:
        yield _described("SOFTWARES", software, _SOFTWARES)
    for update in inventory.updates:
        yield _described("SOFTWAREUPDATES", update, _SOFTWAREUPDATES)
    for storage in inventory.storages:
        yield _described("STORAGES", storage, _STORAGES)
    yield from _texts([("VERSIONCLIENT", inventory.client)])


def _networks(interface: Interface) -> Iterator[_Element]:
    """
    An element for each address, all with the facts of the interface.
    """
    for address in interface.addresses or (None,):
        yield _Element(
            "NETWORKS",
            _texts(
                [
                    ("DESCRIPTION", interface.name),
                    *_address(address),
                    ("MACADDR", interface.mac),
                    ("SPEED", interface.speed),
                    ("STATUS", interface.status),
                    ("TYPE", interface.kind),
                ]
            ),
        )


def _address(address: Address | None) -> Iterator[tuple[str, str | None]]:
    if address is None:
        return
    which = "6" if ":" in address.address else ""
    yield f"IPADDRESS{which}", address.address
    if not which:
        # The form has no place for routers of IPv6.
        yield "IPGATEWAY", address.gateway
    yield f"IPMASK{which}", address.mask
    yield f"IPSUBNET{which}", address.subnet


def _rudder(section: NodeSection) -> _Element:
    agent = section.agent
    capabilities = [("AGENT_CAPABILITY", each) for each in section.capabilities]
    roles = [("SERVER_ROLE", each) for each in section.roles]
    return _Element(
        "RUDDER",
        [
            _Element(
                "AGENT",
                _texts(
                    [
                        ("AGENT_CERT", agent.certificate),
                        ("AGENT_NAME", agent.name),
                        ("CFENGINE_KEY", agent.key),
                        ("OWNER", section.owner),
                        ("POLICY_SERVER_HOSTNAME", section.policy_server_hostname),
                        ("POLICY_SERVER_UUID", section.policy_server_id),
                    ]
                ),
            ),
            _Element("AGENT_CAPABILITIES", _texts(capabilities)),
            *_texts([("AGENT_VERSION", agent.version)]),
            *_texts([("CUSTOM_PROPERTIES", _properties(section.properties))]),
            *_texts([("HOSTNAME", section.hostname)]),
            _Element("SERVER_ROLES", _texts(roles)),
            *_texts([("UUID", section.node_id)]),
        ],
    )


def _properties(properties: Sequence[Mapping[str, Any]]) -> str:
    """
    The properties as JSON in which a reader that folds blanks changes nothing: all
    blanks stand inside strings, and no two side by side.
    """
    if not properties:
        return ""
    text = json.dumps([dict(each) for each in properties], separators=(",", ":"))
    return text.replace("  ", " \\u0020")


def _described(name: str, value: _Described, elements: Mapping[str, str]) -> _Element:
    """
    The element of a value, and in it those of its attributes.
    """
    facts = ((tag, getattr(value, attribute)) for attribute, tag in elements.items())
    return _Element(name, _texts(facts))


def _texts(facts: Iterable[tuple[str, str | int | None]]) -> list[_Element]:
    found = [
        # A server would refuse all of it for one text that is too long.
        _Element(name, plain(str(value))[: longest_text(name)].rstrip())
        for name, value in facts
        if value is not None
    ]
    return [each for each in found if not each.is_empty]


def _children(element: _Element) -> Sequence[_Element]:
    return () if isinstance(element.content, str) else element.content


def _zone(offset: str | None) -> timezone:
    """
    The zone in which a reader takes LOGDATE: the one of the document, else UTC.
    """
    found = _OFFSET.fullmatch(offset or "")
    if found is None:
        return timezone.utc
    size = timedelta(hours=int(found[2]), minutes=int(found[3]))
    if size >= timedelta(days=1):
        return timezone.utc
    return timezone(-size if found[1] == "-" else size)


class _Places:
    """
    What a document holds, and where its CONTENT ends.

    Attributes:
        paths: Every path of elements that have text.
        end: Where the end tag of CONTENT begins.
    """

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.end = -1
        self._open: list[str] = []
        self._names: dict[str, int] = {}
        self._parser = expat.ParserCreate(intern={})
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._stop
        self._parser.CharacterDataHandler = self._text
        self._parser.XmlDeclHandler = self._declared
        self._parser.StartDoctypeDeclHandler = self._doctype

    @classmethod
    def of(cls, document: bytes) -> _Places:
        """
        Raises:
            IncompleteDocument: As in `complete_document`.
        """
        found = cls()
        found.read(document)
        return found

    def read(self, document: bytes) -> None:
        """
        Parse the document, and see that the section is all that it lacks in form.
        """
        if document[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in document[:4]:
            raise IncompleteDocument("a document in UTF-16; it has to be in UTF-8")
        try:
            self._parser.Parse(document, True)
        except expat.ExpatError as error:
            msg = f"no XML: {error}"
            raise IncompleteDocument(msg) from error
        if self._names.get("RUDDER"):
            raise IncompleteDocument("it has a section RUDDER already")
        if self._names.get("REQUEST/CONTENT") != 1:
            msg = "no inventory: there is no one element REQUEST/CONTENT"
            raise IncompleteDocument(msg)
        if not document.startswith(b"</CONTENT", self.end):
            raise IncompleteDocument("the element REQUEST/CONTENT is empty")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._open.append(name)
        if len(self._open) > _DEEPEST:
            raise IncompleteDocument(f"more than {_DEEPEST} elements in each other")
        for known in ("/".join(self._open[:3]), name if name == "RUDDER" else ""):
            self._names[known] = self._names.get(known, 0) + 1

    def _stop(self, name: str) -> None:
        if self._open == ["REQUEST", "CONTENT"]:
            self.end = self._parser.CurrentByteIndex
        self._open.pop()

    def _text(self, text: str) -> None:
        if not text.isspace():
            self.paths.add("/".join(self._open))

    def _declared(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            msg = f"a document in {safe(encoding)}; it has to be in UTF-8"
            raise IncompleteDocument(msg)

    def _doctype(self, *what: object) -> None:
        raise IncompleteDocument("a document type (<!DOCTYPE) is refused")
