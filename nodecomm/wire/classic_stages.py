# SPDX-License-Identifier: MIT
"""
Where the dialog of the classic protocol stands, and what moves it: one table for the
server's end and the client's in `nodecomm.wire.classic_dialog`.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """
    Where a dialog stands. The first eight are a server's, the next seven a client's.
    """

    AWAIT_CLAIM = "await claim"
    AWAIT_CHALLENGE = "await challenge"
    AWAIT_KEY = "await key"
    AWAIT_EXPONENT = "await exponent"
    INTRODUCED = "introduced"
    AWAIT_ANSWER = "await answer"
    AWAIT_SESSION_KEY = "await session key"
    KEYED = "keyed"
    NOT_OPENED = "not opened"
    AWAIT_TRUST = "await trust"
    AWAIT_PROOF = "await proof"
    AWAIT_COUNTER = "await counter-challenge"
    AWAIT_SERVER_KEY = "await server key"
    AWAIT_SERVER_EXPONENT = "await server exponent"
    COUNTERED = "countered"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class Input(Enum):
    """
    What moves a dialog.
    """

    CLAIM = "claim received"
    CHALLENGE = "challenge received"
    KEY = "modulus received"
    EXPONENT = "exponent received"
    ACCEPTED = "acceptance sent"
    ANSWER = "right answer received"
    SESSION_KEY = "session key received"
    ESTABLISHED = "session key known"
    KEY_REFUSED = "refusal of the key sent"
    REFUSAL = "refusal sent"
    OPENED = "own messages sent"
    TRUSTED = "trust received"
    DENIED = "refusal received"
    PROOF = "right proof received"
    COUNTER = "counter-challenge received"
    COUNTER_OF_STRANGER = "counter-challenge received, key to follow"
    ANSWERED = "own answer sent"


#: Every step of a dialog that does not break the protocol. Bytes received in a state
#: that waits for no message are kept, but for `REFUSED` and those of a server that
#: says more before the client has answered.
TABLE: dict[tuple[State, Input], State] = {
    (State.AWAIT_CLAIM, Input.CLAIM): State.AWAIT_CHALLENGE,
    (State.AWAIT_CHALLENGE, Input.CHALLENGE): State.AWAIT_KEY,
    (State.AWAIT_KEY, Input.KEY): State.AWAIT_EXPONENT,
    (State.AWAIT_EXPONENT, Input.EXPONENT): State.INTRODUCED,
    (State.INTRODUCED, Input.ACCEPTED): State.AWAIT_ANSWER,
    (State.INTRODUCED, Input.KEY_REFUSED): State.REFUSED,
    (State.AWAIT_ANSWER, Input.ANSWER): State.AWAIT_SESSION_KEY,
    (State.AWAIT_SESSION_KEY, Input.SESSION_KEY): State.KEYED,
    (State.KEYED, Input.ESTABLISHED): State.DONE,
    (State.AWAIT_CLAIM, Input.REFUSAL): State.REFUSED,
    (State.AWAIT_CHALLENGE, Input.REFUSAL): State.REFUSED,
    (State.AWAIT_KEY, Input.REFUSAL): State.REFUSED,
    (State.AWAIT_EXPONENT, Input.REFUSAL): State.REFUSED,
    (State.INTRODUCED, Input.REFUSAL): State.REFUSED,
    (State.AWAIT_ANSWER, Input.REFUSAL): State.REFUSED,
    (State.AWAIT_SESSION_KEY, Input.REFUSAL): State.REFUSED,
    (State.KEYED, Input.REFUSAL): State.REFUSED,
    (State.FAILED, Input.REFUSAL): State.REFUSED,
    (State.NOT_OPENED, Input.OPENED): State.AWAIT_TRUST,
    (State.AWAIT_TRUST, Input.TRUSTED): State.AWAIT_PROOF,
    (State.AWAIT_TRUST, Input.DENIED): State.REFUSED,
    (State.AWAIT_PROOF, Input.PROOF): State.AWAIT_COUNTER,
    (State.AWAIT_COUNTER, Input.COUNTER): State.COUNTERED,
    (State.AWAIT_COUNTER, Input.COUNTER_OF_STRANGER): State.AWAIT_SERVER_KEY,
    (State.AWAIT_SERVER_KEY, Input.KEY): State.AWAIT_SERVER_EXPONENT,
    (State.AWAIT_SERVER_EXPONENT, Input.EXPONENT): State.COUNTERED,
    (State.COUNTERED, Input.ANSWERED): State.DONE,
}

#: The states in which the next message is read.
AWAITING = frozenset(
    {
        State.AWAIT_CLAIM,
        State.AWAIT_CHALLENGE,
        State.AWAIT_KEY,
        State.AWAIT_EXPONENT,
        State.AWAIT_ANSWER,
        State.AWAIT_SESSION_KEY,
        State.AWAIT_TRUST,
        State.AWAIT_PROOF,
        State.AWAIT_COUNTER,
        State.AWAIT_SERVER_KEY,
        State.AWAIT_SERVER_EXPONENT,
    }
)
