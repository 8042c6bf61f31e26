# SPDX-License-Identifier: MIT
"""
The dialog of the classic protocol (version 1), which each connection begins with.

The client claims who it is, sends a challenge and its public key. The server answers
whether it trusts the key, the digest of the challenge, and a challenge of its own; the
client answers that and sends a session key. All in transactions, none of them
protected.

Nothing is encrypted, decrypted or drawn here: what needs a key or a random number is
handed to the caller and comes back from him. One table serves both ends,
`nodecomm.wire.classic_stages`. A message that is not in it for the state breaks the
protocol and ends in `FAILED`.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Generic, TypeVar

from attrs import frozen

from nodecomm.wire.classic import (
    CLEAR,
    KEY_ACCEPTED,
    KEY_ON_TRUST,
    KEY_REFUSED,
    Challenge,
    Claim,
    encode_cauth,
    encode_mpi,
    encode_sauth,
    parse_cauth,
    parse_mpi,
    parse_sauth,
)
from nodecomm.wire.classic_stages import AWAITING, TABLE, Input, State
from nodecomm.wire.commands import MD5_SIZE
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import MAX_PAYLOAD, TransactionBuffer, encode_transaction
from nodecomm.wire.replies import REFUSAL, is_error


class WrongProof(RemoteProtocolError):  # noqa: N818
    """
    The server does not own the key that the challenge was encrypted with, or somebody
    stands between.
    """


@frozen
class Claimed:
    """
    The client claims to be this one. Nothing is proved yet.
    """

    claim: Claim


@frozen
class Introduced:
    """
    The client has sent its challenge and its public key; the server decides now, with
    `ClassicServerDialog.accept` or `refuse`.
    """

    challenge: Challenge
    modulus: int
    exponent: int


@frozen
class SessionKeySent:
    """
    The client has proved that it owns its key, and sent a session key: *data* is
    encrypted with the server's key.
    """

    data: bytes


@frozen
class Accepted:
    """
    The server accepts the client's key.

    Attributes:
        text: Its words.
        on_trust: Whether it says that it saw the key for the first time.
    """

    text: bytes
    on_trust: bool


@frozen
class Denied:
    """
    The server refuses, which ends the dialog.

    Attributes:
        text: Its words: `KEY_REFUSED`, or the refusal of anything else.
    """

    text: bytes


@frozen
class Countered:
    """
    The server has answered the challenge rightly, and sent one of its own.

    Attributes:
        data: The counter-challenge, encrypted with the client's key.
        own: The server's modulus and exponent when the client asked for them, else
            None. A server that was asked for its key has proved nothing.
    """

    data: bytes
    own: tuple[int, int] | None


_Event = TypeVar("_Event")

#: What stands for the challenge before it came.
_NO_CHALLENGE = Challenge(b"", b"", 0)


class _Dialog(Generic[_Event]):
    """
    Transactions in, states moved; what both ends share.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._received = TransactionBuffer()

    @property
    def state(self) -> State:
        """
        Where the dialog stands.
        """
        return self._state

    @property
    def ahead(self) -> int:
        """
        Bytes that have come and are kept until they are awaited.
        """
        return len(self._received)

    def trailing(self) -> bytes:
        """
        Take out the bytes that came after the peer's last message. They belong to the
        requests and replies; feed them to a `TransactionBuffer`.

        Raises:
            LocalProtocolError: The peer has not sent its last message yet.
        """
        if self._state not in (State.KEYED, State.DONE):
            raise LocalProtocolError(
                "trailing bytes", self._state.value, "only after the last message"
            )
        return self._received.take(len(self._received))

    def _read(self, data: bytes) -> list[_Event]:
        """
        Add received bytes, and take out the messages that are awaited.
        """
        if self._state is State.FAILED:
            raise RemoteProtocolError("dialog", data, "has failed already")
        # What is still said after a refusal is of no interest.
        if self._state is not State.REFUSED:
            self._received.feed(data)
        events: list[_Event] = []
        try:
            while self._state in AWAITING:
                payload = self._next()
                if payload is None:
                    break
                event = self._take(payload)
                if event is not None:
                    events.append(event)
        except RemoteProtocolError:
            self._fail()
            raise
        return events

    def _next(self) -> bytes | None:
        """
        The next payload, None when more bytes are needed.
        """
        return self._received.next_payload()

    def _take(self, payload: bytes) -> _Event | None:
        """
        Read the message that this state waits for.
        """
        raise NotImplementedError

    def _fire(self, happened: Input) -> None:
        state = TABLE.get((self._state, happened))
        if state is None:
            raise LocalProtocolError(
                "dialog", self._state.value, f"no state for '{happened.value}'"
            )
        self._state = state
        if state is State.REFUSED:
            self._drop()

    def _check(self, happened: Input) -> None:
        """
        Raise unless the input is one for this state; move nothing.
        """
        before = self._state
        self._fire(happened)
        self._state = before

    def _fail(self) -> None:
        self._state = State.FAILED
        self._drop()

    def _drop(self) -> None:
        self._received = TransactionBuffer()


class ClassicServerDialog(_Dialog["Claimed | Introduced | SessionKeySent"]):
    """
    The server's end.

    Pass what is received to `receive_data`. When the client has `Introduced` itself
    send what `accept` or `refuse` returns; after `SessionKeySent` decrypt it and call
    `established`. Whenever `receive_data` raises, or the claimed user is not
    acceptable, send what `refuse` returns and close.

    Attributes:
        claim: Who the client claims to be; None before it did.
    """

    def __init__(self) -> None:
        super().__init__(State.AWAIT_CLAIM)
        self.claim: Claim | None = None
        self._challenge = _NO_CHALLENGE
        self._modulus = 0
        self._expected = b""
        self._unreadable = False

    def receive_data(self, data: bytes) -> list[Claimed | Introduced | SessionKeySent]:
        """
        Add received bytes and return what they say. Bytes that come while the server
        has to decide wait until `accept`; pass `b""` then.

        Raises:
            RemoteProtocolError: A message is malformed or out of order, or the
                counter-challenge is answered wrongly. Nothing more can be received.
        """
        return self._read(data)

    def accept(
        self,
        *,
        on_trust: bool,
        answer: bytes,
        counter: bytes,
        expected: bytes,
        own: tuple[int, int] | None,
    ) -> bytes:
        """
        What tells the client that it is trusted, and challenges it. Send it, then pass
        `b""` to `receive_data`.

        Args:
            on_trust: Whether its key was unknown until now.
            answer: The digest of the client's challenge in clear.
            counter: The counter-challenge, encrypted with the client's key.
            expected: The digest of the counter-challenge in clear.
            own: The server's modulus and exponent when the challenge's form is
                `CLEAR`, else None.

        Raises:
            LocalProtocolError: The client has not introduced itself, was answered
                already, or an argument has another size than it must have.
        """
        self._check(Input.ACCEPTED)
        for what, digest in (("answer", answer), ("expected answer", expected)):
            _check_size(what, digest, MD5_SIZE)
        _check_size("counter-challenge", counter, _block_size(self._modulus))
        if (own is not None) != (self._challenge.form == CLEAR):
            raise LocalProtocolError(
                "own key", None, f"for a challenge of form {CLEAR.decode()} only"
            )
        messages = [KEY_ON_TRUST if on_trust else KEY_ACCEPTED, answer, counter]
        messages += map(encode_mpi, own or ())
        sent = b"".join(map(encode_transaction, messages))
        self._expected = expected
        self._fire(Input.ACCEPTED)
        return sent

    def refuse(self, *, key: bool = False) -> bytes:
        """
        The last words to a client. They are empty when its bytes are no transactions,
        so that nothing is said to what speaks another protocol.

        Args:
            key: The client's key is not trusted. Its own text then comes before the
                usual refusal.

        Raises:
            LocalProtocolError: The dialog is over, or there is no key to refuse.
        """
        self._fire(Input.KEY_REFUSED if key else Input.REFUSAL)
        if self._unreadable:
            return b""
        # Source: CFEngine 3.21, observed: two transactions for a key.
        messages = [KEY_REFUSED, REFUSAL] if key else [REFUSAL]
        return b"".join(map(encode_transaction, messages))

    def established(self) -> None:
        """
        The session key is known; requests follow.

        Raises:
            LocalProtocolError: None was sent.
        """
        self._fire(Input.ESTABLISHED)

    def _next(self) -> bytes | None:
        try:
            return super()._next()
        except RemoteProtocolError:
            self._unreadable = True
            raise

    def _take(self, payload: bytes) -> Claimed | Introduced | SessionKeySent | None:
        """
        Read the message that this state waits for.
        """
        state = self._state
        if state is State.AWAIT_CLAIM:
            self.claim = parse_cauth(payload)
            self._fire(Input.CLAIM)
            return Claimed(self.claim)
        if state is State.AWAIT_CHALLENGE:
            self._challenge = parse_sauth(payload)
            self._fire(Input.CHALLENGE)
            return None
        if state is State.AWAIT_KEY:
            self._modulus = parse_mpi(payload, "modulus")
            self._fire(Input.KEY)
            return None
        if state is State.AWAIT_EXPONENT:
            exponent = parse_mpi(payload, "exponent")
            self._fire(Input.EXPONENT)
            return Introduced(self._challenge, self._modulus, exponent)
        if state is State.AWAIT_ANSWER:
            # Source: CFEngine 3.21, observed: of a longer one the first bytes count.
            if not compare_digest(payload[:MD5_SIZE], self._expected):
                # The value is left out: a log has no use for it.
                raise RemoteProtocolError(
                    "answer to the counter-challenge",
                    None,
                    "wrong, the client does not own the key that it sent",
                )
            self._fire(Input.ANSWER)
            return None
        self._fire(Input.SESSION_KEY)
        return SessionKeySent(payload)


class ClassicClientDialog(_Dialog["Accepted | Denied | Countered"]):
    """
    The client's end.

    Send `opening`, pass what is received to `receive_data`. When the server has
    `Countered` send `answer`, and right behind it the first requests. A client that
    wanted no more than the server's key closes instead.

    Args:
        claim: Who to be.
        challenge: What the server must answer.
        modulus: The own public key's modulus.
        exponent: The own public key's exponent.
        expected: The digest of the challenge in clear, which the server must know.

    Raises:
        LocalProtocolError: A message cannot be made of these.
    """

    def __init__(
        self,
        claim: Claim,
        challenge: Challenge,
        modulus: int,
        exponent: int,
        expected: bytes,
    ) -> None:
        super().__init__(State.NOT_OPENED)
        _check_size("expected answer", expected, MD5_SIZE)
        self._opening = b"".join(
            map(
                encode_transaction,
                (
                    encode_cauth(claim),
                    encode_sauth(challenge),
                    encode_mpi(modulus),
                    encode_mpi(exponent),
                ),
            )
        )
        self._stranger = challenge.form == CLEAR
        self._block = _block_size(modulus)
        self._expected = expected
        self._counter = b""
        self._server_modulus = 0

    def opening(self) -> bytes:
        """
        The own first four messages, which may be sent in one write.

        Raises:
            LocalProtocolError: They were sent already.
        """
        self._fire(Input.OPENED)
        return self._opening

    def receive_data(self, data: bytes) -> list[Accepted | Denied | Countered]:
        """
        Add received bytes and return what they say.

        Raises:
            WrongProof: The server does not know what only the owner of its key knows.
            RemoteProtocolError: A message is malformed, or the server says more than
                it may before it was answered.
        """
        events = self._read(data)
        if self._state in (State.NOT_OPENED, State.COUNTERED) and len(self._received):
            before = self._received.take(MAX_PAYLOAD)
            self._fail()
            raise RemoteProtocolError("dialog", before, "nothing before our messages")
        return events

    def answer(self, digest: bytes, session_key: bytes) -> bytes:
        """
        The own last two messages; requests follow them without waiting.

        Args:
            digest: That of the counter-challenge in clear.
            session_key: The session key, encrypted with the server's key.

        Raises:
            LocalProtocolError: There is no counter-challenge to answer, or an
                argument has a size that it must not have.
        """
        self._check(Input.ANSWERED)
        _check_size("answer", digest, MD5_SIZE)
        sent = encode_transaction(digest) + encode_transaction(session_key)
        self._fire(Input.ANSWERED)
        return sent

    def _take(self, payload: bytes) -> Accepted | Denied | Countered | None:
        """
        Read the message that this state waits for.
        """
        state = self._state
        if state is State.AWAIT_TRUST:
            if is_error(payload):
                self._fire(Input.DENIED)
                return Denied(payload)
            self._fire(Input.TRUSTED)
            return Accepted(payload, payload == KEY_ON_TRUST)
        if state is State.AWAIT_PROOF:
            if not compare_digest(payload, self._expected):
                raise WrongProof("proof of the server's key", None, "wrong")
            self._fire(Input.PROOF)
            return None
        if state is State.AWAIT_COUNTER:
            return self._take_counter(payload)
        if state is State.AWAIT_SERVER_KEY:
            self._server_modulus = parse_mpi(payload, "modulus")
            self._fire(Input.KEY)
            return None
        exponent = parse_mpi(payload, "exponent")
        self._fire(Input.EXPONENT)
        return Countered(self._counter, (self._server_modulus, exponent))

    def _take_counter(self, payload: bytes) -> Countered | None:
        if len(payload) != self._block:
            raise RemoteProtocolError(
                "size of the counter-challenge", len(payload), f"{self._block} bytes"
            )
        if not self._stranger:
            self._fire(Input.COUNTER)
            return Countered(payload, None)
        self._counter = payload
        self._fire(Input.COUNTER_OF_STRANGER)
        return None


def _block_size(modulus: int) -> int:
    """
    Bytes of what is encrypted with a key of this modulus.
    """
    return (modulus.bit_length() + 7) // 8


def _check_size(what: str, data: bytes, size: int) -> None:
    if len(data) != size:
        raise LocalProtocolError(f"size of {what}", len(data), f"{size} bytes")
