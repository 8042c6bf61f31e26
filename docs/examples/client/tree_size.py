"""
How many files there are in a folder of a server, and how large they are together.

    python tree_size.py hub.example.com:masterfiles
"""

import sys

from twisted.internet.defer import gatherResults
from twisted.internet.task import react

from nodecomm.client.address import parse_target
from nodecomm.client.dialing import Dialer
from nodecomm.identity.own import load_own_key
from nodecomm.identity.servers import ServerKeyStore, ServerTrust
from nodecomm.transport.context import client_context
from nodecomm.wire.replies import REGULAR


async def tree_size(session, path):
    names = await session.opendir(path)
    # All of them leave at once, and are answered in this order.
    asked = [session.stat(path + b"/" + name) for name in names]
    sizes = [
        found.size for found in await gatherResults(asked) if found.kind == REGULAR
    ]
    return len(sizes), sum(sizes)


async def main(reactor, where, state="/var/lib/nodecomm"):
    target = parse_target(where)
    dialer = Dialer(
        reactor,
        context=client_context(load_own_key(f"{state}/ppkeys")),
        trust=ServerTrust(ServerKeyStore(f"{state}/server-keys"), first_use=True),
        user=b"root",
    )
    session = await dialer.connect(target.server)
    try:
        files, size = await tree_size(session, target.path)
    finally:
        await session.close()
    print(f"{files} files, {size} bytes, {session.round_trips} round trips")


if __name__ == "__main__":
    react(main, sys.argv[1:])
