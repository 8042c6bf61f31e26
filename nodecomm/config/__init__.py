# SPDX-License-Identifier: MIT
"""
What the configuration may say, as values. No I/O.
"""
