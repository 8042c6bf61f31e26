# SPDX-License-Identifier: MIT
"""
Where things are when nobody says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["STATE_DIR_VARIABLE", "standard_state_dir"]

#: The variable that says where the state is.
STATE_DIR_VARIABLE = "NODECOMM_STATE_DIR"


def standard_state_dir(environ: Mapping[str, str], uid: int) -> Path:
    """
    Where the state is when nobody says otherwise: /var/lib/nodecomm for root, else
    the XDG state folder of the user.
    """
    if uid == 0:
        return Path("/var/lib/nodecomm")
    state = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    folder = Path(state) if state.startswith("/") else Path("~/.local/state")
    return folder.expanduser() / "nodecomm"
