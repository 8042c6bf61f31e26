# SPDX-License-Identifier: MIT
"""
How hypothesis runs here: a test says what must hold, never how fast, because a busy
machine would fail it.
"""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("nodecomm", deadline=None)
hypothesis.settings.load_profile("nodecomm")
