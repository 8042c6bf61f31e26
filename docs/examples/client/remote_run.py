"""
Have a node run its agent, and show what that says.
"""

from nodecomm.client.errors import Refused
from nodecomm.wire.text import safe, to_text


async def remote_run(session, show, **what):
    try:
        result = await session.execute(
            on_line=lambda line: show(safe(to_text(line))), **what
        )
    except Refused as error:
        # The node runs nothing; error.code says why, as far as it tells.
        show(str(error))
        return False
    return result.exit_code == 0
