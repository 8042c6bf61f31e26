"""
How many files there are in a folder of a server, and how large they are together.

    python tree_size.py HOST[:PORT]:PATH [STATE_DIR]

STATE_DIR holds this machine's key, which `nodecomm key generate` makes, and the keys of
servers. Without it that of the commands is taken: $NODECOMM_STATE_DIR, else
/var/lib/nodecomm for root and ~/.local/state/nodecomm for others.
"""

import sys
from pathlib import Path

from twisted.internet.defer import FirstError, gatherResults
from twisted.internet.task import react

from nodecomm.cli.options import default_state_dir
from nodecomm.client.address import parse_target
from nodecomm.client.dialing import Dialer
from nodecomm.client.errors import ClientError
from nodecomm.identity.own import OwnKeyError, load_own_key
from nodecomm.identity.servers import ServerKeyStore, ServerTrust
from nodecomm.transport.context import client_context
from nodecomm.wire.replies import REGULAR


async def tree_size(session, path):
    names = await session.opendir(path)
    # All of them leave at once, and are answered in this order.
    asked = [session.stat(path + b"/" + name) for name in names]
    found = await gatherResults(asked, consumeErrors=True)
    sizes = [status.size for status in found if status.kind == REGULAR]
    return len(sizes), sum(sizes)


async def ask(reactor, where, state):
    target = parse_target(where)
    dialer = Dialer(
        reactor,
        context=client_context(load_own_key(state / "ppkeys")),
        trust=ServerTrust(ServerKeyStore(state / "server-keys"), first_use=True),
        user=b"root",
    )
    session = await dialer.connect(target.server)
    try:
        files, size = await tree_size(session, target.path)
    finally:
        await session.close()
    print(f"{files} files, {size} bytes, {session.round_trips} round trips")


async def main(reactor, where, state=None):
    try:
        await ask(reactor, where, Path(state) if state else default_state_dir())
    except (ClientError, OwnKeyError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    except FirstError as error:
        # Of all that were asked for together.
        raise SystemExit(f"error: {error.subFailure.getErrorMessage()}") from None


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    react(main, sys.argv[1:])
