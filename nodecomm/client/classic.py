# SPDX-License-Identifier: MIT
"""
A connection to a server in the classic protocol (version 1), which has no TLS: a dialog
in which both sides prove that they hold their keys, then requests that nothing
protects.

The server proves it by decrypting a challenge, so its key must be known before. A
connection on which it is asked for its key instead proves nothing, and serves for
nothing else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred

from nodecomm.client import endings
from nodecomm.client.answers import ListingAnswer
from nodecomm.client.connection import Connection
from nodecomm.client.sealed_answers import (
    SealedContentAnswer,
    SealedWording,
    Unsealing,
)
from nodecomm.client.stages import CLASSIC_TABLE, Stage, Step
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.proof import digest, encrypt_to, new_challenge, open_with
from nodecomm.wire.cipher import SessionCipher
from nodecomm.wire.classic import (
    CLEAR,
    ENCRYPTED,
    KEY_REFUSED,
    KEY_SIZE,
    NONCE_SIZE,
    Challenge,
    Claim,
)
from nodecomm.wire.classic_dialog import (
    ClassicClientDialog,
    Countered,
    Denied,
    WrongProof,
)
from nodecomm.wire.errors import SHOWN, RemoteProtocolError
from nodecomm.wire.replies import REFUSAL
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import ITransport
    from twisted.python.failure import Failure

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.answers import Answer
    from nodecomm.client.errors import ClientError, Refused
    from nodecomm.client.trust import IVoucher
    from nodecomm.identity.keys import KeyPair
    from nodecomm.server.pools import Pool

__all__ = ["ClassicSession", "KeyQuestion"]


class _Introduction(Connection):
    """
    The dialog as far as it is the same whatever the connection is for.

    Args:
        server: Who is called.
        voucher: Decides about the server's key.
        key: Our own.
        user: Who we say we are.
        name_of: The name of one of our addresses.
        pool: Where RSA is done, and much decrypting.
        random: Random bytes that nobody can guess.
        more: What every `Connection` takes.
    """

    _table = CLASSIC_TABLE
    _first = Stage.CONNECTING
    _dialog_stages = frozenset({Stage.PROVING})

    protected = False
    links = True

    def __init__(
        self,
        server: ServerAddress,
        voucher: IVoucher,
        *,
        key: KeyPair,
        user: bytes,
        name_of: Callable[[str], Deferred[bytes]],
        pool: Pool,
        random: Callable[[int], bytes] = os.urandom,
        **more: Any,
    ) -> None:
        super().__init__(server, voucher, **more)
        self._key = key
        self._user = user
        self._name_of = name_of
        self._pool = pool
        self._bytes = random
        self._dialog: ClassicClientDialog | None = None
        self._working: Deferred[Any] | None = None

    # What the two kinds of connection do in their own way.

    def _challenge(self, clear: bytes) -> Challenge:
        """
        What the server has to answer.
        """
        raise NotImplementedError

    def _countered(self, event: Countered) -> None:
        """
        The server has answered it, and sent a challenge of its own.
        """
        raise NotImplementedError

    def _unproven(self, what: str) -> Callable[[], ClientError]:
        """
        What it means that the server did not answer as it must.
        """
        raise NotImplementedError

    def _turned_away(self, words: str) -> Callable[[], ClientError]:
        """
        What it means that the server refused us, and not for our key.
        """
        raise NotImplementedError

    # The dialog.

    @property
    def version(self) -> int:
        """
        The protocol version that is spoken.
        """
        return 1

    def _connected(self) -> None:
        self._fire(Step.CONNECTED)
        transport: ITransport = self._transport
        address = endings.address_text(transport.getHost()) or "0.0.0.0"  # noqa: S104
        self._work(self._name_of(address), self._named, address)

    def _work(
        self,
        result: Deferred[Any],
        done: Callable[..., None],
        *arguments: object,
    ) -> None:
        """
        Go on with *done* when there is a *result*, unless it is all over by then.
        """
        self._working = result
        result.addCallbacks(done, self._broke, callbackArgs=arguments).addErrback(
            self._broke
        )

    def _broke(self, failure: Failure) -> None:
        """
        Something of ours failed. Whoever dialed gets it.
        """
        if self.closed:
            failure.trap(CancelledError)  # type: ignore[no-untyped-call]
            return
        self._undecidable = failure
        text = f"{self.server}: the dialog failed here: {failure.value}"
        self._end(endings.broken("closed", text))

    def _named(self, name: bytes, address: str) -> None:
        if self.stage is not Stage.NAMING:
            return
        clear = new_challenge(self._bytes)
        own = self._key.public
        dialog = self._dialog = ClassicClientDialog(
            Claim(address.encode("ascii"), name, self._user),
            self._challenge(clear),
            own.modulus,
            own.exponent,
            digest(clear),
        )
        self._fire(Step.INTRODUCED)
        self._await_dialog()
        self.write_record(dialog.opening())

    def _read_dialog(self, data: bytes) -> bytes:
        if self.closed:
            return b""
        dialog = self._dialog
        try:
            if dialog is None:
                self._too_early(data)
            for event in dialog.receive_data(data):
                if isinstance(event, Denied):
                    self._denied(event.text)
                elif isinstance(event, Countered):
                    self._pipeline.round_trips += 1
                    self._pace.end()
                    self._countered(event)
        except WrongProof:
            self._end(self._unproven("its answer to the challenge is wrong"))
        except RemoteProtocolError as error:
            self._end(endings.dialog_failed(self.server, str(error)))
        return b""

    def _too_early(self, data: bytes) -> NoReturn:
        raise RemoteProtocolError("dialog", data, "nothing before our messages")

    def _denied(self, text: bytes) -> None:
        if text == KEY_REFUSED:
            self._end(endings.not_trusted(self.server, *self._voucher.own_name()))
        else:
            self._end(self._turned_away(safe(to_text(text[:SHOWN]))))

    def _dialog_late(self) -> Callable[[], ClientError]:
        return endings.classic_late(self.server, self._timeouts.dialog)

    def _why_unopened(
        self, stage: Stage, error: BaseException
    ) -> Callable[[], ClientError]:
        if not self.bytes_received:
            return endings.classic_closed(self.server, self._address)
        what = f"it ended the connection, {stage.value}"
        return endings.dialog_failed(self.server, what)

    def _fail_all(self) -> None:
        working, self._working = self._working, None
        if working is not None:
            # What it comes to is not wanted any more.
            working.cancel()
        super()._fail_all()


class KeyQuestion(_Introduction):
    """
    A connection on which a server is asked for its key, and nothing else. Its `opened`
    always fails, once the connection is over.

    Attributes:
        found: The key; whether the server holds it is not known.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.found: PublicKey | None = None

    def _challenge(self, clear: bytes) -> Challenge:
        return Challenge(CLEAR, clear, NONCE_SIZE)

    def _countered(self, event: Countered) -> None:
        assert event.own is not None  # noqa: S101
        self.found = PublicKey(*event.own)
        text = f"{self.server}: it was only asked for its key"
        self._end_politely(endings.broken("closed", text))

    def _unproven(self, what: str) -> Callable[[], ClientError]:
        return endings.dialog_failed(self.server, what)

    def _turned_away(self, words: str) -> Callable[[], ClientError]:
        return endings.turned_away(self.server, words)


class ClassicSession(_Introduction):
    """
    One connection in the classic protocol; `ClassicDialer.connect` makes it.

    Some refusals end it: those of a folder, and of encrypted content. The refused
    request fails with `Refused`, all that are behind it with `ConnectionBroken`, code
    `closed`.

    Args:
        arguments: As for every connection.
        known: The key that the server must prove to hold.
        encrypt: Whether requests, names and contents are encrypted. That keeps them
            from being read on the way; they can still be changed.
        more: As for every connection.

    Attributes:
        encrypted: Whether requests, names and contents are encrypted.
    """

    opened: Deferred[ClassicSession]

    def __init__(
        self, *arguments: Any, known: PublicKey, encrypt: bool = False, **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self.encrypted = encrypt
        self._known = known
        self._counter = b""
        self._last_words = b""
        self._session_key = self._bytes(KEY_SIZE)
        if encrypt:
            self._wording = SealedWording(
                Unsealing(
                    SessionCipher(self._session_key),
                    self._pool,
                    self._pipeline.wake,
                    self._brake,
                )
            )

    def _challenge(self, clear: bytes) -> Challenge:
        return Challenge(ENCRYPTED, encrypt_to(self._known, clear), NONCE_SIZE)

    def _unproven(self, what: str) -> Callable[[], ClientError]:
        return endings.no_proof(self.server, self._known, what)

    def _turned_away(self, words: str) -> Callable[[], ClientError]:
        # A server says so of a challenge that was not made for its key, too.
        return self._unproven(f"it says {words}")

    def _countered(self, event: Countered) -> None:
        self._counter = event.data
        self._fire(Step.PROVEN)
        self._judge(self._known)

    def _trusted(self) -> None:
        self._transport.resumeProducing()
        # Drawn first: what becomes of a wrong one must not show.
        substitute = self._bytes(NONCE_SIZE)
        self._work(
            maybeDeferred(
                self._pool.run,
                _answer,
                self._key,
                self._counter,
                substitute,
                self._known,
                self._session_key,
            ),
            self._answered,
        )

    def _answered(self, answer: tuple[bytes, bytes]) -> None:
        dialog = self._dialog
        if self.stage is not Stage.ANSWERING or dialog is None:
            return
        self._last_words = dialog.answer(*answer)
        self._fire(Step.ANSWERED)
        self._accepted()
        self._ready()
        # The first requests leave in the next turn, and these bytes with them.
        self._clock.callLater(0, self._flush)

    def write_record(self, data: bytes) -> None:
        """
        Send *data* with one write, and what waited for it before it.
        """
        waited, self._last_words = self._last_words, b""
        super().write_record(waited + data)

    def _flush(self) -> None:
        if self._last_words and not self.closed:
            self.write_record(b"")

    def _say_goodbye(self) -> None:
        if self._last_words:
            self.write_record(b"")
        super()._say_goodbye()

    def _why_unanswered(self) -> str:
        # Source: CFEngine 3.21 refuses a GET like that with words that cannot be told
        # from content; ours ends the connection instead.
        if self.encrypted:
            return ""
        return (
            "; its log says why. So it answers a GET in the clear, where a rule has"
            " ifencrypted: encrypting (--encrypt, `encrypt = true`) would do then"
        )

    def was_refused(self, answer: Answer, error: Refused) -> None:
        """
        Some refusals are the last thing that a server says.
        """
        # Source: CFEngine 3.21 closes after these; of encrypted content it refuses
        # some with two messages.
        last = (ListingAnswer, SealedContentAnswer)
        if isinstance(answer, last) and error.reply == REFUSAL:
            what = "refused, and with that the connection ends in this protocol"
            text = endings.about(self.server, error.path, what)
            self._end(endings.broken("closed", text))


def _answer(
    key: KeyPair,
    counter: bytes,
    substitute: bytes,
    server_key: PublicKey,
    session_key: bytes,
) -> tuple[bytes, bytes]:
    """
    The answer to a counter-challenge, and the encrypted session key. Blocks.
    """
    clear = open_with(key, counter, NONCE_SIZE, substitute)
    return digest(clear), encrypt_to(server_key, session_key)
