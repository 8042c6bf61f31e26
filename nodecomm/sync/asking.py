# SPDX-License-Identifier: MIT
"""
One connection, asked in such a way that its answers can be believed.

The content of a file comes without header, length or end mark: exactly as many bytes
are taken as a STAT announced. When the file grew meanwhile, the surplus is read as
the answers to what was asked next, and whoever writes that file also writes those
answers: an empty listing, a refusal, a digest that agrees. When it shrank, answers
are taken for content. Both can happen by chance, or one right after the other so that
the stream fits again.

So between content and the next answers stand a few questions that nobody can have
answered in advance: the status of some objects, picked at random among those already
described on this connection, each of which is known by its kind and number. A file's
content was written before the pick was made (and nobody else sees it, as TLS encrypts
the stream; the classic protocol has no such protection from those on the way), so
forged answers fit with a chance of 2 to the -48th at most, however many they are, and
so do true answers that are late or early. Only framed answers follow until the next
content, and framed answers cannot get out of step. Whatever does not fit ends the
connection, before any later answer is handed on.

Nothing waits for this: the questions leave in the pipeline, right before the first
request that needs them. They cost the server a few looks at inodes, no hashing, and
no refusal appears in its log.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from attrs import define, field

from nodecomm.client.errors import BadAnswer, Refused
from nodecomm.wire.replies import LINK, StatReply

if TYPE_CHECKING:
    from random import Random

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

__all__ = ["CERTAINTY", "Asking", "Session"]

T = TypeVar("T")

#: Bits that forged answers would have to guess.
CERTAINTY = 48

#: Objects that are remembered to be asked about; more would save no question.
MAX_KNOWN = 4096

_OUT_OF_STEP = "out-of-step"


class Session(Protocol):
    """
    What is used of a `nodecomm.client.session.ClientSession`, or of a classic one.
    """

    window: int

    @property
    def version(self) -> int:
        """The protocol's version; 1 is classic."""
        ...

    def stat(self, path: bytes) -> Deferred[StatReply]:
        """What is at *path*."""
        ...

    def opendir(
        self, path: bytes, *, max_names: int, alone: bool
    ) -> Deferred[list[bytes]]:
        """The names in a folder; more end the connection."""
        ...

    def differs(
        self, path: bytes, digest: bytes, size: int | None = None
    ) -> Deferred[bool]:
        """Whether the digest of the file, of *size* bytes, is another one."""
        ...

    def get(
        self, path: bytes, size: int, sink: Callable[[bytes], None], *, alone: bool
    ) -> Deferred[None]:
        """Give the *size* bytes that follow to *sink*."""
        ...

    def pause(self) -> None:
        """Deliver nothing for now."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def abort(self, code: str, text: str) -> None:
        """Drop the connection; whatever was asked fails."""
        ...


#: What a question is known to be answered with, and how to ask it.
_Known = tuple[Callable[[], "Deferred[Any]"], Any]


@define(eq=False)
class Asking:
    """
    The requests of an update on one connection.

    Args:
        session: The connection.
        random: What nobody can foresee.

    Attributes:
        doubtful: Content was asked for since the last check.
        group: Checks asked so far; content asked for now is checked by the next one.
        passed: Checks passed so far.
        trouble: Why nothing more is believed.
    """

    session: Session
    _random: Random = field(factory=SystemRandom)
    _known: list[_Known] = field(factory=list, init=False)
    _identities: set[tuple[int, int, int]] = field(factory=set, init=False)
    doubtful: bool = field(default=False, init=False)
    group: int = field(default=0, init=False)
    passed: int = field(default=0, init=False)
    trouble: BadAnswer | None = field(default=None, init=False)

    def stat(self, path: bytes) -> Deferred[StatReply]:
        """
        What is at *path*.
        """
        self.check()
        described = self.session.stat(path)
        return described.addCallbacks(self._learn, self._doubt, callbackArgs=(path,))

    def opendir(
        self, path: bytes, max_names: int, *, alone: bool = False
    ) -> Deferred[list[bytes]]:
        """
        The names in the folder *path*; more than *max_names* end the connection. If it
        is to be *alone*, nothing leaves behind it before it is answered.
        """
        self.check()
        listed = self.session.opendir(path, max_names=max_names, alone=alone)
        return listed.addCallbacks(self._believe, self._doubt)

    def differs(self, path: bytes, digest: bytes, size: int) -> Deferred[bool]:
        """
        Whether the server's file, of *size* bytes, has another digest than *digest*.
        """
        self.check()
        compared = self.session.differs(path, digest, size)
        return compared.addCallbacks(self._believe, self._doubt)

    def get(
        self,
        path: bytes,
        size: int,
        sink: Callable[[bytes], None],
        *,
        alone: bool = False,
    ) -> Deferred[None]:
        """
        Take *size* bytes as the content of *path*. That they are it must be found out
        by its digest. For *alone* see `opendir`.
        """
        self.doubtful = True
        return self.session.get(path, size, sink, alone=alone)

    @property
    def ends_at_refusals(self) -> bool:
        """
        Whether the server ends this connection when it refuses a listing, and loses
        what was asked behind it.
        Source: CFEngine 3.21, protocol 1, observed.
        """
        return self.session.version == 1

    @property
    def ends_at_refused_content(self) -> bool:
        """
        Whether it ends the connection when it refuses a content, too, as it does of
        encrypted ones.
        """
        return self.ends_at_refusals and getattr(self.session, "encrypted", False)

    @property
    def can_check(self) -> bool:
        """
        Whether enough is known to make out whether the stream is in step.
        """
        return len(self._known) > 1

    def offer(self, path: bytes, digest: bytes) -> None:
        """
        Make it possible to check with nothing known but one small file: its digest,
        and one that is not.
        """
        wrong = bytes(byte ^ 0xFF for byte in digest)
        self._known += [
            (partial(self.session.differs, path, digest), False),
            (partial(self.session.differs, path, wrong), True),
        ]

    def check(self) -> None:
        """
        Ask what nobody can have answered in advance, if content was asked for since
        the last time.

        Raises:
            RuntimeError: Too little is known; see `can_check`.
        """
        if not self.doubtful:
            return
        if not self.can_check:
            msg = "content was asked for, and nothing is known to check the answers by"
            raise RuntimeError(msg)
        self.doubtful = False
        self.group += 1
        count = math.ceil(CERTAINTY / math.log2(len(self._known)))
        for ask, expected in self._random.choices(self._known, k=count):
            asked = ask()
            asked.addCallbacks(self._compare, self._refused, callbackArgs=(expected,))
        asked.addCallback(self._pass)

    def _compare(self, answer: object, expected: object) -> bool:
        if isinstance(answer, StatReply):
            answer = _identity(answer)
        if answer != expected:
            self._out_of_step("an answer belongs to another question")
        return True

    def _pass(self, answered: bool) -> None:
        if answered and self.trouble is None:
            self.passed += 1

    def _refused(self, failure: Failure) -> bool:
        # Any other error has ended the connection by itself.
        if isinstance(failure.value, Refused):
            self._out_of_step(f"{failure.value}, and described it before")
        return False

    def _out_of_step(self, why: str) -> None:
        if self.trouble is None:
            self.trouble = BadAnswer(
                _OUT_OF_STEP,
                f"answers do not fit the questions any more ({why}): a file changed"
                " while it was sent, or the server sent an error text as its content",
            )
            self.session.abort(self.trouble.code, self.trouble.text)

    def _believe(self, answer: T) -> T:
        if self.trouble is not None:
            raise BadAnswer(self.trouble.code, self.trouble.text)
        return answer

    def _doubt(self, failure: Failure) -> Failure:
        self._believe(None)
        return failure

    def _learn(self, reply: StatReply, path: bytes) -> StatReply:
        self._believe(reply)
        identity = _identity(reply)
        if len(self._known) < MAX_KNOWN and identity not in self._identities:
            self._identities.add(identity)
            self._known.append((partial(self.session.stat, path), identity))
        return reply


def _identity(reply: StatReply) -> tuple[int, int, int]:
    """
    What stays the same when an object is read, or even changed. A link is known by its
    own number, and what it leads to may become something else.
    """
    kind = LINK if reply.link_mode else reply.kind
    return kind, reply.ino, reply.dev
