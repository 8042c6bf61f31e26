# SPDX-License-Identifier: MIT
"""
The lists of rules and of connections, as the configuration writes them.

An entry that cannot be evaluated exactly is an error in a deny list and a warning in an
admit list, where it matches nobody. An entry that could never match anything is an
error in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypedDict, TypeVar

from attrs import evolve

from nodecomm.access.entries import (
    Entry,
    HostnameEntry,
    HostnameList,
    KeyList,
    legacy_hostnames,
    parse_hostname,
    parse_key,
)
from nodecomm.access.findings import Findings
from nodecomm.access.networks import AddressList, AddressPattern, parse_entry
from nodecomm.access.patterns import UnsupportedPatternError
from nodecomm.config.model import AccessSettings

__all__ = ["ListReader", "RuleLists"]

#: Characters of an entry of the old `admit` and `deny` lists that is taken for an
#: address. Source: CFEngine 3.21, how its server sorts those entries.
_LEGACY_ADDRESS = frozenset("0123456789abcdef.:/[-]*()\\")

_E = TypeVar("_E", bound=Entry)


class RuleLists(TypedDict):
    """
    The lists of one rule, as arguments of `Rule`.
    """

    admit_ips: AddressList
    admit_hostnames: HostnameList
    admit_keys: KeyList
    deny_ips: AddressList
    deny_hostnames: HostnameList
    deny_keys: KeyList
    maproot: AddressList
    maproot_hostnames: HostnameList


class _Sorted(NamedTuple):
    """
    What the entries of an old list turned out to be.
    """

    addresses: list[AddressPattern]
    hostnames: list[HostnameEntry]
    keys: list[Entry]
    key_positions: list[int]


def _nobody_address(text: str, why: str) -> AddressPattern:
    return AddressPattern(text=text, form="nothing", ineffective=why)


def _nobody_hostname(text: str, why: str) -> HostnameEntry:
    return HostnameEntry(text=text, ineffective=why)


def _nobody_key(text: str, why: str) -> Entry:
    return Entry(text, ineffective=why)


class ListReader:
    """
    Reads lists and tells what is wrong with their entries.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def _entries(
        self,
        key: str,
        texts: Sequence[str],
        read: Callable[[str], _E],
        nobody: Callable[[str, str], _E],
        *,
        deny: bool,
    ) -> Iterator[_E]:
        """
        The entries of one list. One that cannot be evaluated matches nobody.
        """
        for position, text in enumerate(texts):
            yield self._entry(f"{key}[{position}]", text, read, nobody, deny=deny)

    def _entry(
        self,
        key: str,
        text: str,
        read: Callable[[str], _E],
        nobody: Callable[[str, str], _E],
        *,
        deny: bool,
    ) -> _E:
        origin = self._findings.origin(key)
        try:
            entry = read(text)
        except UnsupportedPatternError as error:
            what = f"the regular expression cannot be evaluated: {error}"
            if not deny:
                what += "; the entry matches nobody"
            self._findings.tell(
                key,
                what,
                text,
                "write it without that, or list the alternatives one by one",
                "error" if deny else "warning",
            )
            entry = nobody(text, str(error))
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            self._findings.tell(key, message, text, hint)
            entry = nobody(text, message)
        return evolve(entry, origin=origin)

    def _addresses(
        self, key: str, texts: Sequence[str], *, deny: bool, acl: bool = True
    ) -> tuple[AddressPattern, ...]:
        def read(text: str) -> AddressPattern:
            return parse_entry(text, acl=acl)

        return tuple(self._entries(key, texts, read, _nobody_address, deny=deny))

    def connections(
        self, name: str, texts: Sequence[str], *, deny: bool = False
    ) -> AddressList:
        return self.networks(f"server.{name}", texts, deny=deny)

    def networks(
        self, key: str, texts: Sequence[str], *, deny: bool = False
    ) -> AddressList:
        """
        The list of addresses at *key*, which is not one of a rule.
        """
        return AddressList(self._addresses(key, texts, deny=deny, acl=False))

    def read(self, key: str, table: AccessSettings) -> RuleLists:
        """
        All lists of one table, the old ones sorted into the new ones.
        """
        old_admit = self._legacy(f"{key}.admit", table.admit, deny=False)
        old_deny = self._legacy(f"{key}.deny", table.deny, deny=True)
        maproot = self._legacy(f"{key}.maproot", table.maproot, deny=False)
        for position in maproot.key_positions:
            self._findings.tell(
                f"{key}.maproot[{position}]",
                "maproot takes addresses and host names, no keys",
                table.maproot[position],
            )
        if not (
            *table.admit_ips,
            *table.admit_hostnames,
            *table.admit_keys,
            *table.admit,
        ):
            self._findings.tell(
                key,
                "the rule admits nobody",
                hint="list somebody in admit_ips, admit_hostnames or admit_keys, "
                "unless it is there to close what a rule above it opens",
                severity="warning",
            )
        return RuleLists(
            admit_ips=self._ip_list(key, "admit_ips", table.admit_ips, old_admit),
            admit_hostnames=self._hostname_list(
                key, "admit_hostnames", table.admit_hostnames, old_admit
            ),
            admit_keys=self._key_list(key, "admit_keys", table.admit_keys, old_admit),
            deny_ips=self._ip_list(key, "deny_ips", table.deny_ips, old_deny),
            deny_hostnames=self._hostname_list(
                key, "deny_hostnames", table.deny_hostnames, old_deny
            ),
            deny_keys=self._key_list(key, "deny_keys", table.deny_keys, old_deny),
            maproot=AddressList(maproot.addresses, acl=True),
            maproot_hostnames=HostnameList(maproot.hostnames),
        )

    def _ip_list(
        self, key: str, name: str, texts: Sequence[str], old: _Sorted
    ) -> AddressList:
        deny = name.startswith("deny")
        read = self._addresses(f"{key}.{name}", texts, deny=deny)
        return AddressList((*read, *old.addresses), acl=True)

    def _hostname_list(
        self, key: str, name: str, texts: Sequence[str], old: _Sorted
    ) -> HostnameList:
        deny = name.startswith("deny")
        where = f"{key}.{name}"
        read = self._entries(where, texts, parse_hostname, _nobody_hostname, deny=deny)
        return HostnameList((*read, *old.hostnames))

    def _key_list(
        self, key: str, name: str, texts: Sequence[str], old: _Sorted
    ) -> KeyList:
        deny = name.startswith("deny")
        read = self._entries(f"{key}.{name}", texts, parse_key, _nobody_key, deny=deny)
        return KeyList((*read, *old.keys))

    def _legacy(self, key: str, texts: Sequence[str], *, deny: bool) -> _Sorted:
        """
        The entries of an old list, each in the list that it belongs to.
        """
        result = _Sorted([], [], [], [])
        for position, text in enumerate(texts):
            where = f"{key}[{position}]"
            if text.startswith(("MD5=", "SHA=")):
                result.key_positions.append(position)
                result.keys.append(
                    self._entry(where, text, parse_key, _nobody_key, deny=deny)
                )
            elif text and _LEGACY_ADDRESS.issuperset(text):
                result.addresses.extend(self._addresses_at(where, text, deny=deny))
            else:
                result.hostnames.extend(self._old_hostnames(where, text, deny=deny))
        return result

    def _addresses_at(
        self, where: str, text: str, *, deny: bool
    ) -> Iterator[AddressPattern]:
        def read(text: str) -> AddressPattern:
            try:
                return parse_entry(text, acl=True)
            except UnsupportedPatternError:
                raise
            except ValueError as error:
                raise ValueError(
                    f"made only of the characters of addresses, the entry counts as "
                    f"one: {error}"
                ) from None

        yield self._entry(where, text, read, _nobody_address, deny=deny)

    def _old_hostnames(
        self, where: str, text: str, *, deny: bool
    ) -> Iterator[HostnameEntry]:
        try:
            meant = legacy_hostnames(text)
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            if not deny:
                message += ", so it matches nobody"
            self._findings.tell(
                where, message, text, hint, "error" if deny else "warning"
            )
            origin = self._findings.origin(where)
            yield evolve(_nobody_hostname(text, message), origin=origin)
            return
        for name in meant:
            yield self._entry(where, name, parse_hostname, _nobody_hostname, deny=deny)
