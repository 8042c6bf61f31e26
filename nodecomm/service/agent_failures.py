# SPDX-License-Identifier: MIT
"""
What kept a copy from being made, in words for people: which of the things that can be
wrong it was, and what to do.
"""

from __future__ import annotations

from attrs import frozen

from nodecomm.client.errors import (
    ClientError,
    Refused,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.identity.servers import accept_command
from nodecomm.sync.errors import (
    LimitExceeded,
    LocalError,
    SourceRefused,
    SyncError,
    VerificationFailed,
)
from nodecomm.wire.text import to_text

__all__ = ["CopyFailure", "describe_failure"]


@frozen
class CopyFailure:
    """
    Why a copy was not made from a server.

    Attributes:
        kind: `unreachable`, `untrusted`, `refused`, `verification`, `broken`, `local`,
            `limit` or `bug`.
        code: The error's own word.
        text: What happened.
        remedy: What to do.
        of_server: Whether the server is to be tried last for a while.
        elsewhere: Whether another server may do better.
        heals: Whether it may be over soon without anybody doing anything.
    """

    kind: str
    code: str
    text: str
    remedy: str
    of_server: bool = False
    elsewhere: bool = True
    heals: bool = False


_BY_CODE = {
    "name-unknown": "check the name in policy_servers, and this machine's resolver",
    "name-lookup-failed": "check this machine's resolver (/etc/resolv.conf) and that it"
    " reaches its name server",
    "connection-refused": "start the server, or check the port in policy_servers and"
    " the firewalls between",
    "connect-timeout": "check that the server is up and that no firewall drops the"
    " packets on the way",
    "no-route": "check this machine's network, and the routes to the server",
    "closed-at-accept": "the server closes before it speaks: look into its log; its"
    " allowconnects, allowallconnects and maxconnections decide, and for the classic"
    " protocol its allowlegacyconnects; one that is too old for TLS needs"
    ' protocol = "classic" here',
    "handshake-failed": "check that this is the port of a policy server, and which TLS"
    " versions both sides allow",
    "handshake-timeout": "the server is overloaded, or something else listens there;"
    " look into its log",
    "not-trusted": "on the server, trust this machine's key: `nodecomm nodes accept`"
    " if it sends inventories there, else `nodecomm key trust`, or trustkeysfrom, which"
    " lets no deleted or refused node in; `nodecomm key show` here tells the key",
    "dialog-failed": "look into the server's log: it says why it ended the dialog",
    "key-changed": "if the server's administrator confirms the new key: `{accept}`,"
    " or where server_keys names keys, name the new one"
    " there; if not, somebody may stand between",
    "key-unknown": "compare the digest with the server's own, then: `{accept}`,"
    " or put it into server_keys",
    "no-proof": "the server shows the key that is known for it and does not prove to"
    " hold it: look into its log; if that says nothing, somebody may stand between",
    "key-unusable": "the server needs a proper key, made there anew",
    "store-unusable": "check the folder server-keys in the state folder: `nodecomm"
    " server-key list` says what is wrong with it",
    "not-copyable": "name a folder or a file as the source",
    "exists": "move away what is there",
    "clock": "set the clocks of this machine and the server: they are more than an hour"
    " apart",
    "mount-point": 'write replace = "symlink" or replace = "files" in this [[copy]], or'
    " name a folder below the mount point",
    "read-only": "make the file system writable, or name another destination",
    "no-space": "make room on the disk of the destination",
    "locked": "wait for the other program, or end it",
    "not-a-folder": "move away what is at the destination, or name the right one",
    "permission": "run the agent as a user who may write there, or change the folder's"
    " owner",
    "io": "check the disk; the system's log says more",
}

#: What explains a decision about a node that speaks the classic protocol.
_CLASSIC = " --protocol classic"


def describe_failure(
    error: BaseException,
    server: object,
    *,
    classic: bool = False,
    node_id: str | None = None,
) -> CopyFailure:
    """
    What *error* means for the copy that was asked of *server*, in the *classic*
    protocol or not; *node_id* is the node whose own files they are.
    """
    code = str(getattr(error, "code", "") or "failed")
    text = str(error) or type(error).__name__
    told = _BY_CODE.get(code, "").format(
        accept=accept_command(str(server), classic=classic)
    )
    if isinstance(error, Unreachable):
        said = told or "check the network and the server"
        return CopyFailure("unreachable", code, text, said, of_server=True, heals=True)
    if isinstance(error, UntrustedServer):
        return CopyFailure("untrusted", code, text, told, of_server=True)
    if isinstance(error, Rejected):
        said = told or "look into the server's log: it says why it ended the dialog"
        heals = code == "dialog-timeout"
        return CopyFailure("refused", code, text, said, of_server=True, heals=heals)
    if isinstance(error, (Refused, SourceRefused)):
        said = told or (
            "check the source's name and the server's rules; there,"
            f" `nodecomm access explain{_CLASSIC if classic else ''}` tells which rule"
            " decides"
        )
        if node_id is not None and code == "refused":
            # So it is for every new node.
            said = (
                "this node may not be accepted yet: on the server, `nodecomm nodes"
                f" accept {node_id}`; if it is, {said}"
            )
        return CopyFailure("refused", code, text, said)
    if isinstance(error, ClientError):
        said = told or "it is tried again; if it goes on, look into the server's log"
        return CopyFailure("broken", code, text, said, of_server=True, heals=True)
    if isinstance(error, VerificationFailed):
        said = "the file may be changing on the server; it is tried again"
        return CopyFailure("verification", code, text, said, heals=True)
    if isinstance(error, LimitExceeded):
        said = "check the source on the server; max_duration bounds the time"
        return CopyFailure("limit", code, text, said)
    if isinstance(error, LocalError):
        said = told or "see what the message names"
        heals = code in ("locked", "no-space", "io")
        return CopyFailure("local", code, text, said, elsewhere=False, heals=heals)
    if isinstance(error, SyncError):
        return CopyFailure("refused", code, text, told or "see what the message names")
    if isinstance(error, OSError):
        name = error.filename
        shown = to_text(name) if isinstance(name, bytes) else name
        where = f"{shown}: " if name else ""
        text = f"{where}{error.strerror or error}"
        return CopyFailure("local", "io", text, _BY_CODE["io"], elsewhere=False)
    return CopyFailure(
        "bug",
        type(error).__name__,
        f"{type(error).__name__}: {text}",
        "this is a mistake of nodecomm; please report it with the log's traceback",
        elsewhere=False,
    )
