# SPDX-License-Identifier: MIT
"""
The part of a rule that says whom it is about. Rules of a server and of an agent have it
alike.
"""

from __future__ import annotations

from attrs import field, frozen

from nodecomm.config.fields import about

__all__ = ["PeerSettings"]


# Without slots, so that it can stand beside another class of keys: attrs takes those of
# the last base first, which is the order that people read them in.
@frozen(kw_only=True, slots=False)
class PeerSettings:
    """
    Who is admitted by a rule, and who is denied.
    """

    admit_ips: tuple[str, ...] = field(
        default=(),
        metadata=about("Addresses that are admitted.", addresses=True),
    )
    admit_hostnames: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Host names that are admitted: a name, or `.example.com` for all below it.",
            upstream="There the name is what the reverse look-up says, without the "
            "look-up back to the address.",
        ),
    )
    admit_keys: tuple[str, ...] = field(
        default=(),
        metadata=about("Key digests that are admitted, `MD5=...` or `SHA=...`."),
    )
    deny_ips: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Addresses that are denied, whoever admits them.", addresses=True
        ),
    )
    deny_hostnames: tuple[str, ...] = field(
        default=(),
        metadata=about("Host names that are denied, whoever admits them."),
    )
    deny_keys: tuple[str, ...] = field(
        default=(),
        metadata=about("Key digests that are denied, whoever admits them."),
    )
    admit: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "The older form: each entry goes to `admit_keys`, `admit_ips` or "
            "`admit_hostnames` by what it looks like.",
            upstream="An old expression that fits none of them is left out, or ends "
            "the program; here it is a warning and matches nobody.",
            addresses=True,
        ),
    )
    deny: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "The older form of the three deny lists, sorted as `admit`.",
            upstream="An old expression that fits none of them is left out, or ends "
            "the program; here it is an error.",
            addresses=True,
        ),
    )
