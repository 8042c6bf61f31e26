# SPDX-License-Identifier: MIT
"""
One connection of the classic protocol: who the peer is, then its requests.

1. The peer claims a user name, and sends a challenge and its public key. A key that
   is not sane, or is trusted neither under that name nor by a first-use window, goes
   no further.
2. The answer to the challenge, and one for the peer. Only when that is answered is
   the key known to be the peer's; a key trusted on first use is kept then, and the
   peer noted, not before.
3. The session key, and from then on requests, each of them in clear or in an
   encrypted envelope.

What cannot be decrypted gives a value that looks random to go on with: nothing in what
is sent tells it from what can, nor, since OpenSSL 3.2, in the time that takes.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone

from nodecomm.identity.keys import PublicKey, UnreadableKey
from nodecomm.identity.proof import block_size, digest, encrypt_to, open_with
from nodecomm.identity.users import UntrustedUser, valid_user
from nodecomm.server.replies import Frames, HangUp, Reply, denied, refused
from nodecomm.server.serving import RequestSession, SessionState
from nodecomm.wire.cipher import SessionCipher, missing
from nodecomm.wire.classic import CLEAR, ENCRYPTED, KEY_SIZE, Challenge
from nodecomm.wire.classic_dialog import (
    Claimed,
    ClassicServerDialog,
    Introduced,
    SessionKeySent,
)
from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.framing import TransactionBuffer, encode_transaction
from nodecomm.wire.sealed import SEALED, SealedSizeError, open_sealed, parse_sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from nodecomm.identity.counters import Counters
    from nodecomm.identity.keys import KeyPair
    from nodecomm.identity.peer import Peer
    from nodecomm.identity.trust import TrustDecision
    from nodecomm.server.answers import AnswerQueue
    from nodecomm.server.core import ServerFactory
    from nodecomm.server.pools import Job
    from nodecomm.server.requests import Refused, Request
    from nodecomm.transport.interfaces import IPlainStream

__all__ = ["ClassicSession"]

#: The version's number.
VERSION = 1


class _Envelope(NamedTuple):
    """
    What is special about an encrypted command.

    Attributes:
        close_at_size: Whether the connection ends when its size is wrong.
        close_at_word: Whether it ends when it holds another command.
        seals: Whether the answer is encrypted, too.
    """

    close_at_size: bool
    close_at_word: bool
    seals: bool


#: Source: CFEngine 3.21, observed.
_ENVELOPES = {
    b"SSYNCH": _Envelope(True, False, False),
    b"SOPENDIR": _Envelope(True, False, True),
    b"SGET": _Envelope(True, False, True),
    b"SMD5": _Envelope(False, True, False),
    b"SVAR": _Envelope(False, True, True),
    b"SCONTEXT": _Envelope(False, True, True),
    b"SQUERY": _Envelope(False, True, True),
    b"SCALLBACK": _Envelope(False, True, False),
}

#: The commands that end the connection when they are refused, in clear or not; of GET
#: the encrypted one does. Source: CFEngine 3.21, observed.
_CLOSING = frozenset({b"OPENDIR", b"VAR", b"CONTEXT", b"QUERY"})

#: Commands of other versions that exist in an envelope only.
#: Source: CFEngine 3.21, observed.
_SEALED_ONLY = frozenset({b"QUERY"})

#: The commands that pass `ifencrypted` in clear. Source: CFEngine 3.21, observed.
_PASSING = frozenset({b"SYNCH", b"EXEC"})

#: What opens a connection and has no place later: it would give the peer another name
#: without any proof.
_OPENING = frozenset({b"CAUTH", b"SAUTH"})


class _Proofs(NamedTuple):
    """
    The answer to a peer's challenge, a challenge for it and what it must answer.
    """

    answer: bytes
    counter: bytes
    expected: bytes


def _prove(
    counters: Counters, key: PublicKey, challenge: Challenge
) -> _Proofs | UnreadableKey:
    """
    Answer *challenge*, and challenge the owner of *key*. Blocks.

    Returns:
        The proofs, or why nothing can be encrypted with *key*.
    """
    counter = counters.new()
    try:
        encrypted = encrypt_to(key, counter)
    except UnreadableKey as error:
        return error
    clear = challenge.data
    if challenge.form == ENCRYPTED:
        clear = counters.open(clear)
    return _Proofs(digest(clear), encrypted, digest(counter))


def _too_early(size: int) -> RemoteProtocolError:
    return RemoteProtocolError("bytes before the counter-challenge", size, "none")


class ClassicSession(RequestSession):
    """
    The server's end of one connection of protocol 1.

    Args:
        server: What it is a part of.
        peer: Who is at the other end; so far only its address is known.
        pair: The server's own key.
        counters: Challenges of a server with that key.
    """

    transport: IPlainStream

    def __init__(
        self, server: ServerFactory, peer: Peer, pair: KeyPair, counters: Counters
    ) -> None:
        super().__init__(server, peer, SessionState.DIALOG)
        self._pair = pair
        self._counters = counters
        self._dialog = ClassicServerDialog()
        self._challenge = Challenge(CLEAR, b"", 0)
        self._on_trust = False
        self._challenged = False
        self._session_key = b""
        self._job: Job[Any] | None = None
        # One for requests and short answers, used here, and one for what is encrypted
        # in threads. Most sessions need neither.
        self._cipher: SessionCipher | None = None
        self._seal: SessionCipher | None = None

    # Who it is.

    def connectionMade(self) -> None:
        """
        The peer speaks first.
        """
        self.transport.setTcpNoDelay(True)

    def _dialog_data(self, data: bytes) -> None:
        if data:
            self._said("received", data)
        try:
            for event in self._dialog.receive_data(data):
                if isinstance(event, Claimed):
                    self.peer.user = valid_user(event.claim.user)
                    # Its word for where it is, is worth nothing.
                    self.peer.calls_itself = event.claim.hostname
                    self._server.events.claimed(self.peer, event.claim)
                elif isinstance(event, Introduced):
                    self._introduced(event)
                else:
                    self._take_session_key(event)
        except RemoteProtocolError as error:
            self._turn_away("bad_dialog", f"bad identification: {error}")
        except UntrustedUser as error:
            self._turn_away("bad_user", str(error))

    def _introduced(self, event: Introduced) -> None:
        peer = self.peer
        challenge = self._challenge = event.challenge
        key = peer.key = PublicKey(event.modulus, event.exponent)
        peer.protocol = VERSION
        size = block_size(self._pair.public)
        if challenge.form == ENCRYPTED and len(challenge.data) != size:
            # With whose key it was encrypted cannot be hidden by its size.
            raise RemoteProtocolError(
                "size of the challenge", len(challenge.data), f"{size} bytes"
            )
        if self._dialog.ahead:
            raise _too_early(self._dialog.ahead)
        self.state = SessionState.CHECKING_KEY
        self._ask(self._key_checked, self._server.trust.check_key, key, peer.address)

    def _came_ahead(self) -> None:
        """
        Before the counter-challenge has left nothing can be an answer to it. Whoever
        is in a hurry is not worked for; and as reading goes on until then, those who
        have gone are noticed.
        """
        if self._challenged:
            super()._came_ahead()
        else:
            error = _too_early(len(self._early))
            self._turn_away("bad_dialog", f"bad identification: {error}")

    def _key_checked(self, decision: TrustDecision) -> None:
        if self.state is not SessionState.CHECKING_KEY:
            return
        if not decision.trusted:
            self._turn_away(decision.code, decision.text, key=True)
            return
        peer = self.peer
        self.state = SessionState.TRUSTING
        # Whose key it is, is not known yet: nothing is kept.
        check = partial(self._server.trust.check_identity, save=False)
        self._ask(self._identity_checked, check, peer.key, peer.user, peer.address)

    def _identity_checked(self, decision: TrustDecision) -> None:
        if self.state is not SessionState.TRUSTING:
            return
        if not decision.trusted:
            self._turn_away(decision.code, decision.text, key=True)
            return
        self._on_trust = decision.first_use
        self.state = SessionState.PROVING
        key, challenge = self.peer.key, self._challenge
        self._work_out(self._proved, _prove, self._counters, key, challenge)

    def _work_out(self, then: Any, work: Any, *args: Any, proven: bool = False) -> None:
        """
        Go on with *then* when `work(*args)` has been done in a thread. It waits in a
        queue, which the session leaves when it ends.

        Args:
            proven: Whether the peer has shown whose key it has: then it comes before
                all of those that may be anybody.
        """
        job = self._job = self._server.proofs.run(work, *args, first=proven)
        self._ask(then, lambda: job.result)

    def _proved(self, proofs: _Proofs | UnreadableKey) -> None:
        if self.state is not SessionState.PROVING:
            return
        if isinstance(proofs, UnreadableKey):
            text = f"nothing can be encrypted with its key: {proofs}"
            self._turn_away("unusable_key", text, key=True)
            return
        public = self._pair.public
        asked = self._challenge.form == CLEAR
        accepted = self._dialog.accept(
            on_trust=self._on_trust,
            answer=proofs.answer,
            counter=proofs.counter,
            expected=proofs.expected,
            own=(public.modulus, public.exponent) if asked else None,
        )
        self._said("sent", accepted)
        self.transport.write(accepted)
        self.state = SessionState.DIALOG
        self._challenged = True

    def _take_session_key(self, event: SessionKeySent) -> None:
        """
        The peer has shown that the key is its own.
        """
        self._early += self._dialog.trailing()
        size = block_size(self._pair.public)
        if len(event.data) != size:
            # In clear, it could be read by anybody; the real server takes it.
            raise RemoteProtocolError(
                "size of the session key", len(event.data), f"encrypted, {size} bytes"
            )
        self.state = SessionState.PROVING
        args = (self._pair, event.data, KEY_SIZE, os.urandom(KEY_SIZE))
        self._work_out(self._key_opened, open_with, *args, proven=True)

    def _key_opened(self, session_key: bytes) -> None:
        if self.state is not SessionState.PROVING:
            return
        self._session_key = session_key
        peer = self.peer
        self.state = SessionState.TRUSTING
        check = self._server.trust.check_identity
        self._ask(self._identity_kept, check, peer.key, peer.user, peer.address)

    def _identity_kept(self, decision: TrustDecision) -> None:
        if self.state is not SessionState.TRUSTING:
            return
        if not decision.trusted:
            # A window has closed, or was used up, in this moment.
            self._turn_away(decision.code, decision.text)
            return
        server = self._server
        if decision.first_use:
            server.events.trust_accepted(self.peer, decision.code, decision.text)
        server.session_trusted(self)
        self._dialog.established()
        self.state = SessionState.PREPARING
        server.events.opened(self.peer, "", "")
        server.events.unprotected(self.peer)
        self._trusted()

    def _turn_away(self, code: str, text: str, *, key: bool = False) -> None:
        """
        Refuse the peer in the protocol's words.

        Args:
            key: Whether its key is the reason.
        """
        words = self._dialog.refuse(key=key)
        self._said("sent", words)
        self.transport.write(words)
        self._distrust(code, text)

    # Ends.

    def close(self, reason: str) -> None:
        """
        As for all sessions; nothing is worked out any more.
        """
        super().close(reason)
        self._leave()

    def abort(self, reason: str) -> None:
        """
        As for all sessions; nothing is worked out any more.
        """
        self._leave()
        super().abort(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The connection is over, and nothing is worked out for it any more.
        """
        self._leave()
        super().connectionLost(reason)
        # It calls back; together they would stay until garbage is collected.
        self._job = None

    def when_at_rest(self, call: Callable[[], None]) -> None:
        """
        As for all sessions: while a thread still works out something for nobody, the
        connection counts as one. Otherwise new ones could keep the threads busy
        without ever coming to the limits.
        """
        if self._job is None:
            call()
        else:
            self._job.when_over(call)

    def _leave(self) -> None:
        if self._job is not None:
            self._job.leave()

    # Its requests.

    def _serve(self, payload: bytes, answers: AnswerQueue) -> None:
        request = self._begin(payload)
        word = request.word
        reply: Reply | Deferred[Reply]
        if word in SEALED:
            reply = self._open(request, word)
        elif word in _OPENING:
            reply = denied("out_of_place", "the peer has said already who it is")
        elif word in _SEALED_ONLY:
            reply = self._run(None, request)
        else:
            request.encrypted = word in _PASSING
            reply = self._run(self._words.get(word), request)
        answers.add(request, reply)

    def _open(self, request: Request, word: bytes) -> Reply | Deferred[Reply]:
        """
        Answer a request in an envelope.
        """
        envelope = _ENVELOPES[word]
        try:
            cipher = self._ciphered()
            sealed = parse_sealed(request.payload)
            if cipher is None:
                close = word == b"SGET" or SEALED[word] in _CLOSING
                return refused("no_cipher", missing() or "", close=close)
            request.payload = open_sealed(sealed, cipher)
        except SealedSizeError as error:
            if word == b"SCALLBACK":
                return Frames(b"")
            return refused("malformed", str(error), close=envelope.close_at_size)
        except RemoteProtocolError as error:
            if word == b"SCALLBACK":
                return HangUp(str(error))
            return refused("malformed", str(error), close=envelope.close_at_word)
        request.encrypted = True
        plain = word if word == b"SCALLBACK" else SEALED[word]
        if envelope.seals:
            request.seal = self._seal
        reply = self._run(self._words.get(plain), request)
        if not envelope.seals:
            return reply
        if isinstance(reply, Deferred):
            return reply.addCallback(self._sealed, cipher)
        return self._sealed(reply, cipher)

    def _ciphered(self) -> SessionCipher | None:
        """
        The session's cipher; None when there is none to be had.
        """
        if self._cipher is None and missing() is None:
            self._cipher = SessionCipher(self._session_key)
            self._seal = self._cipher.clone()
        return self._cipher

    def _sealed(self, reply: Reply, cipher: SessionCipher) -> Reply:
        """
        *reply* with its frames encrypted; a refusal stays in clear, and what is made
        while it leaves is encrypted then.
        """
        if type(reply) is not Frames or reply.outcome != "ok":
            return reply
        if not reply.wire:
            # The content of an empty file.
            return Frames(cipher.encrypt_blocks(b"", last=True))
        buffer = TransactionBuffer()
        buffer.feed(reply.wire)
        wire = b""
        while (part := buffer.next_transaction()) is not None:
            # Source: CFEngine 3.21, observed: the NUL is a part of it.
            text = cipher.encrypt(part.payload + b"\0")
            wire += encode_transaction(text, more=part.more)
        return Frames(wire, close=reply.close)

    def _failed(self, request: Request, failure: Failure) -> Reply:
        error = failure.value
        if isinstance(error, RemoteProtocolError) and request.word == b"GET":
            # Source: CFEngine 3.21, observed.
            request.release()
            return refused("malformed", str(error), close=True)
        return super()._failed(request, failure)

    def _refused(self, request: Request, refusal: Refused) -> Reply:
        request.release()
        word = request.word
        close = word in _CLOSING or (word == b"GET" and request.seal is not None)
        return refused(refusal.code, refusal.text, close=close)
