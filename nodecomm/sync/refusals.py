# SPDX-License-Identifier: MIT
"""
What a server refused in the course of a run, so that it is not asked for again.

Over the classic protocol a server that refuses a listing, or the encrypted content of
a file, ends the connection, and all that was asked behind it is lost. What is left is
asked for on another connection, which would come to the same end if it asked for the
same again. So each such refusal counts for the rest of the run, and a run needs one
connection more for each, however many there are.
"""

from __future__ import annotations

from attrs import define, field

from nodecomm.client.errors import Refused

__all__ = ["Refusals"]


@define(eq=False)
class Refusals:
    """
    The refusals of one run that ended a connection.

    Attributes:
        listings: What was answered, by the names of folders.
        contents: Files whose content is refused.
        guessing: Whether the listing of a folder may be asked for before its status
            says that it is one, because it was one the last time.
        learned: How many times something was found out.
    """

    listings: dict[bytes, Refused] = field(factory=dict, init=False)
    contents: set[bytes] = field(factory=set, init=False)
    guessing: bool = field(default=True, init=False)
    learned: int = field(default=0, init=False)

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
                self.learned += 1
        elif name not in self.listings:
            self.listings[name] = refused
            self.learned += 1

    def content(self, name: bytes) -> None:
        """
        The content of *name* is refused.
        """
        if name not in self.contents:
            self.contents.add(name)
            self.learned += 1
