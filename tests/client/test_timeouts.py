# SPDX-License-Identifier: MIT
"""
How long a server is waited for.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.timeouts import Timeouts


class TimeoutsTests(SynchronousTestCase):
    """
    One number for all of them.
    """

    def test_of_one_number(self) -> None:
        """
        Every wait is as long as was said; slowness is judged over twice that, within
        bounds.
        """
        for seconds, slow in ((1.0, 20.0), (15.0, 30.0), (30.0, 60.0), (300.0, 60.0)):
            made = Timeouts.of(seconds)

            self.assertEqual(
                [seconds] * 4, [made.connect, made.handshake, made.dialog, made.answer]
            )
            self.assertEqual(slow, made.slow)
        self.assertEqual(Timeouts.of(30), Timeouts())
