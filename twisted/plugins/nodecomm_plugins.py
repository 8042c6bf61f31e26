# SPDX-License-Identifier: MIT
"""
What `twistd` finds of nodecomm. Nothing of the product is imported here: a plugin
file that fails to import disturbs every twistd program of the machine.
"""

from twisted.application.service import ServiceMaker

nodecomm_server = ServiceMaker(  # type: ignore[no-untyped-call]
    "nodecomm policy server",
    "nodecomm.tap_server",
    "A policy server for CFEngine and Rudder nodes.",
    "nodecomm-server",
)

nodecomm_agent = ServiceMaker(  # type: ignore[no-untyped-call]
    "nodecomm agent",
    "nodecomm.tap_agent",
    "Keeps local copies those of a policy server.",
    "nodecomm-agent",
)
