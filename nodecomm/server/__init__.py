# SPDX-License-Identifier: MIT
"""
Twisted protocols and factories that answer.
"""
