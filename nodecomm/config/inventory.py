# SPDX-License-Identifier: MIT
"""
The part of a server's configuration that is about inventories: where nodes send them,
who may, what is believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from attrs import field, frozen

from nodecomm.config.errors import Problem, child_path, element_path
from nodecomm.config.fields import about
from nodecomm.config.inventory_upstream import check_upstream
from nodecomm.config.placed import Checks
from nodecomm.config.secrets import Secret

__all__ = [
    "OWN_KEY",
    "CertificateSettings",
    "InventorySettings",
    "RegisteredSettings",
    "check_inventory",
]

#: The value of `certificate` that means one made from the server's own key.
OWN_KEY = "own-key"

_MIB = 1 << 20

#: Seconds.
DAY = 86400

#: Source: Rudder 4.0, the test that a node makes of the answer to `GET /uuid`.
_SERVER_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")

#: Source: Rudder 5.0, the check of a node's id.
_NODE_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-]{0,49}")

_DATABASE = re.compile(r"sqlite:///.+|postgres(ql)?://.+", re.DOTALL)

_SHARED = ("postgresql://", "postgres://")


@frozen(kw_only=True)
class CertificateSettings:
    """
    `certificate`: what the server shows over HTTPS.
    """

    cert: str = field(
        default=OWN_KEY,
        metadata=about(
            "A file with the certificate in PEM form, and those of its issuers behind "
            "it. `own-key`: one is made from the server's own key, which nodes know.",
            shorthand=True,
        ),
    )
    key: str | None = field(
        default=None,
        metadata=about(
            "A file with its private key in PEM form, without a passphrase.",
            shape="absolute-path",
        ),
    )


@frozen(kw_only=True)
class RegisteredSettings:
    """
    One `[[registered]]`: a node that is accepted before its first inventory.
    """

    id: str = field(metadata=about("The id of the node."))
    key: str = field(metadata=about("Its public key in PEM form."))


@frozen(kw_only=True)
class InventorySettings:
    """
    `[inventory]`: where nodes send their inventories, and what is believed.
    """

    listen: tuple[str, ...] = field(
        default=("tcp6:443",),
        metadata=about(
            "Where to listen, as Twisted endpoint strings of plain streams: TLS is "
            "made above them. `tcp6` takes IPv4 too. `[]`: this server takes no "
            "inventories, and follows the nodes in `database`.",
            shape="endpoint",
        ),
    )
    certificate: CertificateSettings = field(
        factory=CertificateSettings,
        metadata=about(
            'What the server shows: `"own-key"`, or `{ cert = "...", key = "..." }`.'
        ),
    )
    plain: bool = field(
        default=False,
        metadata=about(
            "No TLS, for a proxy in front that has it. Then name the proxy in "
            "`trusted_proxies`.",
        ),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "The addresses that are believed when they say (X-Forwarded-For) for whom "
            "they speak.",
            addresses=True,
        ),
    )
    server_id: str | None = field(
        default=None,
        metadata=about(
            "The id of this server, which nodes ask for and write into their "
            "inventories; `root` for a server without one above it. Not set: one is "
            "made and kept.",
        ),
    )
    networks: tuple[str, ...] = field(
        default=("@allowed_networks",),
        metadata=about(
            "The addresses that may send inventories. Their passwords must be right, "
            "too.",
            addresses=True,
        ),
    )
    first_user: str = field(
        default="rudder",
        metadata=about("The user that `/inventories/` is open to, for new nodes."),
    )
    first_password: Secret = field(
        default=Secret("rudder"),
        metadata=about(
            "Its password. That of Rudder's nodes is `rudder`, which everybody knows: "
            "an inventory is believed for its signature.",
        ),
    )
    update_user: str | None = field(
        default=None,
        metadata=about(
            "The user that `/inventory-updates/` is open to, for nodes that were "
            "accepted. Not set: it is open to no password.",
        ),
    )
    update_password: Secret | None = field(
        default=None, metadata=about("The password of `update_user`.")
    )
    database: str = field(
        default="sqlite:///nodes.sqlite",
        metadata=about(
            "Where the nodes are kept: `sqlite:///FILE`, relative to `state_dir`; or "
            "`postgresql://USER@HOST/DATABASE`, which several servers share, with trust"
            " windows and keys that were seen.",
        ),
    )
    registry_max_stale: str = field(
        default="15m",
        metadata=about(
            "While `database` does not answer, what is known of the nodes is used for "
            "so long. After that nodes are not trusted by it, and connections of "
            "whoever might be one are closed, never refused.",
            shape="duration",
            minimum=1,
        ),
    )
    database_password: Secret | None = field(
        default=None,
        metadata=about(
            "The password for PostgreSQL. Not set: that of the environment "
            "(`PGPASSWORD`), of `~/.pgpass`, or none.",
        ),
    )
    signatures: Literal["strict", "compat"] = field(
        default="strict",
        metadata=about(
            "`strict`: only signed inventories are believed. `compat`: from nodes that "
            "have never sent a signed one, unsigned ones too, when their signature has "
            "not come for a minute (or before `orphan_after`).",
        ),
    )
    max_age: str = field(
        default="2d",
        metadata=about(
            "An older inventory is refused.",
            shape="duration",
            minimum=60,
            maximum=3650 * DAY,
        ),
    )
    max_ahead: str = field(
        default="12h",
        metadata=about(
            "One whose date is further ahead of the server's clock is refused.",
            shape="duration",
            maximum=3650 * DAY,
        ),
    )
    auto_accept: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "The addresses whose nodes are accepted without an operator.",
            addresses=True,
        ),
    )
    keep_deleted: str = field(
        default="90d",
        metadata=about(
            "So long the history of a node that was deleted or refused is kept, and "
            "its last inventory. Its keys, and when it has signed last, stay for ever.",
            shape="duration",
            minimum=DAY,
            maximum=36500 * DAY,
        ),
    )
    max_size: int = field(
        default=64 * _MIB,
        metadata=about(
            "Bytes of a document, not compressed.", unit="bytes", minimum=65536
        ),
    )
    max_compressed: int = field(
        default=16 * _MIB,
        metadata=about("Bytes of a compressed document.", unit="bytes", minimum=65536),
    )
    max_ratio: int = field(
        default=100,
        metadata=about(
            "A document of more than 1 MiB may be so many times as large as its "
            "compressed form.",
            unit="times",
            minimum=10,
        ),
    )
    upload_timeout: str = field(
        default="5m",
        metadata=about(
            "An upload that takes longer is cut off.",
            shape="duration",
            minimum=1,
            maximum=DAY,
        ),
    )
    uploads_at_once: int = field(
        default=1000,
        metadata=about(
            "Uploads at a time; one more is told to come again.",
            unit="uploads",
            minimum=1,
        ),
    )
    connections: int = field(
        default=2000,
        metadata=about(
            "Connections at a time. Then one makes room that is not sending an "
            "inventory: of the address that has the most, the longest waiting. It is "
            "lowered when the system allows few descriptors.",
            unit="connections",
            minimum=1,
        ),
    )
    connections_per_address: int = field(
        default=0,
        metadata=about(
            "Connections at a time from one address, or one network of IPv6 (/64); 0 "
            "is no limit of its own. Those of `trusted_proxies` are not counted.",
            unit="connections",
            minimum=0,
        ),
    )
    waiting: int = field(
        default=10_000,
        metadata=about(
            "Halves that wait for the other one, and pairs that wait for a decision; "
            "with more of either, uploads are told to come again.",
            unit="files",
            minimum=1,
        ),
    )
    orphan_after: str = field(
        default="10m",
        metadata=about(
            "A half whose other one has not come by then is put aside.",
            shape="duration",
            minimum=10,
            maximum=31 * DAY,
        ),
    )
    min_free: int = field(
        default=256 * _MIB,
        metadata=about(
            "So much of the disk is left free; uploads that would take of it are "
            "refused.",
            unit="bytes",
            minimum=0,
        ),
    )
    upstream: str | None = field(
        default=None,
        metadata=about(
            "The server above this one, `https://HOST` with a port or a path if need "
            "be. This server is a relay then: it decides about no inventory, and "
            "passes on each file as it came.",
        ),
    )
    upstream_key: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "The keys that the server above may have: `sha256//...`, `MD5=...`, "
            "`SHA=...`, or the path of a file with its public key or certificate in "
            "PEM form. Neither a password nor an inventory goes to another one.",
        ),
    )
    upstream_first_user: str | None = field(
        default=None,
        metadata=about(
            "The user for `/inventories/` of the server above. Not set: `first_user`."
        ),
    )
    upstream_first_password: Secret | None = field(
        default=None,
        metadata=about("Its password. Not set: `first_password`."),
    )
    upstream_user: str | None = field(
        default=None,
        metadata=about(
            "The user for `/inventory-updates/` of the server above. Not set: "
            "`update_user`."
        ),
    )
    upstream_password: Secret | None = field(
        default=None,
        metadata=about("Its password. Not set: `update_password`."),
    )
    upstream_keep: str = field(
        default="7d",
        metadata=about(
            "A file that the server above has not taken by then is put aside.",
            shape="duration",
            minimum=60,
            maximum=3650 * DAY,
        ),
    )


def check_inventory(
    checks: Checks[Any],
    settings: InventorySettings,
    registered: tuple[RegisteredSettings, ...] = (),
) -> Iterator[Problem]:
    """
    Everything that is wrong between the keys about inventories.

    Args:
        checks: The look at the whole configuration.
        settings: `[inventory]`.
        registered: Each `[[registered]]`.
    """
    yield from checks.repeated("inventory.listen", settings.listen)
    yield from _check_certificate(checks, settings)
    yield from _check_senders(checks, settings)
    identity = settings.server_id
    if identity is not None and not _SERVER_ID.fullmatch(identity):
        yield checks.problem(
            "inventory.server_id",
            "nodes take no such id",
            identity,
            "write 1 to 50 lower-case letters, digits and hyphens, a hyphen not first",
        )
    if not _DATABASE.fullmatch(settings.database):
        yield checks.problem(
            "inventory.database",
            "this names no database",
            # It may hold a password.
            None,
            'write "sqlite:///nodes.sqlite", or "postgresql://USER@HOST/DATABASE"',
        )
    elif settings.database_password is not None and not settings.database.startswith(
        _SHARED
    ):
        yield checks.problem(
            "inventory.database_password",
            "it has no effect: a file has no password",
            None,
            "leave it out",
        )
    yield from _check_registered(checks, registered)
    yield from check_upstream(checks, settings)


def _check_certificate(
    checks: Checks[Any], settings: InventorySettings
) -> Iterator[Problem]:
    path = "inventory.certificate"
    certificate = settings.certificate
    own = certificate.cert == OWN_KEY
    if settings.plain:
        if not settings.trusted_proxies:
            yield checks.problem(
                "inventory.plain",
                "without TLS everybody on the way can read the passwords, and no proxy "
                "that would have it is named",
                True,
                "name the proxy in trusted_proxies, or leave plain out",
                warning=True,
            )
        if certificate != CertificateSettings():
            yield checks.problem(
                path,
                "it has no effect: plain = true means that there is no TLS",
                None,
                "leave one of them out",
                warning=True,
            )
        return
    if own and certificate.key is not None:
        yield checks.problem(
            child_path(path, "key"),
            "a certificate from the server's own key needs no other key",
            certificate.key,
            "leave it out, or write cert",
        )
    if own:
        return
    if not certificate.cert.startswith("/"):
        yield checks.problem(
            child_path(path, "cert"),
            "not an absolute path",
            certificate.cert,
            f'write "/...", or certificate = "{OWN_KEY}"',
        )
    elif certificate.key is None:
        yield checks.problem(
            child_path(path, "key"),
            "the private key of this certificate is not given",
            None,
            'write key = "/..."',
        )


def _check_senders(
    checks: Checks[Any], settings: InventorySettings
) -> Iterator[Problem]:
    if settings.listen and not settings.networks:
        yield checks.problem(
            "inventory.networks",
            "no address may send an inventory",
            [],
            'write ["@allowed_networks"]',
            warning=True,
        )
    for name in ("first_user", "update_user"):
        user = getattr(settings, name)
        if user is not None and (not user or ":" in user or not user.isprintable()):
            yield checks.problem(
                child_path("inventory", name),
                "Basic authentication cannot have this user",
                user,
                "write a name without a colon",
            )
    user, password = settings.update_user, settings.update_password
    if (user is None) != (password is None):
        missing = "update_user" if user is None else "update_password"
        there = "update_password" if user is None else "update_user"
        yield checks.problem(
            child_path("inventory", there),
            f"it has no effect without {missing}",
            None,
            f"write {missing}, too",
        )
    if settings.auto_accept:
        yield checks.problem(
            "inventory.auto_accept",
            "whoever can send from there and knows the password is given a node's "
            "files, without anybody having compared keys",
            list(settings.auto_accept),
            "name nodes in [[registered]] where their keys are known beforehand",
            warning=True,
        )


def _check_registered(
    checks: Checks[Any], registered: tuple[RegisteredSettings, ...]
) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for index, node in enumerate(registered):
        path = child_path(element_path("registered", index), "id")
        if not _NODE_ID.fullmatch(node.id):
            yield checks.problem(
                path,
                "no node has such an id",
                node.id,
                "write 1 to 50 letters, digits and hyphens, a hyphen not first",
            )
        # Upper and lower case are the same node.
        same = first.setdefault(node.id.lower(), path)
        if same != path:
            yield checks.problem(
                path,
                f"the same node as {checks.named(same)}",
                node.id,
                "leave one of them out",
            )
