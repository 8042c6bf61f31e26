# SPDX-License-Identifier: MIT
"""
A relay and the server above it, over real connections: an inventory that is put into
the one is decided about by the other.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from nodecomm.config.model import Settings
from nodecomm.identity.keys import KeyPair
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.signature import sign
from nodecomm.inventory.upstream import InventoryUpstream, Permanent, Transient
from nodecomm.inventory.upstream_trust import PinnedKeys
from nodecomm.server.pools import InlinePool
from nodecomm.service.inventory_checks import inventory_problems, waits_for_restart
from nodecomm.service.inventory_receiving import InventoryReceiver
from nodecomm.service.loading import load
from nodecomm.service.nodes_followed import NodesFollowed
from tests.identity.sample import pair
from tests.inventory.documents import NODE, WRITTEN, node_document
from tests.ports import free_port

SERVER = """
[server]
listen = ["tcp:5308:interface=127.0.0.1"]
allowed_networks = ["127.0.0.1"]
state_dir = "{state}"
[inventory]
listen = ["tcp:{port}:interface=127.0.0.1"]
min_free = 0
update_user = "nodes"
update_password = "later"
{more}
"""


class Site:
    """
    A server that takes inventories.
    """

    def __init__(self, folder: Path, key: KeyPair) -> None:
        self.folder = folder
        self.key = key
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://127.0.0.1:{self.port}"

    def settings(self, more: str = "") -> Settings:
        """What its configuration says."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "server.toml"
        state = self.folder / "state"
        path.write_text(SERVER.format(state=state, port=self.port, more=more))
        found = load(path).settings
        assert found is not None
        return found

    async def start(self, more: str = "") -> None:
        """Begin."""
        settings, state = self.settings(more), str(self.folder / "state")
        (self.folder / "state").mkdir(exist_ok=True)
        now = (WRITTEN + timedelta(minutes=1)).timestamp
        self.nodes = NodesFollowed(settings, state, reactor=reactor, now=now)
        self.taking = InventoryReceiver(
            settings, state, self.key, self.nodes, reactor=reactor, now=now
        )
        await self.nodes.start()
        await self.taking.listen()
        await self.taking.start()

    async def stop(self) -> None:
        """End."""
        await self.taking.stop()
        await self.nodes.stop()

    @property
    def spool(self) -> Any:
        """Where files wait."""
        return self.taking.resource.receiving.spool


def until(true: Callable[[], object]) -> Deferred[None]:
    """Fires when it is so."""
    done: Deferred[None] = Deferred()

    def look() -> None:
        if true():
            done.callback(None)
        else:
            reactor.callLater(0.01, look)

    look()
    return done


class RelayTests(TestCase):
    """A server, a relay below it, and a node that sends to the relay."""

    timeout = 60

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        keys = [KeyPair.generate(2048) for _ in range(2)]
        self.root = Site(folder / "root", keys[0])
        self.relay = Site(folder / "relay", keys[1])

    def above(self, *pins: str, url: str = "", more: str = "") -> str:
        """The relay's table."""
        pins = pins or (self.root.key.public.md5,)
        quoted = ", ".join(f'"{pin}"' for pin in pins)
        url = url or self.root.url
        return f'upstream = "{url}"\nupstream_key = [{quoted}]\n{more}'

    def run_both(self, more: str = "", of_root: str = 'server_id = "root"') -> Any:
        """Start them; they are stopped at the end."""
        self.addCleanup(self.stop)

        async def start() -> None:
            await self.root.start(of_root)
            await self.relay.start(more or self.above())

        return Deferred.fromCoroutine(start())

    def stop(self) -> Deferred[None]:
        """Stop both."""

        async def stop() -> None:
            await self.relay.stop()
            await self.root.stop()
            await self.client.close()

        return Deferred.fromCoroutine(stop())

    def send(self, *parts: tuple[Box, str, bytes]) -> Deferred[None]:
        """Put files into the relay, as a node does."""
        self.client = InventoryUpstream(
            reactor,
            self.relay.url,
            {Box.FIRST: ("rudder", "rudder"), Box.UPDATE: ("nodes", "later")},
            PinnedKeys([self.relay.key.public]),
            pool=InlinePool(),
        )

        async def put() -> None:
            self.told = await self.client.server_id()
            for box, name, data in parts:
                await self.client.put(box, name, data)

        return Deferred.fromCoroutine(put())

    def inventory(self, box: Box = Box.FIRST) -> list[tuple[Box, str, bytes]]:
        """Both files of an inventory."""
        document = node_document(pair())
        return [
            (box, f"{NODE}.ocs.gz", gzip.compress(document)),
            (box, f"{NODE}.ocs.sign", sign(document, pair())),
        ]

    @inlineCallbacks
    def test_the_whole_way(self) -> Any:
        """
        What a node puts into a relay gets to the server above, which decides, and
        the relay keeps nothing of it. The relay tells its own id.
        """
        yield self.run_both()
        yield self.send(*self.inventory())
        yield until(lambda: not self.relay.spool.waiting)
        yield until(lambda: not self.root.spool.waiting + self.root.spool.undecided)
        found = yield self.root.nodes.registry.node(NODE)
        self.assertEqual(found.key, pair().public)
        self.assertIsNone((yield self.relay.nodes.registry.node(NODE)))
        self.assertEqual(self.told, self.relay.nodes.server_id)
        self.assertNotEqual(self.told, "root")
        self.assertEqual(self.root.spool.failed(), [])

    @inlineCallbacks
    def test_each_above_the_other(self) -> Any:
        """
        Of two relays with each other above, the second one puts a file aside instead of
        passing it round.
        """
        back = self.above(self.relay.key.public.md5, url=self.relay.url)
        yield self.run_both(of_root=back)
        yield self.send((Box.FIRST, "a.ocs", b"<doc/>"))
        yield until(self.root.spool.failed)

        (failed,) = self.root.spool.failed()
        self.assertEqual((failed.name, failed.refusal.code), ("a.ocs", "loop"))
        yield until(lambda: not self.relay.spool.waiting + self.root.spool.waiting)
        self.assertEqual(self.relay.spool.failed(), [])

    @inlineCallbacks
    def test_another_key_and_a_reload(self) -> Any:
        """
        Nothing goes to a server with another key than the pinned one; when the right
        one is configured and read, all goes at once. Keys that cannot be read change
        nothing.
        """
        with capturedLogs() as logs:
            yield self.run_both(self.above("MD5=" + "0" * 32))
            yield self.send(*self.inventory(Box.UPDATE))
            yield until(lambda: [x for x in logs if x.get("event") == "upstream.away"])
        (told, *_) = [x for x in logs if x.get("event") == "upstream.away"]
        self.assertIn("another key", told["reason"])
        self.assertIn(self.root.key.public.md5, told["reason"])
        self.assertEqual(self.relay.spool.waiting, 2)
        self.assertEqual(self.root.spool.waiting, 0)

        file = self.relay.folder / "above.pem"
        file.write_text("no key")
        settings = self.relay.settings(self.above(str(file)))
        waiting = yield Deferred.fromCoroutine(self.relay.taking.apply(settings))
        self.assertEqual(waiting, ["inventory.upstream"])
        self.assertEqual(self.relay.spool.waiting, 2)

        file.write_bytes(self.root.key.public.to_pem())
        waiting = yield Deferred.fromCoroutine(self.relay.taking.apply(settings))
        self.assertEqual(waiting, [])
        yield until(lambda: not self.relay.spool.waiting)
        yield until(lambda: not self.root.spool.waiting + self.root.spool.undecided)
        self.assertIsNotNone((yield self.root.nodes.registry.node(NODE)))

    @inlineCallbacks
    def test_not_wanted_above(self) -> Any:
        """
        What the server above finds too large is put aside by the relay with its
        answer, and the signature goes on; a password that is wrong above waits.
        """
        yield self.run_both(of_root="max_compressed = 65536")
        big = bytes(70_000)
        yield self.send((Box.FIRST, "big.ocs.gz", big), *self.inventory())
        yield until(lambda: not self.relay.spool.waiting)
        (failed,) = self.relay.spool.failed()
        self.assertEqual(failed.refusal.code, "upstream-refused")
        self.assertIn("413", failed.refusal.text)
        yield until(lambda: not self.root.spool.waiting + self.root.spool.undecided)
        self.assertIsNotNone((yield self.root.nodes.registry.node(NODE)))

    @inlineCallbacks
    def test_a_wrong_password(self) -> Any:
        """A node with a wrong password is refused by the relay itself."""
        yield self.run_both()
        yield self.send()
        client = InventoryUpstream(
            reactor,
            self.relay.url,
            {Box.FIRST: ("rudder", "wrong")},
            PinnedKeys([self.relay.key.public]),
            pool=InlinePool(),
        )
        with self.assertRaises(Transient):
            yield client.put(Box.FIRST, "a.ocs", b"")
        with self.assertRaises((Transient, Permanent)):
            yield client.put(Box.UPDATE, "a.ocs", b"")
        yield client.close()
        self.assertEqual(self.relay.spool.waiting, 0)

    def test_mistakes_are_told(self) -> None:
        """An address or a key that is none is told before anything starts."""
        for more, key in (
            (self.above(url="http://root"), "inventory.upstream"),
            (self.above(url="https://a:b@root"), "inventory.upstream"),
            (self.above("sha256//x"), "inventory.upstream_key[0]"),
            (self.above("/not/there"), "inventory.upstream_key[0]"),
            (self.above("MD5=" + "0" * 32, "x"), "inventory.upstream_key[1]"),
        ):
            (problem,) = inventory_problems(self.relay.settings(more))
            self.assertEqual(problem.key_path, key)
            self.assertNotIn("a:b", str(problem))

    def test_what_waits_for_a_restart(self) -> None:
        """Whether a server is a relay is settled at a start, all else at a reload."""
        relay = self.relay.settings(self.above())
        other = self.relay.settings(
            self.above(url="https://x", more='upstream_keep="1d"')
        )
        none = self.relay.settings()

        self.assertEqual(waits_for_restart(relay, other), [])
        self.assertEqual(waits_for_restart(relay, none), ["inventory.upstream"])
        self.assertEqual(waits_for_restart(none, relay), ["inventory.upstream"])
