# SPDX-License-Identifier: MIT
"""
Node-server communication for CFEngine and Rudder fleets, on Twisted.
"""

__version__ = "0.1.0"
