# SPDX-License-Identifier: MIT
"""
`nodecomm inventory send`: what it takes.
"""

from __future__ import annotations

from typing import TextIO

from twisted.python import usage

from nodecomm.cli.options import CommandOptions, GroupOptions, check_server_id

__all__ = ["PASSWORD_VARIABLE", "SendOptions", "send"]

#: Holds the password, where no file does.
PASSWORD_VARIABLE = "NODECOMM_INVENTORY_PASSWORD"  # noqa: S105

#: What says how the server is known; one of them at the most.
_TRUST = ("server-key", "first-use", "ca", "insecure")


class SendOptions(CommandOptions):
    """
    The command line of `nodecomm inventory send`.
    """

    takes = "[options] [DOCUMENT [SIGNATURE]]"
    subjects = (("document", "DOCUMENT"), ("signature", "SIGNATURE"))
    optional = 2
    longdesc = (
        "Send an inventory to a server: DOCUMENT (FILE.ocs or FILE.ocs.gz) and "
        "SIGNATURE, by default FILE.ocs.sign beside it. Without DOCUMENT one of this "
        "node is made, signed and sent. Where to, with which password and to which key "
        "stands in the agent's configuration, if there is one; what is named here goes "
        "before it. The server must be known: by the key of the policy server, unless "
        "--server-key, --first-use or --ca say otherwise. Nothing is sent to another "
        "one, not even the password, and no proxy is used. Exit status: 0 the server "
        "has both files (it decides later whether it believes them), 1 there is "
        "nothing to send, 3 no answer, 4 not the right server, 5 it does not want them."
    )
    optParameters = [
        ["to", "t", None, "the server, https://HOST[:PORT][/PATH]"],
        ["config", "c", None, "the agent's configuration"],
        ["user", "u", None, "the user name there"],
        [
            "password-file",
            None,
            None,
            "file with its password in the first line; - reads standard input; else "
            f"the variable {PASSWORD_VARIABLE}",
        ],
        [
            "server-key",
            "k",
            None,
            "the key that the server must have: MD5=..., SHA=..., sha256//..., several "
            "with ; between them, or a file with keys or certificates",
        ],
        [
            "ca",
            None,
            None,
            "the server must have a certificate for its name, from an authority in "
            "this file; `system`: from one that the system knows",
        ],
        [
            "policy-server-id",
            None,
            None,
            "the id of the policy server; else the server is asked for it",
        ],
        [
            "from",
            "f",
            None,
            "complete this document of the machine, and do not look at the machine",
        ],
    ]
    optFlags = [
        ["updates", None, "put it into /inventory-updates/, for a node that is known"],
        ["first-use", None, "keep the key that the server has the first time"],
        ["insecure", None, "do not ask whether it is the right server"],
    ]

    def postOptions(self) -> None:
        """
        Look at what goes together.
        """
        given = [f"--{name}" for name in _TRUST if self[name]]
        if len(given) > 1:
            raise usage.UsageError(f"{given[0]} and {given[1]} exclude each other")
        check_server_id(self["policy-server-id"])
        if self["document"] is None:
            return
        for name in ("from", "policy-server-id"):
            if self[name] is not None:
                msg = f"--{name} is for a document that is made, not for DOCUMENT"
                raise usage.UsageError(msg)


def send(group: GroupOptions, stdout: TextIO, stderr: TextIO) -> int:
    """
    Send an inventory, and return the exit status.

    Args:
        group: The command line, `SendOptions` in it.
        stdout: For facts.
        stderr: For warnings and errors.

    Raises:
        NotMade: There is nothing to send, or no way.
        DocumentRefused: No server would take the document.
        SignatureRefused: Nor the signature.
    """
    # HTTP and the agent's parts are more than other commands need.
    from nodecomm.cli.inventory_sending import run  # noqa: PLC0415

    return run(group, stdout, stderr)
