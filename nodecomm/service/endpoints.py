# SPDX-License-Identifier: MIT
"""
Whether endpoint strings can be understood, found out without listening.
"""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from twisted.internet.endpoints import serverFromString

from nodecomm.config.errors import Problem, element_path, in_toml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nodecomm.config.placed import Placed

__all__ = ["endpoint_problems", "what_is_wrong"]

#: The arguments of the endpoints that come with Twisted, as a pattern to write.
_FORMS = {
    "tcp": "'tcp:PORT' or 'tcp:PORT:interface=ADDRESS'",
    "tcp6": r"'tcp6:PORT' or 'tcp6:PORT:interface=\:\:1'",
    "unix": "'unix:/PATH' or 'unix:/PATH:mode=660'",
    "systemd": "'systemd:domain=INET6:name=NAME'",
}
_UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '([^']*)'")
_NO_NUMBER = re.compile(r"invalid literal for int\(\).*?: ('.*')")
_INTERFACE = re.compile(r"tcp6?:.*:interface=((?:\\.|[^:\\])+)", re.IGNORECASE)
_PORT = re.compile(r"[^:]*:(?:port=)?(\d{1,5})(?::|\Z)", re.ASCII)


class _NoReactor:
    """
    What endpoints are made with that nobody will listen on.
    """


def what_is_wrong(description: str, error: Exception) -> tuple[str, str]:
    """
    Why Twisted could not make an endpoint, and what to write instead.

    Args:
        description: The endpoint string.
        error: What `serverFromString` raised.
    """
    kind = description.partition(":")[0].lower()
    said = str(error)
    if said.startswith("Unknown endpoint type"):
        port = _PORT.match(description)
        meant = in_toml(f"tcp6:{port[1] if port else 5308}")
        known = ", ".join(_FORMS)
        return (
            f"no endpoint is called {kind}",
            f"write {meant}, or one of {known}",
        )
    form = _FORMS.get(kind)
    hint = f"write {form}" if form else "see what this endpoint takes"
    unknown = _UNKNOWN_ARGUMENT.search(said)
    if unknown is not None:
        return f"the endpoint {kind} takes no argument {unknown[1]}", hint
    number = _NO_NUMBER.search(said)
    if number is not None:
        return f"{number[1]} is no number", hint
    if isinstance(error, TypeError):
        # The text names functions of Twisted.
        return f"the endpoint {kind} does not take these arguments", hint
    if isinstance(error, LookupError):
        return (
            f"systemd gives this process no such socket ({error})",
            "start it by a unit with a socket of that name",
        )
    if isinstance(error, OSError):
        return f"{error.filename or kind}: {error.strerror or error}", hint
    return said or type(error).__name__, hint


def mistyped_address(description: str) -> str:
    """
    What stands in an endpoint string for an address of this machine, if it can be
    neither an address nor a host name; else empty.
    """
    found = _INTERFACE.match(description)
    text = "" if found is None else re.sub(r"\\(.)", r"\1", found[1])
    if not text or (":" not in text and any(map(str.isalpha, text))):
        return ""
    try:
        if ":" in text:
            ip_address(text)
        else:
            # The system takes short forms too.
            socket.inet_aton(text)
    except (ValueError, OSError):
        return text
    return ""


def endpoint_problems(whole: Placed, key: str, listen: Iterable[str]) -> list[Problem]:
    """
    The endpoints that cannot be understood. A socket that systemd would give to the
    service is a warning: who only checks does not get it.

    Args:
        whole: The configuration.
        key: The key that they stand under.
        listen: The endpoint strings.
    """
    problems = []
    for index, description in enumerate(listen):
        try:
            serverFromString(_NoReactor(), description)  # type: ignore[no-untyped-call]
            if wrong := mistyped_address(description):
                raise ValueError(f"{wrong} is no address")
        except (ValueError, TypeError, LookupError, OSError) as error:
            key_path = element_path(key, index)
            message, hint = what_is_wrong(description, error)
            problems.append(
                Problem(
                    key_path,
                    message,
                    description,
                    hint,
                    whole.nearest_origin(key_path),
                    "warning" if isinstance(error, LookupError) else "error",
                )
            )
    return problems
