# SPDX-License-Identifier: MIT
"""
The classic dialog, both ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis.strategies import binary, integers, lists, one_of, sampled_from
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.classic import (
    CLEAR,
    ENCRYPTED,
    KEY_ACCEPTED,
    KEY_ON_TRUST,
    KEY_REFUSED,
    Challenge,
    Claim,
    encode_mpi,
    encode_sauth,
)
from nodecomm.wire.classic_dialog import (
    Accepted,
    Claimed,
    ClassicClientDialog,
    ClassicServerDialog,
    Countered,
    Denied,
    Introduced,
    SessionKeySent,
    WrongProof,
)
from nodecomm.wire.classic_stages import TABLE, Input, State
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import REFUSAL
from tests.wire.tables import stands_in

PAGE = Path(__file__).parents[2] / "docs" / "classic.rst"

CLAIM = Claim(b"127.0.0.1", b"localhost", b"root")
NONCE = bytes.fromhex("0000002100") + b"\xce" * 32
COUNTER = bytes.fromhex("0000002100") + b"\xdf" * 32
PROOF = md5(NONCE, usedforsecurity=False).digest()
ANSWER = md5(COUNTER, usedforsecurity=False).digest()

#: The dialog encrypts nothing: what stands for a ciphertext has its size only.
SERVER_BLOCK = b"s" * 256
CLIENT_BLOCK = b"c" * 128
SESSION_KEY = b"k" * 256

CLIENT_KEY = ((1 << 1023) | 1, 3)
SERVER_KEY = ((1 << 2047) | 1, 65537)

FORMS = {
    ENCRYPTED: Challenge(ENCRYPTED, SERVER_BLOCK, 37),
    CLEAR: Challenge(CLEAR, NONCE, 37),
}

Dialog = ClassicServerDialog | ClassicClientDialog


def framed(*payloads: bytes) -> bytes:
    return b"".join(map(encode_transaction, payloads))


CAUTH = framed(b"CAUTH 127.0.0.1 localhost root 0")
SAUTH = {form: framed(encode_sauth(challenge)) for form, challenge in FORMS.items()}
MODULUS, EXPONENT = (framed(encode_mpi(number)) for number in CLIENT_KEY)
OPENING = {form: CAUTH + SAUTH[form] + MODULUS + EXPONENT for form in FORMS}
ACCEPTANCE = {
    ENCRYPTED: framed(KEY_ACCEPTED, PROOF, CLIENT_BLOCK),
    CLEAR: framed(KEY_ACCEPTED, PROOF, CLIENT_BLOCK, *map(encode_mpi, SERVER_KEY)),
}
LAST = framed(ANSWER, SESSION_KEY)
REQUEST = framed(b"VERSION")


def server(*data: bytes) -> ClassicServerDialog:
    """
    A server that has received *data*.
    """
    dialog = ClassicServerDialog()
    dialog.receive_data(b"".join(data))
    return dialog


def accept(dialog: ClassicServerDialog, form: bytes = ENCRYPTED, **other: Any) -> bytes:
    """
    Accept a client, in the usual way but for what is given.
    """
    arguments: dict[str, Any] = {
        "on_trust": False,
        "answer": PROOF,
        "counter": CLIENT_BLOCK,
        "expected": ANSWER,
        "own": SERVER_KEY if form == CLEAR else None,
    }
    return dialog.accept(**arguments | other)


def accepted(form: bytes = ENCRYPTED, *data: bytes) -> ClassicServerDialog:
    """
    A server that has accepted the client, and then received *data*.
    """
    dialog = server(OPENING[form])
    accept(dialog, form)
    dialog.receive_data(b"".join(data))
    return dialog


def client(form: bytes = ENCRYPTED) -> ClassicClientDialog:
    return ClassicClientDialog(CLAIM, FORMS[form], *CLIENT_KEY, PROOF)


def opened(form: bytes = ENCRYPTED, *data: bytes) -> ClassicClientDialog:
    """
    A client that has opened the dialog, and received *data*.
    """
    dialog = client(form)
    dialog.opening()
    dialog.receive_data(b"".join(data))
    return dialog


class ServerTests(SynchronousTestCase):
    """
    `ClassicServerDialog`.
    """

    def test_whole_dialog(self) -> None:
        """
        A known client is challenged, proves its key, and sends a session key; the
        server's own key is told to who asks for it.
        """
        for form, challenge in FORMS.items():
            dialog = ClassicServerDialog()

            self.assertEqual(
                [Claimed(CLAIM), Introduced(challenge, *CLIENT_KEY)],
                dialog.receive_data(OPENING[form]),
            )
            self.assertEqual(CLAIM, dialog.claim)
            self.assertEqual(ACCEPTANCE[form], accept(dialog, form))
            self.assertEqual([SessionKeySent(SESSION_KEY)], dialog.receive_data(LAST))
            dialog.established()
            self.assertIs(State.DONE, dialog.state)
            self.assertEqual(b"", dialog.trailing())

    def test_accepted_on_trust(self) -> None:
        """
        A client is told when its key was unknown until now.
        """
        sent = accept(server(OPENING[CLEAR]), CLEAR, on_trust=True)

        self.assertTrue(sent.startswith(framed(KEY_ON_TRUST, PROOF, CLIENT_BLOCK)))

    def test_refused_key(self) -> None:
        """
        A client whose key is not trusted is told so, in the words of the real server.
        """
        dialog = server(OPENING[ENCRYPTED])

        self.assertEqual(framed(KEY_REFUSED, REFUSAL), dialog.refuse(key=True))
        self.assertIs(State.REFUSED, dialog.state)

    def test_refused(self) -> None:
        """
        A client can be refused at any time before the dialog is done; what it still
        says is dropped.
        """
        for dialog in (
            server(),
            server(CAUTH),
            server(CAUTH, SAUTH[CLEAR]),
            server(CAUTH, SAUTH[CLEAR], MODULUS),
            server(OPENING[CLEAR]),
            accepted(CLEAR),
            accepted(CLEAR, framed(ANSWER)),
            accepted(CLEAR, LAST),
        ):
            self.assertEqual(framed(REFUSAL), dialog.refuse())
            self.assertEqual([], dialog.receive_data(CAUTH + b"?" * 9))
            self.assertIs(State.REFUSED, dialog.state)
            self.assertRaises(LocalProtocolError, dialog.refuse)
            self.assertRaises(LocalProtocolError, dialog.trailing)

    def test_requests_sent_ahead(self) -> None:
        """
        Requests behind the session key, in the same write or later, are kept for the
        reader of requests, while the key is decrypted and after.
        """
        dialog = accepted()

        self.assertEqual(
            [SessionKeySent(SESSION_KEY)], dialog.receive_data(LAST + REQUEST[:5])
        )
        self.assertEqual([], dialog.receive_data(REQUEST[5:]))
        dialog.established()
        self.assertEqual([], dialog.receive_data(REQUEST))
        self.assertEqual(REQUEST * 2, dialog.trailing())
        self.assertEqual(b"", dialog.trailing())

    def test_bytes_before_the_decision(self) -> None:
        """
        What a client says before it was answered is read after that.
        """
        dialog = server(OPENING[ENCRYPTED], LAST)
        self.assertEqual([], dialog.receive_data(REQUEST))
        self.assertIs(State.INTRODUCED, dialog.state)
        accept(dialog)

        self.assertEqual([SessionKeySent(SESSION_KEY)], dialog.receive_data(b""))
        self.assertEqual(REQUEST, dialog.trailing())

    def test_answers(self) -> None:
        """
        The digest of the counter-challenge is the answer, whatever follows it.
        """
        for answer in (ANSWER, ANSWER + b"x", ANSWER + bytes(4000)):
            dialog = accepted(ENCRYPTED, framed(answer))

            self.assertIs(State.AWAIT_SESSION_KEY, dialog.state)

    def test_wrong_answers(self) -> None:
        """
        A client that answers the counter-challenge wrongly does not own its key.
        """
        for answer in (
            b"\0",
            ANSWER[:-1],
            bytes(16),
            ANSWER[:-1] + bytes([ANSWER[-1] ^ 1]),
            b"x" + ANSWER,
            PROOF,
            COUNTER,
            CLIENT_BLOCK,
        ):
            dialog = accepted()
            error = self.assertRaises(
                RemoteProtocolError, dialog.receive_data, framed(answer, SESSION_KEY)
            )

            self.assertIn("does not own the key", str(error))
            self.assertIs(State.FAILED, dialog.state)
            self.assertEqual(framed(REFUSAL), dialog.refuse())

    def test_out_of_order(self) -> None:
        """
        Only the message that is due is accepted: no challenge without a claim, no
        second claim, no request, no wrong message in between.
        """
        messages = {
            "claim": CAUTH,
            "challenge": SAUTH[ENCRYPTED],
            "number": MODULUS,
            "request": REQUEST,
            "answer": framed(ANSWER),
        }
        for make, allowed in (
            (server, "claim"),
            (lambda: server(CAUTH), "challenge"),
            (lambda: server(CAUTH, SAUTH[CLEAR]), "number"),
            (lambda: server(CAUTH, SAUTH[CLEAR], MODULUS), "number"),
            (accepted, "answer"),
        ):
            for name, message in messages.items():
                dialog = make()
                if name == allowed:
                    dialog.receive_data(message)
                    self.assertIsNot(State.FAILED, dialog.state)
                    continue
                self.assertRaises(RemoteProtocolError, dialog.receive_data, message)
                self.assertIs(State.FAILED, dialog.state)
                self.assertEqual(framed(REFUSAL), dialog.refuse())

    def test_no_transactions(self) -> None:
        """
        What is no transaction is not even answered.
        """
        for dialog in (server(), server(CAUTH), accepted()):
            self.assertRaises(
                RemoteProtocolError, dialog.receive_data, b"GET / HTTP/1.1\r\n"
            )
            self.assertIs(State.FAILED, dialog.state)
            self.assertEqual(b"", dialog.refuse())

    def test_own_mistakes(self) -> None:
        """
        An acceptance that no client could use is not made, and moves nothing.
        """
        for form, other in (
            (ENCRYPTED, {"answer": PROOF[:-1]}),
            (ENCRYPTED, {"expected": b""}),
            (ENCRYPTED, {"counter": SERVER_BLOCK}),
            (ENCRYPTED, {"own": SERVER_KEY}),
            (CLEAR, {"own": None}),
            (CLEAR, {"own": (0, 3)}),
        ):
            dialog = server(OPENING[form])
            self.assertRaises(LocalProtocolError, accept, dialog, form, **other)

            self.assertIs(State.INTRODUCED, dialog.state)
            accept(dialog, form)


class ClientTests(SynchronousTestCase):
    """
    `ClassicClientDialog`.
    """

    def test_whole_dialog(self) -> None:
        """
        A server that answers the challenge is answered, and given a session key.
        """
        for form, own in ((ENCRYPTED, None), (CLEAR, SERVER_KEY)):
            dialog = client(form)

            self.assertEqual(OPENING[form], dialog.opening())
            self.assertEqual(
                [Accepted(KEY_ACCEPTED, False), Countered(CLIENT_BLOCK, own)],
                dialog.receive_data(ACCEPTANCE[form]),
            )
            self.assertIs(State.COUNTERED, dialog.state)
            self.assertEqual(LAST, dialog.answer(ANSWER, SESSION_KEY))
            self.assertIs(State.DONE, dialog.state)
            self.assertEqual([], dialog.receive_data(b"t 1\0"))
            self.assertEqual(b"t 1\0", dialog.trailing())

    def test_acceptances(self) -> None:
        """
        Any text but an error accepts the key, and one of them says that it is new.
        """
        for text, on_trust in (
            (KEY_ACCEPTED, False),
            (KEY_ON_TRUST, True),
            (b"OK", False),
            (b"BAD", False),
        ):
            dialog = opened()

            self.assertEqual(
                [Accepted(text, on_trust)], dialog.receive_data(framed(text))
            )

    def test_denials(self) -> None:
        """
        An error text ends the dialog; what follows it is dropped.
        """
        for text in (KEY_REFUSED, REFUSAL, b"BAD: "):
            dialog = opened()

            self.assertEqual(
                [Denied(text)], dialog.receive_data(framed(text, REFUSAL) + b"?")
            )
            self.assertIs(State.REFUSED, dialog.state)
            self.assertEqual([], dialog.receive_data(b"?" * 9))
            self.assertRaises(LocalProtocolError, dialog.answer, ANSWER, SESSION_KEY)

    def test_wrong_proofs(self) -> None:
        """
        A server that does not know the digest of the challenge does not own the key
        that the challenge was encrypted with.
        """
        for form in FORMS:
            for proof in (ANSWER, PROOF[:-1], PROOF + b"\0", b"\0", NONCE, REFUSAL):
                dialog = opened(form, framed(KEY_ACCEPTED))
                self.assertRaises(
                    WrongProof, dialog.receive_data, framed(proof, CLIENT_BLOCK)
                )
                self.assertIs(State.FAILED, dialog.state)

    def test_wrong_counter_challenges(self) -> None:
        """
        What is not as long as the own key was not encrypted with it.
        """
        for data in (b"x" * 127, b"x" * 129, SERVER_BLOCK, REFUSAL, ANSWER):
            dialog = opened(ENCRYPTED, framed(KEY_ACCEPTED, PROOF))

            error = self.assertRaises(
                RemoteProtocolError, dialog.receive_data, framed(data)
            )
            self.assertNotIsInstance(error, WrongProof)
            self.assertIn("128 bytes", str(error))

    def test_no_server_key(self) -> None:
        """
        A server that was asked for its key must send two numbers.
        """
        modulus = framed(encode_mpi(SERVER_KEY[0]))
        for data in (framed(REFUSAL), framed(b"\0\0\0\0"), modulus + framed(REFUSAL)):
            dialog = opened(CLEAR, framed(KEY_ACCEPTED, PROOF, CLIENT_BLOCK))

            self.assertRaises(RemoteProtocolError, dialog.receive_data, data)

    def test_server_that_speaks_first(self) -> None:
        """
        A server says nothing before it was spoken to, and nothing between its
        counter-challenge and the answer.
        """
        self.assertRaises(RemoteProtocolError, client().receive_data, b"C")
        for form in FORMS:
            whole = opened(form)
            self.assertRaises(
                RemoteProtocolError, whole.receive_data, ACCEPTANCE[form] + b"t"
            )
            later = opened(form, ACCEPTANCE[form])
            self.assertRaises(RemoteProtocolError, later.receive_data, b"t")
            self.assertIs(State.FAILED, later.state)
            self.assertRaises(LocalProtocolError, later.answer, ANSWER, SESSION_KEY)

    def test_own_mistakes(self) -> None:
        """
        Messages that no server reads are not made.
        """
        challenge = FORMS[CLEAR]
        for arguments in (
            (Claim(b"a", b"b", b""), challenge, *CLIENT_KEY, PROOF),
            (CLAIM, Challenge(b"x", NONCE, 37), *CLIENT_KEY, PROOF),
            (CLAIM, challenge, 0, 3, PROOF),
            (CLAIM, challenge, 3, -1, PROOF),
            (CLAIM, challenge, *CLIENT_KEY, PROOF[:-1]),
        ):
            self.assertRaises(LocalProtocolError, ClassicClientDialog, *arguments)
        dialog = opened(CLEAR, ACCEPTANCE[CLEAR])
        for digest, key in ((b"", SESSION_KEY), (ANSWER, b""), (ANSWER, b"k" * 4089)):
            self.assertRaises(LocalProtocolError, dialog.answer, digest, key)
            self.assertIs(State.COUNTERED, dialog.state)


#: How to bring a dialog into each state; both ends can be done, refused or failed.
IN_STATE: dict[State, list[Callable[[], Dialog]]] = {
    State.AWAIT_CLAIM: [server],
    State.AWAIT_CHALLENGE: [lambda: server(CAUTH)],
    State.AWAIT_KEY: [lambda: server(CAUTH, SAUTH[CLEAR])],
    State.AWAIT_EXPONENT: [lambda: server(CAUTH, SAUTH[CLEAR], MODULUS)],
    State.INTRODUCED: [lambda: server(OPENING[ENCRYPTED])],
    State.AWAIT_ANSWER: [accepted],
    State.AWAIT_SESSION_KEY: [lambda: accepted(ENCRYPTED, framed(ANSWER))],
    State.KEYED: [lambda: accepted(ENCRYPTED, LAST)],
    State.NOT_OPENED: [client],
    State.AWAIT_TRUST: [opened],
    State.AWAIT_PROOF: [lambda: opened(ENCRYPTED, framed(KEY_ACCEPTED))],
    State.AWAIT_COUNTER: [
        lambda: opened(ENCRYPTED, framed(KEY_ACCEPTED, PROOF)),
        lambda: opened(CLEAR, framed(KEY_ACCEPTED, PROOF)),
    ],
    State.AWAIT_SERVER_KEY: [
        lambda: opened(CLEAR, framed(KEY_ACCEPTED, PROOF, CLIENT_BLOCK))
    ],
    State.AWAIT_SERVER_EXPONENT: [
        lambda: opened(
            CLEAR,
            framed(KEY_ACCEPTED, PROOF, CLIENT_BLOCK, encode_mpi(SERVER_KEY[0])),
        )
    ],
    State.COUNTERED: [lambda: opened(ENCRYPTED, ACCEPTANCE[ENCRYPTED])],
    State.DONE: [
        lambda: after(accepted(ENCRYPTED, LAST), Input.ESTABLISHED),
        lambda: after(opened(ENCRYPTED, ACCEPTANCE[ENCRYPTED]), Input.ANSWERED),
    ],
    State.REFUSED: [
        lambda: after(server(), Input.REFUSAL),
        lambda: opened(ENCRYPTED, framed(REFUSAL)),
    ],
    State.FAILED: [lambda: failed(server()), lambda: failed(opened())],
}

#: What each input is: bytes that are received, or a call.
RECEIVED: dict[Input, bytes] = {
    Input.CLAIM: CAUTH,
    Input.CHALLENGE: SAUTH[ENCRYPTED],
    Input.KEY: MODULUS,
    Input.EXPONENT: EXPONENT,
    Input.ANSWER: framed(ANSWER),
    Input.SESSION_KEY: framed(SESSION_KEY),
    Input.TRUSTED: framed(KEY_ACCEPTED),
    Input.DENIED: framed(KEY_REFUSED),
    Input.PROOF: framed(PROOF),
    Input.COUNTER: framed(CLIENT_BLOCK),
    Input.COUNTER_OF_STRANGER: framed(CLIENT_BLOCK),
}
CALLED: dict[Input, Callable[[Any], object]] = {
    Input.ACCEPTED: accept,
    Input.KEY_REFUSED: lambda dialog: dialog.refuse(key=True),
    Input.REFUSAL: lambda dialog: dialog.refuse(),
    Input.ESTABLISHED: lambda dialog: dialog.established(),
    Input.OPENED: lambda dialog: dialog.opening(),
    Input.ANSWERED: lambda dialog: dialog.answer(ANSWER, SESSION_KEY),
}
OF_SERVER = {Input.ACCEPTED, Input.KEY_REFUSED, Input.REFUSAL, Input.ESTABLISHED}

#: States in which bytes are kept or dropped, so that no message moves them.
QUIET = {State.INTRODUCED, State.KEYED, State.DONE, State.REFUSED}


#: Both parts of a key, and the states that wait for one with those that follow.
NUMBERS = {Input.KEY, Input.EXPONENT}
NUMBERED = {
    state: following
    for (state, happened), following in TABLE.items()
    if happened in NUMBERS
}


def after(dialog: Dialog, happened: Input) -> Dialog:
    CALLED[happened](dialog)
    return dialog


def failed(dialog: Dialog) -> Dialog:
    with contextlib.suppress(RemoteProtocolError):
        dialog.receive_data(b"?" * 9)
    return dialog


class TableTests(SynchronousTestCase):
    """
    The table of states.
    """

    def test_every_state_is_reached(self) -> None:
        """
        The tests below begin in every state there is.
        """
        self.assertEqual(set(State), set(IN_STATE))
        self.assertEqual(set(Input), set(RECEIVED) | set(CALLED))
        for state, makers in IN_STATE.items():
            for make in makers:
                self.assertIs(state, make().state)

    def test_every_call_in_every_state(self) -> None:
        """
        A call moves a dialog as the table says; one that is not in it is refused and
        moves nothing.
        """
        for state, makers in IN_STATE.items():
            for make in makers:
                for happened, call in CALLED.items():
                    dialog = make()
                    if isinstance(dialog, ClassicServerDialog) != (
                        happened in OF_SERVER
                    ):
                        continue
                    following = TABLE.get((state, happened))
                    if following is None:
                        self.assertRaises(LocalProtocolError, call, dialog)
                        self.assertIs(state, dialog.state)
                    else:
                        call(dialog)
                        self.assertIs(following, dialog.state)

    def test_every_message_in_every_state(self) -> None:
        """
        A message moves a dialog as the table says, or fails it, or waits where none is
        awaited.
        """
        for state, makers in IN_STATE.items():
            for happened, message in RECEIVED.items():
                for make in makers:
                    dialog = make()
                    expected = {
                        following
                        for (before, other), following in TABLE.items()
                        if before is state and RECEIVED.get(other) == message
                    }
                    if state in QUIET:
                        expected = {state}
                    elif state in NUMBERED and happened in NUMBERS:
                        # Any number is taken for the one that is due.
                        expected = {NUMBERED[state]}
                    elif state is State.AWAIT_SESSION_KEY:
                        # Whoever has the key says what it decrypts to.
                        expected = {State.KEYED}
                    elif state is State.AWAIT_TRUST and happened is not Input.DENIED:
                        # Whatever is no error accepts.
                        expected = {State.AWAIT_PROOF}
                    try:
                        dialog.receive_data(message)
                    except RemoteProtocolError:
                        self.assertIs(State.FAILED, dialog.state)
                        self.assertEqual(set(), expected, (state, happened))
                    else:
                        self.assertIn(dialog.state, expected, (state, happened))

    def test_trailing_too_early(self) -> None:
        """
        Before the peer's last message there is nothing that could follow it.
        """
        for state, makers in IN_STATE.items():
            for make in makers:
                if state in (State.KEYED, State.DONE):
                    self.assertEqual(b"", make().trailing())
                else:
                    self.assertRaises(LocalProtocolError, make().trailing)

    def test_failed_for_good(self) -> None:
        """
        A dialog that failed takes nothing more.
        """
        for make in IN_STATE[State.FAILED]:
            self.assertRaises(RemoteProtocolError, make().receive_data, CAUTH)

    def test_documented(self) -> None:
        """
        The table in the documentation is this table, row by row.
        """
        self.assertTrue(stands_in(PAGE, TABLE))


#: What one side reads in a whole dialog, and how it gets there.
WHOLE: list[tuple[Callable[[], Any], bytes]] = [
    (server, OPENING[ENCRYPTED] + LAST),
    (accepted, LAST + REQUEST),
    (opened, ACCEPTANCE[ENCRYPTED]),
    (lambda: opened(CLEAR), ACCEPTANCE[CLEAR]),
    (opened, framed(KEY_REFUSED, REFUSAL)),
]


class AnyBytesTests(SynchronousTestCase):
    """
    Both ends against any bytes.
    """

    def test_byte_by_byte(self) -> None:
        """
        Bytes that come one at a time say the same.
        """
        for make, wire in WHOLE:
            whole = make()
            expected = whole.receive_data(wire)
            dialog = make()
            events = []
            for at in range(len(wire)):
                events += dialog.receive_data(wire[at : at + 1])

            self.assertTrue(expected)
            self.assertEqual(expected, events)
            self.assertIs(whole.state, dialog.state)

    @given(lists(integers(0, 900), max_size=8), sampled_from(WHOLE))
    @settings(max_examples=100)
    def test_any_split(
        self, cuts: list[int], case: tuple[Callable[[], Any], bytes]
    ) -> None:
        """
        The events, and what is left, do not depend on how the bytes were cut.
        """
        make, wire = case
        whole = make()
        expected = whole.receive_data(wire)
        dialog = make()
        events = []
        at = 0
        for cut in [*sorted(cuts), len(wire)]:
            events += dialog.receive_data(wire[at:cut])
            at = max(at, min(cut, len(wire)))

        self.assertEqual(expected, events)
        self.assertIs(whole.state, dialog.state)
        if whole.state is State.KEYED:
            self.assertEqual(whole.trailing(), dialog.trailing())

    @given(
        lists(
            one_of(
                binary(max_size=20),
                sampled_from([*RECEIVED.values(), SAUTH[CLEAR], REQUEST]),
            ),
            max_size=6,
        ),
        sampled_from([server, lambda: server(CAUTH), accepted, opened]),
    )
    @settings(max_examples=100)
    def test_garbage(self, pieces: list[bytes], make: Callable[[], Any]) -> None:
        """
        Any bytes give events or `RemoteProtocolError`, the same for any cut.
        """

        def outcome(fed: list[bytes]) -> tuple[State, str]:
            dialog = make()
            error = ""
            try:
                for piece in fed:
                    dialog.receive_data(piece)
            except RemoteProtocolError as raised:
                error = raised.field
            return dialog.state, error

        state, error = outcome(pieces)

        self.assertEqual((state, error), outcome([b"".join(pieces)]))
        self.assertEqual(state is State.FAILED, bool(error))
