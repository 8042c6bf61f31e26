# SPDX-License-Identifier: MIT
"""
The facts that the server states, each once, as events with a stable name and typed
fields. Text, JSON and the audit log are observers of them.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.logger import Logger

from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodecomm.identity.peer import Peer
    from nodecomm.server.requests import Request
    from nodecomm.wire.classic import Claim

__all__ = ["BurstLog", "EventLog", "Strangers"]


@define(eq=False)
class EventLog:
    """
    Where a server's events go, and how much is worth stating.

    Attributes:
        verbose: Whether each request is stated, not only refused ones.
        dialogue: Whether each message on the wire is stated.
    """

    verbose: bool = False
    dialogue: bool = False
    log: Logger = field(factory=lambda: Logger("nodecomm.server"))

    def opened(self, peer: Peer, tls: str, cipher: str) -> None:
        """A peer was welcomed."""
        self.log.info(
            "session of {log_user} from {peer} ({key}) over protocol {protocol},"
            " {log_tls}",
            event="session.opened",
            log_tls=tls or "not protected",
            **_who(peer),
            protocol=peer.protocol,
            tls=tls,
            cipher=cipher,
        )

    def unprotected(self, peer: Peer) -> None:
        """A peer was welcomed on a connection that nothing protects."""
        self.log.info(
            "the session of {log_user} from {peer} ({key}) is not protected: on the"
            " classic protocol, whoever is between can read and change what is sent",
            event="session.unprotected",
            **_who(peer),
            protocol=peer.protocol,
        )

    def claimed(self, peer: Peer, claim: Claim) -> None:
        """A classic peer says who it is; stated when `verbose`."""
        if self.verbose:
            self.log.debug(
                "{peer} calls itself {log_user} on {hostname} at {address}; the last"
                " two are not looked at",
                event="classic.claimed",
                **_who(peer),
                hostname=_shown(claim.hostname),
                address=_shown(claim.address),
            )

    def closed(self, peer: Peer, **counts: Any) -> None:
        """
        The session of a peer that was welcomed is over.

        Args:
            counts: seconds, requests, bytes_in, bytes_out, reason.
        """
        number = counts["requests"]
        self.log.info(
            "session of {log_user} from {peer} ended after {seconds} s,"
            " {log_requests}, {bytes_out} bytes: {reason}",
            event="session.closed",
            log_requests=f"{number} request{'' if number == 1 else 's'}",
            **_who(peer),
            **counts,
        )

    def lost(self, peer: Peer, stage: str, reason: str) -> None:
        """A connection ended before its peer was welcomed."""
        self.log.info(
            "a connection from {peer} ended {log_when}: {log_why}",
            event="connection.lost",
            log_when=_STAGES.get(stage, f"while {stage}"),
            log_why=_WHY.get(reason, reason.removeprefix(f"{stage}: ")),
            peer=peer.address,
            port=peer.port,
            key=peer.digest,
            stage=stage,
            reason=reason,
        )

    def trust_accepted(self, peer: Peer, code: str, text: str) -> None:
        """A key was trusted on first use."""
        self.log.warn(
            "trusted {log_user} from {peer} ({key}): {text}",
            event="trust.accepted",
            **_who(peer),
            code=code,
            text=text,
        )

    def trust_refused(self, peer: Peer, code: str, text: str) -> None:
        """A peer was refused for its key, its name or its dialog."""
        self.log.warn(
            "not trusted: {log_user} from {peer}{log_key}: {text}",
            event="trust.refused",
            # Whoever is refused for its name has not sent a key yet.
            log_key=f" ({peer.digest})" if peer.digest else "",
            **_who(peer),
            code=code,
            text=text,
        )

    def refused(self, request: Request, code: str, text: str) -> None:
        """A request was answered with the refusal or the protocol error."""
        self.log.info(
            "refused {word} {log_name} to {log_user} from {log_peer} ({key}): {text}",
            event="request.refused",
            hostname=request.peer.hostname,
            log_peer=_with_name(request.peer),
            reason=code,
            text=text,
            **_who(request.peer),
            **_what(request),
        )

    def hung_up(self, request: Request, why: str) -> None:
        """A request ended its connection without an answer."""
        self.log.warn(
            "closed the connection at {word} {log_name} to {log_user} from {peer}"
            " ({key}): {text}",
            event="request.hung-up",
            text=why,
            **_who(request.peer),
            **_what(request),
        )

    def answered(self, request: Request, outcome: str, seconds: float) -> None:
        """A request was answered; stated when `verbose`."""
        decision = request.decision
        self.log.debug(
            "{word} {log_name} by {log_user} from {peer} ({key}): {outcome},"
            " {bytes} bytes{log_decision}",
            event="request",
            log_decision=_decided(request),
            outcome=outcome,
            reason=None if decision is None else decision.reason,
            bytes=request.sent,
            seconds=round(seconds, 6),
            **_who(request.peer),
            **_what(request),
        )

    def said(self, peer: Peer, direction: str, data: bytes) -> None:
        """
        A message on the wire, stated when `dialogue`.

        Args:
            direction: `sent` or `received`.
        """
        self.log.debug(
            "{peer} port {port} {direction} {text}",
            event="dialogue",
            peer=peer.address,
            port=peer.port,
            direction=direction,
            size=len(data),
            text=_shown(data),
        )


#: What `stage` of a lost connection is in a sentence.
_STAGES = {
    "first byte": "before TLS",
    "handshake": "in the TLS handshake",
    "checking key": "while its key was looked up",
    "dialog": "in the identification",
    "trusting": "while its key was looked up",
    "proving": "in the identification",
    "preparing": "when it had just been trusted",
    "closing": "while it was being closed",
}

#: What `reason` of a lost connection is in a sentence, where it is a code.
_WHY = {
    "closed": "closed by the peer",
    "first-byte-timeout": "nothing came in time",
    "handshake-timeout": "it took too long",
    "classic-not-allowed": "it began with the classic protocol, which is not served",
    "not-tls": "it did not begin as TLS does",
    "tls-not-served": "TLS is not served",
}

#: Bytes of a peer's text that a log line shows.
_SHOWN = 300


def _shown(text: bytes) -> str:
    return to_text(text if len(text) <= _SHOWN else text[:_SHOWN] + b"...")


def _who(peer: Peer) -> dict[str, Any]:
    return {
        "peer": peer.address,
        "port": peer.port,
        "key": peer.digest,
        "user": peer.user,
        # For the message alone.
        "log_user": peer.user or "-",
    }


def _with_name(peer: Peer) -> str:
    """
    The address, and the host name that was looked up for it.
    """
    return f"{peer.address} {peer.hostname}" if peer.hostname else peer.address


def _decided(request: Request) -> str:
    """
    By which rule and why, for a message; nothing where no rule is asked.
    """
    decision = request.decision
    if decision is None:
        return ""
    if decision.rule is None:
        return f"; {decision.reason}"
    return f"; {decision.reason} by {decision.rule.label}"


def _what(request: Request) -> dict[str, Any]:
    """
    What was asked for, and the rule that decided, with its place.
    """
    rule = None if request.decision is None else request.decision.rule
    return {
        "word": _shown(request.word),
        "name": _shown(request.name),
        "log_name": _shown(request.name) or "-",
        "rule": None if rule is None else to_text(rule.path),
        "origin": None if rule is None else str(rule.origin),
    }


@define
class _Burst:
    began: float
    last: float
    more: int = 0


@define(eq=False)
class BurstLog:
    """
    States a limit that was reached once per burst, and how often it was afterwards.

    A burst ends when nothing happened for `quiet` seconds, or after `longest`.
    """

    _log: Logger
    _monotonic: Callable[[], float]
    quiet: float = 10
    longest: float = 60
    _bursts: dict[str, _Burst] = field(factory=dict, init=False)

    def reached(self, limit: str, message: str, **fields: Any) -> None:
        """
        State that *limit* was reached, unless that was just stated.

        Args:
            limit: The name of the limit, a setting where there is one.
            message: A twisted.logger format; *fields* are its values.
        """
        now = self._monotonic()
        burst = self._bursts.get(limit)
        if burst is not None:
            burst.more += 1
            burst.last = now
            return
        self._bursts[limit] = _Burst(now, now)
        self._log.warn(message, event="limit.reached", limit=limit, **fields)

    def sweep(self) -> None:
        """
        End the bursts that are over; to be called every second or so.
        """
        now = self._monotonic()
        for limit, burst in list(self._bursts.items()):
            if now - burst.last < self.quiet and now - burst.began < self.longest:
                continue
            del self._bursts[limit]
            if burst.more:
                self._log.warn(
                    "{limit} was reached {count} more times in {seconds} s",
                    event="limit.repeated",
                    limit=limit,
                    count=burst.more,
                    seconds=round(now - burst.began),
                )


@define
class _Visits:
    since: float
    count: int = 0


@define(eq=False)
class Strangers:
    """
    Bounds how much is said of connections that end before their peer is trusted:
    they cost whoever makes them nothing, and each would be a line. Of those from one
    address, or one network of 64 bits, the first `lines` in a `period` are stated, the
    others counted. So nobody hides behind the connections of somebody else.
    """

    _log: Logger
    _monotonic: Callable[[], float]
    lines: int = 300
    period: float = 60
    _visits: dict[str, _Visits] = field(factory=dict, init=False)

    def worth_stating(self, address: str) -> bool:
        """
        Count one more connection from *address*; whether it is to be stated.
        """
        if ":" in address:
            high = int(IPv6Address(address)) >> 64 << 64
            address = f"{IPv6Address(high)}/64"
        visits = self._visits.get(address)
        if visits is None:
            visits = self._visits[address] = _Visits(self._monotonic())
        visits.count += 1
        return visits.count <= self.lines

    def sweep(self) -> None:
        """
        End the periods that are over; to be called every second or so.
        """
        now = self._monotonic()
        for address, visits in list(self._visits.items()):
            if now - visits.since < self.period:
                continue
            del self._visits[address]
            if visits.count > self.lines:
                self._log.warn(
                    "{count} more connections from {peer} ended in {seconds} s before"
                    " their peer was trusted",
                    event="strangers.more",
                    peer=address,
                    count=visits.count - self.lines,
                    seconds=round(now - visits.since),
                )
