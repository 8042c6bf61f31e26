# SPDX-License-Identifier: MIT
"""
Byte streams under the protocols: TLS on a descriptor or in memory, and the port.
"""
