# SPDX-License-Identifier: MIT
"""
Keys as values.
"""

from __future__ import annotations

import base64
import hashlib
import math
from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis.strategies import binary, integers, sampled_from
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.keys import (
    InsaneKey,
    KeyPair,
    PublicKey,
    UnreadableKey,
    UnusableKey,
    check_sane,
    parse_digest,
)
from tests.identity import forgery
from tests.identity.sample import MODULUS, key, pair

KEYS = Path(__file__).parent / "keys"

SANE = [
    (MODULUS, 65537),
    (MODULUS, 3),
    (MODULUS, 2**32 - 1),
    ((1 << 1023) | 1, 65537),
    ((1 << 1087) | 1, 65537),
    ((1 << 8191) | 1, 65537),
]

INSANE = [
    ("exponent", MODULUS, 1),
    ("exponent", MODULUS, 2),
    ("exponent", MODULUS, 65536),
    ("exponent", MODULUS, 2**32),
    ("exponent", MODULUS, 2**32 + 1),
    ("exponent", MODULUS, 2**984 + 1),
    ("modulus", (1 << 1022) | 1, 65537),
    ("modulus", (1 << 959) | 1, 65537),
    ("modulus", (1 << 2046) | 1, 65537),
    ("modulus", (1 << 2048) | 1, 65537),
    ("modulus", (1 << 8255) | 1, 65537),
    ("modulus", MODULUS - 1, 65537),
]


class SaneKeyTests(SynchronousTestCase):
    """
    Which keys may be used.
    """

    def test_sane_keys_pass(self) -> None:
        """
        Keys at the edges of the bounds are accepted.
        """
        for modulus, exponent in SANE:
            with self.subTest(bits=modulus.bit_length(), exponent=exponent):
                check_sane(PublicKey(modulus, exponent))

    def test_insane_keys_are_refused(self) -> None:
        """
        A key outside the bounds is refused, and the error says which part of it.
        """
        for field, modulus, exponent in INSANE:
            with self.subTest(bits=modulus.bit_length(), exponent=exponent):
                with self.assertRaises(InsaneKey) as caught:
                    check_sane(PublicKey(modulus, exponent))
                self.assertEqual(field, caught.exception.field)
                self.assertIn(caught.exception.limit, str(caught.exception))

    def test_no_key_without_modulus_or_exponent(self) -> None:
        """
        Numbers that are not positive are no key at all.
        """
        for modulus, exponent in ((0, 3), (MODULUS, 0), (-MODULUS, 3), (MODULUS, -3)):
            self.assertRaises(UnreadableKey, PublicKey, modulus, exponent)

    @settings(max_examples=60, deadline=None)
    @given(cut=integers(1, 2200), exponent=sampled_from([3, 17, 257, 65537, 2**31 + 1]))
    def test_only_one_split_is_sane(self, cut: int, exponent: int) -> None:
        """
        Of all keys that share their bytes with a sane key none other is sane.
        """
        honest = PublicKey(MODULUS, exponent)
        data = forgery.joined(honest)
        cut %= len(data)
        if not int.from_bytes(data[:cut], "big") or not any(data[cut:]):
            return
        other = forgery.split(data, cut)
        if other != honest:
            self.assertRaises(InsaneKey, check_sane, other)


class ForgeryTests(SynchronousTestCase):
    """
    The forgery used in these tests is a real one.
    """

    def test_it_has_the_digests_of_another_key(self) -> None:
        """
        Victim and forgery are different keys with the same digests.
        """
        honest, forged = forgery.victim(), forgery.forgery()

        self.assertNotEqual(honest, forged)
        self.assertEqual(honest.digests, forged.digests)

    def test_its_private_exponent_is_known(self) -> None:
        """
        The forger can sign: the factors of the forged modulus are known.
        """
        forged = forgery.forgery()
        self.assertEqual(0, forged.modulus % math.prod(forgery.SMALL_FACTORS))
        private = forgery.private_exponent(forged, forgery.SMALL_FACTORS)
        assert private is not None
        signature = pow(0x1234567890, private, forged.modulus)

        self.assertEqual(0x1234567890, pow(signature, forged.exponent, forged.modulus))

    def test_it_is_refused(self) -> None:
        """
        Its exponent gives it away; the victim is accepted.
        """
        check_sane(forgery.victim())

        with self.assertRaises(InsaneKey) as caught:
            check_sane(forgery.forgery())
        self.assertEqual("exponent", caught.exception.field)

    def test_it_survives_a_file(self) -> None:
        """
        The forgery can be written and read as PEM, so files must be checked too.
        """
        forged = forgery.forgery()

        self.assertEqual(forged, PublicKey.from_pem(forged.to_pem()))


class PublicKeyTests(SynchronousTestCase):
    """
    Public keys, their digests and files.
    """

    def test_digests(self) -> None:
        """
        A digest hashes the minimal bytes of modulus and exponent.
        """
        public = key()
        data = public.modulus.to_bytes(128, "big") + b"\1\0\1"

        self.assertEqual("MD5=" + hashlib.md5(data).hexdigest(), public.md5)
        self.assertEqual("SHA=" + hashlib.sha256(data).hexdigest(), public.sha)
        self.assertEqual((public.md5, public.sha), public.digests)

    def test_matches_either_digest(self) -> None:
        """
        Both printed digests name the key, in either case; nothing else does.
        """
        public = key()
        for name in (*public.digests, public.md5.upper(), public.sha.lower()):
            self.assertTrue(public.matches(name), name)
        for name in (key(1).md5, "", "MD5=", public.md5[4:], public.md5 + "0"):
            self.assertFalse(public.matches(name), name)

    def test_file_forms(self) -> None:
        """
        PKCS#1 is written; PKCS#1 and SubjectPublicKeyInfo are read.
        """
        plain = (KEYS / "plain.pub").read_bytes()
        public = PublicKey.from_pem(plain)

        self.assertEqual(plain, public.to_pem())
        self.assertEqual(public, PublicKey.from_pem((KEYS / "spki.pub").read_bytes()))

    def test_a_private_key_is_not_taken_for_a_public_one(self) -> None:
        """
        The error says that this is the wrong half.
        """
        with self.assertRaises(UnreadableKey) as caught:
            PublicKey.from_pem((KEYS / "plain.priv").read_bytes())
        self.assertIn("private", str(caught.exception))

    @settings(max_examples=80, deadline=None)
    @given(garbage=binary(max_size=600), at=integers(0, 500))
    def test_garbage_is_no_key(self, garbage: bytes, at: int) -> None:
        """
        Any damage gives a key or an error of ours, never another exception.
        """
        good = key().to_pem()
        for data in (garbage, good[:at] + garbage, good[:at] + garbage + good[at:]):
            try:
                PublicKey.from_pem(data)
            except UnusableKey as error:
                self.assertTrue(str(error))

    def test_only_rsa(self) -> None:
        """
        A key of another kind is refused by its kind.
        """
        curve = ec.generate_private_key(ec.SECP256R1()).public_key()
        with self.assertRaises(UnreadableKey) as caught:
            PublicKey.from_cryptography(curve)
        self.assertIn("not an RSA key", str(caught.exception))

    def test_repr_names_the_digest(self) -> None:
        """
        What a log shows of a key is its digest, not its numbers.
        """
        self.assertEqual(f"PublicKey(md5='{key().md5}')", repr(key()))


class DigestTextTests(SynchronousTestCase):
    """
    Digests that people write.
    """

    def test_one_form(self) -> None:
        """
        Upper case becomes the printed form.
        """
        self.assertEqual(key().md5, parse_digest(key().md5.upper()))
        self.assertEqual(key().sha, parse_digest(key().sha.lower()))

    def test_other_text_is_refused(self) -> None:
        """
        What is no digest is refused with what to write.
        """
        for text in ("", "MD5=", "md5", key().md5[:-1], key().md5 + "\n", "SHA=xyz"):
            with self.subTest(text=text), self.assertRaises(ValueError) as caught:
                parse_digest(text)
            self.assertIn("32", str(caught.exception))


def private_pem(numbers: list[int]) -> bytes:
    """
    A private key file with these numbers, whether they make a key or not.
    """

    def tagged(tag: int, content: bytes) -> bytes:
        size = len(content)
        if size < 0x80:
            return bytes([tag, size]) + content
        if size < 0x100:
            return bytes([tag, 0x81, size]) + content
        return bytes([tag, 0x82]) + size.to_bytes(2, "big") + content

    body = b"".join(
        tagged(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))
        for number in numbers
    )
    text = base64.encodebytes(tagged(0x30, body))
    name = b"RSA PRIVATE KEY-----\n"
    return b"-----BEGIN " + name + text + b"-----END " + name


class KeyPairTests(SynchronousTestCase):
    """
    Own keys.
    """

    def test_all_forms_are_read(self) -> None:
        """
        PKCS#1, PKCS#8 and the encrypted form of older releases are the same key.
        """
        public = PublicKey.from_pem((KEYS / "plain.pub").read_bytes())
        for name in ("plain.priv", "pkcs8.priv", "old.priv"):
            with self.subTest(name=name):
                loaded = KeyPair.load((KEYS / name).read_bytes())
                self.assertEqual(public, loaded.public)

    def test_written_as_the_real_programs_write_it(self) -> None:
        """
        The private file is PKCS#1 without encryption.
        """
        plain = (KEYS / "plain.priv").read_bytes()

        self.assertEqual(plain, KeyPair.load(plain).to_pem())

    def test_what_is_no_private_key(self) -> None:
        """
        Each wrong file is refused with what it is.
        """
        for name, word in (
            ("plain.pub", "public"),
            ("other-passphrase.priv", "passphrase"),
            ("ec.priv", "not an RSA key"),
            ("README", "PEM"),
        ):
            with self.subTest(name=name), self.assertRaises(UnreadableKey) as caught:
                KeyPair.load((KEYS / name).read_bytes())
            self.assertIn(word, str(caught.exception))

    def test_damaged_parts(self) -> None:
        """
        A private key of which any number is wrong is refused: a signature made with
        it could give the others away.
        """
        numbers = pair().private.private_numbers()
        parts = {
            "version": 0,
            "n": numbers.public_numbers.n,
            "e": numbers.public_numbers.e,
            **{x: getattr(numbers, x) for x in ("d", "p", "q", "dmp1", "dmq1", "iqmp")},
        }
        for wrong in ("", *list(parts)[1:]):
            data = private_pem([parts[x] + 2 * (x == wrong) for x in parts])
            if not wrong:
                self.assertEqual(pair().public, KeyPair.load(data).public)
                continue
            error = self.assertRaises(UnreadableKey, KeyPair.load, data)
            if wrong in ("d", "dmp1", "dmq1", "iqmp"):
                self.assertIn("damaged", str(error))

    def test_size(self) -> None:
        """
        A new key has the size asked for; a size that no peer accepts is refused
        before time is spent on it.
        """
        self.assertEqual(1024, pair().public.bits)
        self.assertEqual(65537, pair().public.exponent)
        for bits in (-1, 0, 512, 1000, 2047, 8256, 1 << 20):
            with self.subTest(bits=bits):
                self.assertRaises(InsaneKey, KeyPair.generate, bits)

    def test_certificate(self) -> None:
        """
        The certificate carries the key, is signed with it, says nothing else, and
        has a serial number that strict readers take.
        """
        now = datetime(2026, 11, 22, tzinfo=timezone.utc)
        certificate = pair().certificate(now)
        public = pair().private.public_key()
        algorithm = certificate.signature_hash_algorithm
        assert algorithm is not None
        public.verify(
            certificate.signature,
            certificate.tbs_certificate_bytes,
            padding.PKCS1v15(),
            algorithm,
        )

        self.assertEqual(
            pair().public, PublicKey.from_cryptography(certificate.public_key())
        )
        self.assertGreaterEqual(certificate.serial_number, 1)
        self.assertEqual(certificate.issuer, certificate.subject)
        (name,) = certificate.subject
        self.assertEqual((NameOID.COMMON_NAME, "a"), (name.oid, name.value))
        self.assertLess(certificate.not_valid_before_utc, now)
        self.assertGreater(certificate.not_valid_after_utc, now)

    def test_repr_keeps_the_secret(self) -> None:
        """
        The text form of a pair is its digest.
        """
        self.assertEqual(f"<KeyPair {pair().public.md5}>", repr(pair()))
