# SPDX-License-Identifier: MIT
"""
Where a server keeps its nodes and inventories, for commands that work on them.
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import field, frozen
from twisted.python import usage

from nodecomm.cli.options import CONFIG, default_state_dir
from nodecomm.identity.places import STATE_DIR_VARIABLE
from nodecomm.inventory.opening import NodesPlace, nodes_place
from nodecomm.inventory.own import NodeIdError, kept_node_id

__all__ = ["CONFIG", "ServerState", "find_state"]

#: The configuration of a server of this machine.
SYSTEM_FILE = Path("/etc/nodecomm/server.toml")


@frozen
class ServerState:
    """
    Where a server keeps what it has.

    Attributes:
        folder: The state folder.
        database: Where the nodes are, as a configuration names it; None where nothing
            says so.
        password: That of the database, where a configuration has one.
        config: The configuration that says so; None for none.
        takes_inventories: Whether a server with it keeps nodes at all.
        identity: What a configuration calls the server, for its nodes; None where
            nothing says so.
        upstream: The server that it passes inventories on to; None for none.
    """

    folder: Path
    database: str | None = None
    password: str | None = field(default=None, repr=False)
    config: Path | None = None
    takes_inventories: bool = True
    identity: str | None = None
    upstream: str | None = None

    def nodes(self, named: str | None = None) -> NodesPlace:
        """
        Where the nodes are.

        Args:
            named: Where a command line says; None where it says nothing.

        Raises:
            UnknownDatabase: It is no database.
        """
        password = None if named else self.password
        return nodes_place(named or self.database, self.folder, password)

    @property
    def server_id(self) -> str | None:
        """
        What nodes call the server; None while it has no id.
        """
        if self.identity is not None:
            return self.identity
        try:
            made = kept_node_id(self.folder)
        except (NodeIdError, OSError):
            # The server itself does not start with that, and says so.
            return None
        return None if made is None else made.lower()

    def check(self) -> None:
        """
        Raises:
            UsageError: The server takes no inventories.
        """
        if not self.takes_inventories:
            raise usage.UsageError(
                f"the server of {self.config} takes no inventories: write [inventory]"
                " into it, or name another configuration with --config"
            )


def find_state(
    config: str | None, named: Path | None, system_file: Path = SYSTEM_FILE
) -> ServerState:
    """
    Where the state is of a server.

    Args:
        config: Its configuration. None: that of this machine's server, if there is one
            and nobody names a state folder; else the folder that all commands work on.
        named: The folder that a command line names, which goes before it.
        system_file: Where this machine's server has its configuration.

    Raises:
        UsageError: The file cannot be used.
    """
    if config is None:
        elsewhere = named is not None or bool(os.environ.get(STATE_DIR_VARIABLE))
        if elsewhere or not os.path.lexists(system_file):
            return ServerState(named or default_state_dir())
        config = str(system_file)
    # Reading a configuration needs much that most calls do not.
    from nodecomm.service.loading import (  # noqa: PLC0415
        file_path,
        load,
        without_passwords,
    )

    loaded = without_passwords(load(Path(config), state_dir=named))
    for problem in loaded.problems:
        if problem.is_error:
            raise usage.UsageError(str(problem))
    settings = loaded.partial
    folder, inventory = file_path(settings.server.state_dir), settings.inventory
    file = Path(config)
    if inventory is None:
        return ServerState(folder, config=file, takes_inventories=False)
    password = inventory.database_password
    known = password is not None and password.is_known
    return ServerState(
        folder,
        inventory.database,
        password.reveal() if password and known else None,
        file,
        identity=inventory.server_id,
        upstream=inventory.upstream,
    )
