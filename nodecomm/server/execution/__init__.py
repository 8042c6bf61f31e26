# SPDX-License-Identifier: MIT
"""
Remote runs: a peer asks for the operator's own command, and is sent what it prints.
"""
