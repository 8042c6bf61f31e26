# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.config.agent_inventory`: what an agent's keys about inventories must
be.
"""

from __future__ import annotations

import sys

import pytest

from nodecomm.config.agent import AgentConfiguration
from nodecomm.config.agent_inventory import AgentInventorySettings, minute_of_day
from nodecomm.config.secrets import Secret
from nodecomm.config.showing import as_toml
from nodecomm.config.structure import structure_agent_partly

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

AGENT = """
[agent]
policy_servers = ["hub"]
[[copy]]
source = "masterfiles"
destination = "/x"
"""


def read(toml: str) -> tuple[AgentConfiguration, list[str]]:
    """What a table says, and what is said about it: severity, key, message."""
    outcome = structure_agent_partly(tomllib.loads(f"{AGENT}\n[inventory]\n{toml}"))
    said = [f"{p.severity} {p.key_path}: {p.message}" for p in outcome.problems]
    return outcome.settings, said


def test_nothing_need_be_written() -> None:
    """Inventories are sent, to a server that has the policy server's key."""
    whole, problems = read("")
    assert problems == []
    assert whole.inventory == AgentInventorySettings()
    assert whole.inventory.enabled
    assert whole.inventory.server_trust == "policy-server-key"


def test_everything() -> None:
    """Every key takes what it says, and no password is shown."""
    whole, problems = read(
        """
        enabled = false
        urls = ["https://hub.example.com/", "https://[2001:db8::1]:8443/base"]
        server_trust = "pin"
        server_keys = ["MD5=00112233445566778899aabbccddeeff", "/etc/key.pem"]
        first_user = "new"
        first_password = { env = "FIRST" }
        update_user = "known"
        update_password = "sesame"
        command = ["/usr/bin/fusioninventory-inventory", "--no-category=process"]
        timeout = "2m"
        between = ["22:30", "04:00"]
        """
    )
    assert problems == []
    settings = whole.inventory
    assert settings.urls[1] == "https://[2001:db8::1]:8443/base"
    assert settings.first_password == Secret(env="FIRST")
    assert settings.update_password == Secret("sesame")
    assert "sesame" not in as_toml(whole)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            'urls = ["http://hub/"]',
            "error inventory.urls[0]: inventories go over HTTPS",
        ),
        ('urls = ["hub"]', "inventory.urls[0]: inventories go over HTTPS only"),
        ('urls = ["https:///x"]', "it names no host, or no port"),
        ('urls = ["https://hub:0/"]', "it names no host, or no port"),
        ('urls = ["https://hub:99999/"]', "no URL: Port out of range"),
        ('urls = ["https://a b/"]', "no blanks, controls"),
        ('urls = ["https://a\\nb/"]', "no blanks, controls"),
        ('urls = ["https://h\u00fcb/"]', "letters beyond ASCII"),
        ('urls = ["https://[::1/"]', "no URL: "),
        ('urls = ["https://u:p@hub/"]', "users and passwords have keys of their own"),
        ('urls = ["https://hub/?a"]', "has no ? and no #"),
        ('urls = ["https://hub/#"]', "has no ? and no #"),
        ('urls = ["https://h/", "https://h/"]', "the same as inventory.urls[0]"),
        ('server_trust = "tofu"', "not one of the values this key takes"),
        ('server_trust = "none"', "warning inventory.server_trust: whoever can reach"),
        ('ca_file = "/ca.pem"', "warning inventory.ca_file: it has no effect"),
        ('ca_file = "ca.pem"', "not an absolute path"),
        (
            'server_trust = "ca"\nserver_keys = ["MD5=x"]',
            "warning inventory.server_keys: they have no effect",
        ),
        ('first_user = "a:b"', "error inventory.first_user: Basic authentication"),
        ('first_user = ""', "error inventory.first_user: Basic authentication"),
        ('update_user = "u"', "it has no effect without update_password"),
        ('update_password = "p"', "it has no effect without update_user"),
        ('command = ["fusioninventory-inventory"]', "not named by an absolute path"),
        ('command = "/usr/bin/x"', "a text where a list of texts belongs"),
        ('command = ["/x", "a\\u0000b"]', "a NUL cannot be part of a command"),
        ('timeout = "0s"', "error inventory.timeout: too short"),
        ('timeout = "7h"', "error inventory.timeout: too long"),
        ('between = ["01:00"]', "these are not two times of day"),
        ('between = ["1:00", "02:00"]', "error inventory.between[0]: no time of day"),
        ('between = ["01:00", "24:00"]', "error inventory.between[1]: no time of day"),
        ('listen = ["tcp6:443"]', "error inventory.listen: unknown key"),
    ],
)
def test_what_is_wrong(toml: str, said: str) -> None:
    """Each mistake is told once, where it stands."""
    _, problems = read(toml)
    assert len([problem for problem in problems if said in problem]) == 1, problems


def test_a_url_with_a_password_is_not_shown() -> None:
    """It stands in the file of the one who reads the message, and nowhere else."""
    outcome = structure_agent_partly(
        tomllib.loads(f'{AGENT}\n[inventory]\nurls = ["https://u:sesame@hub/"]')
    )
    (problem,) = outcome.problems
    assert "sesame" not in str(problem)


def test_minutes() -> None:
    """Hours and minutes of two digits each."""
    assert [minute_of_day(t) for t in ("00:00", "06:30", "23:59")] == [0, 390, 1439]
    for text in ("6:30", "0630", "06:60", "24:00", " 06:30", "06:30\n", "٠٦:٣٠"):
        with pytest.raises(ValueError, match="no time of day"):
            minute_of_day(text)
