# SPDX-License-Identifier: MIT
"""
Bytes to messages and back; no I/O. Client and server share it.
"""
