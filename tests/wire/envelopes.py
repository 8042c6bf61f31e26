# SPDX-License-Identifier: MIT
"""
Encrypted questions for what is no file, which nothing of ours asks but tests.
"""

from __future__ import annotations

from nodecomm.wire.cipher import SessionCipher
from nodecomm.wire.commands import encode_context, encode_query, encode_var
from nodecomm.wire.sealed import encode_sealed


def seal_var(handle: bytes, cipher: SessionCipher) -> bytes:
    """`VAR` in an envelope."""
    return encode_sealed(b"SVAR", encode_var(handle) + b"\0", cipher)


def seal_context(pattern: bytes, cipher: SessionCipher) -> bytes:
    """`CONTEXT` in an envelope."""
    return encode_sealed(b"SCONTEXT", encode_context(pattern) + b"\0", cipher)


def seal_query(name: bytes, text: bytes, cipher: SessionCipher) -> bytes:
    """`QUERY` in an envelope."""
    return encode_sealed(b"SQUERY", encode_query(name, text) + b"\0", cipher)
