# SPDX-License-Identifier: MIT
"""
The entries of a rule's lists, and the lists of host names and of keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from attrs import field, frozen

from nodecomm.access.patterns import Pattern, has_regex
from nodecomm.config.errors import Origin

__all__ = [
    "CONNECTION_HOSTNAME",
    "CONNECTION_IP",
    "CONNECTION_KEY",
    "Entry",
    "HostnameEntry",
    "HostnameList",
    "KeyList",
    "legacy_hostnames",
    "parse_hostname",
    "parse_key",
]

#: Words that stand for the peer's own address, host name and key.
#: Source: CFEngine 3.21, the special variables of access promises.
CONNECTION_IP = "$(connection.ip)"
CONNECTION_HOSTNAME = "$(connection.hostname)"
CONNECTION_KEY = "$(connection.key)"

_KEY = re.compile(r"MD5=[0-9a-f]{32}\Z|SHA=[0-9a-f]{64}\Z")
_NAME = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")
_ADDRESS = re.compile(r"[0-9./-]+\Z|[0-9a-fA-F:./-]*:[0-9a-fA-F:./-]*\Z")


@frozen
class Entry:
    """
    One entry of a list.

    Attributes:
        text: As it was written.
        origin: Where it was written.
        ineffective: Why it matches nobody; empty for an entry that works.
    """

    text: str
    origin: Origin | None = field(default=None, kw_only=True, eq=False)
    ineffective: str = field(default="", kw_only=True)


@frozen
class HostnameEntry(Entry):
    """
    One entry of a list of host names.

    Attributes:
        name: The name in lower case, or a domain with its dot in front; empty for
            a regular expression.
    """

    name: str = ""
    pattern: Pattern | None = field(default=None, repr=False, eq=False)


def parse_hostname(text: str) -> HostnameEntry:
    """
    Read one entry of a list of host names. Upper and lower case are the same.

    Raises:
        UnsupportedPatternError: It is a regular expression that cannot be evaluated
            exactly.
        ValueError: It can match no host name. The message says what to write.
    """
    if not text or text != text.strip():
        raise ValueError("an empty entry or one with white space matches nobody")
    if text == CONNECTION_HOSTNAME:
        return HostnameEntry(text=text)
    if text.startswith(("MD5=", "SHA=")):
        raise ValueError("this is the digest of a key; write it in a list of keys")
    if _ADDRESS.match(text):
        raise ValueError(
            "this is an address, which no host name equals; write it in a list of "
            "addresses"
        )
    name = text.lower()
    if name.endswith(".") and not has_regex(name):
        raise ValueError(
            f"a host name is compared without a final dot; write '{text[:-1]}'"
        )
    if _NAME.match(name):
        return HostnameEntry(text=text, name=name)
    if not has_regex(text):
        raise ValueError("this is no host name, so it matches nobody")
    return HostnameEntry(text=text, pattern=Pattern(text, fold=True))


def legacy_hostnames(text: str) -> tuple[str, ...]:
    """
    What an entry of the old `admit` and `deny` lists means in a list of host names:
    `.*name` is the name and all below it, `.*\\.name` all below it, and escaped dots
    are dots. Old entries were regular expressions; only these are taken over.

    Source: CFEngine 3.21, what its server makes of the old lists.

    Raises:
        ValueError: It cannot be converted.
    """
    cannot = ValueError(
        "this old-style expression has no counterpart; write it in a list of host "
        "names, where a regular expression is tried on the whole name"
    )
    domain, host, name = True, True, text
    plain = not has_regex(text)
    if plain:
        return (text,)
    if name.startswith("^"):
        domain, name = False, name[1:]
    if name.startswith(".*"):
        domain, name = True, name[2:]
    elif domain and not name.startswith("\\."):
        domain = False
    if name.startswith(("\\.", ".")):
        host, domain = False, True
        name = name[2:] if name.startswith("\\") else name[1:]
    name = name.replace("\\.", ".")
    if not name or name.startswith(".") or not _NAME.match(name.lower()):
        raise cannot
    return (*((name,) if host else ()), *((f".{name}",) if domain else ()))


class HostnameList:
    """
    A list of host names: an equal name, else the longest domain that the name is
    below, else a regular expression on the whole name.

    Unlike CFEngine's, a name or domain is not tried as a regular expression as well,
    which lets `.example.com` admit `xexample.com`.
    """

    __slots__ = ("_names", "_patterns", "entries", "words")

    def __init__(self, entries: Iterable[str | HostnameEntry] = ()) -> None:
        self.entries = tuple(
            parse_hostname(entry) if isinstance(entry, str) else entry
            for entry in entries
        )
        self.words = tuple(e for e in self.entries if e.text == CONNECTION_HOSTNAME)
        self._names: dict[str, HostnameEntry] = {}
        for entry in self.entries:
            if entry.name:
                self._names.setdefault(entry.name, entry)
        self._patterns = tuple(e for e in self.entries if e.pattern is not None)

    @property
    def needs_name(self) -> bool:
        """
        Whether any host name could match.
        """
        return bool(self._names or self._patterns)

    def find(self, hostname: str | None) -> HostnameEntry | None:
        """
        The entry that *hostname* matches, or None; None (no name) matches nothing.
        """
        if not hostname:
            return None
        name = hostname.lower().rstrip(".")
        found = self._names.get(name)
        dot = name.find(".", 1)
        while found is None and dot != -1:
            found = self._names.get(name[dot:])
            dot = name.find(".", dot + 1)
        if found is not None:
            return found
        raw = name.encode("utf-8", "surrogateescape")
        for entry in self._patterns:
            if entry.pattern is not None and entry.pattern.matches(raw):
                return entry
        return None

    def match(self, hostname: str | None) -> str | None:
        """
        The text of the entry that *hostname* matches, or None.
        """
        found = self.find(hostname)
        return found.text if found is not None else None

    def __iter__(self) -> Iterator[HostnameEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"HostnameList({[entry.text for entry in self.entries]!r})"


def parse_key(text: str) -> Entry:
    """
    Read one entry of a list of keys.

    Raises:
        ValueError: No key has this name. The message says what to write.
    """
    if text == CONNECTION_KEY or _KEY.match(text):
        return Entry(text)
    if text.startswith(("MD5=", "SHA=")):
        name, _, digits = text.partition("=")
        want = 32 if name == "MD5" else 64
        if _KEY.match(f"{name}={digits.lower()}"):
            raise ValueError(
                f"digests are compared exactly; write '{name}={digits.lower()}'"
            )
        raise ValueError(f"after {name}= stand {want} lower-case hexadecimal digits")
    raise ValueError(
        "a key is written as MD5= and 32, or SHA= and 64 lower-case hexadecimal "
        "digits (`nodecomm key show` prints both)"
    )


class KeyList:
    """
    A list of key digests, compared exactly with both names of the peer's key.
    """

    __slots__ = ("_digests", "entries", "words")

    def __init__(self, entries: Iterable[str | Entry] = ()) -> None:
        self.entries = tuple(
            parse_key(entry) if isinstance(entry, str) else entry for entry in entries
        )
        self.words = tuple(e for e in self.entries if e.text == CONNECTION_KEY)
        self._digests = {
            e.text: e for e in self.entries if not e.ineffective and e not in self.words
        }

    def find(self, digests: Iterable[str]) -> Entry | None:
        """
        The entry that is one of *digests*, or None.
        """
        for digest in digests:
            found = self._digests.get(digest)
            if found is not None:
                return found
        return None

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"KeyList({[entry.text for entry in self.entries]!r})"
