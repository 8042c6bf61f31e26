# SPDX-License-Identifier: MIT
"""
Where a PostgreSQL database is, and the driver that goes there.

Passwords are in no text that this module gives to anybody.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import field, frozen

from nodecomm.storage.postgres_texts import meant_parameter

__all__ = [
    "CONNECT_TIMEOUT",
    "HANGS_AFTER",
    "DatabaseUnusable",
    "PostgresPlace",
    "is_postgres",
    "load_driver",
]

_SCHEMES = ("postgresql://", "postgres://")

#: Seconds to wait for a connection to one machine.
CONNECT_TIMEOUT = 5

#: Seconds without an answer after which a connection is cut off.
HANGS_AFTER = 15.0


class DatabaseUnusable(Exception):  # noqa: N818
    """
    The database cannot be used, and waiting does not help.
    """


def is_postgres(named: str) -> bool:
    """
    Whether a configuration means PostgreSQL.
    """
    return named.startswith(_SCHEMES)


@frozen
class PostgresPlace:
    """
    Where a database is.

    Attributes:
        url: As libpq takes it; it may have a password in it.
        password: The password; None: the one in the URL, in the environment
            (`PGPASSWORD`) or in the file `.pgpass`, or none.
    """

    url: str = field(repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """
        The parameters of a connection.

        Raises:
            DatabaseUnusable: The URL is none, or the driver is not installed.
        """
        driver = load_driver()
        try:
            found = driver.conninfo.conninfo_to_dict(self.url)
        except driver.Error as error:
            # Its text repeats what it could not read, which may be a password.
            raise DatabaseUnusable(
                "the URL of the database cannot be read; it is postgresql://USER@HOST/"
                "DATABASE, with other characters than letters and digits as %XX"
                + meant_parameter(str(error))
            ) from None
        port = str(found.get("port") or "")
        if not re.fullmatch("[0-9,]*", port):
            # Text in its place may be a password, too, of a user that is missing.
            raise DatabaseUnusable("the port of the database is no number")
        if self.password is not None:
            found["password"] = self.password
        return {
            # Of several hosts, the one that can be written to.
            "target_session_attrs": "read-write",
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": int(HANGS_AFTER * 1000),
            "keepalives_idle": 30,
            "application_name": "nodecomm",
            **found,
        }

    def check(self) -> None:
        """
        Look whether this can be tried at all.

        Raises:
            DatabaseUnusable: The URL is none, or the driver is not installed.
        """
        _ = self.parameters

    def __str__(self) -> str:
        try:
            found = self.parameters
        except DatabaseUnusable:
            return "postgresql://"
        host = found.get("host") or found.get("hostaddr") or ""
        port = f":{found['port']}" if found.get("port") else ""
        name = found.get("dbname") or ""
        if str(host).startswith("/"):
            # The folder of a socket.
            return f"postgresql://{port}/{name}?host={host}"
        return f"postgresql://{host}{port}/{name}"


def load_driver() -> Any:
    """
    The driver, which servers without PostgreSQL do not have.

    Raises:
        DatabaseUnusable: It is not installed.
    """
    try:
        import psycopg  # noqa: PLC0415
    except ImportError as error:
        raise DatabaseUnusable(
            "PostgreSQL needs psycopg, which is not installed or has no libpq "
            f"({error}): pip install 'nodecomm[postgresql]'"
        ) from error
    return psycopg
