# SPDX-License-Identifier: MIT
"""
The lists of `[server]` in CFEngine's policy language: `body server control`, with what
makes a file that `cf-serverd` runs with alone.

Source: CFEngine 3.21, observed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nodecomm.access.export_cfengine import LeftOut, string_list
from nodecomm.access.export_entries import UnsayableError, address_entries, quoted
from nodecomm.access.networks import AddressList, parse_entry
from nodecomm.access.snapshot import Snapshot
from nodecomm.config.model import ServerSettings, Settings

__all__ = ["Control"]

#: An entry that no peer's address matches. An empty list may mean everybody.
_NOBODY = "0.0.0.0"  # noqa: S104

_LISTEN = re.compile(r"(tcp6?):(?:port=)?(\d+)((?::.*)?)", re.DOTALL)
_INTERFACE = re.compile(r":interface=((?:\\.|[^:\\])*)", re.DOTALL)

#: A command of such words is the same for whoever divides it.
_WORDS = re.compile(r"[A-Za-z0-9_@%+=:,./-]+( [A-Za-z0-9_@%+=:,./-]+)*")

_USERS = (
    "trustusers: with cf-serverd a key that comes from trustkeysfrom is trusted under "
    "any user name"
)


class Control:
    """
    `body server control` of a configuration without errors.

    Args:
        settings: The configuration.
        snapshot: Its lists.

    Attributes:
        policy: The bodies and the bundle that make a whole policy.
        left_out: What they do not say.
        notes: Where `cf-serverd` differs whatever is said.
    """

    def __init__(self, settings: Settings, snapshot: Snapshot) -> None:
        self.left_out: list[LeftOut] = []
        self.notes: list[str] = []
        self._settings = settings
        attributes = dict(self._attributes(settings.server, snapshot))
        lines = b"".join(
            b"  %s => %s;\n" % (name.encode(), value)
            for name, value in attributes.items()
        )
        self.policy = (
            b'body common control\n{\n  bundlesequence => { "main" };\n}\n\n'
            b"bundle agent main\n{\n}\n\n"
            b"body server control\n{\n" + lines + b"}\n\n"
        )

    def _attributes(
        self, server: ServerSettings, snapshot: Snapshot
    ) -> Iterator[tuple[str, bytes]]:
        yield from self._listen(server.listen)
        denied, unsaid = self._entries("denyconnects", snapshot.denyconnects)
        if unsaid:
            self._tell(
                "denyconnects", "since a part of it is missing, nobody may connect"
            )
            yield "allowconnects", string_list([_NOBODY])
        elif len(snapshot.allowconnects):
            allowed, _ = self._entries("allowconnects", snapshot.allowconnects)
            yield "allowconnects", string_list(allowed or [_NOBODY])
        if denied:
            yield "denyconnects", string_list(denied)
        several, _ = self._entries("allowallconnects", snapshot.allowallconnects)
        if several:
            yield "allowallconnects", string_list(several)
        yield from self._legacy(snapshot)
        trusted = list(self._trusted(server))
        if trusted:
            self.notes.append(_USERS)
            yield "trustkeysfrom", string_list(trusted)
        if server.allowusers:
            yield "allowusers", string_list(server.allowusers)
        yield "maxconnections", quoted(str(server.maxconnections).encode())
        if not server.denybadclocks:
            yield "denybadclocks", b'"false"'
        if server.allowciphers != ServerSettings().allowciphers:
            yield "allowciphers", quoted(server.allowciphers.encode())
        yield "allowtlsversion", quoted(server.allowtlsversion.encode())
        yield from self._command(server)

    def _listen(self, listen: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        said = False
        for text in listen:
            found = _LISTEN.fullmatch(text)
            if found is None or said:
                why = "cf-serverd listens on one port only"
                if found is None:
                    why = "only tcp and tcp6 with a port can be said"
                self._tell("listen", f"{text} is missing: {why}")
                continue
            said = True
            yield "port", quoted(found[2].encode())
            place = _INTERFACE.search(found[3])
            if place is not None:
                address = re.sub(r"\\(.)", r"\1", place[1])
                yield "bindtointerface", quoted(address.encode())
            elif found[1] == "tcp":
                yield "bindtointerface", quoted(_NOBODY.encode())

    def _legacy(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
        name = "allowlegacyconnects"
        entries, _ = self._entries(name, snapshot.allowlegacyconnects)
        if not entries:
            return
        rules = (*snapshot.rules, *snapshot.names)
        if any(len(rule.deny_keys) or rule.uses_hostnames for rule in rules) or (
            snapshot.node_rules.legacy_hosts
        ):
            self._tell(
                name,
                "it is missing: over the classic protocol cf-serverd knows no keys and "
                "believes the peer what it is called, and there are rules with "
                "deny_keys or host names",
            )
            return
        yield name, string_list(entries)

    def _entries(self, name: str, entries: AddressList) -> tuple[list[str], bool]:
        said: list[str] = []
        unsaid = False
        for entry in entries:
            try:
                said.extend(address_entries(entry))
            except UnsayableError as error:
                unsaid = True
                self._tell(name, f'entry "{entry.text}": {error}')
        return said, unsaid

    def _trusted(self, server: ServerSettings) -> Iterator[str]:
        for window in server.trustkeysfrom:
            if window.until is not None or window.count is not None:
                self._tell(
                    "trustkeysfrom",
                    f"{window.network} is missing: there a window has no end",
                )
                continue
            try:
                yield from address_entries(parse_entry(window.network, acl=False))
            except ValueError as error:
                self._tell("trustkeysfrom", f"{window.network} is missing: {error}")

    def _command(self, server: ServerSettings) -> Iterator[tuple[str, bytes]]:
        command = server.cfruncommand
        if not command:
            return
        text = command if isinstance(command, str) else " ".join(command)
        words = isinstance(command, str) or not any(" " in word for word in command)
        if text == "sync" or not words or not _WORDS.fullmatch(text):
            self._tell(
                "cfruncommand",
                f"{text} is missing, so nobody may have it run: only a program with "
                "plain words is understood there as here",
            )
            return
        if server.cfrunuser is not None:
            self._tell(
                "cfrunuser",
                "cf-serverd runs what it is asked for as itself, so cfruncommand is "
                "missing, too",
            )
            return
        yield "cfruncommand", quoted(text.encode())

    def _tell(self, key: str, text: str) -> None:
        origin = self._settings.nearest_origin(f"server.{key}")
        place = f" ({origin.file}:{origin.line})" if origin and origin.line else ""
        self.left_out.append(LeftOut(f"server.{key}{place}", text))
