# SPDX-License-Identifier: MIT
"""
Tests of the text of a manifest.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.manifest import (
    NAME,
    ManifestEntry,
    ManifestKind,
    encode_manifest,
    parse_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = ManifestEntry(b"", ManifestKind.FOLDER, 0o755, 0, 0, 4096, 1_700_000_000)
HELLO = ManifestEntry(
    b"hello",
    ManifestKind.FILE,
    0o644,
    0,
    0,
    5,
    1_700_000_001,
    sha256(b"hello").digest(),
)
DIGEST = sha256(b"hello").hexdigest().encode()

#: A tree with one of everything, and its text.
TREE = [
    ROOT,
    HELLO,
    ManifestEntry(b"lost", ManifestKind.LINK, 0o777, 1, 2, 4, 5, target=b"no\twhere\\"),
    ManifestEntry(b"pipe", ManifestKind.OTHER, 0o600, 0, 0, 0, -1),
    ManifestEntry(b"sub", ManifestKind.FOLDER, 0o2750, 7, 8, 9, 10, partial=True),
    ManifestEntry(b"sub/\xff\n", ManifestKind.FOLDER, 0, 0, 0, 0, 0),
]
TEXT = (
    b"nodecomm-manifest 1\n"
    b"d\t0755\t0\t0\t4096\t1700000000\t-\t.\t\n"
    b"f\t0644\t0\t0\t5\t1700000001\t" + DIGEST + b"\thello\t\n"
    b"l\t0777\t1\t2\t4\t5\t-\tlost\tno\\x09where\\\\\n"
    b"o\t0600\t0\t0\t0\t-1\t-\tpipe\t\n"
    b"d\t2750\t7\t8\t9\t10\t+\tsub\t\n"
    b"d\t0000\t0\t0\t0\t0\t-\tsub/\\xff\\x0a\t\n"
    b"end 6\n"
)

_names = st.binary(min_size=1, max_size=6).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@st.composite
def trees(draw: st.DrawFn) -> Sequence[ManifestEntry]:
    """
    Any tree, in any order.
    """
    entries = {b"": ROOT}
    folders = [b""]
    for own in draw(st.lists(_names, max_size=12)):
        folder = draw(st.sampled_from(folders))
        name = folder + b"/" + own if folder else own
        if name in entries:
            continue
        kind = draw(st.sampled_from(ManifestKind))
        if kind is ManifestKind.FOLDER:
            folders.append(name)
        entries[name] = ManifestEntry(
            name,
            kind,
            draw(st.integers(0, 0o7777)),
            draw(st.integers(0, 2**32 - 1)),
            draw(st.integers(0, 2**32 - 1)),
            draw(st.integers(0, 2**63 - 1)),
            draw(st.integers(-(2**63) + 1, 2**63 - 1)),
            draw(st.binary(min_size=32, max_size=32))
            if kind is ManifestKind.FILE
            else None,
            draw(st.binary(min_size=1).filter(lambda text: b"\0" not in text))
            if kind is ManifestKind.LINK
            else b"",
            kind is ManifestKind.FOLDER and draw(st.booleans()),
        )
    return draw(st.permutations(list(entries.values())))


class ManifestTests(SynchronousTestCase):
    """
    Tests of `encode_manifest` and `parse_manifest`.
    """

    def test_text(self) -> None:
        """Every type of object has its line."""
        self.assertEqual(encode_manifest(TREE), TEXT)
        self.assertEqual(parse_manifest(TEXT, 6), TREE)

    def test_name_has_the_number_of_the_format(self) -> None:
        """The reserved name and the header tell the same number."""
        self.assertEqual(NAME.rpartition(b"-")[2], TEXT.split(b"\n")[0].split()[1])

    @settings(max_examples=60)
    @given(trees())
    def test_any_tree_comes_back(self, entries: Sequence[ManifestEntry]) -> None:
        """What was written is read again, in order, whatever order it was given in."""
        data = encode_manifest(entries)

        found = parse_manifest(data, len(entries))

        self.assertEqual(found, sorted(entries, key=lambda entry: entry.name))
        self.assertEqual(encode_manifest(found), data)

    @settings(max_examples=60)
    @given(trees(), st.data())
    def test_cut_text_never_reads(
        self, entries: Sequence[ManifestEntry], data: st.DataObject
    ) -> None:
        """No beginning of a manifest is a manifest."""
        text = encode_manifest(entries)
        cut = text[: data.draw(st.integers(0, len(text) - 1))]

        self.assertRaises(RemoteProtocolError, parse_manifest, cut, 100)

    @settings(max_examples=100)
    @given(
        st.lists(
            st.one_of(
                st.sampled_from(TEXT.split(b"\n")),
                st.sampled_from([b"end 0", b"end 1", b"end 2", b"end 3", b"end 4"]),
                st.binary(max_size=20),
            ),
            max_size=9,
        )
    )
    def test_garbage_is_refused_or_a_tree(self, lines: list[bytes]) -> None:
        """Whatever reads as a manifest is written in the one way there is."""
        data = b"\n".join([b"nodecomm-manifest 1", *lines])
        try:
            found = parse_manifest(data, 100)
        except RemoteProtocolError:
            return
        self.assertEqual(encode_manifest(found), data)

    def test_changed_bytes(self) -> None:
        """A text with one other byte is another tree, or none."""
        for index in range(len(TEXT)):
            data = TEXT[:index] + bytes([TEXT[index] ^ 1]) + TEXT[index + 1 :]
            try:
                found = parse_manifest(data, 100)
            except RemoteProtocolError:
                continue
            self.assertNotEqual(found, TREE, index)
            self.assertEqual(encode_manifest(found), data)

    def test_limit_of_entries(self) -> None:
        """One object too many is refused, before any is looked at."""
        many = TEXT.replace(b"end", b"x\n" * 10 + b"end")

        self.assertRaises(RemoteProtocolError, parse_manifest, TEXT, 5)
        error = self.assertRaises(RemoteProtocolError, parse_manifest, many, 15)
        self.assertIn("at most 15", str(error))

    def test_what_is_no_manifest(self) -> None:
        """Texts that a parser could be fooled with are refused, with the reason."""
        root = b"d\t0755\t0\t0\t0\t0\t-\t.\t"

        def line(name: bytes, letter: bytes = b"o", rest: bytes = b"") -> bytes:
            return letter + b"\t0600\t0\t0\t0\t0\t-\t" + name + b"\t" + rest

        for lines, reason in (
            ([], "is cut"),
            ([line(b"a")], "the folder itself comes first"),
            ([line(b".")], "the folder itself comes first"),
            ([root, root], "names are in order"),
            ([root, line(b"a"), line(b"a")], "names are in order"),
            ([root, line(b"b"), line(b"a")], "names are in order"),
            ([root, line(b"a/b")], "its folder is not listed"),
            ([root, line(b"a"), line(b"a/b")], "its folder is not listed"),
            ([root, line(b"..")], "no name of an object"),
            ([root, line(b"/a")], "no name of an object"),
            ([root, line(b"/etc/passwd")], "no name of an object"),
            ([root, line(b"../a")], "its folder is not listed"),
            ([root, line(b"a", b"d"), line(b"a/")], "no name of an object"),
            ([root, line(b"a", b"d"), line(b"a/..")], "no name of an object"),
            ([root, line(b"a", b"d"), line(b"a//b")], "its folder is not listed"),
            ([root, line(b"a\\x00b")], "no name of an object"),
            ([root, line(b"a\\x2fb")], "another text form"),
            ([root, line(b"\\x61")], "another text form"),
            ([root, line(b"a\\x0A")], "another text form"),
            ([root, line(b"a\xff")], "no text form"),
            ([root, line(b"a\\")], "no text form"),
            ([root, line(b"")], "nine fields"),
            ([root, line(b"a\tb")], "nine fields"),
            ([root, line(b"a", b"f")], "a file has a SHA-256"),
            ([root, line(b"a", b"l")], "a link has a target"),
            ([root, line(b"a", b"o", b"b")], "a link has a target"),
            ([root, line(b"a", b"l", b"b\\x00")], "a link has a target"),
            ([root, line(b"a").replace(b"-", b"+")], "only a folder"),
            ([root, line(b"a", b"x")], "nine fields"),
            ([root, line(b"a").replace(b"600", b"00")], "nine fields"),
            ([root, line(b"a").replace(b"0600\t0", b"0600\t00")], "nine fields"),
            ([root, line(b"a").replace(b"0600\t0", b"0600\t+1")], "nine fields"),
            ([root, line(b"a").replace(b"0600\t0", b"0600\t4294967296")], "too large"),
            ([root, line(b"a").replace(b"0\t-", b"-0\t-")], "nine fields"),
            (
                [root, line(b"a").replace(b"0\t-", b"9223372036854775808\t-")],
                "too large",
            ),
        ):
            data = b"\n".join(
                [b"nodecomm-manifest 1", *lines, b"end %d" % len(lines), b""]
            )
            error = self.assertRaises(RemoteProtocolError, parse_manifest, data, 100)
            self.assertIn(reason, str(error), data)

    def test_other_headers(self) -> None:
        """Another version, or no manifest at all, is refused."""
        for data in (
            b"",
            b"\n",
            TEXT.replace(b"manifest 1", b"manifest 2"),
            TEXT[1:],
            b"\n" + TEXT,
            TEXT + b"\n",
            TEXT + TEXT,
            TEXT.replace(b"\n", b"\r\n"),
            TEXT.replace(b"end 6", b"end 06"),
        ):
            self.assertRaises(RemoteProtocolError, parse_manifest, data, 100)

    def test_what_cannot_be_written(self) -> None:
        """Entries that are no tree are a mistake of the caller."""
        no_digest = HELLO._replace(sha256=None)
        short = HELLO._replace(sha256=b"abc")
        for entries in (
            [],
            [HELLO],
            [ROOT, ROOT],
            [ROOT, HELLO, HELLO._replace(kind=ManifestKind.FOLDER, sha256=None)],
            [ROOT, no_digest],
            [ROOT, short],
            [ROOT, HELLO._replace(name=b"a/b")],
            [ROOT, HELLO._replace(name=b"..")],
            [ROOT, HELLO._replace(name=b"a\0")],
            [ROOT, HELLO._replace(mode=0o10000)],
            [ROOT, HELLO._replace(uid=-1)],
            [ROOT, HELLO._replace(size=-1)],
            [ROOT, HELLO._replace(partial=True)],
            [ROOT, HELLO._replace(target=b"x")],
            [ROOT._replace(kind=ManifestKind.OTHER)],
        ):
            self.assertRaises(LocalProtocolError, encode_manifest, entries)
