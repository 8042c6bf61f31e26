# SPDX-License-Identifier: MIT
"""
The systemd units of the server and of the agent: one text for `nodecomm bootstrap`
and for the documentation.

`python -m nodecomm.service.units FOLDER` writes the samples of the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

__all__ = ["AGENT", "SERVER", "Program", "sample_units", "unit_text"]


@frozen
class Program:
    """
    What twistd can run of nodecomm.

    Attributes:
        name: Of the twistd command, of the unit, of run files.
        description: For `systemctl status`.
        config: The name of its configuration file.
        settings: Lines of `[Service]` of its own.
    """

    name: str
    description: str
    config: str
    settings: tuple[str, ...]

    @property
    def unit(self) -> str:
        """
        The name of its unit.
        """
        return f"{self.name}.service"


SERVER = Program(
    "nodecomm-server",
    "nodecomm policy server",
    "server.toml",
    (
        "# Longer than stop_grace.",
        "TimeoutStopSec=30",
        "LimitNOFILE=65536",
    ),
)

AGENT = Program(
    "nodecomm-agent",
    "nodecomm agent: keeps this node's policy that of its server",
    "agent.toml",
    (
        "# A run under way and its after_update command are ended in order.",
        "TimeoutStopSec=90",
    ),
)


def unit_text(program: Program, twistd: Sequence[str], config: Path) -> str:
    """
    The unit that runs *program*.

    Args:
        program: Which.
        twistd: How twistd is called.
        config: Its configuration file.
    """
    words = [*twistd, "--nodaemon", "--pidfile=", program.name, "-c", str(config)]
    lines = [
        "[Unit]",
        f"Description={program.description}",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_word, words))}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "# What is imported must not depend on where it is started.",
        "WorkingDirectory=/",
        "# twistd ends itself by the signal it was stopped with.",
        "SuccessExitStatus=SIGTERM",
        "Restart=always",
        "RestartSec=5",
        *program.settings,
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _word(text: str) -> str:
    """
    One word of a command line as systemd reads it.
    """
    text = text.replace("%", "%%").replace("$", "$$")
    if text and not set(text) & set(" \t\n\"'\\;"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def sample_units() -> dict[str, str]:
    """
    The units of the documentation, by file name.
    """
    return {
        program.unit: unit_text(
            program, ["/opt/nodecomm/bin/twistd"], Path("/etc/nodecomm", program.config)
        )
        for program in (SERVER, AGENT)
    }


def main(arguments: Sequence[str]) -> int:
    """
    Write the samples into the folder named.
    """
    (folder,) = arguments
    for name, text in sample_units().items():
        Path(folder, name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
