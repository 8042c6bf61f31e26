# SPDX-License-Identifier: MIT
"""
The configuration of an agent as values, and what its keys must be together.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from typing import Literal

from attrs import field, frozen

from nodecomm.config.agent_inventory import (
    AgentInventorySettings,
    check_agent_inventory,
)
from nodecomm.config.agent_listening import BundleRuleSettings, check_listening
from nodecomm.config.checks import check_log
from nodecomm.config.errors import Problem, child_path, element_path
from nodecomm.config.execution import SYNC, RoleSettings, RunSettings
from nodecomm.config.fields import about
from nodecomm.config.model import LogSettings
from nodecomm.config.placed import Checks, Placed

__all__ = [
    "AgentConfiguration",
    "AgentSettings",
    "CopySettings",
    "check_agent",
    "encloses_path",
    "is_digest_text",
]

#: Seconds.
DAY = 86400


@frozen(kw_only=True)
class AgentSettings:
    """
    `[agent]`: servers, when, and what follows.
    """

    state_dir: str = field(
        default="/var/lib/nodecomm",
        metadata=about(
            "The folder of `ppkeys/`, `server-keys/` and what the agent remembers. The "
            "option `--state-dir` and the variable `NODECOMM_STATE_DIR` go before it. "
            "For others than root the default is `nodecomm` in the XDG state folder "
            "(`~/.local/state`).",
            shape="absolute-path",
        ),
    )
    policy_servers: tuple[str, ...] = field(
        default=(),
        metadata=about(
            'The servers: `"HOST"`, `"HOST:PORT"`, an address such as `"192.0.2.1"` or '
            '`"::1"`, and `"[ADDRESS]:PORT"` where an IPv6 address has a port. The '
            "first one that works is used; one that failed is tried last for a while.",
        ),
    )
    server_keys: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Keys pinned beforehand: digests (`MD5=...`, `SHA=...`) or absolute paths "
            "of public key files. If any is given, a server with another key is not "
            "talked to. Several during a change of key.",
        ),
    )
    trust_server: bool = field(
        default=False,
        metadata=about(
            "Whether the key that a server shows at the first contact is accepted and "
            "pinned, when none is known for it and `server_keys` is empty.",
            upstream="`trustkey`, which there is asked again at every contact.",
        ),
    )
    interval: str = field(
        default="5m",
        metadata=about(
            "From one run to the next, by a clock that nobody sets.",
            shape="duration",
            minimum=1,
            maximum=31 * DAY,
        ),
    )
    splay: str | None = field(
        default=None,
        metadata=about(
            "The first run comes within this after the start, at a point that the "
            "digest of this machine's key decides; the later ones keep to a point in "
            "the interval that it decides too. Not set: `interval`, at most 5 "
            "minutes.",
            upstream="`splaytime`, in minutes, applied before each run.",
            shape="duration",
            maximum=31 * DAY,
        ),
    )
    user: str | None = field(
        default=None,
        metadata=about(
            "The user name told to the servers. Not set: the name of the user who "
            "runs the agent.",
            shape="user",
        ),
    )
    protocol: Literal[2, 3, "classic"] = field(
        default=3,
        metadata=about(
            "The newest version spoken over TLS; or `classic`, the protocol of before "
            "TLS (version 1), for servers that have no other, and then no other is "
            "spoken. Classic does not protect: whoever can reach the network between "
            "can read what is sent, and change it.",
            upstream="`protocol_version`.",
        ),
    )
    encrypt: bool = field(
        default=False,
        metadata=about(
            "With `classic` only: names and contents are sent encrypted, by a cipher "
            "of the 1990s and without any protection against changes; the status of "
            "files stays in the clear. TLS encrypts everything, always.",
            upstream="`encrypt` of `copy_from`, which there each copy says.",
        ),
    )
    timeout: str = field(
        default="30s",
        metadata=about(
            "How long connecting may take, and how long a server may stay silent "
            "while it owes an answer.",
            shape="duration",
            minimum=1,
            maximum=3600,
            upstream="`timeout`, for connecting only.",
        ),
    )
    max_duration: str = field(
        default="1h",
        metadata=about(
            "One copy may take this long in all.",
            shape="duration",
            minimum=1,
            maximum=31 * DAY,
        ),
    )
    after_update: tuple[str, ...] | str = field(
        default=(),
        metadata=about(
            "The program to run, with its arguments, after all copies succeeded and "
            "one of them changed something. No shell is involved. A plain text in "
            "place of the list is given to `/bin/sh -c`, with a warning.",
        ),
    )
    after_update_timeout: str = field(
        default="15m",
        metadata=about(
            "The program is ended, with all that it started in its process group, "
            "when it takes longer.",
            shape="duration",
            minimum=1,
            maximum=31 * DAY,
        ),
    )
    listen: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Where others may ask for a run, as Twisted endpoint strings such as "
            '`"tcp6:5308"`. Nothing else is served there, and only over TLS; only keys '
            "of `policy_servers` may connect, and `run_keys`. Empty: nowhere.",
            upstream="`cf-serverd` of the node.",
            shape="endpoint",
        ),
    )
    run_keys: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Keys that may ask for runs, besides those of `policy_servers` (stored, or "
            "in `server_keys`): digests (`MD5=...`, `SHA=...`) or absolute paths of "
            "public key files.",
            upstream="The keys trusted by `cf-serverd`.",
        ),
    )
    cfruncommand: tuple[str, ...] | str = field(
        default=(),
        metadata=about(
            "What runs when somebody asks for a run: `sync` is a run of the agent "
            "itself, as its schedule has them; a list is a program, by its absolute "
            "path, with its arguments, and no shell is involved. Any other text is "
            "given to `/bin/sh -c`, with a warning. Classes and bundles that were "
            "asked for, and are allowed, stand behind it as `-D` and "
            "`--bundlesequence`; `sync` takes none, but the class `force_inventory`.",
            upstream="Always a text, which it divides into words itself; no shell "
            "reads it.",
        ),
    )
    cfrunuser: str | None = field(
        default=None,
        metadata=about(
            "The user as whom `cfruncommand` runs; another one than the agent's own "
            "needs root. Not set: as the agent.",
            upstream="No counterpart: as `cf-serverd`.",
            shape="user",
        ),
    )
    allowusers: tuple[str, ...] = field(
        default=("root",),
        metadata=about(
            "The user names that may ask for a run, compared exactly. The name is what "
            "the holder of the key says.",
            shape="user",
        ),
    )


@frozen(kw_only=True)
class CopySettings:
    """
    One `[[copy]]`: what is brought where.
    """

    source: str = field(
        metadata=about(
            "What to copy: a shortcut of the server, something below one, or an "
            "absolute path there. `{node_id}` in it is the id of this node.",
            shape="remote-path",
        ),
    )
    destination: str = field(
        metadata=about(
            "Where to: an absolute path. Its parent must be there. Two copies cannot "
            "have the same destination, or one inside the other.",
            shape="absolute-path",
        ),
    )
    compare: Literal["auto", "digest", "mtime", "size"] = field(
        default="auto",
        metadata=about(
            "How it is found out whether a file differs: `auto` asks about what "
            "changed on either side since it was last confirmed, `digest` about every "
            "file, `mtime` and `size` only look at these.",
            upstream="`compare` of `copy_from`; `auto` has no counterpart.",
        ),
    )
    purge: bool = field(
        default=False,
        metadata=about("Remove here what the server does not have."),
    )
    preserve: bool = field(
        default=False,
        metadata=about(
            "Take owner, group and times from the server; modes always are.",
        ),
    )
    exclude: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Globs of names that are neither fetched nor removed. One without a slash "
            "is about the last part of a name, one with a slash about the whole name "
            "below the source; a final slash makes it about folders alone.",
            shape="glob",
        ),
    )
    replace: Literal["exchange", "symlink", "files"] = field(
        default="exchange",
        metadata=about(
            "How the new set takes the place of the old one: in one step by an "
            "exchange of folders (Linux), by a link that is swapped, or file by file, "
            "which is not one step.",
        ),
    )


@frozen(kw_only=True)
class AgentConfiguration(Placed):
    """
    The whole configuration of an agent.
    """

    agent: AgentSettings = field(
        factory=AgentSettings,
        metadata=about("Which servers, when, and what follows an update."),
    )
    copy: tuple[CopySettings, ...] = field(
        default=(),
        metadata=about(
            "What is brought where; one that fails does not stop others. An agent that "
            "listens and has a program as `cfruncommand` needs none: without any it "
            "makes no runs of its own accord."
        ),
    )
    access: tuple[BundleRuleSettings, ...] = field(
        default=(),
        metadata=about(
            "Which bundles whoever asks for a run may name; without a rule none. Which "
            "keys may connect at all is decided before."
        ),
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
    inventory: AgentInventorySettings = field(
        factory=AgentInventorySettings,
        metadata=about("What this node tells its policy server about itself."),
    )
    log: LogSettings = field(
        factory=LogSettings,
        metadata=about("What is written where."),
    )


def check_agent(
    configuration: AgentConfiguration, dropped: Collection[str] = ()
) -> list[Problem]:
    """
    Everything that is wrong between the keys of *configuration*.

    Args:
        configuration: It.
        dropped: The keys in whose place the defaults stand, as they are wrong alone.
    """
    checks = _Checks(configuration, dropped)
    return [
        *checks.agent(),
        *checks.copies(),
        *check_listening(
            checks,
            configuration.agent,
            configuration.roles,
            configuration.access,
            dropped,
        ),
        *check_agent_inventory(checks, configuration.inventory),
        *check_log(checks, configuration.log),
    ]


def is_digest_text(text: str) -> bool:
    """
    Whether an entry of `server_keys` is a digest and not a file.
    """
    return not text.startswith("/")


def encloses_path(outer: str, inner: str) -> bool:
    """
    Whether *inner* is *outer* or lies in it, by the names alone.
    """
    outer, inner = _plain(outer), _plain(inner)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


@frozen
class _Checks(Checks[AgentConfiguration]):
    dropped: Collection[str] = ()

    def agent(self) -> Iterator[Problem]:
        """
        `[agent]`.
        """
        agent = self.whole.agent
        if not agent.policy_servers:
            yield self.problem(
                "agent.policy_servers",
                "no server is named",
                None,
                'write policy_servers = ["hub.example.com"] in [agent], or use'
                " `nodecomm bootstrap`",
            )
        yield from self.repeated("agent.policy_servers", agent.policy_servers)
        yield from self.repeated("agent.server_keys", agent.server_keys)
        yield from self.protocol()
        yield from self.command(agent.after_update)

    def protocol(self) -> Iterator[Problem]:
        """
        `protocol` and `encrypt` together.
        """
        agent = self.whole.agent
        if agent.protocol == "classic":
            yield self.problem(
                "agent.protocol",
                "the classic protocol does not protect what is sent",
                agent.protocol,
                "write protocol = 3 as soon as all of policy_servers speak TLS",
                warning=True,
            )
        elif agent.encrypt and "agent.protocol" not in self.dropped:
            yield self.problem(
                "agent.encrypt",
                "it is about the classic protocol; TLS encrypts everything, always",
                agent.encrypt,
                'leave it out, or write protocol = "classic" too',
            )

    def command(self, command: tuple[str, ...] | str) -> Iterator[Problem]:
        """
        `after_update`.
        """
        path = "agent.after_update"
        parts = [command] if isinstance(command, str) else list(command)
        if any("\0" in part for part in parts):
            yield self.problem(path, "a NUL cannot be part of a command", None)
        elif isinstance(command, str):
            if not command.strip():
                yield self.problem(
                    path, "an empty text is no command", command, "leave it out"
                )
                return
            yield self.problem(
                path,
                "a text is given to /bin/sh -c",
                command,
                'a list is run without a shell: write ["/path/of/program", "argument"]',
                warning=True,
            )
        elif command and not command[0].startswith("/"):
            yield self.problem(
                element_path(path, 0),
                "the program is not named by an absolute path",
                command[0],
                "the agent has no search path of its own; write one such as"
                " /usr/bin/cf-agent",
            )

    def copies(self) -> Iterator[Problem]:
        """
        Each `[[copy]]`, and their destinations together.
        """
        agent = self.whole.agent
        # Such an agent is there for those who ask it to run a program.
        serves = agent.listen and agent.cfruncommand not in ((), SYNC)
        if not self.whole.copy and not serves:
            yield self.problem(
                "copy",
                "nothing is to be copied",
                None,
                'write [[copy]] with source = "masterfiles" and destination = "/..."',
            )
        before: list[tuple[str, str]] = []
        for index, copy in enumerate(self.whole.copy):
            path = child_path(element_path("copy", index), "destination")
            if ".." in copy.destination.split("/"):
                yield self.problem(
                    path,
                    "a destination cannot go up",
                    copy.destination,
                    "write the path without `..`",
                )
                continue
            if _plain(copy.destination) == "/":
                yield self.problem(
                    path, "the root folder cannot be replaced", copy.destination
                )
                continue
            for other, its_path in before:
                word = _overlap(other, copy.destination)
                if word:
                    yield self.problem(
                        path,
                        f"this is {word} {self.named(its_path)}",
                        copy.destination,
                        "each copy needs a folder of its own",
                    )
                    break
            before.append((copy.destination, path))


def _plain(path: str) -> str:
    # Two slashes at the beginning are the one thing that normpath leaves as it is.
    return "/" + posixpath.normpath(path).lstrip("/")


def _overlap(first: str, second: str) -> str:
    """
    How *second* relates to *first*, in words; "" where they are apart.
    """
    if encloses_path(first, second):
        return "the same as" if encloses_path(second, first) else "inside"
    return "around" if encloses_path(second, first) else ""
