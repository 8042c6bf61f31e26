# SPDX-License-Identifier: MIT
"""
What a server refused in the course of a run, so that it is not asked for again.

Over the classic protocol a server that refuses a listing, or the encrypted content of
a file, ends the connection, and all that was asked behind it is lost. What is left is
asked for on another connection, which would come to the same end if it asked for the
same again. So each such refusal counts for the rest of the run, and a run needs one
connection more for each, however many there are.

The refusal itself can be lost, and with it answers before it: a server that closes
while requests have come that it has not read resets the connection, and what it had
not sent by then, as it waited to send more at a time, is never sent. Then each listing
and content that was out may be the one; see `nodecomm.sync.doubting`.
"""

from __future__ import annotations

from attrs import define, field

from nodecomm.client.errors import Refused
from nodecomm.sync.errors import LimitExceeded

__all__ = ["MOST", "Refusals"]

#: So much may be refused in a run, each at the cost of a connection. A server that has
#: other names on each of them would be asked for as long as a run may take, and what it
#: has refused be remembered.
MOST = 10_000


@define(eq=False)
class Refusals:
    """
    The refusals of one run that ended a connection.

    Attributes:
        listings: What was answered, by the names of folders.
        contents: Files whose content is refused.
        doubted: Listings and contents, by the names of what they are of, of which one
            may be what ended a connection. No name is a folder's and a file's.
        guessing: Whether the listing of a folder may be asked for before its status
            says that it is one, because it was one the last time.
        learned: How many times something was found out.
    """

    listings: dict[bytes, Refused] = field(factory=dict, init=False)
    contents: set[bytes] = field(factory=set, init=False)
    doubted: set[bytes] = field(factory=set, init=False)
    guessing: bool = field(default=True, init=False)
    learned: int = field(default=0, init=False)
    # What is out, and how many were when a connection was last lost that has narrowed
    # it down; None: something was found out since.
    _out: set[bytes] = field(factory=set, init=False)
    _lost: int | None = field(default=None, init=False)

    def begin(self) -> None:
        """
        A connection on which nothing is out.
        """
        self._out.clear()

    def asked(self, name: bytes) -> None:
        """
        The listing or content of *name* is out.
        """
        self._out.add(name)

    def answered(self, name: bytes) -> None:
        """
        It came, or was refused.
        """
        self._out.discard(name)
        self.doubted.discard(name)

    def lost(self) -> bool:
        """
        The connection ended without a word: at one of those that are out, if any are.

        Returns:
            Whether asking for them with more care will tell more. That ends: each time
            at most half as many are out as the last time that it was so.
        """
        out, before = len(self._out), self._lost
        if len(self.doubted) > MOST:
            # Names that are not there any more, most of them.
            self.doubted.clear()
        self.doubted |= self._out
        self._out.clear()
        tells_more = out > 0 and (before is None or 2 * out <= before)
        if tells_more:
            self._lost = out
        return tells_more

    def _learn(self) -> None:
        self.learned += 1
        self._lost = None

    def check(self) -> None:
        """
        Check that there is an end of it.

        Raises:
            LimitExceeded: There is not.
        """
        if self.learned > MOST:
            msg = (
                f"more than {MOST} folders and files are refused, each at the cost of"
                " a connection: have the server give them, or exclude them"
            )
            raise LimitExceeded("refused", msg)

    def listing(self, name: bytes, refused: Refused, *, guessed: bool) -> None:
        """
        The listing of *name* is refused.

        Args:
            guessed: Whether nobody said that it is a folder now. Then it may just be
                gone, and as many more may be, no listing is guessed at any more.
        """
        if guessed:
            if self.guessing:
                self.guessing = False
                self._learn()
        elif name not in self.listings:
            self.listings[name] = refused
            self._learn()

    def content(self, name: bytes) -> None:
        """
        The content of *name* is refused.
        """
        if name not in self.contents:
            self.contents.add(name)
            self._learn()
