# SPDX-License-Identifier: MIT
"""
Bring a remote tree here: what differs, fetch, verify, put in place in one step.
"""
