# SPDX-License-Identifier: MIT
"""
Requests, from and to payloads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis.strategies import (
    SearchStrategy,
    binary,
    builds,
    integers,
    lists,
    one_of,
    sampled_from,
)
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.commands import (
    ContextRequest,
    DigestRequest,
    GetRequest,
    OpendirRequest,
    QueryRequest,
    StatRequest,
    VarRequest,
    check_path,
    encode_context,
    encode_digest,
    encode_get,
    encode_opendir,
    encode_query,
    encode_stat,
    encode_var,
    parse_context,
    parse_digest,
    parse_get,
    parse_opendir,
    parse_query,
    parse_stat,
    parse_var,
    split_word,
)
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError

Parser = Callable[[bytes], Any]

#: The digest of nothing, as a real client sends it for an empty local file.
EMPTY_MD5 = bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e")

WORDS = [
    (b"VERSION", (b"VERSION", b"")),
    (b"VERSION x", (b"VERSION", b"x")),
    (b"VERSION ", (b"VERSION", b"")),
    (b"VERSION\n", (b"VERSION\n", b"")),
    (b"VERSION\tx", (b"VERSION\tx", b"")),
    (b"VERSION\0x", (b"VERSION", b"\0x")),
    (b"VERSIONX", (b"VERSIONX", b"")),
    (b"version", (b"version", b"")),
    (b" VERSION", (b"", b"VERSION")),
    (b"\0", (b"", b"\0")),
    (b"\0VERSION", (b"", b"\0VERSION")),
    (b"OPENDIR  \t /a b ", (b"OPENDIR", b"/a b ")),
    (b"OPENDIR\t/a b", (b"OPENDIR\t/a", b"b")),
    (b"MD5 /a\0\0" + EMPTY_MD5, (b"MD5", b"/a\0\0" + EMPTY_MD5)),
    (b"SYNCH 1 STAT /a", (b"SYNCH", b"1 STAT /a")),
    (b"\xff\xfe /a", (b"\xff\xfe", b"/a")),
]

#: Payloads in the form that is written, and what they say.
CANONICAL: list[tuple[bytes, Parser, Any, bytes]] = [
    (
        b"SYNCH 1795311916 STAT /var/cfengine/masterfiles",
        parse_stat,
        StatRequest(1795311916, b"/var/cfengine/masterfiles"),
        encode_stat(1795311916, b"/var/cfengine/masterfiles"),
    ),
    (b"SYNCH 0 STAT /", parse_stat, StatRequest(0, b"/"), encode_stat(0, b"/")),
    (
        b"SYNCH -5 STAT /a",
        parse_stat,
        StatRequest(-5, b"/a"),
        encode_stat(-5, b"/a"),
    ),
    (
        b"SYNCH 1 STAT masterfiles/two words\t ",
        parse_stat,
        StatRequest(1, b"masterfiles/two words\t "),
        encode_stat(1, b"masterfiles/two words\t "),
    ),
    (
        b"SYNCH 1 STAT /latin-1/\xe4\xff",
        parse_stat,
        StatRequest(1, b"/latin-1/\xe4\xff"),
        encode_stat(1, b"/latin-1/\xe4\xff"),
    ),
    (
        b"OPENDIR /var/cfengine/inputs/",
        parse_opendir,
        OpendirRequest(b"/var/cfengine/inputs/"),
        encode_opendir(b"/var/cfengine/inputs/"),
    ),
    (
        b"MD5 /a b\0\0" + EMPTY_MD5,
        parse_digest,
        DigestRequest(b"/a b", EMPTY_MD5),
        encode_digest(b"/a b", EMPTY_MD5),
    ),
    (
        # A digest may hold any byte, NULs, newlines and white space included.
        b"MD5 /a\0\0\0\n \t\r\0\0\0\0\0\0\0\0\0\0 ",
        parse_digest,
        DigestRequest(b"/a", b"\0\n \t\r\0\0\0\0\0\0\0\0\0\0 "),
        encode_digest(b"/a", b"\0\n \t\r\0\0\0\0\0\0\0\0\0\0 "),
    ),
    (
        b"MD5 /a\0\0" + EMPTY_MD5 * 2,
        parse_digest,
        DigestRequest(b"/a", EMPTY_MD5 * 2),
        encode_digest(b"/a", EMPTY_MD5 * 2),
    ),
    (
        b"GET 2048 /a",
        parse_get,
        GetRequest(2048, b"/a"),
        encode_get(b"/a"),
    ),
    (b"GET 1 /a ", parse_get, GetRequest(1, b"/a "), encode_get(b"/a ", 1)),
    (b"GET 4095 x/y", parse_get, GetRequest(4095, b"x/y"), encode_get(b"x/y", 4095)),
    (b"VAR handle", parse_var, VarRequest(b"handle"), encode_var(b"handle")),
    (
        b"CONTEXT some.*|other class",
        parse_context,
        ContextRequest(b"some.*|other class"),
        encode_context(b"some.*|other class"),
    ),
    (
        b"QUERY delta 1 2",
        parse_query,
        QueryRequest(b"delta", b"1 2"),
        encode_query(b"delta", b"1 2"),
    ),
    (b"QUERY full", parse_query, QueryRequest(b"full", b""), encode_query(b"full")),
]

#: Payloads that are read although nobody writes them so.
TOLERATED: list[tuple[bytes, Parser, Any]] = [
    (b"SYNCH   1  STAT   /a", parse_stat, StatRequest(1, b"/a")),
    (b"SYNCH \t1\nSTAT\r/a", parse_stat, StatRequest(1, b"/a")),
    (b"SYNCH +1 STAT /a", parse_stat, StatRequest(1, b"/a")),
    (b"SYNCH 0001 STAT /a", parse_stat, StatRequest(1, b"/a")),
    (b"SYNCH 1 STAT /a\nb", parse_stat, StatRequest(1, b"/a")),
    (b"SYNCH 1 STAT /a\0b", parse_stat, StatRequest(1, b"/a")),
    (b"SYNCH 1 STAT /a\0b\nc", parse_stat, StatRequest(1, b"/a")),
    (b"SYNCH 1 STAT /a\nb\0c", parse_stat, StatRequest(1, b"/a")),
    (b"SYNCH 1 STAT /a STAT /b", parse_stat, StatRequest(1, b"/a STAT /b")),
    (b"OPENDIR \n /a\n", parse_opendir, OpendirRequest(b"/a")),
    # The byte after the NUL may be anything; without it the digest is too short.
    (b"MD5 /a\0x" + EMPTY_MD5, parse_digest, DigestRequest(b"/a", EMPTY_MD5)),
    (b"MD5 /a\0" + EMPTY_MD5, parse_digest, DigestRequest(b"/a", None)),
    (b"MD5 /a", parse_digest, DigestRequest(b"/a", None)),
    (b"MD5 /a\0", parse_digest, DigestRequest(b"/a", None)),
    (b"MD5 /a\0\0" + EMPTY_MD5[:15], parse_digest, DigestRequest(b"/a", None)),
    (
        b"MD5 /a\0\0" + EMPTY_MD5 + b"more",
        parse_digest,
        DigestRequest(b"/a", EMPTY_MD5),
    ),
    (
        b"MD5 /a\0\0" + EMPTY_MD5 * 3,
        parse_digest,
        DigestRequest(b"/a", EMPTY_MD5 * 2),
    ),
    (b"MD5 /a\nb\0\0" + EMPTY_MD5, parse_digest, DigestRequest(b"/a", EMPTY_MD5)),
    (b"GET 4096 /a", parse_get, GetRequest(2048, b"/a")),
    (b"GET 0 /a", partial(parse_get, smallest=0), GetRequest(0, b"/a")),
    (b"GET  +7\t /a\n", parse_get, GetRequest(7, b"/a")),
    (b"VAR  a b \nc", parse_var, VarRequest(b"a b ")),
    (b"VAR " + b"x" * 255, parse_var, VarRequest(b"x" * 255)),
    (b"QUERY  full   x\n", parse_query, QueryRequest(b"full", b"x")),
    (b"QUERY " + b"x" * 127, parse_query, QueryRequest(b"x" * 127, b"")),
]

#: Payloads that the real server denies before it closes.
MALFORMED: list[tuple[bytes, Parser]] = [
    (b"", parse_stat),
    (b"SYNCH", parse_stat),
    (b"SYNCH 1", parse_stat),
    (b"SYNCH 1 STAT", parse_stat),
    (b"SYNCH 1 STAT ", parse_stat),
    (b"SYNCH 1 STAT  \n", parse_stat),
    (b"SYNCH 1 STAT \0", parse_stat),
    (b"SYNCH 1 STAT \0/a", parse_stat),
    (b"SYNCH x STAT /a", parse_stat),
    (b"SYNCH 1x STAT /a", parse_stat),
    (b"SYNCH 1_0 STAT /a", parse_stat),
    (b"SYNCH - STAT /a", parse_stat),
    (b"SYNCH 1\0 STAT /a", parse_stat),
    (b"SYNCH " + b"9" * 19 + b" STAT /a", parse_stat),
    (b"SYNCH STAT /a", parse_stat),
    (b"SYNCH 1 stat /a", parse_stat),
    (b"SYNCH 1 LSTAT /a", parse_stat),
    (b"synch 1 STAT /a", parse_stat),
    (b" SYNCH 1 STAT /a", parse_stat),
    (b"SSYNCH 1 STAT /a", parse_stat),
    (b"SYNCH\t1 STAT /a", parse_stat),
    (b"", parse_opendir),
    (b"OPENDIR\t/a", parse_opendir),
    (b"OPENDIR\n/a", parse_opendir),
    (b"OPENDIR", parse_opendir),
    (b"OPENDIR ", parse_opendir),
    (b"OPENDIR \n", parse_opendir),
    (b"OPENDIR \0", parse_opendir),
    (b"OPENDIR/a", parse_opendir),
    (b"OPENDIRX /a", parse_opendir),
    (b" OPENDIR /a", parse_opendir),
    (b"MD5", parse_digest),
    (b"MD5\t/a\0\0" + EMPTY_MD5, parse_digest),
    (b"MD5 ", parse_digest),
    (b"MD5\0\0" + EMPTY_MD5, parse_digest),
    (b"MD5 \0\0" + EMPTY_MD5, parse_digest),
    (b"MD5 \n\0\0" + EMPTY_MD5, parse_digest),
    (b"GET", parse_get),
    (b"GET\t1 /a", parse_get),
    (b"GET 1", parse_get),
    (b"GET 1 ", parse_get),
    (b"GET /a", parse_get),
    (b"GET 0 /a", parse_get),
    (b"GET -1 /a", parse_get),
    (b"GET -1 /a", partial(parse_get, smallest=0)),
    (b"GET 4097 /a", partial(parse_get, smallest=0)),
    (b"GET 4097 /a", parse_get),
    (b"GET 1e3 /a", parse_get),
    (b"GET dummykey /a", parse_get),
    (b" GET 1 /a", parse_get),
    (b"VAR", parse_var),
    (b"VAR ", parse_var),
    (b"VAR \0", parse_var),
    (b"VAR " + b"x" * 256, parse_var),
    (b"CONTEXT", parse_context),
    (b"CONTEXT " + b"x" * 256, parse_context),
    (b"QUERY", parse_query),
    (b"QUERY \n", parse_query),
    (b"QUERY " + b"x" * 128, parse_query),
    (b"QUERY x " + b"y" * 254, parse_query),
]

#: Paths that no request can carry.
NOT_PATHS = [b"", b" /a", b"\t", b"\n/a", b"/a\nb", b"/a\0", b"\0"]

PARSERS: list[Parser] = [
    parse_stat,
    parse_opendir,
    parse_digest,
    parse_get,
    parse_var,
    parse_context,
    parse_query,
]

paths = (
    binary(min_size=1, max_size=60)
    .map(lambda raw: raw.translate(None, b"\n\0").lstrip())
    .filter(bool)
)
pieces = sampled_from(
    [
        *b"SYNCH STAT OPENDIR MD5 GET VAR CONTEXT QUERY 1 -1 4096 /a".split(),
        *(b" ", b"\t", b"\n", b"\0", b"9" * 5000),
    ]
)
payloads: SearchStrategy[bytes] = one_of(
    binary(), builds(b"".join, lists(one_of(pieces, binary(max_size=5))))
)


class SplitWordTests(SynchronousTestCase):
    """
    `split_word`.
    """

    def test_table(self) -> None:
        """
        The word ends at a space, a NUL or the end of the payload.
        """
        for payload, expected in WORDS:
            self.assertEqual(expected, split_word(payload), payload)

    @given(payloads)
    @settings(max_examples=100)
    def test_any_payload(self, payload: bytes) -> None:
        """
        Word and rest are what the payload begins and ends with, and nothing but white
        space stands between them.
        """
        word, rest = split_word(payload)
        between = payload[len(word) : len(payload) - len(rest)]

        self.assertEqual(payload, word + between + rest)
        self.assertEqual(b"", between.strip())
        self.assertNotIn(b" ", word)
        self.assertNotIn(b"\0", word)
        self.assertTrue(between or not rest or rest[0] == 0)


class ParseTests(SynchronousTestCase):
    """
    The parsers.
    """

    def test_canonical(self) -> None:
        """
        The usual form of each request is read, and written in the same bytes.
        """
        for payload, parse, request, encoded in CANONICAL:
            self.assertEqual(request, parse(payload))
            self.assertEqual(payload, encoded)

    def test_tolerated(self) -> None:
        """
        What the real server reads as a request is one.
        """
        for payload, parse, request in TOLERATED:
            self.assertEqual(request, parse(payload), payload)

    def test_malformed(self) -> None:
        """
        A request that is incomplete or out of range is refused.
        """
        for payload, parse in MALFORMED:
            self.assertRaises(RemoteProtocolError, parse, payload)

    def test_another_word(self) -> None:
        """
        No parser takes the request of another command.
        """
        for payload, parse, _, _ in CANONICAL:
            for other in PARSERS:
                if other is not parse:
                    self.assertRaises(RemoteProtocolError, other, payload)

    @given(payloads, sampled_from(PARSERS))
    @settings(max_examples=100)
    def test_garbage(self, payload: bytes, parse: Parser) -> None:
        """
        Any payload gives a request or `RemoteProtocolError` with a message.
        """
        try:
            request = parse(payload)
        except RemoteProtocolError as error:
            self.assertTrue(str(error).isprintable())
        else:
            path = getattr(request, "path", b"/")
            self.assertEqual(path, check_path(path))

    @given(integers(1 - 10**17, 10**18 - 1), paths)
    @settings(max_examples=100)
    def test_stat_returns(self, client_time: int, path: bytes) -> None:
        """
        Any time and any path that can be carried arrive as they were sent.
        """
        self.assertEqual(
            StatRequest(client_time, path), parse_stat(encode_stat(client_time, path))
        )

    @given(
        paths,
        one_of(binary(min_size=16, max_size=16), binary(min_size=32, max_size=32)),
    )
    @settings(max_examples=100)
    def test_digest_returns(self, path: bytes, digest: bytes) -> None:
        """
        Any digest arrives as it was sent.
        """
        self.assertEqual(
            DigestRequest(path, digest), parse_digest(encode_digest(path, digest))
        )

    @given(paths, integers(1, 4095))
    @settings(max_examples=100)
    def test_get_and_opendir_return(self, path: bytes, block: int) -> None:
        """
        Any path arrives as it was sent, trailing white space included.
        """
        self.assertEqual(GetRequest(block, path), parse_get(encode_get(path, block)))
        self.assertEqual(OpendirRequest(path), parse_opendir(encode_opendir(path)))


class EncodeTests(SynchronousTestCase):
    """
    What the encoders refuse.
    """

    def test_paths_without_a_form(self) -> None:
        """
        A path that would arrive as another one is not sent.
        """
        for path in NOT_PATHS:
            self.assertRaises(LocalProtocolError, check_path, path)
            self.assertRaises(LocalProtocolError, encode_stat, 0, path)
            self.assertRaises(LocalProtocolError, encode_opendir, path)
            self.assertRaises(LocalProtocolError, encode_digest, path, EMPTY_MD5)
            self.assertRaises(LocalProtocolError, encode_get, path)
            self.assertRaises(LocalProtocolError, encode_var, path)
            self.assertRaises(LocalProtocolError, encode_context, path)
            self.assertRaises(LocalProtocolError, encode_query, path)

    def test_too_long(self) -> None:
        """
        A request must fit in a frame, a handle in 255 bytes.
        """
        fits = b"/" * (4088 - len(b"OPENDIR "))

        self.assertEqual(4088, len(encode_opendir(fits)))
        self.assertRaises(LocalProtocolError, encode_opendir, fits + b"/")
        self.assertRaises(LocalProtocolError, encode_stat, 1795311916, fits)
        self.assertRaises(LocalProtocolError, encode_digest, fits, EMPTY_MD5)
        self.assertRaises(LocalProtocolError, encode_get, fits)
        self.assertRaises(LocalProtocolError, encode_var, b"x" * 256)
        self.assertRaises(LocalProtocolError, encode_context, b"x" * 256)
        self.assertRaises(LocalProtocolError, encode_query, b"x" * 128)
        self.assertRaises(LocalProtocolError, encode_query, b"x", b"y" * 254)

    def test_numbers_out_of_range(self) -> None:
        """
        A block size that a server denies or changes, a time that fits in no integer,
        and a digest that is none, are not sent.
        """
        for block in (0, -1, 4096):
            self.assertRaises(LocalProtocolError, encode_get, b"/a", block)
        for client_time in (-(10**17), 10**18):
            self.assertRaises(LocalProtocolError, encode_stat, client_time, b"/a")
        for size in (0, 15, 17, 31, 33):
            self.assertRaises(LocalProtocolError, encode_digest, b"/a", b"x" * size)

    def test_query_name_is_one_word(self) -> None:
        """
        White space would end the name.
        """
        self.assertRaises(LocalProtocolError, encode_query, b"a b")
