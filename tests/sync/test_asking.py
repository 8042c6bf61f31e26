# SPDX-License-Identifier: MIT
from __future__ import annotations

import hashlib
from random import Random

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import BadAnswer
from nodecomm.sync.asking import CERTAINTY, Asking
from nodecomm.wire.replies import DIRECTORY, LINK, REGULAR
from tests.sync.fakes import SOURCE, FakeSession, Tree, reply

TREE: Tree = {b"": None}
TREE.update({b"file%d" % number: b"x" * number for number in range(30)})

#: The same names, and other objects under them, but for one.
OTHERS: Tree = {name: reply(ino=99) for name in TREE}
OTHERS[b"file1"] = b"x"


def path(name: bytes) -> bytes:
    """On the server."""
    return SOURCE + b"/" + name


class AskingTests(SynchronousTestCase):
    """
    When answers behind content are believed.
    """

    def known(self, session: FakeSession, count: int = 30) -> Asking:
        """A connection on which some objects were described."""
        asking = Asking(session)
        for name in list(session.tree)[:count]:
            asking.stat(path(name) if name else SOURCE)
        session.answer_all()
        session.asked.clear()
        return asking

    def test_no_content_no_questions(self) -> None:
        """
        Without content before them, answers are what they are.
        """
        session = FakeSession(TREE)
        asking = Asking(session)

        stat = asking.stat(SOURCE)
        names = asking.opendir(SOURCE, 100)
        session.answer()

        self.assertEqual(len(session.asked), 2)
        self.assertEqual(self.successResultOf(stat).kind, DIRECTORY)
        self.assertEqual(len(self.successResultOf(names)), 30)

    def test_questions_stand_before_the_first_answer_behind_content(self) -> None:
        """
        Once for all content before, not once a file, and enough of them.
        """
        session = FakeSession(TREE)
        asking = self.known(session)
        for number in (1, 2, 3):
            asking.get(path(b"file%d" % number), number, lambda data: None)

        asking.differs(path(b"file1"), b"\0" * 16, 1)
        asking.stat(path(b"file2"))
        asking.opendir(SOURCE, 100)

        commands = [command for command, _ in session.asked]
        self.assertEqual(
            commands, ["GET"] * 3 + ["STAT"] * 10 + ["MD5", "STAT", "OPENDIR"]
        )
        self.assertGreaterEqual(30**10, 2**CERTAINTY)

    def test_a_link_may_lead_elsewhere(self) -> None:
        """
        It stays the same link when what it leads to becomes something else, and
        another link or none does not fit.
        """
        before = evolve(reply(DIRECTORY, ino=9, target=b"x"), link_mode=0o777)
        cases = [
            (evolve(before, kind=REGULAR, target=b"y"), None),
            (evolve(before, kind=LINK), None),
            (evolve(before, ino=8), "out-of-step"),
            (evolve(before, link_mode=0, target=b""), "out-of-step"),
        ]
        for after, expected in cases:
            session = FakeSession({b"": None, b"link": before, b"file": b"1"})
            asking = self.known(session, 3)
            session.tree[b"link"] = after
            asking.get(path(b"file"), 1, lambda data: None)
            asking.check()
            session.answer_all()

            code = None if asking.trouble is None else asking.trouble.code
            self.assertEqual(code, expected, after)

    def test_few_known_objects_mean_more_questions(self) -> None:
        """
        With two objects each question is worth one bit.
        """
        session = FakeSession(TREE)
        asking = self.known(session, 2)
        asking.get(path(b"file1"), 1, lambda data: None)

        asking.check()

        self.assertEqual(len(session.asked), 1 + CERTAINTY)

    def test_equal_objects_count_once(self) -> None:
        """
        Hard links of one file have one number, so they tell nothing apart.
        """
        session = FakeSession({b"a": reply(ino=5), b"b": reply(ino=5)})
        asking = self.known(session)

        self.assertFalse(asking.can_check)

    def test_nothing_is_believed_unchecked(self) -> None:
        """
        Behind content, with nothing to check by, asking is a mistake of the caller's.
        """
        session = FakeSession(TREE)
        asking = Asking(session)
        asking.get(path(b"file1"), 1, lambda data: None)

        self.assertRaises(RuntimeError, asking.differs, path(b"file1"), b"", 1)

    def test_a_single_file_is_checked_by_its_digest(self) -> None:
        """
        Where nothing else is known, right and wrong digests are asked in an order
        that nobody foresees.
        """
        session = FakeSession({b"": b"content"})
        asking = Asking(session)
        asking.get(SOURCE, 7, lambda data: None)
        digest = hashlib.md5(b"content").digest()

        asking.offer(SOURCE, digest)
        same = asking.differs(SOURCE, digest, 7)
        session.answer_all()

        self.assertEqual(self.successResultOf(same), False)
        self.assertEqual(len(session.asked), 1 + CERTAINTY + 1)

    def test_answers_of_other_objects_end_the_connection(self) -> None:
        """
        As when a forged or a late answer stands in the place of the true one; what
        comes behind is not handed on.
        """
        session = FakeSession(dict(TREE))
        asking = self.known(session)
        asking.get(path(b"file1"), 1, lambda data: None)
        verified = asking.differs(path(b"file1"), hashlib.md5(b"x").digest(), 1)
        session.tree = OTHERS

        session.answer_all()

        self.assertEqual(session.aborted and session.aborted[0], "out-of-step")
        self.failureResultOf(verified, BadAnswer)
        self.assertEqual(asking.trouble and asking.trouble.code, "out-of-step")

    def test_a_refusal_of_what_was_described_ends_the_connection(self) -> None:
        """
        It may be the refusal of something else.
        """
        session = FakeSession(TREE)
        asking = self.known(session)
        session.refused = {("STAT", name) for name in TREE}
        asking.get(path(b"file1"), 1, lambda data: None)

        asking.check()
        session.answer_all()

        self.assertIsNotNone(session.aborted)

    def test_answers_that_come_all_the_same_are_not_believed(self) -> None:
        """
        Even if a session handed on what was read already.
        """

        class Deaf(FakeSession):
            def abort(self, code: str, text: str) -> None:
                self.aborted = code, text

        session = Deaf(TREE)
        asking = self.known(session)
        asking.get(path(b"file1"), 1, lambda data: None)
        answers: list[Deferred[object]] = [
            asking.differs(path(b"file1"), b"", 1),  # type: ignore[list-item]
            asking.opendir(SOURCE, 100),  # type: ignore[list-item]
            asking.stat(path(b"file1")),  # type: ignore[list-item]
        ]
        session.tree = OTHERS

        session.answer_all()

        for answer in answers:
            self.failureResultOf(answer, BadAnswer)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(2, 200), st.integers(1, 60), st.integers())
    def test_shifted_answers_never_fit(self, count: int, shift: int, seed: int) -> None:
        """
        Whoever puts answers of his choice before the true ones, any number of them,
        does not get through.
        """
        tree: Tree = {b"%d" % number: reply(ino=number) for number in range(count)}
        session = FakeSession(tree)
        asking = Asking(session, Random(seed))
        for name in tree:
            asking.stat(path(name))
        session.answer_all()
        asking.get(path(b"0"), 0, lambda data: None)
        asking.check()
        guess = Random(seed + 1)
        forged = [reply(ino=guess.randrange(count)) for _ in range(shift)]
        questions = session.waiting[1:]
        true = [question.give() for question in questions]
        late = [*forged, *true][: len(questions)]
        for question, answer in zip(questions, late, strict=True):
            question.give = lambda answer=answer: answer  # type: ignore[misc]
        session.tree[b"0"] = b""

        session.answer_all()

        self.assertIsNotNone(session.aborted)
