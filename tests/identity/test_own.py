# SPDX-License-Identifier: MIT
"""
This machine's own key pair.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.identity.keys import InsaneKey
from nodecomm.identity.own import OwnKeyError, create_own_key, load_own_key
from tests.identity.sample import key, pair, temporary_folder

KEYS = Path(__file__).parent / "keys"


class OwnKeyTests(SynchronousTestCase):
    """
    Making and reading the pair.
    """

    def setUp(self) -> None:
        self.folder = temporary_folder(self) / "state" / "ppkeys"
        self.private = self.folder / "localhost.priv"
        self.public = self.folder / "localhost.pub"

    def test_made_and_read(self) -> None:
        """
        Both files are the owner's only, in a folder that is too.
        """
        made = create_own_key(self.folder, bits=1024)

        self.assertEqual(made.public, load_own_key(self.folder).public)
        self.assertEqual(1024, made.public.bits)
        for path, mode in (
            (self.private, 0o600),
            (self.public, 0o600),
            (self.folder, 0o700),
            (self.folder.parent, 0o700),
        ):
            self.assertEqual(mode, stat.S_IMODE(path.stat().st_mode), path)

    def test_never_overwritten(self) -> None:
        """
        Where either file is, even a broken link, nothing is made.
        """
        self.folder.mkdir(parents=True)
        for path in (self.private, self.public):
            path.symlink_to("nowhere")
            with self.assertRaises(OwnKeyError) as caught:
                create_own_key(self.folder, pair())
            self.assertEqual(str(path), caught.exception.path)
            self.assertIn("not overwritten", str(caught.exception))
            path.unlink()
        self.assertEqual([], list(self.folder.iterdir()))

    def test_wrong_size(self) -> None:
        """
        A size that no peer accepts makes neither files nor folder.
        """
        self.assertRaises(InsaneKey, create_own_key, self.folder, bits=2000)
        self.assertFalse(self.folder.exists())

    def test_older_forms(self) -> None:
        """
        Pairs that older releases encrypted, and PKCS#8, are read.
        """
        self.folder.mkdir(parents=True)
        shutil.copy(KEYS / "plain.pub", self.public)
        for name in ("old.priv", "pkcs8.priv", "plain.priv"):
            shutil.copy(KEYS / name, self.private)
            self.assertEqual(2048, load_own_key(self.folder).public.bits)

    def test_public_half_missing(self) -> None:
        """
        The private file is enough.
        """
        create_own_key(self.folder, pair())
        self.public.unlink()

        self.assertEqual(key(), load_own_key(self.folder).public)

    def test_errors_name_the_file(self) -> None:
        """
        Each fault names its file and what to do.
        """
        self.folder.mkdir(parents=True)
        cases = [
            (None, None, self.private, "nodecomm key generate"),
            (b"nonsense", None, self.private, "make a new key"),
            (b"", key().to_pem(), self.private, "make a new key"),
            (b"x" * 100_000, None, self.private, "larger"),
            (key().to_pem(), None, self.private, "public key"),
            (pair().to_pem(), b"nonsense", self.public, "remove it"),
            (pair().to_pem(), key(1).to_pem(), self.public, "not the public half"),
        ]
        for private, public, path, words in cases:
            for file, content in ((self.private, private), (self.public, public)):
                file.unlink(missing_ok=True)
                if content is not None:
                    file.write_bytes(content)
            with self.subTest(words=words):
                with self.assertRaises(OwnKeyError) as caught:
                    load_own_key(self.folder)
                self.assertEqual(str(path), caught.exception.path)
                self.assertIn(str(path), str(caught.exception))
                self.assertIn(words, str(caught.exception))
