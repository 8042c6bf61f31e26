# SPDX-License-Identifier: MIT
"""
Ports for servers that tests start as processes: nobody else takes one between its
choice and the server's start.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator

#: Where ports are looked for: below the range that systems give to clients, and to
#: whoever asks for any port.
_PORTS = range(21000, 31000)

#: How many a process of tests takes at a time.
_BLOCK = 50


def free_port() -> int:
    """
    A TCP port that nobody listens on, in either address family. It is given once.
    """
    return next(_free)


def _free_ports() -> Iterator[int]:
    for port in _own_ports():
        try:
            with socket.socket() as four:
                four.bind(("", port))
            if socket.has_ipv6:
                with socket.socket(socket.AF_INET6) as six:
                    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    six.bind(("::", port))
        except OSError:
            continue
        yield port
    raise AssertionError(f"no free port in {_PORTS}")


def _own_ports() -> Iterator[int]:
    """
    The ports of blocks that no other process of tests has.
    """
    blocks = range(_PORTS.start, _PORTS.stop, _BLOCK)
    for first in random.sample(blocks, len(blocks)):
        if sys.platform == "linux":
            mark = socket.socket(socket.AF_UNIX)
            try:
                # A name without a file, which is free again when the process ends.
                mark.bind(f"\0ports of nodecomm's tests from {first}")
            except OSError:
                mark.close()
                continue
            mark.detach()
        yield from range(first, first + _BLOCK)


_free = _free_ports()
