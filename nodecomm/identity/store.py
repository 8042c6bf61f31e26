# SPDX-License-Identifier: MIT
"""
Trusted keys in a folder of files, laid out as the real programs lay it out.

`<user>-MD5=<hex>.pub` and `<user>-SHA=<hex>.pub` hold the key of that digest;
`<user>-<address>.pub` is how programs before 3.1 called it. A file copied into the
folder by hand is good for the next connection.

Source: CFEngine 3.21, the `ppkeys` folder and `cf-key`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from attrs import frozen
from twisted.logger import Logger
from zope.interface import implementer

from nodecomm.identity.files import (
    FileState,
    ensure_folder,
    read_small,
    settled,
    state_of,
    sync_folder,
    write_new,
)
from nodecomm.identity.keys import (
    InsaneKey,
    PublicKey,
    UnreadableKey,
    check_sane,
    parse_digest_or_none,
)
from nodecomm.identity.matches import KeyConflict, KeyMatch, StoredKey, UnusableEntry
from nodecomm.identity.users import UntrustedUser, check_user
from nodecomm.interfaces import IKeyStore

__all__ = ["FileKeyStore", "KeyConflict", "KeyMatch", "StoredKey", "UnusableEntry"]

#: What belongs to the machine itself; never a peer's key.
OWN_NAMES = frozenset({"localhost.pub", "localhost.priv"})

_BY_DIGEST = re.compile(r"(.*)-(MD5=[0-9a-f]{32}|SHA=[0-9a-f]{64})\.pub", re.DOTALL)

#: Failures that belong to one file. Others (no descriptors, I/O error) say nothing
#: about the file and go to the caller.
_FILE_FAILURES = frozenset(
    {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.EISDIR}
)


@frozen
class _Name:
    """
    A file name taken apart. Exactly one of digest and address is set.
    """

    name: str
    user: str
    digest: str | None
    address: str | None


@frozen
class _Content:
    """
    What a file held. *key* may be set beside *problem*: a key, but not a usable one.
    """

    state: FileState | None
    settled: bool
    key: PublicKey | None
    problem: str | None


def entry_name(user: str, key: PublicKey) -> str:
    """
    The name of the file that a key is saved in.
    """
    return f"{user}-{key.md5}.pub"


def _parse_name(name: str) -> _Name:
    """
    Take a file name apart.

    Raises:
        ValueError: It is no name of a trusted key; the text says why.
    """
    found = _BY_DIGEST.fullmatch(name)
    if found is not None:
        user, digest = found.groups()
        return _Name(name, check_user(user), digest, None)
    user, dash, address = name.removesuffix(".pub").rpartition("-")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        dash = ""
    if not dash:
        msg = (
            "is not named USER-MD5=DIGEST.pub, USER-SHA=DIGEST.pub or USER-ADDRESS.pub"
        )
        raise ValueError(msg)
    return _Name(name, check_user(user), None, address)


@implementer(IKeyStore)
class FileKeyStore:
    """
    The keys in a folder.

    Its methods block for as long as a local file system needs to stat and read a
    small file; only `add`, `forget` and `remove` wait for the disk.

    Args:
        directory: The folder. It may be missing; then nobody is trusted, and the
            first key added makes it.
        now: Civil time, in seconds since 1970.
        run: How to call what waits for the disk; takes a function without arguments
            and returns its result or a Deferred of it. By default it is called
            at once. `remove` does not use it.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        now: Callable[[], float] = time.time,
        run: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        self.directory = os.fspath(directory)
        self._prefix = os.path.join(self.directory, "")
        self._now = now
        self._run = run
        self._listed: FileState | None = None
        self._listing_settled = False
        self._names: frozenset[str] = frozenset()
        self._parsed: dict[str, _Name] = {}
        self._misfits: dict[str, str] = {}
        self._by_digest: dict[str, dict[str, _Name]] = {}
        self._old_style: dict[str, _Name] = {}
        self._contents: dict[str, _Content] = {}

    def __repr__(self) -> str:
        return f"<FileKeyStore {self.directory}>"

    # IKeyStore

    def known(self, key: PublicKey) -> KeyMatch:
        """
        What is stored for this key, under any user name.

        Raises:
            InsaneKey: It may not be stored.
            OSError: The folder cannot be read.
        """
        named, conflict = self._named_after(key)
        if conflict is not None:
            return KeyMatch("conflict", _users(named), _names(named), conflict)
        found = named or list(self._old_style_with(key))
        if not found:
            return KeyMatch("unknown")
        return KeyMatch("equal", _users(found), _names(found))

    def lookup(self, user: str, key: PublicKey, address: str) -> KeyMatch:
        """
        What is stored for this key under one user name. A file named after the
        peer's address counts only if it holds this very key, and gets its new name
        then.

        Raises:
            InsaneKey: It may not be stored.
            OSError: The folder cannot be read.
        """
        named, conflict = self._named_after(key)
        if conflict is not None:
            return KeyMatch("conflict", _users(named), _names(named), conflict)
        names = tuple(entry.name for entry in named if entry.user == user)
        if names:
            return KeyMatch("equal", _users(named), names)
        replaced = None
        old = self._old_style.get(f"{user}-{address}.pub")
        content = self._content(old.name) if old is not None else None
        if old is not None and content is not None and content.key is not None:
            if content.key == key:
                name = self._adopt(old, key)
                return KeyMatch("equal", _users(named) | {user}, (name,))
            # Source: CFEngine 3.21 renames first and compares then, which leaves
            # another key's file under this key's name.
            replaced = old.name
        found = named or list(self._old_style_with(key))
        return KeyMatch("unknown", _users(found), _names(found), None, replaced)

    def add(self, user: str, key: PublicKey) -> Any:
        """
        Save a key under a user name; its name, or a Deferred of it if the store was
        given a `run`. Saving the same key again changes nothing; no file is ever
        overwritten.

        Raises:
            InsaneKey: It may not be stored.
            UntrustedUser: The name is not acceptable.
            KeyConflict: Another key stands in its place.
            OSError: It could not be written.
        """
        check_user(user)
        named, conflict = self._named_after(key)
        if conflict is not None:
            raise KeyConflict(*conflict.split(" ", 1))
        for entry in named:
            if entry.user == user:
                return entry.name
        work = partial(_save, self.directory, entry_name(user, key), key)
        return work() if self._run is None else self._run(work)

    def remove(self, name: str) -> Sequence[str]:
        """
        Remove entries: the one called *name* (`.pub` may be left out), or all of
        the key whose digest it is. What belongs to the machine itself stays.

        Returns:
            The names of the files removed.
        """
        self._refresh()
        return _unlink(self.directory, self._named_by(name))

    def forget(self, key: PublicKey, *, until: float | None = None) -> Any:
        """
        Remove every entry that holds this whole key; the names of those that there
        were, or a Deferred of them if the store was given a `run`.

        Args:
            key: The key.
            until: Leave entries that came later than this, in seconds since 1970: who
                put them there knew what he did. None: none of them.

        Raises:
            OSError: They could not be removed, or not all of them.
        """
        named, _ = self._named_after(key)
        names = []
        for entry in (*named, *self._old_style_with(key)):
            content = self._content(entry.name)
            state = None if content is None else content.state
            # The inode's own time: `cp -p` sets the other one.
            if until is None or state is None or state[4] <= until * 1e9:
                names.append(entry.name)
        work = partial(_unlink, self.directory, names)
        return work() if self._run is None else self._run(work)

    def entries(self) -> Sequence[StoredKey]:
        """
        All usable entries, in name order.
        """
        self._refresh()
        stored = []
        for name in sorted(self._parsed):
            content = self._content(name)
            if content is None or self._unusable(name, content) is not None:
                continue
            entry = self._parsed[name]
            if content.key is not None:
                path = self._prefix + name
                key = content.key
                stored.append(StoredKey(name, entry.user, key, key.md5, path))
        return stored

    # Beyond the interface

    def unusable(self) -> Sequence[UnusableEntry]:
        """
        The files that vouch for nobody, and why, in name order.
        """
        self._refresh()
        found = dict(self._misfits)
        for name in self._parsed:
            content = self._content(name)
            reason = None if content is None else self._unusable(name, content)
            if reason is not None:
                found[name] = reason
        return [UnusableEntry(name, found[name]) for name in sorted(found)]

    def _unusable(self, name: str, content: _Content) -> str | None:
        digest = self._parsed[name].digest
        if content.problem is not None or content.key is None:
            return content.problem
        if digest is not None and not content.key.matches(digest):
            return f"holds another key, {content.key.md5}"
        return None

    def _named_after(self, key: PublicKey) -> tuple[list[_Name], str | None]:
        """
        The entries named after a digest of this key that hold this key, and what
        else is found under such a name.
        """
        check_sane(key)
        self._refresh()
        equal: list[_Name] = []
        conflict = None
        for digest in key.digests:
            same = self._by_digest.get(digest)
            if same is None:
                continue
            for entry in same.values():
                content = self._content(entry.name)
                if content is None or content.key is None:
                    continue
                if content.key == key:
                    equal.append(entry)
                else:
                    conflict = (
                        f"{entry.name} holds another key, {content.key.bits} bits"
                    )
        return equal, conflict

    def _old_style_with(self, key: PublicKey) -> Iterator[_Name]:
        for entry in self._old_style.values():
            content = self._content(entry.name)
            if content is not None and content.key == key:
                yield entry

    def _named_by(self, name: str) -> list[str]:
        digest = parse_digest_or_none(name)
        if digest is None:
            known = self._parsed.keys() | self._misfits.keys()
            return [x for x in (name, f"{name}.pub") if x in known][:1]
        found = set(self._by_digest.get(digest, {}))
        for entry in self.entries():
            if entry.key.matches(digest):
                found.add(entry.name)
        return sorted(found)

    def _adopt(self, old: _Name, key: PublicKey) -> str:
        """
        Give an old-style file that holds this key its new name.
        """
        name = entry_name(old.user, key)
        try:
            try:
                os.link(self._prefix + old.name, self._prefix + name)
            except FileExistsError:
                # Damaged, else it would have been found; it is not overwritten.
                return old.name
            os.unlink(self._prefix + old.name)
            sync_folder(self.directory)
        except OSError as error:
            self._log.warn(
                "{old} could not be renamed to {new}: {error}",
                old=old.name,
                new=name,
                error=error.strerror,
            )
            return old.name
        self._log.info("{old} is now called {new}", old=old.name, new=name)
        return name

    # The folder and its files, cached

    def _refresh(self) -> None:
        """
        List the folder if it may have changed since it was listed.
        """
        try:
            # Looked at before it is listed: a name that comes in between changes
            # the state that is seen next time.
            state = state_of(os.stat(self.directory))
        except FileNotFoundError:
            state = None
        if state is None:
            names = frozenset[str]()
            self._listing_settled = False
        else:
            if self._listing_settled and state == self._listed:
                return
            names = frozenset(os.listdir(self.directory))
            self._listing_settled = settled(state, self._now())
        self._listed = state
        for name in self._names - names:
            self._forget(name)
        for name in names - self._names:
            self._note(name)
        self._names = names

    def _note(self, name: str) -> None:
        if not name.endswith(".pub") or name in OWN_NAMES or name.startswith("."):
            return
        try:
            entry = _parse_name(name)
        except (UntrustedUser, ValueError) as error:
            self._misfits[name] = str(error)
            return
        self._parsed[name] = entry
        if entry.digest is not None:
            self._by_digest.setdefault(entry.digest, {})[name] = entry
        else:
            self._old_style[name] = entry

    def _forget(self, name: str) -> None:
        self._misfits.pop(name, None)
        self._contents.pop(name, None)
        self._old_style.pop(name, None)
        entry = self._parsed.pop(name, None)
        if entry is not None and entry.digest is not None:
            same = self._by_digest[entry.digest]
            del same[name]
            if not same:
                del self._by_digest[entry.digest]

    def _content(self, name: str) -> _Content | None:
        """
        What a file holds; None when it is gone.
        """
        path = self._prefix + name
        cached = self._contents.get(name)
        try:
            state = state_of(os.stat(path))
        except FileNotFoundError:
            return None
        except OSError:
            # Reading it will say what is wrong.
            state = None
        if cached is not None and cached.settled and cached.state == state:
            return cached
        try:
            content = self._read(path)
        except FileNotFoundError:
            return None
        if content.problem is not None and (
            cached is None or cached.problem != content.problem
        ):
            self._log.warn(
                "key file {path} is passed over: {reason}",
                path=path,
                reason=content.problem,
            )
        self._contents[name] = content
        return content

    def _read(self, path: str) -> _Content:
        state = key = problem = None
        try:
            state, data = read_small(path)
            key = PublicKey.from_pem(data)
            check_sane(key)
        except (InsaneKey, UnreadableKey) as error:
            problem = f"holds no usable key: {error}"
        except ValueError as error:
            problem = str(error)
        except OSError as error:
            if error.errno not in _FILE_FAILURES:
                raise
            problem = f"cannot be read: {error.strerror}"
        still = state is not None and settled(state, self._now())
        return _Content(state, still, key, problem)


def _users(entries: Sequence[_Name]) -> frozenset[str]:
    return frozenset(entry.user for entry in entries)


def _names(entries: Sequence[_Name]) -> tuple[str, ...]:
    return tuple(entry.name for entry in entries)


def _unlink(directory: str, names: Sequence[str]) -> list[str]:
    """
    Remove files, durably, and name those that were there. Any thread may.
    """
    removed = []
    try:
        for name in names:
            try:
                os.unlink(os.path.join(directory, name))
            except FileNotFoundError:
                continue
            removed.append(name)
    finally:
        if removed:
            sync_folder(directory)
    return removed


def _save(directory: str, name: str, key: PublicKey) -> str:
    """
    Write a key under a name nobody has. Blocks for the disk; any thread may.
    """
    ensure_folder(directory)
    if write_new(directory, name, key.to_pem()):
        return name
    # Someone else was first: fine, if it is the same key.
    try:
        _, data = read_small(os.path.join(directory, name))
        stored = PublicKey.from_pem(data)
    except ValueError as error:
        raise KeyConflict(name, f"exists, but {error}") from error
    if stored != key:
        raise KeyConflict(name, f"holds another key, {stored.bits} bits")
    return name
