# SPDX-License-Identifier: MIT
"""Side-by-side figures of cf-serverd and nodecomm's server."""
