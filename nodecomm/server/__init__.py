# SPDX-License-Identifier: MIT
"""
Twisted protocols and factories that answer.
"""

from __future__ import annotations

from nodecomm.server.factory import PortFactory, TLSFactory

__all__ = ["PortFactory", "TLSFactory"]
