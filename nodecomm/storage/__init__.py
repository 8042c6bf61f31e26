# SPDX-License-Identifier: MIT
"""
Shared tables in SQLite: who was seen, trust windows, digests.
"""
