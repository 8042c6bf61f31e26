# SPDX-License-Identifier: MIT
"""
In-memory server and client, for tests here and in programs that embed nodecomm.
"""
