# SPDX-License-Identifier: MIT
"""
What nodes tell about themselves: the document, its signature, and what follows.
"""
