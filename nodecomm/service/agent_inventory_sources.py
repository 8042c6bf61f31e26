# SPDX-License-Identifier: MIT
"""
What an agent makes its inventories with, and the way of them to a server: which keys it
may have, and who we are there.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen
from cryptography import x509
from twisted.internet.defer import Deferred

from nodecomm.identity.server_keys import (
    SERVER_KEYS_FOLDER,
    ServerKeyStore,
    ServerKeysUnreadable,
)
from nodecomm.inventory.own import NodeIdError, own_certificate, own_node_id
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream import ClientCertificate, InventoryUpstream
from nodecomm.inventory.upstream_errors import (
    Permanent,
    SendFailed,
    UntrustedServer,
)
from nodecomm.inventory.upstream_pins import PINS_NAME, ServerPins
from nodecomm.inventory.upstream_trust import (
    Authorities,
    AuthoritiesUnusable,
    IServerCheck,
    PinnedKeys,
    PinOnFirstUse,
    Unchecked,
)
from nodecomm.service.agent_inventory_making import InventoryOrder, MadeFiles, Maker
from nodecomm.service.agent_inventory_status import InventoryFailure
from nodecomm.service.own_state import os_error_text

if TYPE_CHECKING:
    from nodecomm.client.address import ServerAddress
    from nodecomm.identity.keys import KeyPair, PublicKey
    from nodecomm.server.pools import Pool
    from nodecomm.service.agent_inventory_prepared import (
        InventoryTarget,
        PreparedInventory,
    )

__all__ = [
    "ACCOUNT_REFUSED",
    "InventorySources",
    "NoWay",
    "Upstream",
    "Ways",
    "failure_at",
    "no_key",
]

#: Answers about who we are, where another box may have another account.
ACCOUNT_REFUSED = frozenset({401, 403, 404})


class NoWay(Exception):  # noqa: N818
    """
    Nothing can be sent to a server now.

    Attributes:
        failure: Why.
    """

    def __init__(self, failure: InventoryFailure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Upstream(Protocol):
    """
    A server that files are sent to; see `InventoryUpstream`.
    """

    def server_id(self) -> Deferred[str]:
        """Its id."""
        ...

    def put(
        self, box: Box, name: str, content: bytes | str | os.PathLike[str]
    ) -> Deferred[int]:
        """Send a file."""
        ...

    def close(self) -> Deferred[None]:
        """Close what is kept open."""
        ...


class Ways(Protocol):
    """
    What an agent makes and sends inventories with.
    """

    def connect(
        self, target: InventoryTarget, prepared: PreparedInventory
    ) -> Awaitable[Upstream]:
        """
        The way to a server; `NoWay` if there is none.
        """
        ...

    def make(
        self, order: InventoryOrder, prepared: PreparedInventory
    ) -> Awaitable[MadeFiles]:
        """
        Make one; `MakingFailed` if it cannot be made.
        """
        ...

    def stop(self) -> object:
        """
        End what is being made.
        """
        ...


@frozen
class _Way:
    """
    What was read of the disk for one server.
    """

    check: IServerCheck
    certificate: ClientCertificate


class InventorySources:
    """
    The ways of a real agent's inventories.

    Args:
        reactor: Drives the connections.
        state: The state folder.
        pair: The node's key.
        pool: Runs what blocks.
        now: Civil time in seconds.
    """

    def __init__(
        self,
        reactor: Any,
        state: str,
        pair: KeyPair,
        pool: Pool,
        now: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._state = state
        self._pair = pair
        self._pool = pool
        self._now = now
        self._maker = Maker(reactor, now)

    async def make(
        self, order: InventoryOrder, prepared: PreparedInventory
    ) -> MadeFiles:
        """
        Make an inventory.

        Raises:
            MakingFailed: It cannot be made.
        """
        return await self._maker.make(order, prepared)

    def stop(self) -> None:
        """
        End what is being made.
        """
        self._maker.stop()

    async def connect(
        self, target: InventoryTarget, prepared: PreparedInventory
    ) -> Upstream:
        """
        The way to a server. Nothing is sent yet.

        Raises:
            NoWay: There is none.
        """
        url = target.url
        try:
            way = await self._pool.run(self._look, target, prepared)
            return InventoryUpstream(
                self._reactor,
                url,
                prepared.accounts,
                way.check,
                pool=self._pool,
                certificate=way.certificate,
            )
        except AuthoritiesUnusable as error:
            remedy = "correct `ca_file` in [inventory]"
            raise NoWay(_local(url, "ca-file", str(error), remedy)) from error
        except ServerKeysUnreadable as error:
            text = f"the keys of the policy server cannot be read: {error}"
            raise NoWay(_local(url, "store-unusable", text)) from error
        except NodeIdError as error:
            raise NoWay(_local(url, "node-id", str(error))) from error
        except OSError as error:
            text = os_error_text(error, self._state)
            remedy = "make room, or correct the folder's owner and mode"
            raise NoWay(_local(url, "io", text, remedy)) from error
        except ValueError as error:
            remedy = "correct `urls` or the user in [inventory]"
            raise NoWay(_local(url, "address", str(error), remedy)) from error

    def _look(self, target: InventoryTarget, prepared: PreparedInventory) -> _Way:
        """
        Blocks.
        """
        now = datetime.fromtimestamp(self._now(), timezone.utc)
        own_id = own_node_id(self._state)
        own = own_certificate(self._state, self._pair, own_id, now)
        certificate = ClientCertificate(
            x509.load_pem_x509_certificate(own.encode("ascii")), self._pair.private
        )
        return _Way(self._check(target, prepared), certificate)

    def _check(
        self, target: InventoryTarget, prepared: PreparedInventory
    ) -> IServerCheck:
        if prepared.trust == "none":
            return Unchecked()
        if prepared.trust == "ca":
            return Authorities(prepared.ca_file)
        if prepared.pins:
            return PinnedKeys(prepared.pins, _ADVICE)
        if prepared.trust == "pin":
            pins = ServerPins(os.path.join(self._state, PINS_NAME))
            return PinOnFirstUse(pins, self._pool.run)
        keys = self._stored(target.servers)
        if not keys:
            raise NoWay(no_key(target))
        return PinnedKeys(keys, _ADVICE)

    def _stored(self, servers: tuple[ServerAddress, ...]) -> list[PublicKey]:
        store = ServerKeyStore(os.path.join(self._state, SERVER_KEYS_FOLDER))
        return [key for server in servers for key in store.keys(str(server))]


_ADVICE = (
    "if that server has another key on purpose, name it in `server_keys` of [inventory]"
)


def no_key(target: InventoryTarget) -> InventoryFailure:
    """
    The policy server's key counts, and none is known.
    """
    names = ", ".join(map(str, target.servers)) or target.url
    text = f"no key of {names} is known yet, so nothing is sent"
    first = target.servers[0] if target.servers else "HOST"
    remedy = (
        f"`nodecomm server-key accept {first}` makes it known, and so does the first"
        " run with `trust_server`"
    )
    return InventoryFailure(target.url, "untrusted", "no-key", text, remedy)


def _local(url: str, code: str, text: str, remedy: str = "") -> InventoryFailure:
    return InventoryFailure(url, "local", code, text, remedy)


def failure_at(url: str, error: SendFailed) -> InventoryFailure:
    """
    What a client's error means here.
    """
    text = error.reason
    if isinstance(error, UntrustedServer):
        return InventoryFailure(url, "untrusted", error.code, text)
    if error.status is not None:
        code = f"http-{error.status}"
        permanent = isinstance(error, Permanent) or error.status in ACCOUNT_REFUSED
        wait = getattr(error, "retry_after", None) or 0.0
        return InventoryFailure(url, "refused", code, text, "", permanent, wait)
    return InventoryFailure(url, "unreachable", "connection", text)
