# SPDX-License-Identifier: MIT
"""
An inventory out of its XML.

Source: the documents that Rudder 4.1 to 9.0 sends, and what its server takes of them:
`REQUEST/CONTENT`, in it repeated elements as siblings and one `RUDDER`.

What is odd and harmless is tolerated: elements that are not known, in any order, empty
or doubled; addresses and numbers that are none (they are left out). What says who the
node is must be there, once, and make sense.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from nodecomm.inventory.elements import Element, read_elements
from nodecomm.inventory.limits import DocumentLimits, DocumentRefused
from nodecomm.inventory.model import (
    AGENT_COMMUNITY,
    AGENT_WINDOWS,
    Agent,
    Inventory,
    OperatingSystem,
    Software,
)
from nodecomm.inventory.sections import (
    read_bios,
    read_filesystems,
    read_hardware,
    read_interfaces,
    read_memories,
    read_processors,
    read_software,
    read_storages,
    read_updates,
    read_users,
)

__all__ = [
    "OVERRIDE_PROPERTY",
    "check_node_id",
    "is_hostname",
    "read_document",
]

#: The property that replaces the host name.
#: Source: Rudder 6.0.
OVERRIDE_PROPERTY = "rudder_override_hostname"

#: The section that makes the document one of a node.
_RUDDER = ["REQUEST", "CONTENT", "RUDDER"]

#: The children of CONTENT that are read.
_SECTIONS = frozenset(
    {
        "ACCESSLOG",
        "BIOS",
        "CPUS",
        "DRIVES",
        "HARDWARE",
        "LOCAL_USERS",
        "MEMORIES",
        "NETWORKS",
        "OPERATINGSYSTEM",
        "RUDDER",
        "SOFTWARES",
        "SOFTWAREUPDATES",
        "STORAGES",
        "VERSIONCLIENT",
    }
)

#: The children of REQUEST that are read.
_PARTS = frozenset({"CONTENT", "DEVICEID"})

#: Source: Rudder 5.0, the check of a node's id.
_NODE_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-]{0,49}")

#: Source: Rudder 6.0, the check of a host name. `node1..` passes, and exists.
_HOSTNAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]*")

#: What no machine is called for others.
_NO_HOSTNAMES = frozenset({"localhost", "127.0.0.1", "::1"})

#: Characters of a name, an id, a user. Real ones are far shorter.
_NAME_LENGTH = 255

#: Characters of a certificate or key.
_KEY_LENGTH = 64 * 1024

#: Agents of a node. Real ones have one or two.
_AGENTS_READ = 16

#: What an agent may be called, in lower case, and what it is then.
_AGENTS = {
    "cfengine-community": AGENT_COMMUNITY,
    "community": AGENT_COMMUNITY,
    "dsc": AGENT_WINDOWS,
}

#: The package whose version is that of the agent, where nothing else says it: part of
#: its name, in lower case.
_AGENT_PACKAGES = {
    AGENT_COMMUNITY: "rudder-agent",
    AGENT_WINDOWS: "rudder agent (dsc)",
}

#: Words in the names of systems that are known, in lower case. A kernel, a system or a
#: distribution says one of them.
_SYSTEMS = re.compile(
    r"linux|windows|mswin32|aix|solaris|sunos|bsd|darwin|macos|mac os"
)

_OFFSET = re.compile(r"([+-])(\d\d):?([0-5]\d)")


def read_document(data: bytes, limits: DocumentLimits | None = None) -> Inventory:
    """
    The inventory in an XML document, not compressed.

    Blocks: some 20 ms for a document of 180 KB. The age of the document, its
    signature, and whether its key is usable are for others to judge.

    Raises:
        DocumentRefused: It says nothing that could be used; see the codes in
            `docs/inventory.rst`.
    """
    sections = _Sections()
    root = read_elements(data, limits or DocumentLimits(), sections.wanted)
    if root.name != "REQUEST":
        _refuse("not-inventory", f"the root is {_cut(root.name)}, not REQUEST")
    content = _single(root, "CONTENT", "REQUEST/CONTENT")
    if sections.rudder > 1:
        _refuse("ambiguous", f"{sections.rudder} sections RUDDER, not one", "RUDDER")
    rudder = _single(content, "RUDDER", "RUDDER")
    system = content.child("OPERATINGSYSTEM") or Element("OPERATINGSYSTEM")
    software = read_software(content)
    hardware = read_hardware(content)

    node_id = _node_id(rudder)
    os = _system(system, hardware.os_version)
    agent, owner, server_id, server_name = _agent(rudder, software)
    properties = _properties(rudder.text("CUSTOM_PROPERTIES"))
    hostname, original = _hostname(rudder, os.fqdn, properties)
    device_id = root.text("DEVICEID")
    if device_id is None:
        _missing("DEVICEID")
    accesslog = content.child("ACCESSLOG") or Element("ACCESSLOG")
    capabilities = _listed(rudder, "AGENT_CAPABILITIES", "AGENT_CAPABILITY")
    return Inventory(
        node_id=node_id,
        device_id=_short(device_id, "DEVICEID"),
        hostname=hostname,
        original_hostname=original,
        owner=owner,
        policy_server_id=server_id,
        policy_server_hostname=server_name,
        agent=agent,
        os=os,
        written=_moment(accesslog.text("LOGDATE"), os.offset),
        capabilities=tuple(dict.fromkeys(x.lower() for x in capabilities)),
        roles=tuple(_listed(rudder, "SERVER_ROLES", "SERVER_ROLE")),
        properties=properties,
        hardware=hardware,
        bios=read_bios(content),
        interfaces=read_interfaces(content),
        processors=read_processors(content),
        filesystems=read_filesystems(content),
        storages=read_storages(content),
        memories=read_memories(content),
        software=software,
        updates=read_updates(content),
        users=read_users(content),
        client=content.text("VERSIONCLIENT"),
    )


class _Sections:
    """
    Which elements are kept; and how many RUDDER sections there are, anywhere: two
    readers of one document must not believe different ones.
    """

    def __init__(self) -> None:
        self.rudder = 0

    def wanted(self, path: list[str], name: str) -> bool:
        if name == "RUDDER":
            self.rudder += 1
        if len(path) == 1:
            return name in _PARTS
        return len(path) != 2 or name in _SECTIONS


def _refuse(code: str, text: str, element: str = "") -> NoReturn:
    raise DocumentRefused(code, text, element)


def _missing(element: str) -> NoReturn:
    _refuse("missing", f"{element} is missing or empty", element)


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _short(text: str, element: str, limit: int = _NAME_LENGTH) -> str:
    if len(text) > limit:
        _refuse("too-long", f"{element} has more than {limit} characters", element)
    return text


def _single(parent: Element, name: str, element: str) -> Element:
    """
    The only child of this name.
    """
    found = list(parent.children(name))
    if not found:
        _missing(element)
    if len(found) > 1:
        _refuse("ambiguous", f"{len(found)} elements {element}, not one", element)
    return found[0]


def check_node_id(text: str) -> bool:
    """
    Whether a node may have this id: up to 50 letters, digits and hyphens.
    """
    return _NODE_ID.fullmatch(text) is not None


def _node_id(rudder: Element) -> str:
    element = "RUDDER/UUID"
    text = _needed(rudder, "UUID", "RUDDER")
    if not check_node_id(text):
        msg = f"{element} is {_cut(text)}: up to 50 letters, digits and hyphens"
        _refuse("bad-node-id", msg, element)
    return text


def _system(system: Element, hardware_version: str | None) -> OperatingSystem:
    names = [system.text(x) for x in ("FULL_NAME", "KERNEL_NAME", "NAME")]
    if not any(names):
        _missing("OPERATINGSYSTEM/NAME")
    full_name, kernel_name, name = names
    if not any(_SYSTEMS.search(x.lower()) for x in names if x):
        told = _cut(kernel_name or name or full_name or "")
        element = "OPERATINGSYSTEM/KERNEL_NAME"
        _refuse("unknown-os", f"{element}: {told} is no system known here", element)
    version = system.text("KERNEL_VERSION")
    if version is None and (kernel_name or "").lower() == "aix":
        # Source: Rudder 2.3, AIX has it there.
        version = hardware_version
    if version is None:
        _missing("OPERATINGSYSTEM/KERNEL_VERSION")
    zone = system.child("TIMEZONE") or Element("TIMEZONE")
    return OperatingSystem(
        kernel_version=version,
        full_name=full_name,
        kernel_name=kernel_name,
        name=name,
        version=system.text("VERSION"),
        service_pack=system.text("SERVICE_PACK"),
        architecture=system.text("ARCH"),
        fqdn=system.text("FQDN"),
        time_zone=zone.text("NAME"),
        offset=zone.text("OFFSET"),
    )


def _agent(
    rudder: Element, software: Iterable[Software]
) -> tuple[Agent, str, str, str | None]:
    """
    The first usable agent, its owner, the id of its policy server, and that one's name.
    When none is usable, the first one's fault is told.
    """
    first: DocumentRefused | None = None
    version = rudder.text("AGENT_VERSION")
    # Looked up once, not once for each agent: a document may name thousands of either.
    versions = _package_versions(software) if version is None else {}
    for number, element in enumerate(rudder.children("AGENT")):
        if number == _AGENTS_READ:
            msg = f"more than {_AGENTS_READ} elements RUDDER/AGENT, none usable so far"
            _refuse("too-many-elements", msg, "RUDDER/AGENT")
        try:
            return _one_agent(element, version, versions)
        except DocumentRefused as error:
            first = first or error
    if first is None:
        _missing("RUDDER/AGENT")
    raise first


def _package_versions(software: Iterable[Software]) -> dict[str, str]:
    """
    For each kind of agent whose package is installed, its version: the first one's.
    """
    found: dict[str, str] = {}
    for package in software:
        name = package.name.lower()
        for kind, part in _AGENT_PACKAGES.items():
            if package.version and kind not in found and part in name:
                found[kind] = package.version
    return found


def _one_agent(
    element: Element, version: str | None, versions: Mapping[str, str]
) -> tuple[Agent, str, str, str | None]:
    path = "RUDDER/AGENT"
    owner = _needed(element, "OWNER", path)
    server_id = _needed(element, "POLICY_SERVER_UUID", path)
    told = _needed(element, "AGENT_NAME", path)
    name = _AGENTS.get(told.lower())
    if name is None:
        where = f"{path}/AGENT_NAME"
        known = ", ".join(_AGENTS)
        _refuse("unknown-agent", f"{where}: {_cut(told)} is none of {known}", where)
    # Agents with two of them exist; the first key that is whole will count.
    certificate = _joined(element, "AGENT_CERT")
    key = _joined(element, "AGENT_KEY") or _joined(element, "CFENGINE_KEY")
    if certificate is None and (key is None or name == AGENT_WINDOWS):
        _missing(f"{path}/AGENT_CERT")
    for text, where in ((certificate, "AGENT_CERT"), (key, "CFENGINE_KEY")):
        _short(text or "", f"{path}/{where}", _KEY_LENGTH)
    if version is None:
        version = versions.get(name)
    if version is None:
        _missing("RUDDER/AGENT_VERSION")
    server_name = element.text("POLICY_SERVER_HOSTNAME")
    agent = Agent(name=name, version=version, certificate=certificate, key=key)
    return agent, owner, server_id, server_name


def _needed(element: Element, name: str, path: str) -> str:
    """
    The text of what must be there once.
    """
    where = f"{path}/{name}"
    found = {x.words() for x in element.children(name)} - {None}
    if len(found) > 1:
        _refuse("ambiguous", f"{len(found)} different values of {where}", where)
    if not found:
        _missing(where)
    return _short(str(found.pop()), where)


def _joined(element: Element, name: str) -> str | None:
    texts = (x.words() for x in element.children(name))
    return "\n".join(x for x in texts if x) or None


def _listed(parent: Element, outer: str, inner: str) -> Iterator[str]:
    for group in parent.children(outer):
        for element in group.children(inner):
            words = element.words()
            if words is not None:
                yield words


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


def _properties(text: str | None) -> tuple[Mapping[str, Any], ...]:
    """
    The objects of a JSON array; nothing for what is no such array.
    """
    try:
        values = json.loads(
            text or "[]", parse_constant=_no_constant, parse_float=_number
        )
    except (ValueError, RecursionError):
        return ()
    if not isinstance(values, list):
        return ()
    return tuple(value for value in values if isinstance(value, dict))


def is_hostname(text: str) -> bool:
    """
    Whether a node may be called so: letters, digits, `_`, `-` and `.`, not the name
    that every machine has for itself.
    """
    return (
        _HOSTNAME.fullmatch(text) is not None
        and len(text) <= _NAME_LENGTH
        and text.lower() not in _NO_HOSTNAMES
    )


def _hostname(
    rudder: Element, fqdn: str | None, properties: tuple[Mapping[str, Any], ...]
) -> tuple[str, str | None]:
    """
    What the node is called; and what it was called before a property replaced that.
    """
    told = [x for x in (rudder.text("HOSTNAME"), fqdn) if x]
    own = next((x for x in told if is_hostname(x)), None)
    for found in properties:
        other = found.get(OVERRIDE_PROPERTY)
        if isinstance(other, str) and is_hostname(other):
            return other, own
    if own is None:
        where = "RUDDER/HOSTNAME"
        if not told:
            _missing(where)
        msg = f"{where}: {' or '.join(map(_cut, told))} is no name for a node"
        _refuse("bad-hostname", msg, where)
    return own, None


def _moment(date: str | None, offset: str | None) -> datetime | None:
    """
    When the document was made; UTC where there is no offset that makes sense.
    """
    try:
        moment = datetime.strptime(date or "", "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    zone = timezone.utc
    found = _OFFSET.fullmatch(offset or "")
    if found is not None and int(found[2]) < 24:
        minutes = int(found[2]) * 60 + int(found[3])
        zone = timezone(timedelta(minutes=-minutes if found[1] == "-" else minutes))
    try:
        moment = moment.replace(tzinfo=zone)
        moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
    return moment
