# SPDX-License-Identifier: MIT
"""
Making this machine the policy server: its configuration, a policy to begin with, a
window in which new nodes are trusted, and the server running.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodecomm.client.address import DEFAULT_PORT
from nodecomm.config.durations import duration_text
from nodecomm.config.errors import ConfigError, printable
from nodecomm.config.model import Settings
from nodecomm.identity.own import KEYS_FOLDER
from nodecomm.identity.store import FileKeyStore, KeyConflict
from nodecomm.identity.users import UntrustedUser, check_user
from nodecomm.service.bootstrap_model import BootstrapError
from nodecomm.service.loading import SYSTEM_FILE, file_path, load
from nodecomm.service.own_addresses import ResolvedServer, network_around
from nodecomm.service.prepared import prepare
from nodecomm.service.processes import Listener, find_listener
from nodecomm.service.recorded_agent import BY, path_text, without_state_variable
from nodecomm.service.recording import ConfigurationSet, Plan
from nodecomm.service.sample import write_sample
from nodecomm.service.starting import CannotStart, Started, Starter
from nodecomm.service.units import SERVER
from nodecomm.service.written import Standing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

if TYPE_CHECKING:
    from nodecomm.identity.keys import KeyPair
    from nodecomm.service.bootstrapping import Bootstrap

__all__ = ["TRUST_FOR", "become_server", "place_sample", "places_of"]

#: Seconds that the window is open when nobody says otherwise.
TRUST_FOR = 86400.0

#: The port of an endpoint string of TCP.
_PORT = re.compile(r"tcp6?:(?:port=)?([0-9]+)(?::|$)", re.IGNORECASE)

#: What the folder is called in which the sample policy is made.
_STAGED = ".nodecomm-sample-"

_MAIN_FILE = """\
The policy server's configuration: your own settings go here. `nodecomm bootstrap`
writes server.d/50-bootstrap.toml, which is read after this file; a key may stand in
one of the two only. `nodecomm config check -c` with the name of this file says
whether all is right, SIGHUP puts it in force.
"""

_PART = """\
This machine as a policy server.
"""

_WINDOW = """\
The keys of nodes that come from here until then are accepted the first time; later
only known keys are. The window closes by itself.
"""


def become_server(bootstrap: Bootstrap, resolved: ResolvedServer) -> None:
    """
    Make this machine the policy server of the name that is bootstrapped from. Blocks
    until the server is started.

    Raises:
        BootstrapError, ConfigError, CannotStart, OwnKeyError, OSError: It cannot be
            done; the text says what to do.
    """
    request = bootstrap.request
    own = resolved.own or resolved.addresses
    if resolved.only_loopback:
        bootstrap.warn(
            f"{', '.join(resolved.addresses)} is this machine for itself alone: no "
            "other node is served or trusted. For others run this with the address by "
            "which they know this machine"
        )
    files = ConfigurationSet(request.config_dir, SERVER.config, Settings, BY)
    port = request.server.port
    _refuse_others(find_listener(port), files.main, request.state_dir, port)
    starter = bootstrap.starter(SERVER, files.main)
    starter.check()
    wanted = _wanted(bootstrap, files, own)
    plan = files.plan(wanted, served=_served_there(bootstrap))
    _refuse_a_changed_file(bootstrap, files, plan)
    pair = bootstrap.own_key()
    _trust_ourselves(bootstrap, pair)
    if _policy_folder(plan, files) == request.state_dir / "masterfiles":
        _say_sample(bootstrap)
    # A rule about a folder that is missing covers nothing.
    (request.state_dir / "modules").mkdir(0o755, exist_ok=True)
    with files.undone_if_it_fails():
        written = files.write(
            plan, {"": _PART, "main": _MAIN_FILE, "server.trustkeysfrom": _WINDOW}
        )
        settings = _checked(bootstrap, files)
    bootstrap.wrote(written)
    for left_out in plan.left_out:
        if left_out.differs:
            bootstrap.say(f"note: {left_out}")
    for rule in settings.access:
        if rule.shortcut and rule.path and rule.resource_type == "path":
            bootstrap.served[rule.shortcut] = str(file_path(rule.path))
    started = _start(bootstrap, starter, files)
    _tell_windows(bootstrap, files, settings, started)


# What is there already


def _refuse_others(
    listener: Listener | None, config: Path, state_dir: Path, port: int
) -> None:
    """
    End here if the port belongs to another program, or to a server of another
    configuration or another state folder.
    """
    if listener is None:
        return
    who = printable(str(listener))
    if SERVER.name not in listener.words:
        raise BootstrapError(
            f"port {port} is taken by {who}: stop that, give another port (HOST:PORT), "
            "or make this machine a node of the server that runs there with --role node"
        )
    named, state = places_of(listener)
    for what, theirs, ours, option in (
        ("state folder", state, state_dir, f"--state-dir {state}"),
        (
            "configuration",
            named,
            config,
            f"--config-dir {os.path.dirname(named or '')}",
        ),
    ):
        if theirs is not None and os.path.realpath(theirs) != os.path.realpath(ours):
            raise BootstrapError(
                f"the server on port {port}, {who}, has the {what} "
                f"{printable(theirs)} and not {printable(str(ours))}: stop it, or run "
                f"this with {printable(option)}"
            )


def places_of(
    listener: Listener, proc: Path = Path("/proc")
) -> tuple[str | None, str | None]:
    """
    The configuration file and the state folder that a running server was started
    with, absolute paths; None where its command line does not tell.
    """
    words = list(listener.words)
    if SERVER.name not in words:
        return None, None
    options = words[words.index(SERVER.name) + 1 :]
    found: dict[str, str] = {}
    for index, word in enumerate(options):
        name, equals, value = word.partition("=")
        if name in ("-c", "--config", "--state-dir") and not equals:
            value = options[index + 1] if index + 1 < len(options) else ""
        elif word.startswith("-c") and not word.startswith("--"):
            name, value = "-c", word[2:]
        if name in ("-c", "--config", "--state-dir"):
            found[name.lstrip("-")[:1]] = value
    folder = ""
    with contextlib.suppress(OSError):
        folder = os.readlink(proc / str(listener.pid) / "cwd")

    def absolute(name: str) -> str | None:
        path = os.path.join(folder, name)
        return path if os.path.isabs(path) else None

    named = absolute(found["c"]) if "c" in found else str(SYSTEM_FILE)
    return named, absolute(found["s"]) if "s" in found else None


def _before(files: ConfigurationSet) -> dict[str, Any]:
    """
    What an earlier bootstrap has written, if nobody has changed it.
    """
    standing, text = files.part.read()
    if standing is not Standing.OURS:
        return {}
    with contextlib.suppress(tomllib.TOMLDecodeError):
        server = tomllib.loads(text).get("server")
        return server if isinstance(server, dict) else {}
    return {}


# What is wanted


def _wanted(
    bootstrap: Bootstrap, files: ConfigurationSet, own: Sequence[str]
) -> dict[str, Any]:
    request = bootstrap.request
    before = _before(files)
    around = network_around(own)
    networks = [*before.get("allowed_networks", ()), *around, *request.trust_networks]
    server: dict[str, Any] = {"state_dir": path_text(request.state_dir)}
    if request.server.port != DEFAULT_PORT:
        server["listen"] = [f"tcp6:{request.server.port}"]
    server["allowed_networks"] = list(dict.fromkeys(networks))
    server["allowconnects"] = ["@allowed_networks"]
    server["allowallconnects"] = ["@allowed_networks"]
    windows = _windows(bootstrap, before, around)
    if windows:
        server["trustkeysfrom"] = windows
    rules = [
        {
            # The final slash: a rule about the folder, even before it exists.
            "path": f"{path_text(request.state_dir / name)}/",
            "shortcut": name,
            "admit_ips": ["@allowed_networks"],
        }
        for name in ("masterfiles", "modules")
    ]
    return {"server": server, "access": rules}


def _windows(
    bootstrap: Bootstrap, before: Mapping[str, Any], around: Sequence[str]
) -> list[dict[str, Any]]:
    """
    The trust windows: those of an earlier bootstrap as long as they are open, unless
    others are asked for.
    """
    request = bootstrap.request
    now = datetime.fromtimestamp(int(bootstrap.now()), timezone.utc)
    asked = request.trust_for is not None or bool(request.trust_networks)
    if before and not asked:
        return [one for one in before.get("trustkeysfrom", ()) if one["until"] > now]
    seconds = TRUST_FOR if request.trust_for is None else request.trust_for
    if not seconds:
        return []
    until = datetime.fromtimestamp(now.timestamp() + int(seconds), timezone.utc)
    return [
        {"network": network, "until": until}
        for network in request.trust_networks or around
    ]


def _served_there(bootstrap: Bootstrap) -> Any:
    """
    What of a person's tables makes ours needless: a rule with the same shortcut, and
    a window for the same network where none was asked for.
    """
    asked = bootstrap.request.trust_for is not None

    def served(key_path: str, wanted: Mapping[str, Any], theirs: Sequence[Any]) -> bool:
        name = "shortcut" if key_path == "access" else "network"
        if name == "network" and asked:
            return False
        return any(
            isinstance(one, dict) and one.get(name) == wanted[name] for one in theirs
        )

    return served


def _refuse_a_changed_file(
    bootstrap: Bootstrap, files: ConfigurationSet, plan: Plan
) -> None:
    if plan.may_write:
        return
    path, request = files.part.path, bootstrap.request
    if request.trust_for is not None or request.trust_networks:
        raise BootstrapError(
            f"{path} was changed by hand and is left as it is: change its trust window "
            "there (`network`, `until`), or move the file away, and run this again"
        )
    bootstrap.say(f"{path} was changed by hand and is left as it is")


def _policy_folder(plan: Plan, files: ConfigurationSet) -> Path | None:
    """
    What the shortcut `masterfiles` stands for, in a person's rule or else in ours.
    """
    theirs = files.of_others().tree.get("access", ())
    for rule in [*theirs, *plan.tree.get("access", ())]:
        if isinstance(rule, dict) and rule.get("shortcut") == "masterfiles":
            with contextlib.suppress(TypeError, ValueError):
                return file_path(rule["path"])
    return None


# What is made


def _trust_ourselves(bootstrap: Bootstrap, pair: KeyPair) -> None:
    """
    This machine is a node of itself, window or not.
    """
    store = FileKeyStore(str(bootstrap.request.state_dir / KEYS_FOLDER))
    user = bootstrap.request.user
    try:
        store.add(check_user(user), pair.public)
    except (KeyConflict, UntrustedUser) as error:
        msg = f"this machine's own key cannot be trusted as a node's: {error}"
        raise BootstrapError(msg) from error


def _say_sample(bootstrap: Bootstrap) -> None:
    state_dir = bootstrap.request.state_dir
    if place_sample(state_dir, bootstrap.now()):
        bootstrap.say(
            f"there was no policy: put a small sample into {state_dir / 'masterfiles'}"
        )


def place_sample(state_dir: Path, now: float) -> bool:
    """
    Put the sample policy into `masterfiles` of the state folder, all of it at once,
    unless there is something in it; and into `modules`, unless that is there.

    Returns:
        Whether there was no policy.
    """
    masterfiles, modules = state_dir / "masterfiles", state_dir / "modules"
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(masterfiles):
            return False
    # Where the policy is a link or a mounted folder, the sample goes into that.
    target = masterfiles.resolve()
    for left in target.parent.glob(f"{_STAGED}*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(
        prefix=_STAGED, dir=target.parent, ignore_cleanup_errors=True
    ) as name:
        staged = Path(name)
        write_sample(staged, now)
        if not os.path.lexists(modules):
            os.rename(staged / "modules", modules)
        try:
            # Onto an empty folder too.
            os.rename(staged / "masterfiles", target)
        except OSError:
            # A mount point cannot be renamed onto. The last file of all is what
            # nodes look at first.
            for file in sorted((staged / "masterfiles").iterdir(), reverse=True):
                shutil.copy(file, target / file.name)
    return True


def _checked(bootstrap: Bootstrap, files: ConfigurationSet) -> Settings:
    """
    The configuration as the server will read it.
    """
    request = bootstrap.request
    loaded = load(files.main, environ=without_state_variable())
    prepared, loaded = prepare(loaded)
    if prepared is None:
        raise ConfigError(loaded.problems)
    for problem in loaded.problems:
        bootstrap.warn(str(problem))
    server = prepared.settings.server
    state_dir = path_text(request.state_dir)
    if server.state_dir != state_dir:
        raise BootstrapError(
            f"{prepared.settings.origin('server.state_dir')}: state_dir is "
            f"{server.state_dir}, but this bootstrap is about {state_dir}: run it with "
            f"--state-dir {server.state_dir}, or take the line out"
        )
    ports = [found[1] for text in server.listen if (found := _PORT.match(text))]
    if len(ports) == len(server.listen) and str(request.server.port) not in ports:
        raise BootstrapError(
            f"{prepared.settings.nearest_origin('server.listen')}: the server listens "
            f"on {', '.join(server.listen)} and not on port {request.server.port}: "
            f"bootstrap {request.server.host}:{ports[0]}, or change the line"
        )
    if "masterfiles" not in [rule.shortcut for rule in prepared.settings.access]:
        raise BootstrapError(
            f"{files.main}: no rule has the shortcut masterfiles, which nodes ask for; "
            'add `shortcut = "masterfiles"` to the rule of your policy'
        )
    return prepared.settings


def _start(bootstrap: Bootstrap, starter: Starter, files: ConfigurationSet) -> Started:
    """
    Start the server; one that runs, whoever started it, reads its configuration
    again.
    """
    port = bootstrap.request.server.port
    listener = find_listener(port)
    if listener is None or listener.pid is None or listener.pid == starter.pid():
        try:
            return bootstrap.start(SERVER, starter)
        except CannotStart:
            # One that a killed bootstrap had begun to start may have been quicker.
            listener = find_listener(port)
            if listener is None or listener.pid is None:
                raise
            state_dir = bootstrap.request.state_dir
            _refuse_others(listener, files.main, state_dir, port)
    os.kill(listener.pid, signal.SIGHUP)
    text = (
        f"{SERVER.name} ran already (process {listener.pid}, not started by bootstrap) "
        "and reads its configuration again"
    )
    bootstrap.say(text)
    started = Started("reloaded", text, listener.pid, "")
    bootstrap.started[SERVER.name] = started
    return started


def _tell_windows(
    bootstrap: Bootstrap, files: ConfigurationSet, settings: Settings, started: Started
) -> None:
    now = bootstrap.now()
    is_open = False
    for window in settings.server.trustkeysfrom:
        until = window.until
        if until is not None and until.timestamp() <= now:
            continue
        is_open = True
        told = None if until is None else until.isoformat().replace("+00:00", "Z")
        bootstrap.windows.append((window.network, told))
        if until is None:
            bootstrap.warn(
                f"new nodes from {window.network} are trusted for ever, until "
                "trustkeysfrom is changed"
            )
            continue
        minutes = max(round((until.timestamp() - now) / 60), 1)
        bootstrap.say(
            f"new nodes from {window.network} are trusted when they first come, until "
            f"{told} (for {duration_text(minutes * 60)})"
        )
    if not is_open:
        bootstrap.say("no new nodes are trusted: no trust window is open")
    again = bootstrap.request.again
    config = shlex.quote(str(files.main))
    ways = [
        ("to see it", f"{bootstrap.request.program} config show -c {config}"),
        ("to close it", f"{again} --trust-for 0" if is_open else ""),
        ("to prolong it" if is_open else "to open it", f"{again} --trust-for 2h"),
        (
            "by hand",
            f"trustkeysfrom in {files.part.path}, then SIGHUP"
            + (f" (kill -HUP {started.pid})" if started.pid else ""),
        ),
    ]
    for what, way in ways:
        if way:
            bootstrap.say(f"  {what + ':':<15}{way}")
