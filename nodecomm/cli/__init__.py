# SPDX-License-Identifier: MIT
"""
The `nodecomm` command: one module a subcommand, no logic of its own.
"""
