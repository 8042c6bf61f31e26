# SPDX-License-Identifier: MIT
"""
The configuration as values.

Names are those of CFEngine's own attributes. Every value here has passed
`nodecomm.config.structure`, or was made by a program that knows what it does: the
classes themselves check nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from attrs import field, frozen

from nodecomm.config.execution import RoleSettings, RunSettings
from nodecomm.config.fields import about
from nodecomm.config.inventory import InventorySettings, RegisteredSettings
from nodecomm.config.limits import LimitSettings
from nodecomm.config.node_files import CommonFileSettings, NodeFileSettings
from nodecomm.config.peers import PeerSettings
from nodecomm.config.placed import Placed

__all__ = [
    "AccessSettings",
    "LimitSettings",
    "LogSettings",
    "OutputSettings",
    "PluginSettings",
    "ResourceType",
    "ServerSettings",
    "Settings",
    "TrustWindowSettings",
]

ResourceType = Literal["path", "literal", "context", "query", "bundle", "variable"]

#: Source: CFEngine 3.21, the default of `allowciphers` (cf-serverd).
DEFAULT_CIPHERS = "AES256-GCM-SHA384:AES256-SHA:TLS_AES_256_GCM_SHA384"


@frozen(kw_only=True)
class TrustWindowSettings:
    """
    One entry of `trustkeysfrom`: for whom, how long and how often an unknown key is
    accepted on first use.
    """

    network: str = field(
        metadata=about(
            "The addresses whose unknown keys are accepted and stored. A plain text "
            "in place of the table means this key alone.",
            addresses=True,
            shorthand=True,
        ),
    )
    until: datetime | None = field(
        default=None,
        metadata=about(
            "The window closes at this time; it must carry an offset (`Z` or "
            "`+01:00`). Without it the window has no end.",
            upstream="No counterpart: an entry of `trustkeysfrom` is open for ever.",
        ),
    )
    count: int | None = field(
        default=None,
        metadata=about(
            "The window closes when this many keys were accepted through it, "
            "counted across restarts. Without it any number is accepted.",
            unit="keys",
            minimum=1,
            upstream="No counterpart.",
        ),
    )


@frozen(kw_only=True)
class ServerSettings:
    """
    `[server]`: listening, connections, trust.
    """

    listen: tuple[str, ...] = field(
        default=("tcp6:5308",),
        metadata=about(
            "Where to listen, as Twisted endpoint strings. `tcp6` takes IPv4 too; "
            "where there is no IPv6 it falls back to `tcp`.",
            upstream="`listen` is a boolean of the Enterprise edition; the place is "
            "`port` and `bindtointerface`.",
            shape="endpoint",
        ),
    )
    state_dir: str = field(
        default="/var/lib/nodecomm",
        metadata=about(
            "The folder of `ppkeys/`, the database and run files. The option "
            "`--state-dir` and the variable `NODECOMM_STATE_DIR` go before it. For "
            "others than root the default is `nodecomm` in the XDG state folder "
            "(`~/.local/state`).",
            upstream="No counterpart; there it is the work directory, fixed when "
            "the program is built.",
            shape="absolute-path",
        ),
    )
    allowed_networks: tuple[str, ...] = field(
        default=(),
        metadata=about(
            'Addresses named once: `"@allowed_networks"` in any list of addresses '
            "stands for all of them.",
            upstream="No counterpart in the program; its standard policy has a "
            "variable `acl` for the same purpose.",
        ),
    )
    allowconnects: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Only these addresses may connect. Empty: every address.", addresses=True
        ),
    )
    denyconnects: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "These addresses may not connect, whatever `allowconnects` says.",
            addresses=True,
        ),
    )
    allowallconnects: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "These addresses may hold more than one connection at a time; every "
            "other address one.",
            addresses=True,
        ),
    )
    trustkeysfrom: tuple[TrustWindowSettings, ...] = field(
        default=(),
        metadata=about(
            "From where an unknown key is accepted on first use. Empty: from nowhere.",
        ),
    )
    trustusers: tuple[str, ...] = field(
        default=("root",),
        metadata=about(
            "The user names under which a key is accepted on first use.",
            upstream="No counterpart: any name is accepted.",
            shape="user",
        ),
    )
    allowlegacyconnects: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "These addresses may also speak the classic protocol (version 1), on the "
            "same port. Empty: nobody may. It proves the node's key and protects "
            "nothing that is sent.",
            addresses=True,
        ),
    )
    allowusers: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "The user names that may ask for a run of `cfruncommand`, compared "
            "exactly. Empty: nobody may.",
            shape="user",
        ),
    )
    cfruncommand: tuple[str, ...] | str = field(
        default=(),
        metadata=about(
            "What runs when somebody asks for a run (EXEC): a program, by its absolute "
            "path, with its arguments; no shell is involved. A plain text in place of "
            "the list is given to `/bin/sh -c`, with a warning; `sync` alone is the "
            "node's own sync (`nodecomm agent run`). Whoever asks must be in "
            "`allowusers`, and an `[[access]]` must admit it to the program. Classes "
            "and bundles that were asked for, and are allowed, stand behind it as "
            "`-D` and `--bundlesequence`. Empty: nobody may ask for a run.",
            upstream="Always a text, which it divides into words itself; no shell "
            "reads it.",
        ),
    )
    cfrunuser: str | None = field(
        default=None,
        metadata=about(
            "The user as whom it runs; another one than the server's own needs root. "
            "Not set: as the server.",
            upstream="No counterpart: as `cf-serverd`.",
            shape="user",
        ),
    )
    maxconnections: int = field(
        default=10000,
        metadata=about(
            "Connections held at a time. It is lowered, with a warning, when the "
            "system allows fewer descriptors. One more connection is closed; the "
            "others go on.",
            unit="connections",
            minimum=1,
            upstream="The default is 30, and after many refusals in a row the "
            "program ends itself.",
        ),
    )
    denybadclocks: bool = field(
        default=True,
        metadata=about(
            "Refuse a STAT from a node whose clock is more than an hour away.",
            upstream="The comparison there overflows for some grossly wrong times.",
        ),
    )
    manifest_max_age: float = field(
        default=10,
        metadata=about(
            "A folder's manifest (the file `.nodecomm-manifest-1` that nodecomm's own "
            "nodes ask for) is made anew when it is older than this; 0: there are no "
            "manifests.",
            unit="seconds",
            minimum=0,
            upstream="No counterpart.",
        ),
    )
    allowciphers: str = field(
        default=DEFAULT_CIPHERS,
        metadata=about(
            "The cipher suites, in OpenSSL's notation. Without a `TLS_` suite TLS "
            "1.3 is off. Read at start only.",
        ),
    )
    allowtlsversion: Literal["1.2", "1.3"] = field(
        default="1.2",
        metadata=about(
            "The oldest TLS version accepted. Read at start only.",
            upstream="The default is 1.1 and 1.0 can be written, though neither "
            "works with OpenSSL 3.",
        ),
    )


@frozen(kw_only=True)
class ServedSettings:
    """
    What an `[[access]]` is about.
    """

    path: str | None = field(
        default=None,
        metadata=about(
            "What the rule is about: for a path the file or folder (absolute; a "
            "final slash makes it a folder even when it does not exist yet; "
            "`$(connection.ip)`, `$(connection.hostname)` and `$(connection.key)` "
            "stand for the peer's), otherwise the handle or pattern.",
            upstream="The promiser of the `access` promise.",
        ),
    )
    resource_type: ResourceType = field(
        default="path",
        metadata=about(
            "What `path` names.",
        ),
    )
    shortcut: str | None = field(
        default=None,
        metadata=about(
            "A name that stands for `path` in requests that do not begin with a "
            "slash. No slash in it, and no two alike.",
            upstream="The first of several promises with the same name wins.",
            shape="no-slash",
        ),
    )
    source: str | None = field(
        default=None,
        metadata=about(
            "The file source plugin that answers below `path`; without it the file "
            "system does.",
            upstream="No counterpart.",
            shape="no-slash",
        ),
    )


@frozen(kw_only=True)
class AccessSettings(PeerSettings, ServedSettings):
    """
    One `[[access]]`: who may have what.
    """

    maproot: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Addresses whose users may read files of any owner and mode. It concerns "
            "the classic protocol only; over TLS it has no effect.",
            upstream="A host name in the list is compared with what the node says it "
            "is called; here with its name as it was looked up.",
            addresses=True,
        ),
    )
    ifencrypted: bool = field(
        default=False,
        metadata=about(
            "Serve encrypted requests only. It concerns the classic protocol only: "
            "there OPENDIR, MD5, GET and names in the clear are refused, and STAT is "
            "served. Over TLS everything is encrypted, and it has no effect.",
        ),
    )


@frozen(kw_only=True)
class OutputSettings:
    """
    `[log]` as every service has it.
    """

    format: Literal["text", "json"] = field(
        default="text",
        metadata=about("Lines for people, or one JSON object a line."),
    )
    file: str | None = field(
        default=None,
        metadata=about(
            "The log file, opened again on SIGHUP. Without it the log goes where "
            "twistd sends it.",
            shape="absolute-path",
        ),
    )


@frozen(kw_only=True)
class LogSettings(OutputSettings):
    """
    `[log]`: what is written where.
    """

    audit: str | None = field(
        default=None,
        metadata=about(
            "A file of its own for who had what, how many bytes, how long and by "
            "which decision; opened again on SIGHUP. Without it none is written.",
            shape="absolute-path",
        ),
    )


@frozen(kw_only=True)
class PluginSettings:
    """
    `[plugins]`: which plugins are active.
    """

    commands: tuple[str, ...] = field(
        default=(),
        metadata=about("The command plugins in use, by name."),
    )
    override: bool = field(
        default=False,
        metadata=about("Whether a plugin may take the place of a built-in command."),
    )


@frozen(kw_only=True)
class Settings(Placed):
    """
    The whole configuration of a server.
    """

    server: ServerSettings = field(
        factory=ServerSettings,
        metadata=about("Listening, connections and trust."),
    )
    access: tuple[AccessSettings, ...] = field(
        default=(),
        metadata=about("Who may have what; without a rule nobody has anything."),
    )
    roles: tuple[RoleSettings, ...] = field(
        default=(),
        metadata=about(
            "Which classes whoever asks for a run may define; without a role none."
        ),
    )
    run: RunSettings = field(
        factory=RunSettings,
        metadata=about("The runs that others ask for."),
    )
    limits: LimitSettings = field(
        factory=LimitSettings,
        metadata=about("How long, how much, how many."),
    )
    log: LogSettings = field(
        factory=LogSettings,
        metadata=about("What is written where."),
    )
    plugins: PluginSettings = field(
        factory=PluginSettings,
        metadata=about("Which plugins are active."),
    )
    inventory: InventorySettings | None = field(
        default=None,
        metadata=about(
            "Where nodes send their inventories, and what is believed. Without the "
            "table the server takes none."
        ),
    )
    registered: tuple[RegisteredSettings, ...] = field(
        default=(),
        metadata=about(
            "Nodes that are accepted before their first inventory, by their keys. They "
            "are registered at a start, or by the first reload that names them; what "
            "was decided since then stands."
        ),
    )
    node_files: tuple[NodeFileSettings, ...] = field(
        default=(),
        metadata=about(
            "The files of each node that is accepted and belongs to this server."
        ),
    )
    common_files: tuple[CommonFileSettings, ...] = field(
        default=(),
        metadata=about("The files that every node may have, accepted or not."),
    )
