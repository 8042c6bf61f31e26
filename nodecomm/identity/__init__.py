# SPDX-License-Identifier: MIT
"""
Who someone is: keys, key files, key stores, and trust decisions with a reason.
"""
