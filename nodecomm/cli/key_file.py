# SPDX-License-Identifier: MIT
"""
The key of a node in a file that a command line names.
"""

from __future__ import annotations

from pathlib import Path

from nodecomm.inventory.keys import AgentKey, KeyRefused, read_pem

__all__ = ["read_key_file"]

#: Bytes of a file with a key or a certificate.
_SIZE = 64 * 1024


def read_key_file(path: str) -> AgentKey:
    """
    The public key in a file, or that of the certificate in it, in PEM form.

    Raises:
        KeyRefused: It is none that can be used; the text names the file.
        OSError: It cannot be read.
    """
    with Path(path).open("rb") as stream:
        data = stream.read(_SIZE + 1)
    if len(data) > _SIZE:
        msg = f"{path}: more than {_SIZE} bytes, that is no key"
        raise KeyRefused("bad-key", msg)
    text = data.decode("latin-1")
    if "PRIVATE KEY-----" in text:
        msg = f"{path}: this is a private key; give its public half, localhost.pub"
        raise KeyRefused("bad-key", msg)
    try:
        return read_pem(text)
    except KeyRefused as error:
        # What it is about is the file, not an element.
        refusal = error.refusal
        raise KeyRefused(refusal.code, f"{path}: {refusal.text}") from error
