# SPDX-License-Identifier: MIT
"""
What the sessions of all protocols have in common: a peer that is trusted asks, and is
answered in the order of its requests.

A refusal is vague to the peer and exact in the log. Only a decision about access, or
a name that does not exist, is answered with it; every other failure closes the
connection, because a purging agent takes a refused STAT for "delete your copy".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from nodecomm.access.snapshot import HostnameNeededError
from nodecomm.server import posix
from nodecomm.server.answers import AnswerQueue
from nodecomm.server.collecting import Collection
from nodecomm.server.connection import INPUT_LIMIT, PeerConnection, SessionState
from nodecomm.server.names import user_id
from nodecomm.server.pools import QueueFull
from nodecomm.server.replies import Frames, HangUp, Reply, denied, refused
from nodecomm.server.requests import Refused, Request, Undecidable
from nodecomm.server.sizes import AnnouncedSizes
from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nodecomm.identity.peer import Peer
    from nodecomm.interfaces import ICommand
    from nodecomm.server.core import ServerFactory
    from nodecomm.server.names import HostName

__all__ = ["RequestSession", "SessionState"]

#: Compared with at every record: a member of an Enum takes longer to look up.
_READY = SessionState.READY


class RequestSession(PeerConnection):
    """
    A connection whose peer asks, once it is trusted. Whoever finds that it is, calls
    `_trusted`.

    While a request has further frames, and until it is answered, it is the only one:
    those after it wait.
    """

    def __init__(self, server: ServerFactory, peer: Peer, state: SessionState) -> None:
        super().__init__(server, peer, state)
        self._working = False
        self._named = False
        self._sizes = AnnouncedSizes()
        self._words: Mapping[bytes, ICommand] = {}
        self._collection: Collection | None = None

    # Ready for requests, and no more.

    def _trusted(self) -> None:
        """
        The peer is known and trusted: get ready for its requests.
        """
        self._opened = self._moved = self._server.monotonic()
        if self.peer.user == "root":
            self._user_known(0)
        else:
            names = self._server.workers.names
            self._ask(self._user_known, names.run, user_id, self.peer.user)

    def _user_known(self, uid: int | None) -> None:
        if self.state is not SessionState.PREPARING:
            return
        self.peer.uid = uid
        server = self._server
        self._words = server.commands[self.peer.protocol]
        self._answers = AnswerQueue(
            self.transport,
            server.next_turn,
            server.limits.read_ahead,
            server.limits.answers_at_once,
            self._failed,
            self._finished,
            self.close,
            self._work,
            server.workers.crypto,
        )
        self.transport.registerProducer(self, True)
        self.state = SessionState.READY
        self._buffer.feed(bytes(self._early))
        self._early.clear()
        self._work()

    # Its requests.

    def _work(self) -> None:
        """
        Answer the requests that are here, as long as answers find room.
        """
        answers = self._answers
        if self._working or answers is None:
            return
        self._working = True
        buffer = self._buffer
        next_payload = buffer.next_payload
        try:
            # What was asked ahead is not begun when the server stops.
            taking = (
                not self._finishing
                and self.state is _READY
                and self._has_room(answers)
                and (self._named or not self._must_name())
            )
            while taking:
                payload = next_payload()
                if payload is None:
                    break
                if self._collection is not None:
                    self._said("received", payload)
                    self._collection.take(payload)
                elif payload[0]:
                    self._serve(payload, answers)
                # Mostly there was one request, and nothing is left to look at.
                taking = (
                    len(buffer) > 0 and self.state is _READY and self._has_room(answers)
                )
        except RemoteProtocolError as error:
            self.close(f"bad frame: {error}")
        finally:
            self._working = False
        answers.flush()
        if self._finishing:
            self._finish_when_idle()
        if answers.blocked is self._reading or self._is_watched(answers):
            self._balance()

    def _has_room(self, answers: AnswerQueue) -> bool:
        """
        Whether the next payload may be taken.
        """
        if self._collection is not None:
            return self._collection.open
        return not answers.blocked

    def _is_watched(self, answers: AnswerQueue) -> bool:
        """
        Whether reading goes on although no request can be taken, so that the peer's
        end is noticed.
        """
        return self._collection is not None or answers.live

    def _wants_requests(self) -> bool:
        answers = self._answers
        if answers is not None and self._is_watched(answers):
            return len(self._buffer) < INPUT_LIMIT
        # What is blocked may hold a part of a record already; no more is read.
        return not self._finishing and not (answers is not None and answers.blocked)

    def _collect(
        self, request: Request, last: Callable[[bytes], bool], empty: bool
    ) -> Deferred[list[bytes]]:
        """
        What `Request.collect` does.
        """
        if self._collection is not None or self.state is not _READY:
            raise RuntimeError("further frames are for the request that came last")
        self._collection = Collection(request, last)
        self._buffer.takes_empty = empty
        return self._collection.result

    def _serve(self, payload: bytes, answers: AnswerQueue) -> None:
        """
        Answer one request.
        """
        request = self._begin(payload)
        # No word holds a space or a NUL; a NUL rarely follows one.
        command = self._words.get(payload.partition(b" ")[0])
        if command is None:
            command = self._words.get(request.word)
        answers.add(request, self._run(command, request))

    def _begin(self, payload: bytes) -> Request:
        """
        Count a request, and take the rules that it is decided by.
        """
        server = self._server
        serving = server.serving
        now = self._moved = server.monotonic()
        self.requests += 1
        if server.events.dialogue:
            self._said("received", payload)
        return Request(
            payload,
            self.peer,
            serving.evaluator.snapshot,
            serving,
            self._sizes,
            now,
            self._collect,
        )

    def _run(
        self, command: ICommand | None, request: Request
    ) -> Reply | Deferred[Reply]:
        """
        Have *command* answer; None: there is no such command.
        """
        if command is None:
            return denied("unknown_command", "there is no such command here")
        try:
            return command.answer(request)
        except Refused as refusal:
            return self._refused(request, refusal)
        except Exception:
            return self._failed(request, Failure())  # type: ignore[no-untyped-call]

    def _must_name(self) -> bool:
        """
        Whether requests must wait for the peer's host name; asks for it once.
        """
        if not self._server.serving.evaluator.snapshot.uses_hostnames:
            return False
        self._named = True
        looking = self._server.names.name_of(self.peer.address)
        if looking.called:
            looking.addCallback(self._name_known)
            return False
        self.state = SessionState.PREPARING
        # The look-up has its own time limit, which begins now.
        self._moved = self._server.monotonic()
        looking.addCallback(self._name_known)
        return True

    def _name_known(self, found: HostName) -> None:
        self.peer.hostname, self.peer.hostname_known = found
        if self.state is SessionState.PREPARING:
            self.state = SessionState.READY
            self._buffer.feed(bytes(self._early))
            self._early.clear()
            self._work()

    def _failed(self, request: Request, failure: Failure) -> Reply:
        """
        The reply to a request whose command raised an exception.
        """
        error = failure.value
        if isinstance(error, Refused):
            return self._refused(request, error)
        if isinstance(error, RemoteProtocolError):
            request.release()
            return denied("malformed", str(error))
        request.release()
        if isinstance(error, (Undecidable, HostnameNeededError)):
            why = str(error) or "the peer's host name is not known"
        elif isinstance(error, (OSError, QueueFull, MemoryError)):
            why = str(error) or type(error).__name__
        else:
            self._server.log.failure(
                "{word} of {peer} for {name} failed",
                failure,
                event="request.failed",
                peer=self.peer.address,
                word=to_text(request.word[:100]),
                name=to_text(request.name),
            )
            why = "failure in the server"
        return HangUp(why)

    def _refused(self, request: Request, refusal: Refused) -> Reply:
        request.release()
        return refused(refusal.code, refusal.text)

    def _finished(self, request: Request, reply: Reply) -> None:
        """
        An answer has left in whole, or never will.
        """
        server = self._server
        events = server.events
        now = self._moved = server.monotonic()
        collection = self._collection
        if collection is not None and collection.request is request:
            self._collection = None
            self._buffer.takes_empty = False
            collection.give_up("the request was answered")
        if type(reply) is HangUp:
            events.hung_up(request, reply.why)
        elif type(reply) is Frames and reply.outcome != "ok":
            events.refused(request, reply.code, reply.text)
        elif events.verbose:
            events.answered(request, reply.outcome, now - request.started)
        if self._finishing:
            server.next_turn(self._finish_when_idle)

    # Ends.

    def _is_at_work(self) -> bool:
        if self._collection is not None and self._collection.open:
            return False
        return super()._is_at_work()

    def _stop_answers(self) -> None:
        super()._stop_answers()
        collection, self._collection = self._collection, None
        if collection is not None:
            collection.give_up("the connection ended")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The connection is over.
        """
        super().connectionLost(reason)
        self._sizes.clear()

    def finish(self) -> None:
        """
        Take no more requests, and close when the answers under way have left.
        """
        self._finishing = True
        if self._collection is not None:
            self._collection.give_up("the server stops")
        super().finish()

    def overdue(self, now: float) -> tuple[str, float] | None:
        """
        The time limit that this connection has passed, and its seconds.

        Args:
            now: Monotonic seconds.
        """
        if self.state is _READY and not self._reading and self._has_gone():
            self.reason = "closed by the peer"
            return "goodbye", 0.0
        return super().overdue(now)

    def _has_gone(self) -> bool:
        """
        Whether a peer has gone that is worked for and has sent more than is read.
        """
        descriptor = getattr(self.transport, "fileno", None)
        answers = self._answers
        return (
            descriptor is not None
            and answers is not None
            and self._is_watched(answers)
            and posix.has_gone(descriptor())
        )
