# SPDX-License-Identifier: MIT
"""
VAR, CONTEXT, QUERY, COOKIE, SCALLBACK: the community server knows the words and has
nothing to tell, and so does this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from nodecomm.access.requests import AccessRequest
from nodecomm.interfaces import API, ICommand
from nodecomm.server.replies import HangUp, Reply, denied, frame
from nodecomm.server.requests import Refused, Undecidable
from nodecomm.wire.commands import parse_context, parse_query, parse_var

if TYPE_CHECKING:
    from nodecomm.server.requests import Request

__all__ = [
    "CallbackCommand",
    "ContextCommand",
    "CookieCommand",
    "LiteralCommand",
    "QueryCommand",
]


def _authorise(request: Request, operation: str, name: bytes) -> None:
    """
    Decide about something that is no file.

    Raises:
        Refused: The peer may not have it.
        Undecidable: A host name is needed that could not be looked up.
    """
    request.name = name
    decision = request.serving.evaluator.evaluate(
        request.snapshot,
        request.peer,
        AccessRequest(operation, name, encrypted=request.encrypted),
    )
    request.decision = decision
    if decision.undecidable:
        raise Undecidable(decision.text)
    if not decision.allowed:
        raise Refused(decision.reason, decision.text)


@implementer(ICommand)
class LiteralCommand:
    """
    `VAR`: an admitted literal is "not found", as in the community edition.

    Source: CFEngine 3.21, observed.
    """

    api = API
    name = "literal"
    words = (b"VAR",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply:
        """One transaction."""
        _authorise(request, "literal", parse_var(request.payload).handle)
        return frame(b"BAD: Not found")


@implementer(ICommand)
class ContextCommand:
    """
    `CONTEXT`: this server defines no persistent classes, so none can match, and
    none is what the real server refuses.

    Source: CFEngine 3.21, observed.
    """

    api = API
    name = "context"
    words = (b"CONTEXT",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply:
        """The refusal."""
        request.name = parse_context(request.payload).pattern
        raise Refused("no_class", "this server has no persistent classes")


@implementer(ICommand)
class QueryCommand:
    """
    `QUERY`: report collection is not here. Who would be admitted is told so, and
    the connection ends.

    Source: CFEngine 3.21, observed.
    """

    api = API
    name = "query"
    words = (b"QUERY",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply:
        """The refusal, or the protocol error."""
        _authorise(request, "query", parse_query(request.payload).name)
        return denied("no_reports", "there are no reports to collect here")


@implementer(ICommand)
class CookieCommand:
    """
    `COOKIE`: as a query called `delta`; in protocol 3 only.

    Source: CFEngine 3.21, observed.
    """

    api = API
    name = "cookie"
    words = (b"COOKIE",)
    versions = frozenset({3})

    def answer(self, request: Request) -> Reply:
        """The refusal, or the protocol error."""
        _authorise(request, "query", b"delta")
        return denied("no_reports", "there are no reports to collect here")


@implementer(ICommand)
class CallbackCommand:
    """
    `SCALLBACK`: the connection ends without a word.

    Source: CFEngine 3.21, observed on TLS.
    """

    api = API
    name = "callback"
    words = (b"SCALLBACK",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply:
        """Nothing."""
        return HangUp("collect calls are not taken")
