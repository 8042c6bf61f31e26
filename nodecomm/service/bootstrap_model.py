# SPDX-License-Identifier: MIT
"""
What a bootstrap is asked for, what it did, and what it talks to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from attrs import frozen

from nodecomm.client.address import ServerAddress
from nodecomm.identity.keys import PublicKey
from nodecomm.service.starting import Started, Starter
from nodecomm.service.units import Program
from nodecomm.sync.model import SyncRequest, SyncResult

if TYPE_CHECKING:
    from nodecomm.client.trust import IServerTrust

__all__ = [
    "COPIES",
    "Ask",
    "BootstrapError",
    "BootstrapRequest",
    "BootstrapResult",
    "Copied",
    "Copy",
    "Link",
    "StarterFor",
]


class BootstrapError(Exception):
    """
    Something on this machine is in the way. The text says what to do.
    """


@frozen
class Copy:
    """
    What a bootstrap copies.

    Attributes:
        source: A shortcut of the server.
        folder: Where to, in the state folder.
        purge: Whether what the server does not have is removed.
        needed: Whether there is no bootstrap without it.
    """

    source: str
    folder: str
    purge: bool
    needed: bool


#: The policy is the server's alone; modules of the node's own may lie beside those
#: of the server.
COPIES = (
    Copy("masterfiles", "inputs", purge=True, needed=True),
    Copy("modules", "modules", purge=False, needed=False),
)


@frozen(kw_only=True)
class BootstrapRequest:
    """
    What is asked for.

    Attributes:
        server: The policy server.
        state_dir: This machine's state, an absolute path.
        config_dir: The folder of its configuration, an absolute path.
        system: Whether these are the machine's own folders, for which there may be
            systemd units.
        server_keys: Digests or keys, one of which must be the server's.
        trust_server: Whether the key that an unknown server shows is accepted.
        start: Whether the agent is to run from now on.
        role: What this machine becomes; `auto`: the policy server if it has the
            server's address, else a node.
        trust_for: Seconds that the server trusts new nodes; 0: not at all; None: as
            before, or a day.
        trust_networks: From where; none: the networks around its addresses.
        user: The user name for the server.
        record_user: Whether it is recorded; else the agent comes with the name of
            whoever runs it.
        protocol: The newest protocol version, to be recorded; None: as usual.
        program: How `nodecomm` is called, for people.
        again: The command line that asks for the same, for people.
    """

    server: ServerAddress
    state_dir: Path
    config_dir: Path
    system: bool = False
    server_keys: tuple[str | PublicKey, ...] = ()
    trust_server: bool = False
    start: bool = False
    role: Literal["auto", "node", "server"] = "auto"
    trust_for: float | None = None
    trust_networks: tuple[str, ...] = ()
    user: str = "root"
    record_user: bool = False
    protocol: int | None = None
    program: str = "nodecomm"
    again: str = "nodecomm bootstrap HOST"


@frozen
class Copied:
    """
    One copy that was made.
    """

    source: str
    destination: str
    result: SyncResult


@frozen
class BootstrapResult:
    """
    What was done.

    Attributes:
        role: What this machine is now.
        server: The policy server.
        key: The server's key.
        own_key: This machine's.
        copies: What was copied.
        files: The configuration files that were written.
        started: What was started, by the program's name.
        warnings: For people.
        windows: From where the server trusts new nodes, and until when.
    """

    role: Literal["node", "server"]
    server: ServerAddress
    key: PublicKey
    own_key: PublicKey
    copies: tuple[Copied, ...]
    files: tuple[Path, ...]
    started: Mapping[str, Started]
    warnings: tuple[str, ...]
    windows: tuple[tuple[str, str | None], ...] = ()


class Link(Protocol):
    """
    The way to the policy server.
    """

    def connect(self, trust: IServerTrust) -> Awaitable[PublicKey]:
        """
        Reach the server with this machine's key, which is there by now, and see that
        the server's is trusted; what was open before is closed.

        Returns:
            Its key.

        Raises:
            ClientError: It cannot be done.
        """

    def fetch(self, request: SyncRequest) -> Awaitable[SyncResult]:
        """
        Bring something here from the server that was connected.

        Raises:
            ClientError, SyncError: It cannot be done.
        """

    def close(self) -> Awaitable[None]:
        """
        Close what is open.
        """


#: Asks a person whether a server's key is trusted; None: nobody can be asked.
Ask = Callable[[ServerAddress, Sequence[str], PublicKey], "bool | None"]

#: Makes the starter of a program with a configuration file.
StarterFor = Callable[[Program, Path], Starter]
