# SPDX-License-Identifier: MIT
"""
What is remembered of servers.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.memory import MAX_SERVERS, Recalled, ServerMemory
from nodecomm.testing import key_pair

KEY = key_pair(0).public
OTHER = key_pair(1).public


class MemoryTests(SynchronousTestCase):
    """
    A small file.
    """

    def setUp(self) -> None:
        """A place for it, in a folder that is not there yet."""
        self.path = os.path.join(self.mktemp(), "state", "servers.json")

    def test_what_was_said_is_recalled(self) -> None:
        """
        By the same program and by the next one, for this name and this key alone.
        """
        memory = ServerMemory(self.path)
        memory.note("hub:5308", KEY, 3, b"cf-serverd \xff")

        for one in (memory, ServerMemory(Path(self.path))):
            self.assertEqual(
                one.recall("hub:5308", KEY), Recalled(3, b"cf-serverd \xff")
            )
            self.assertIsNone(one.recall("hub:5308", OTHER))
            self.assertIsNone(one.recall("other:5308", KEY))

    def test_writes_only_what_is_new(self) -> None:
        """
        The file is not written again for what it says already.
        """
        memory = ServerMemory(self.path)
        memory.note("hub:5308", KEY, 3, b"x")
        os.unlink(self.path)
        memory.note("hub:5308", KEY, 3, b"x")
        self.assertFalse(os.path.exists(self.path))
        memory.note("hub:5308", KEY, 2, b"x")
        self.assertTrue(os.path.exists(self.path))

    def test_forgetting(self) -> None:
        """
        What was forgotten is gone from the file, too.
        """
        memory = ServerMemory(self.path)
        memory.note("hub:5308", KEY, 3, b"x")
        memory.forget("hub:5308")
        memory.forget("nobody:1")

        self.assertIsNone(memory.recall("hub:5308", KEY))
        self.assertIsNone(ServerMemory(self.path).recall("hub:5308", KEY))

    def test_bounded(self) -> None:
        """
        The servers noted last are kept, and long products are cut.
        """
        memory = ServerMemory(self.path)
        # Nothing has to be durable here.
        self.patch(os, "fsync", lambda descriptor: None)
        for number in range(MAX_SERVERS + 2):
            memory.note(f"s{number}", KEY, 3, b"x")
        memory.note("last:1", KEY, 3, b"x" * 100_000)

        self.assertIsNotNone(memory.recall("last:1", KEY))
        self.assertIsNone(memory.recall("s0", KEY))
        self.assertLess(os.path.getsize(self.path), MAX_SERVERS * 1024)
        self.assertIsNotNone(ServerMemory(self.path).recall("last:1", KEY))

    def test_a_folder_that_cannot_be_written(self) -> None:
        """
        Nothing is remembered across programs then, and nothing fails.
        """
        os.makedirs(os.path.dirname(os.path.dirname(self.path)))
        with open(os.path.dirname(self.path), "wb"):
            pass
        memory = ServerMemory(self.path)
        memory.note("hub:5308", KEY, 3, b"x")

        self.assertIsNotNone(memory.recall("hub:5308", KEY))

    @settings(max_examples=60, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=200),
            st.recursive(
                st.one_of(st.none(), st.integers(), st.text(max_size=5)),
                lambda inner: st.one_of(
                    st.lists(inner, max_size=3),
                    st.dictionaries(
                        st.sampled_from(
                            ["hub:5308", "newest", "product", "md5", "sha"]
                        ),
                        inner,
                        max_size=5,
                    ),
                ),
                max_leaves=12,
            ).map(lambda tree: json.dumps(tree).encode()),
        )
    )
    def test_damage(self, data: bytes) -> None:
        """
        A damaged file is as none, and is mended by the next note.
        """
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(data)
        memory = ServerMemory(path)
        self.assertIsNone(memory.recall("hub:5308", KEY))
        memory.note("hub:5308", KEY, 3, b"x")

        self.assertEqual(ServerMemory(path).recall("hub:5308", KEY), Recalled(3, b"x"))
