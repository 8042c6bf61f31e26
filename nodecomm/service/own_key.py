# SPDX-License-Identifier: MIT
"""
This machine's own key, made where there is none.
"""

from __future__ import annotations

import os
from pathlib import Path

from nodecomm.identity.files import write_new
from nodecomm.identity.keys import KeyPair
from nodecomm.identity.own import (
    PRIVATE_NAME,
    PUBLIC_NAME,
    create_own_key,
    load_own_key,
)

__all__ = ["ensure_own_key"]


def ensure_own_key(folder: Path) -> tuple[KeyPair, bool]:
    """
    The own key pair in *folder*, and whether it was made just now. A public half
    that a killed program did not get to is made up for.

    Raises:
        OwnKeyError: What is there cannot be used.
        OSError: It cannot be written.
    """
    if not os.path.lexists(folder / PRIVATE_NAME):
        return create_own_key(folder), True
    pair = load_own_key(folder)
    if not os.path.lexists(folder / PUBLIC_NAME):
        write_new(str(folder), PUBLIC_NAME, pair.public.to_pem())
    return pair, False
