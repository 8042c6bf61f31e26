# SPDX-License-Identifier: MIT
"""
The envelopes of the encrypted commands.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis.strategies import binary, builds, integers, one_of, sampled_from
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.cipher import SessionCipher
from nodecomm.wire.commands import (
    DigestRequest,
    GetRequest,
    OpendirRequest,
    StatRequest,
    encode_context,
    encode_digest,
    encode_opendir,
    encode_query,
    encode_stat,
    encode_var,
    parse_digest,
    parse_get,
    parse_opendir,
    parse_stat,
)
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import MAX_PAYLOAD
from nodecomm.wire.sealed import (
    HEAD,
    SEALED,
    Sealed,
    SealedSizeError,
    WrongWord,
    encode_sealed,
    open_sealed,
    parse_sealed,
    seal_digest,
    seal_get,
    seal_opendir,
    seal_stat,
)
from tests.wire.envelopes import seal_context, seal_query, seal_var

KEY = bytes(range(16))
PATH = b"/srv/a file \xff"
DIGEST = b"\0d" * 8

#: What is asked, its text as the real client encrypts it, and the plain request.
REQUESTS: list[tuple[Callable[[SessionCipher], bytes], bytes, bytes, bytes]] = [
    (
        lambda cipher: seal_stat(1795311916, PATH, cipher),
        b"SSYNCH 40",
        b"SYNCH 1795311916 STAT %b\0" % PATH,
        encode_stat(1795311916, PATH),
    ),
    (
        lambda cipher: seal_opendir(PATH, cipher),
        b"SOPENDIR 24",
        b"OPENDIR %b\0" % PATH,
        encode_opendir(PATH),
    ),
    (
        lambda cipher: seal_digest(PATH, DIGEST, cipher),
        b"SMD5 40",
        b"MD5 %b\0\0%b" % (PATH, DIGEST),
        encode_digest(PATH, DIGEST),
    ),
    (
        lambda cipher: seal_get(PATH, cipher),
        b"SGET   32 2048",
        b"GET dummykey %b\0" % PATH,
        b"GET 2048 %b" % PATH,
    ),
    (
        lambda cipher: seal_get(PATH, cipher, 4),
        b"SGET   32    4",
        b"GET dummykey %b\0" % PATH,
        b"GET 2048 %b" % PATH,
    ),
    (
        lambda cipher: seal_var(b"handle", cipher),
        b"SVAR 16",
        b"VAR handle\0",
        encode_var(b"handle"),
    ),
    (
        lambda cipher: seal_context(b"a.*", cipher),
        b"SCONTEXT 16",
        b"CONTEXT a.*\0",
        encode_context(b"a.*"),
    ),
    (
        lambda cipher: seal_query(b"delta", b"x y", cipher),
        b"SQUERY 24",
        b"QUERY delta x y\0",
        encode_query(b"delta", b"x y"),
    ),
    (
        lambda cipher: encode_sealed(
            b"SCALLBACK", b"CALL_ME_BACK collect_calls\0", cipher
        ),
        b"SCALLBACK 32",
        b"CALL_ME_BACK collect_calls\0",
        b"CALL_ME_BACK collect_calls",
    ),
]

#: Texts of an envelope around eight bytes, and the word and block they mean.
HEADS = [
    (b"SSYNCH 8\0", b"SSYNCH", None),
    # What the real client leaves behind the NUL.
    (b"SSYNCH 8\0\xda\x80\x9e\xce\x20\x0b\x00", b"SSYNCH", None),
    (b"SSYNCH 8\0 9", b"SSYNCH", None),
    (b"SSYNCH  08 ", b"SSYNCH", None),
    (b"SSYNCH 8 x", b"SSYNCH", None),
    (b"SGET    8 2048\0", b"SGET", 2048),
    (b"SGET 8 2048", b"SGET", 2048),
    (b"SGET 8 0\0", b"SGET", 0),
    (b"SGET 8 4096 7", b"SGET", 4096),
    (b"SGET 8", b"SGET", 0),
    (b"SGET 8 ", b"SGET", 0),
    (b"SGET 8 x", b"SGET", 0),
]

WRONG_SIZES = [
    b"SSYNCH",
    b"SSYNCH ",
    b"SSYNCH x",
    b"SSYNCH 7",
    b"SSYNCH 9",
    b"SSYNCH 16",
    b"SSYNCH 0",
    b"SSYNCH -8",
    b"SSYNCH +8",
    b"SSYNCH 8x",
    b"SSYNCH 888888888",
    b"SGET 8 -1",
    b"SGET 8 -x",
    b"SGET 2048 8",
    b"SGET 9 2048",
]

NO_ENVELOPES = [b"", b"\0", b" SSYNCH 8", b"SYNCH 8", b"SSYNCHX 8", b"ssynch 8", b"SX"]

#: Words and texts that are not what the word says.
WRONG_TEXTS = [
    (b"SSYNCH", b"OPENDIR /x\0"),
    (b"SSYNCH", b"SSYNCH 1 STAT /x\0"),
    (b"SSYNCH", b"SYNCHX 1 STAT /x\0"),
    (b"SSYNCH", b"synch 1 STAT /x\0"),
    (b"SSYNCH", b" SYNCH 1 STAT /x\0"),
    (b"SSYNCH", b"SYNCH\0"),
    (b"SSYNCH", b""),
    (b"SSYNCH", b"\0"),
    (b"SGET", b"SYNCH 1 STAT /x\0"),
    (b"SGET", b"GETdummykey /x\0"),
    (b"SOPENDIR", b"GET dummykey /x\0"),
    (b"SMD5", b"MD6 /x\0\0aaaaaaaaaaaaaaaa"),
    (b"SVAR", b"EXEC x\0"),
    (b"SCONTEXT", b"VAR x\0"),
    (b"SQUERY", b"CONTEXT x\0"),
    (b"SCALLBACK", b"SCALLBACK x\0"),
]


def envelope(text: bytes, data: bytes = b"12345678") -> bytes:
    return text.ljust(HEAD, b"\0") + data


def holding(word: bytes, clear: bytes) -> Sealed:
    """
    An envelope with this clear text.
    """
    return Sealed(word, SessionCipher(KEY).encrypt(clear), None)


class EnvelopeTests(SynchronousTestCase):
    """
    Parsing an envelope.
    """

    def test_heads(self) -> None:
        """
        Text up to the first NUL within 16 bytes; nothing behind its numbers counts.
        """
        for text, word, block in HEADS:
            self.assertEqual(
                Sealed(word, b"12345678", block), parse_sealed(envelope(text)), text
            )

    def test_wrong_sizes(self) -> None:
        """
        A size that is missing or not that of what follows has an error of its own.
        """
        for text in WRONG_SIZES:
            self.assertRaises(SealedSizeError, parse_sealed, envelope(text))

    def test_cut_anywhere(self) -> None:
        """
        An envelope that ends too early is none.
        """
        whole = envelope(b"SSYNCH 8")
        for size in range(len(whole)):
            self.assertRaises(RemoteProtocolError, parse_sealed, whole[:size])
        self.assertRaises(SealedSizeError, parse_sealed, whole + b"x")

    def test_no_envelopes(self) -> None:
        """
        Only the words of encrypted commands begin an envelope.
        """
        for text in NO_ENVELOPES:
            error = self.assertRaises(RemoteProtocolError, parse_sealed, envelope(text))
            self.assertNotIsInstance(error, SealedSizeError)

    @given(
        one_of(
            binary(max_size=40),
            builds(
                lambda word, size, data: envelope(b"%b %d" % (word, size), data),
                sampled_from([*SEALED]),
                integers(0, 24),
                binary(max_size=24),
            ),
        )
    )
    @settings(max_examples=100)
    def test_garbage(self, payload: bytes) -> None:
        """
        Any bytes are an envelope that can be opened, or a `RemoteProtocolError`.
        """
        cipher = SessionCipher(KEY)
        try:
            plain = open_sealed(parse_sealed(payload), cipher)
        except RemoteProtocolError:
            return
        self.assertTrue(plain.startswith(tuple(SEALED.values())))


class RequestTests(SynchronousTestCase):
    """
    Requests in envelopes.
    """

    def test_requests(self) -> None:
        """
        A request is sealed as the real client does it, and opens as the plain request.
        """
        for seal, head, clear, plain in REQUESTS:
            payload = seal(SessionCipher(KEY))

            self.assertEqual(envelope(head, SessionCipher(KEY).encrypt(clear)), payload)
            self.assertEqual(
                plain, open_sealed(parse_sealed(payload), SessionCipher(KEY))
            )

    def test_all_words(self) -> None:
        """
        Every word there is has its request.
        """
        self.assertEqual(set(SEALED), {head.split()[0] for _, head, _, _ in REQUESTS})

    def test_parsers_of_the_plain_requests(self) -> None:
        """
        What was in an envelope is read by those who read the plain requests.
        """
        cipher = SessionCipher(KEY)
        stat, folder, digest, get = (
            open_sealed(parse_sealed(seal(cipher)), cipher) for seal, *_ in REQUESTS[:4]
        )

        self.assertEqual(StatRequest(1795311916, PATH), parse_stat(stat))
        self.assertEqual(OpendirRequest(PATH), parse_opendir(folder))
        self.assertEqual(DigestRequest(PATH, DIGEST), parse_digest(digest))
        self.assertEqual(GetRequest(2048, PATH), parse_get(get))

    def test_text_without_a_nul(self) -> None:
        """
        A text may end without a NUL; what stands behind one is passed over, but for
        the digest of a file.
        """
        cipher = SessionCipher(KEY)
        for word, clear, plain in (
            (b"SOPENDIR", b"OPENDIR /x", b"OPENDIR /x"),
            (b"SOPENDIR", b"OPENDIR /x\0/y\0", b"OPENDIR /x"),
            (b"SGET", b"GET 12345678 /x", b"GET 2048 /x"),
            (b"SGET", b"GET         /x\0/y", b"GET 2048 x"),
            (b"SGET", b"GET /x\0", b"GET 2048 "),
            (b"SMD5", b"MD5 /x\0y" + DIGEST, b"MD5 /x\0y" + DIGEST),
        ):
            self.assertEqual(plain, open_sealed(holding(word, clear), cipher))

    def test_nothing_but_the_word(self) -> None:
        """
        An envelope without an argument is for the parser of the plain request.
        """
        plain = open_sealed(holding(b"SGET", b"GET dummykey \0"), SessionCipher(KEY))

        self.assertRaises(RemoteProtocolError, parse_get, plain)

    def test_wrong_texts(self) -> None:
        """
        Another command than the envelope says is refused.
        """
        cipher = SessionCipher(KEY)
        for word, clear in WRONG_TEXTS:
            self.assertRaises(WrongWord, open_sealed, holding(word, clear), cipher)

    def test_one_outcome(self) -> None:
        """
        A wrong text, wrong padding, a wrong size and another key cannot be told from
        each other.
        """
        right = holding(b"SOPENDIR", b"OPENDIR /x\0")
        texts = set()
        for sealed, key in (
            (holding(b"SOPENDIR", b"VAR x\0"), KEY),
            (Sealed(right.word, right.data[:8], None), KEY),
            (Sealed(right.word, right.data[:-1], None), KEY),
            (Sealed(right.word, b"", None), KEY),
            (right, bytes(16)),
        ):
            error = self.assertRaises(
                WrongWord, open_sealed, sealed, SessionCipher(key)
            )
            texts.add((str(error), error.field, error.value, error.limit))
            self.assertIsNone(error.__cause__)
            self.assertIsNone(error.__context__)
        self.assertEqual(1, len(texts))

    def test_longest_requests(self) -> None:
        """
        A request that fills a frame goes, a longer one does not.
        """
        cipher = SessionCipher(KEY)
        # Of the text, one unit is the NUL and padding at most.
        longest = MAX_PAYLOAD - HEAD - 1 - len(b"OPENDIR ") - 1
        payload = seal_opendir(b"/" * longest, cipher)

        self.assertEqual(MAX_PAYLOAD, len(payload))
        self.assertEqual(
            OpendirRequest(b"/" * longest),
            parse_opendir(open_sealed(parse_sealed(payload), cipher)),
        )
        self.assertRaises(
            LocalProtocolError, seal_opendir, b"/" * (longest + 1), cipher
        )
        self.assertRaises(LocalProtocolError, seal_get, b"/" * longest, cipher)

    def test_own_mistakes(self) -> None:
        """
        What would arrive as something else is not sent.
        """
        cipher = SessionCipher(KEY)
        for path in (b"", b" /x", b"/a\nb", b"/a\0b"):
            self.assertRaises(LocalProtocolError, seal_get, path, cipher)
            self.assertRaises(LocalProtocolError, seal_opendir, path, cipher)
            self.assertRaises(LocalProtocolError, seal_stat, 1, path, cipher)
        for word, block in (
            (b"GET", 2048),
            (b"SGET", None),
            (b"SSYNCH", 2048),
            (b"SGET", 1234567),
        ):
            self.assertRaises(
                LocalProtocolError, encode_sealed, word, b"x", cipher, block
            )
