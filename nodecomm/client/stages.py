# SPDX-License-Identifier: MIT
"""
The life of a connection to a server.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ASKING", "CLASSIC_TABLE", "OVER", "TABLE", "Stage", "Step", "after"]


class Stage(Enum):
    """
    Where in its life a connection is.
    """

    HANDSHAKING = "TLS handshake"
    DECIDING = "deciding about the server's key"
    GREETING = "waiting for the server's first line"
    IDENTIFYING = "waiting for the welcome"
    CONNECTING = "connecting"
    NAMING = "looking up the own name"
    PROVING = "waiting for the server's proof"
    ANSWERING = "answering the server's challenge"
    OPEN = "welcomed"
    ENDING = "waiting for the end"
    ENDED = "ended"


class Step(Enum):
    """
    What moves a connection.
    """

    HANDSHAKEN = "handshake completed"
    TRUSTED = "key trusted"
    IDENTIFIED = "own lines sent"
    WELCOMED = "welcome received"
    CONNECTED = "TCP connected"
    INTRODUCED = "name, challenge and own key sent"
    PROVEN = "proof received"
    ANSWERED = "answer and session key sent"
    LEFT = "closed or dropped from this side"
    LOST = "connection lost"


#: The steps of a connection that goes well. Own lines are sent when the server's
#: first line has come, or before it to a server that is known.
TABLE: dict[tuple[Stage, Step], Stage] = {
    (Stage.HANDSHAKING, Step.HANDSHAKEN): Stage.DECIDING,
    (Stage.DECIDING, Step.TRUSTED): Stage.GREETING,
    (Stage.GREETING, Step.IDENTIFIED): Stage.IDENTIFYING,
    (Stage.IDENTIFYING, Step.WELCOMED): Stage.OPEN,
}

#: The same without TLS, in the classic protocol. A connection on which a server is
#: only asked for its key ends in `PROVING`.
CLASSIC_TABLE: dict[tuple[Stage, Step], Stage] = {
    (Stage.CONNECTING, Step.CONNECTED): Stage.NAMING,
    (Stage.NAMING, Step.INTRODUCED): Stage.PROVING,
    (Stage.PROVING, Step.PROVEN): Stage.DECIDING,
    (Stage.DECIDING, Step.TRUSTED): Stage.ANSWERING,
    (Stage.ANSWERING, Step.ANSWERED): Stage.OPEN,
}

#: Where these lead from anywhere but `ENDED`, which nothing leads out of.
_FROM_ANYWHERE = {Step.LEFT: Stage.ENDING, Step.LOST: Stage.ENDED}

#: Stages in which requests leave.
ASKING = frozenset({Stage.IDENTIFYING, Stage.OPEN})

#: Stages in which nothing more can be asked for.
OVER = frozenset({Stage.ENDING, Stage.ENDED})


def after(
    stage: Stage, step: Step, table: Mapping[tuple[Stage, Step], Stage] = TABLE
) -> Stage:
    """
    The stage that *step* leads to, by *table*.

    Raises:
        KeyError: This step cannot happen there: a mistake of this program.
    """
    if stage is not Stage.ENDED and step in _FROM_ANYWHERE:
        return _FROM_ANYWHERE[step]
    return table[stage, step]
