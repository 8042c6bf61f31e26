# SPDX-License-Identifier: MIT
"""
When a node sends an inventory. Pure: what is known goes in, the reason comes out.

One is due for a node that has never sent one, or none of this version of the program
or to these servers; when somebody asks for one; and daily, at a point of the local day
that is the node's own, so that many nodes do not come at once.

The civil clock may be wrong, and may be set. What was sent before is therefore placed
on the clock of now by a clock that nobody sets, so that a day is neither lost nor
counted twice; only over a new start of the machine the civil clock has to do.
"""

from __future__ import annotations

import time
from datetime import date, timedelta
from typing import Literal

from attrs import frozen

from nodecomm.service.agent_points import Point

__all__ = ["Daily", "Reason", "Sent", "due", "next_look"]

Reason = Literal["", "first", "asked", "version", "key", "server", "daily", "clock"]

HOUR = 3600.0
DAY = 24 * HOUR

#: Seconds that two daily inventories are apart at the least: one that was sent for
#: another reason in the evening makes that of the night needless.
LEAST = 8 * HOUR

#: Seconds by which a clock may have been wrong when an inventory was sent; with a
#: larger mistake servers do not believe it, and one with the right time has to follow.
#: Source: Rudder 8.3, what its server takes by default.
MOST_BEHIND = 2 * DAY
MOST_AHEAD = 12 * HOUR

#: No clock that is right shows an earlier time than this, 2025-01-01.
_PLAUSIBLE = 1735689600.0


@frozen
class Sent:
    """
    The last inventory that a server has acknowledged.

    Attributes:
        when: When.
        version: Of the program that sent it.
        key: The digest of the key that signed it.
        servers: Where inventories were to go.
        url: Where it went.
        server_id: The id of that server.
        node_id: The node's.
        name: What its document was called.
        reason: What it was for.
    """

    when: Point
    version: str
    key: str
    servers: tuple[str, ...]
    url: str = ""
    server_id: str = ""
    node_id: str = ""
    name: str = ""
    reason: str = ""


@frozen
class Daily:
    """
    The node's own point of the day.

    Attributes:
        begin: The first minute of the day, in local time, that it may be in.
        end: The minute that it must be before; earlier than *begin*: of the next day.
        share: Where between them: from 0 up to 1.
    """

    begin: int
    end: int
    share: float

    def before(self, now: float) -> float:
        """
        The last one that is not after *now*.
        """
        today = self._day(now)
        # The hours may begin yesterday, and a change of zone may move the day.
        points = [self._point(today + timedelta(days=days)) for days in (-2, -1, 0, 1)]
        return max(point for point in points if point <= now)

    def after(self, now: float) -> float:
        """
        The first one that is after *now*.
        """
        today = self._day(now)
        points = [self._point(today + timedelta(days=days)) for days in (-1, 0, 1, 2)]
        return min(point for point in points if point > now)

    def _day(self, now: float) -> date:
        local = time.localtime(now)
        return date(local.tm_year, local.tm_mon, local.tm_mday)

    def _point(self, day: date) -> float:
        minutes = (self.end - self.begin) % (24 * 60)
        second = self.begin * 60 + int(self.share * minutes * 60)
        # What is more than a day is the next one's; whether it is summer is found out.
        parts = (day.year, day.month, day.day, 0, 0, second, 0, 0, -1)
        return time.mktime(parts)


def due(
    sent: Sent | None,
    now: Point,
    daily: Daily,
    *,
    version: str,
    key: str,
    servers: tuple[str, ...],
    asked: bool = False,
) -> Reason:
    """
    What an inventory is due for; "" for nothing.

    Args:
        sent: The last one; None if there is none.
        now: The present.
        daily: The node's point of the day.
        version: Of this program.
        key: The digest of the node's key.
        servers: Where inventories are to go.
        asked: Whether somebody asks for one.
    """
    if sent is None:
        return "first"
    if asked:
        return "asked"
    if sent.version != version:
        return "version"
    if sent.key != key:
        return "key"
    if sent.servers != servers:
        return "server"
    if sent.when.boot != now.boot:
        if sent.when.civil > now.civil + HOUR:
            # One of the clocks was wrong. Of one that cannot be right nobody would
            # believe what it says.
            return "clock" if now.civil >= _PLAUSIBLE else ""
        return "daily" if _missed(sent.when.civil, now.civil, daily) else ""
    passed = sent.when.seconds_until(now)
    then = now.civil - passed
    if not -MOST_BEHIND <= sent.when.civil - then <= MOST_AHEAD:
        return "clock"
    return "daily" if _missed(then, now.civil, daily) else ""


def next_look(sent: Sent, now: Point, daily: Daily) -> float:
    """
    Seconds from *now* until one is due if nothing else happens.
    """
    then = now.civil - sent.when.seconds_until(now)
    return max(daily.after(max(now.civil, then + LEAST)) - now.civil, 0.0)


def _missed(then: float, now: float, daily: Daily) -> bool:
    """
    Whether there was a point of the day since then, and not too soon after it.
    """
    return daily.before(now) >= then + LEAST
