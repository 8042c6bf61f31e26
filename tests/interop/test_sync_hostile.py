# SPDX-License-Identifier: MIT
"""
Servers that lie, flood or never end: an update says so and touches nothing.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.interop.lying import (
    BLOCK,
    CHARACTER,
    DIFFERENT,
    EQUAL,
    FIFO,
    LINK,
    SOCKET,
    TERMINATOR,
    Lie,
    LyingServer,
    Thing,
    folder,
    frame,
    listing,
    no_lie,
)
from tests.interop.syncing import FULL_ONLY, SyncAgent, leftovers
from tests.interop.trees import Entry, described

#: Exit statuses, as they are documented.
DONE, LOCAL, USAGE, UNREACHABLE, UNTRUSTED, REFUSED, UNVERIFIED = range(7)

_OPEN = (b".", b"..")

#: A server that keeps quiet is not waited for long. Others are: a busy machine is slow.
QUICK = ("--timeout", "2")


class Sandbox:
    """
    A folder whose only changing part is the copy.

    Attributes:
        copy: Where updates go; it has one file.
        node: Who updates.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "sandbox"
        place = self.folder / "place"
        place.mkdir(parents=True)
        self.copy = place / "copy"
        self.copy.mkdir()
        (self.copy / "mine").write_bytes(b"mine\n")
        for victim in (self.folder / "victim", place / "victim", place / "escape.d"):
            victim.mkdir()
            (victim / "file").write_bytes(b"untouched\n")
        self.node = SyncAgent(folder / "node")
        self._outside = self._others()

    def _others(self) -> dict[bytes, Entry]:
        return {
            name: entry
            for name, entry in described(self.folder).items()
            if not name.startswith((b"place/copy", b"place/.copy.nodecomm-"))
        }

    @property
    def names(self) -> set[str]:
        """
        What is in the copy.
        """
        return {os.fsdecode(name) for name in described(self.copy)}

    def check(self) -> None:
        """
        See that nothing outside the copy has changed or come.
        """
        assert self._others() == self._outside
        # As a link the copy is one of two sets.
        sets = {".copy.nodecomm-a", ".copy.nodecomm-b"}
        assert leftovers(self.copy) == (sets if self.copy.is_symlink() else set())


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """
    A sandbox, looked at once more at the end.
    """
    made = Sandbox(tmp_path)
    yield made
    made.check()


def raw_listing(*names: bytes) -> Lie:
    """
    A server whose source has these names, whatever they are.
    """

    def lie(word: bytes, path: bytes) -> bytes | None:
        if word == b"OPENDIR" and path == b"top":
            return listing((*_OPEN, *names))
        if word == b"STAT" and path != b"top":
            return frame(_NUMBERS) + frame(b"OK:")
        return None

    return lie


#: A file of three bytes.
_NUMBERS = b"OK: 0 420 0 0 0 3 1600000000 1600000000 1600000000 0 77 1 5"

_EMPTY = {b"top": folder()}
_ONE = {b"top": folder(b"file"), b"top/file": Thing(content=b"abc")}


def says(word: bytes, answer: bytes, path: bytes = b"top/file") -> Lie:
    """
    A server that answers one request otherwise.
    """

    def lie(asked: bytes, name: bytes) -> bytes | None:
        return answer if (asked, name) == (word, path) else None

    return lie


def _endless_listing(word: bytes, path: bytes) -> Iterator[bytes] | None:
    if word != b"OPENDIR":
        return None
    return (
        frame(
            b"".join(b"%08d\0" % (n * 400 + m) for m in range(400)) + b"\0", more=True
        )
        for n in itertools.count()
    )


def _endless_file(word: bytes, path: bytes) -> Iterator[bytes] | None:
    return itertools.repeat(b"xyz" * 1000) if word == b"GET" else None


def _endless_depth(word: bytes, path: bytes) -> bytes | None:
    numbers = b"OK: 2 493 0 0 0 3 1600000000 1600000000 1600000000 0 %d 1 5"
    if word == b"STAT":
        return frame(numbers % (100 + path.count(b"/"))) + frame(b"OK:")
    return listing((*_OPEN, b"deeper")) if word == b"OPENDIR" else None


class Case(NamedTuple):
    """
    A lie, and how the update has to end.
    """

    things: Mapping[bytes, Thing]
    lie: Lie
    status: int = UNVERIFIED


CASES = {
    "name-with-slash": Case(_EMPTY, raw_listing(b"../escape")),
    "name-with-slash-inside": Case(_EMPTY, raw_listing(b"a/b")),
    "absolute-name": Case(_EMPTY, raw_listing(b"/etc/cron.d/owned")),
    "final-slash": Case(_EMPTY, raw_listing(b"a/")),
    "empty-name": Case(_EMPTY, raw_listing(b"", b"a")),
    "long-name": Case(_EMPTY, raw_listing(b"n" * 256)),
    "listing-without-end": Case(_EMPTY, says(b"OPENDIR", frame(b".\0a\0\0"), b"top")),
    "terminator-and-more": Case(
        _EMPTY,
        says(b"OPENDIR", frame(b".\0" + TERMINATOR + b"\0\0", more=True), b"top"),
    ),
    "listing-that-never-ends": Case(_EMPTY, _endless_listing),
    "depth-that-never-ends": Case(_EMPTY, _endless_depth),
    "content-that-never-ends": Case(_ONE, _endless_file),
    "more-content-than-said": Case(_ONE, says(b"GET", b"xyzw")),
    "much-more-content": Case(_ONE, says(b"GET", bytes(100_000))),
    "other-content": Case(_ONE, says(b"GET", b"xyz")),
    "refusal-as-content": Case(_ONE, says(b"GET", frame(b"BAD: Unspecified"))),
    "digests-always-differ": Case(_ONE, says(b"MD5", frame(DIFFERENT))),
    "digest-answer-with-more": Case(_ONE, says(b"MD5", frame(EQUAL + b"X"))),
    "digest-answer-empty": Case(_ONE, says(b"MD5", b"t 0     ")),
    "file-larger-than-any-disk": Case(
        {b"top": folder(b"file"), b"top/file": Thing(size=2**61)}, no_lie, LOCAL
    ),
    "size-below-zero": Case(
        _ONE, says(b"STAT", frame(_NUMBERS.replace(b" 3 ", b" -3 ")) + frame(b"OK:"))
    ),
    "twelve-numbers": Case(_ONE, says(b"STAT", frame(_NUMBERS[:-2]) + frame(b"OK:"))),
    "no-such-kind": Case(
        _ONE, says(b"STAT", frame(_NUMBERS.replace(b"OK: 0", b"OK: 9")) + frame(b"OK:"))
    ),
    "status-and-garbage": Case(_ONE, says(b"STAT", frame(_NUMBERS) + frame(b"NO"))),
    "no-transaction": Case(_ONE, says(b"STAT", b"garbage that is no header at all")),
    "transaction-too-long": Case(_ONE, says(b"STAT", b"t 999999")),
    "negative-transaction": Case(_ONE, says(b"STAT", b"t -5    ")),
}


#: Those that are enough where there is little time: the others are one more wrong
#: word in a place where one is tried.
FEW = {
    *("name-with-slash", "absolute-name", "listing-without-end"),
    *("listing-that-never-ends", "depth-that-never-ends", "content-that-never-ends"),
    *("other-content", "refusal-as-content", "digests-always-differ"),
    *("digest-answer-with-more", "file-larger-than-any-disk", "twelve-numbers"),
    "no-transaction",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name in FEW else FULL_ONLY)
        for name, case in CASES.items()
    ],
)
def test_a_lie_ends_the_update(sandbox: Sandbox, case: Case) -> None:
    """
    The update fails with the status for what cannot be believed, in a few words, and
    the copy is as it was.
    """
    with LyingServer(case.things, case.lie) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy, "--purge")

    assert done.status == case.status, done
    assert len(done.said) < 2000
    assert sandbox.names == {"mine"}


@pytest.mark.parametrize("surplus", [1, 1_000_000])
def test_what_follows_a_content_is_none_of_it(sandbox: Sandbox, surplus: int) -> None:
    """
    Of a content with more bytes than were announced no more than those become a file,
    and only when a digest that was asked for on another connection agrees.
    """
    with LyingServer(_ONE, says(b"GET", b"abc" + bytes(surplus))) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy)
        asked = list(server.requests)

    assert done.status in (DONE, UNVERIFIED), done
    if done.status == DONE:
        assert (sandbox.copy / "file").read_bytes() == b"abc"
        assert done.facts["connections"] > 1
        assert asked[-1] == (b"MD5", b"top/file")
    else:
        assert sandbox.names == {"mine"}


HELLOS = {
    "nothing-like-it": (b"SSH-2.0-OpenSSH_9.2\r\n", b"OK WELCOME\n"),
    "too-long": (b"CFE_v3 " + b"x" * 5000 + b"\n", b"OK WELCOME\n"),
    "control-characters": (b"CFE_v\x1b[31m\n", b"OK WELCOME\n"),
    "classic-only": (b"CFE_v1 cf-serverd 3.5\n", b"OK WELCOME\n"),
    "no-welcome": (b"CFE_v3 cf-serverd 3.21.0\n", b"GO AWAY\x1b[31m\n"),
}


@pytest.mark.parametrize("lines", HELLOS.values(), ids=HELLOS)
def test_a_server_that_speaks_otherwise(
    sandbox: Sandbox, lines: tuple[bytes, bytes]
) -> None:
    """
    A dialog that goes another way ends the update; nothing that the server says moves
    the terminal.
    """
    hello, welcome = lines
    with LyingServer(_ONE, hello=hello, welcome=welcome) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy, "--purge")

    assert done.status in (UNREACHABLE, REFUSED, UNVERIFIED), done
    assert "\x1b" not in done.said
    assert sandbox.names == {"mine"}


def test_special_names_are_only_names(sandbox: Sandbox) -> None:
    """
    A listing with `.` and `..` twice, and with names that mean something to a shell
    or to an update itself, gives just files of these names.
    """
    names = (b"..", b"...", b"-rf", b"~", b"$(reboot)", b".copy.nodecomm-previous")
    things = {b"top": folder(*names)}
    things |= {b"top/" + name: Thing(content=name) for name in names}
    with LyingServer(things) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy)

    assert done.status == DONE, done
    assert sandbox.names == {"mine", *(os.fsdecode(name) for name in names[1:])}


def test_names_that_come_twice(sandbox: Sandbox) -> None:
    """
    A name that is listed twice is one file, or an error; never half of it.
    """
    things = {b"top": folder(b"file", b"file"), b"top/file": Thing(content=b"abc")}
    with LyingServer(things) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy)

    if done.status == DONE:
        assert sandbox.names == {"mine", "file"}
    else:
        assert done.status == UNVERIFIED
        assert sandbox.names == {"mine"}


def test_devices_are_not_made(sandbox: Sandbox) -> None:
    """
    Fifos, devices and sockets are told about and not made; set-uid bits come as the
    server says, as the real agent takes them.
    """
    kinds = {b"fifo": FIFO, b"disk": BLOCK, b"tty": CHARACTER, b"socket": SOCKET}
    things = {b"top": folder(*kinds, b"suid")}
    things |= {b"top/" + name: Thing(kind) for name, kind in kinds.items()}
    things[b"top/suid"] = Thing(content=b"#!/bin/sh\n", mode=0o4755)
    with LyingServer(things) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy)

    assert sandbox.names == {"mine", "suid"}
    assert len(done.facts["warnings"]) >= 4
    assert stat.S_IMODE((sandbox.copy / "suid").stat().st_mode) == 0o4755


@pytest.mark.parametrize("target", [b"../victim", b"/etc", b"."])
def test_links_are_never_followed(sandbox: Sandbox, target: bytes) -> None:
    """
    A server that says link first and folder afterwards does not get a file written
    where the link leads.
    """
    link = {b"top": folder(b"victim"), b"top/victim": Thing(LINK, target=target)}
    below = {
        b"top": folder(b"victim"),
        b"top/victim": folder(b"file", b"new"),
        b"top/victim/file": Thing(content=b"overwritten\n"),
        b"top/victim/new": Thing(content=b"planted\n"),
    }
    with LyingServer(link) as server:
        first = sandbox.node.sync(server.port, "top", sandbox.copy)
        if first.status == DONE and "victim" in sandbox.names:
            assert os.readlink(sandbox.copy / "victim") == os.fsdecode(target)
        server.things = below
        second = sandbox.node.sync(server.port, "top", sandbox.copy)
        server.things = link
        third = sandbox.node.sync(server.port, "top", sandbox.copy)

    sandbox.check()
    assert [second.status, third.status] == [DONE, DONE], (second, third)


@pytest.mark.parametrize("replace", ["exchange", "symlink", "files"])
def test_links_of_the_copy_are_not_followed(sandbox: Sandbox, replace: str) -> None:
    """
    A link here that leads out of the copy, where the server has a folder, is
    replaced and not written through, however the copy is put in place.
    """
    things = {
        b"top": folder(b"sub"),
        b"top/sub": folder(b"file"),
        b"top/sub/file": Thing(content=b"overwritten\n"),
    }
    (sandbox.copy / "sub").symlink_to("../victim")
    with LyingServer(things) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy, "--replace", replace)
    sandbox.check()

    assert done.status == DONE, done
    assert not (sandbox.copy / "sub").is_symlink()
    assert (sandbox.copy / "sub" / "file").read_bytes() == b"overwritten\n"


def test_a_folder_that_contains_itself(sandbox: Sandbox) -> None:
    """
    A folder with the numbers of one above it is reported and not entered.
    """
    things = {
        b"top": folder(b"a", ino=5),
        b"top/a": folder(b"b", b"file", ino=6),
        b"top/a/file": Thing(content=b"abc"),
        b"top/a/b": folder(b"a", ino=5),
    }
    with LyingServer(things) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy)
        asked = set(server.requests)

    assert done.facts["warnings"]
    assert sandbox.names == {"mine", "a", "a/file"}
    assert (b"STAT", b"top/a/b/a") not in asked


def test_a_server_that_changes_its_mind(sandbox: Sandbox) -> None:
    """
    A file whose content is another one at each GET, with a digest that fits none of
    them, is given up after some connections, and named.
    """
    count = itertools.count()

    def lie(word: bytes, path: bytes) -> bytes | None:
        return b"%03d" % (next(count) % 1000) if word == b"GET" else None

    with LyingServer(_ONE, lie) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy)

    assert done.status == UNVERIFIED, done
    assert "file" in done.said
    assert 2 <= next(count) <= 20
    assert sandbox.names == {"mine"}


def test_nothing_more_than_announced_is_asked_for(sandbox: Sandbox) -> None:
    """
    What the source does not list, or is no file, is never fetched.
    """
    things = {
        b"top": folder(b"file", b"sub", b"fifo"),
        b"top/file": Thing(content=b"abc"),
        b"top/sub": folder(),
        b"top/fifo": Thing(FIFO),
    }
    with LyingServer(things) as server:
        sandbox.node.sync(server.port, "top", sandbox.copy)
        got = {path for word, path in server.requests if word == b"GET"}

    assert got == {b"top/file"}


SHA = b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _line(
    letter: bytes, name: bytes, target: bytes = b"", *, size: int = 3, sha: bytes = SHA
) -> bytes:
    digest = sha if letter == b"f" else b"-"
    numbers = b"0644\t0\t0\t%d\t1600000000" % size
    return b"\t".join((letter, numbers, digest, name, target))


def _manifest(*lines: bytes) -> dict[bytes, Thing]:
    """
    `_ONE` with a manifest that has these lines.
    """
    lines = (_line(b"d", b"."), *lines)
    text = b"".join(
        line + b"\n"
        for line in (b"nodecomm-manifest 1", *lines, b"end %d" % len(lines))
    )
    return _with_manifest(Thing(content=text))


def _with_manifest(thing: Thing) -> dict[bytes, Thing]:
    """
    `_ONE` with *thing* for a manifest, by either name.
    """
    names = (b"top/.nodecomm-manifest-1", b"top/.nodecomm-manifest-1-new")
    return {**_ONE, **dict.fromkeys(names, thing)}


def test_a_manifest_that_is_true(sandbox: Sandbox) -> None:
    """
    A server that calls itself ours is asked for its manifest, and believed as long as
    it is right; so what follows is about the lies.
    """
    with LyingServer(_manifest(_line(b"f", b"file")), hello=_OURS) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy)

    assert done.facts["manifest"]
    assert (sandbox.copy / "file").read_bytes() == b"abc"


_OURS = b"CFE_v3 nodecomm-server 1.0\n"

MANIFESTS = {
    "escape": _manifest(_line(b"f", b"../victim/file")),
    "absolute": _manifest(_line(b"f", b"/etc/owned")),
    "dots": _manifest(_line(b"d", b"a"), _line(b"f", b"a/../../victim/file")),
    "final-dots": _manifest(_line(b"d", b"..")),
    "no-parent": _manifest(_line(b"f", b"a/b/c")),
    "below-a-link": _manifest(
        _line(b"l", b"victim", b"../victim"), _line(b"f", b"victim/file")
    ),
    "below-a-file": _manifest(_line(b"f", b"file"), _line(b"f", b"file/new")),
    "twice": _manifest(_line(b"f", b"file"), _line(b"f", b"file")),
    "other-digest": _manifest(_line(b"f", b"file", sha=b"0" * 64)),
    "other-size": _manifest(_line(b"f", b"file", size=4)),
    "not-there": _manifest(_line(b"f", b"nowhere")),
    "garbage": _with_manifest(Thing(content=b"\0\xff" * 500)),
    "endless": _with_manifest(Thing(size=2**40)),
}

#: Those in which the server owes bytes that do not come.
QUIET = {"other-size", "endless"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if number % 3 == 0 else FULL_ONLY)
        for number, name in enumerate(MANIFESTS)
    ],
)
def test_a_manifest_that_lies(sandbox: Sandbox, name: str) -> None:
    """
    A manifest cannot name what is outside the source: the update does without it, or
    fails.
    """
    words = QUICK if name in QUIET else ()
    with LyingServer(MANIFESTS[name], hello=_OURS) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy, *words)
    sandbox.check()

    if done.status == DONE:
        assert sandbox.names == {"mine", "file"}
        assert (sandbox.copy / "file").read_bytes() == b"abc"
    else:
        assert done.status == UNVERIFIED, done
        assert sandbox.names == {"mine"}


@FULL_ONLY
def test_a_slow_drip(sandbox: Sandbox) -> None:
    """
    Content that comes byte by byte, too slowly to be of use, is given up.
    """
    import time  # noqa: PLC0415

    def lie(word: bytes, path: bytes) -> Iterator[bytes] | None:
        def drip() -> Iterator[bytes]:
            for _ in range(1000):
                time.sleep(0.5)
                yield b"x"

        return drip() if word == b"GET" else None

    things = {b"top": folder(b"file"), b"top/file": Thing(size=1_000_000)}
    with LyingServer(things, lie) as server:
        done = sandbox.node.sync(server.port, "top", sandbox.copy, *QUICK)

    assert done.status == UNREACHABLE, done
    assert sandbox.names == {"mine"}
