# SPDX-License-Identifier: MIT
"""
Runs CFEngine's own programs, and nodecomm's server, each in a work folder of its own.

Nothing of the machine's own CFEngine is read or written: the environment variable
CFENGINE_TEST_OVERRIDE_WORKDIR moves all that a program knows to the work folder.
Every process that is started here is ended by its number.
"""

from __future__ import annotations

from tests.interop.machine import (
    RUN_TIMEOUT,
    START_TIMEOUT,
    has_ipv6_loopback,
    isolation,
    missing,
    peer_program,
    wait_until,
)
from tests.interop.nodes import RealAgent, Run, WorkFolder
from tests.interop.servers import (
    LOOPBACK,
    NodecommServer,
    RealServer,
    Server,
    config_for,
)

__all__ = [
    "LOOPBACK",
    "RUN_TIMEOUT",
    "START_TIMEOUT",
    "NodecommServer",
    "RealAgent",
    "RealServer",
    "Run",
    "Server",
    "WorkFolder",
    "config_for",
    "has_ipv6_loopback",
    "isolation",
    "missing",
    "peer_program",
    "wait_until",
]
