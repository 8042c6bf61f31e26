# SPDX-License-Identifier: MIT
"""
Where a server keeps its nodes and inventories, for commands that work on them.
"""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen
from twisted.python import usage

from nodecomm.cli.options import default_state_dir
from nodecomm.inventory.opening import NodesPlace, nodes_place

__all__ = ["CONFIG", "ServerState", "find_state"]

#: The option that names a server's configuration.
CONFIG = [
    "config",
    "c",
    None,
    "the server's configuration, which says where its state is",
]

#: Faults in secrets are none of ours: they may be out of an operator's reach.
_SECRETS = ("inventory.first_password", "inventory.update_password")


@frozen
class ServerState:
    """
    Where a server keeps what it has.

    Attributes:
        folder: The state folder.
        database: Where the nodes are, as a configuration names it; None where nothing
            says so.
        password: That of the database, where a configuration has one.
    """

    folder: Path
    database: str | None = None
    password: str | None = field(default=None, repr=False)

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


def find_state(config: str | None, named: Path | None) -> ServerState:
    """
    Where the state is of the server that has this configuration. Without one it is the
    folder that all commands work on.

    Args:
        config: The file; None for no file.
        named: The folder that a command line names, which goes before it.

    Raises:
        UsageError: The file cannot be used.
    """
    if config is None:
        return ServerState(named or default_state_dir())
    # Reading a configuration needs much that most calls do not.
    from nodecomm.service.loading import file_path, load  # noqa: PLC0415

    loaded = load(Path(config), state_dir=named)
    for problem in loaded.problems:
        if problem.is_error and not problem.key_path.startswith(_SECRETS):
            raise usage.UsageError(str(problem))
    settings = loaded.partial
    folder, inventory = file_path(settings.server.state_dir), settings.inventory
    if inventory is None:
        return ServerState(folder)
    password = inventory.database_password
    known = password is not None and password.is_known
    return ServerState(
        folder, inventory.database, password.reveal() if password and known else None
    )
