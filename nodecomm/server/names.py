# SPDX-License-Identifier: MIT
"""
Host names of peers: looked up in the background, believed only when the name leads
back to the address, and remembered for a while.
"""

from __future__ import annotations

import ipaddress
import pwd
import socket
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred, succeed
from twisted.logger import Logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

    from nodecomm.server.pools import Pool

__all__ = ["HostName", "HostNames", "look_up", "user_id"]


class HostName(NamedTuple):
    """
    What is known of an address's name.

    Attributes:
        name: The confirmed name in lower case; None: it has none.
        known: False when the look-up failed, so that nothing can be said.
    """

    name: str | None
    known: bool


#: Errors that mean "there is no such name", for certain. All others are failures.
_NO_NAME = frozenset(
    {
        socket.EAI_NONAME,
        getattr(socket, "EAI_NODATA", socket.EAI_NONAME),
        getattr(socket, "EAI_ADDRFAMILY", socket.EAI_NONAME),
    }
)


def look_up(address: str) -> HostName:
    """
    The name of *address*, if that name's addresses include it. Blocks; follows the
    host's own name services, as the real server does.
    """
    try:
        name, _ = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return HostName(None, error.errno in _NO_NAME)
    except (OSError, UnicodeError):
        # Whoever owns an address may give it a name that is none.
        return HostName(None, False)
    wanted = ipaddress.ip_address(address)
    for *_, sockaddr in found:
        candidate = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        mapped = getattr(candidate, "ipv4_mapped", None)
        if wanted in (candidate, mapped):
            return HostName(name.rstrip(".").lower(), True)
    return HostName(None, True)


def user_id(user: str) -> int | None:
    """
    The uid that a peer's user name has here; None: nobody in particular. `root` is
    0 without a look-up. May block.
    """
    if user == "root":
        return 0
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return None


@define(eq=False)
class HostNames:
    """
    A bounded, remembering resolver.

    Args:
        pool: Where look-ups wait.
        clock: For time-outs and for how long an answer is remembered.
        at_once: How many look-ups may run and wait; more are "not known".
        keep: Seconds an answer is remembered; failures for a tenth of that.
        timeout: Seconds after which a look-up counts as failed.
    """

    _pool: Pool
    _clock: IReactorTime
    _monotonic: Callable[[], float]
    at_once: int = 64
    keep: float = 300
    timeout: float = 10
    entries: int = 20_000
    _look_up: Callable[[str], HostName] = look_up
    _known: OrderedDict[str, tuple[float, HostName]] = field(
        factory=OrderedDict, init=False
    )
    _waiting: dict[str, list[Deferred[HostName]]] = field(factory=dict, init=False)
    _log: Logger = field(factory=Logger, init=False)

    def name_of(self, address: str) -> Deferred[HostName]:
        """
        The confirmed name of *address*. Never fails: what cannot be found out is
        `HostName(None, known=False)`.
        """
        found = self._known.get(address)
        if found is not None and found[0] > self._monotonic():
            return succeed(found[1])
        answer: Deferred[HostName] = Deferred()
        waiting = self._waiting.get(address)
        if waiting is not None:
            waiting.append(answer)
            return answer
        if len(self._waiting) >= self.at_once:
            self._log.warn(
                "no name look-up for {address}: {count} are under way",
                event="names.busy",
                address=address,
                count=len(self._waiting),
            )
            return succeed(HostName(None, False))
        self._waiting[address] = [answer]
        # A full pool raises at once; to those who wait it is a failure like others.
        looking = maybeDeferred(self._pool.run, self._look_up, address)
        # The thread cannot be stopped; its late answer is still remembered.
        looking.addCallback(self._remember, address)
        shielded: Deferred[HostName] = Deferred()
        looking.addCallbacks(
            lambda result: None if shielded.called else shielded.callback(result),
            lambda failure: None if shielded.called else shielded.errback(failure),
        )
        shielded.addTimeout(self.timeout, self._clock)
        shielded.addErrback(self._failed, address)
        shielded.addCallback(self._finish, address)
        return answer

    def _failed(self, failure: object, address: str) -> HostName:
        timed_out = getattr(failure, "check", lambda *_: None)(TimeoutError)
        self._log.warn(
            "the name of {address} could not be looked up: {why}",
            event="names.failed",
            address=address,
            why=f"no answer in {self.timeout:g} s" if timed_out else str(failure),
        )
        return self._remember(HostName(None, False), address)

    def _remember(self, result: HostName, address: str) -> HostName:
        keep = self.keep if result.known else self.keep / 10
        self._known[address] = (self._monotonic() + keep, result)
        self._known.move_to_end(address)
        if len(self._known) > self.entries:
            self._known.popitem(last=False)
        return result

    def _finish(self, result: HostName, address: str) -> None:
        for answer in self._waiting.pop(address):
            answer.callback(result)
