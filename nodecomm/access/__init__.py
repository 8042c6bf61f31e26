# SPDX-License-Identifier: MIT
"""
Who may have what: networks, rules, expansions; every decision explains itself.
"""
