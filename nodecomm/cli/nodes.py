# SPDX-License-Identifier: MIT
"""
`nodecomm nodes`: which nodes a server has, and what an operator decides about them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TextIO, cast

from twisted.python import usage

from nodecomm.cli.nodes_decisions import DECISIONS
from nodecomm.cli.nodes_options import Options
from nodecomm.cli.nodes_reached import LIVE, Answer, Failed, Nodes
from nodecomm.cli.nodes_shown import (
    event_facts,
    event_lines,
    list_lines,
    node_facts,
    node_lines,
    suspicion_facts,
)
from nodecomm.cli.options import (
    CommandOptions,
    repeat_config,
    repeat_state_dir,
    write_error,
    write_json,
)
from nodecomm.cli.server_state import find_state
from nodecomm.inventory.copying import NotEmpty, copy_nodes
from nodecomm.inventory.keys import KeyRefused
from nodecomm.inventory.lifecycle import NotPossible
from nodecomm.inventory.nodes import Node, Status
from nodecomm.inventory.opening import (
    NodesAway,
    NodesUnusable,
    UnknownDatabase,
    open_nodes_at,
)
from nodecomm.inventory.records import Records
from nodecomm.inventory.suspicions import Suspicion, by_node, suspicions
from nodecomm.storage.database import DatabaseAway
from nodecomm.wire.text import safe

__all__ = ["Options", "run"]

#: Seconds between two looks while a command waits.
_LOOK_EVERY = 0.5


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    Run one `nodecomm nodes` command and return its exit status.
    """
    chosen = cast(CommandOptions, options.subOptions)
    command = _COMMANDS[cast(str, options.subCommand)]
    try:
        state = find_state(chosen["config"], options.named_state_dir)
        if chosen["database"] is None:
            state.check()
        place = state.nodes(chosen["database"])
    except UnknownDatabase as error:
        raise usage.UsageError(f"--database: {error}") from error
    try:
        with ExitStack() as stack:
            nodes = Nodes(place, stack, state.nodes, state.server_id, state.upstream)
            try:
                facts, lines = command(nodes, chosen)
            except (NotPossible, Failed) as error:
                if error.code != "unknown-node":
                    raise
                text = f"{error}{nodes.meant(chosen['node'])}"
                raise Failed(error.code, text) from error
    except (NotPossible, Failed) as error:
        code, text = error.code, str(error)
    except KeyRefused as error:
        code, text = error.refusal.code, error.refusal.text
    except UnknownDatabase as error:
        raise usage.UsageError(str(error)) from error
    except NodesUnusable as error:
        code, text = "database", str(error)
    else:
        if options.as_json:
            write_json(facts, stdout)
        else:
            stdout.writelines(f"{safe(line)}\n" for line in lines)
        return 0
    text = repeat_config(text, chosen["config"])
    text = safe(repeat_state_dir(text, options.named_state_dir))
    if options.as_json:
        write_error(code, text, 1, stdout)
    stderr.write(f"error: {text}\n")
    return 1


def _list(nodes: Nodes, options: CommandOptions) -> Answer:
    def find(records: Records) -> tuple[list[Node], tuple[Suspicion, ...], bool]:
        every = records.nodes()
        shown = [node for node in every if _is_wanted(node.status, options)]
        return shown, suspicions(every), bool(every)

    shown, found, any_node = nodes.read(find) or ([], (), False)
    about, server_id = by_node(found), nodes.server_id
    facts = {
        "nodes": [
            node_facts(node, about.get(node.node_id, ()), server_id) for node in shown
        ],
        "warnings": suspicion_facts(found),
    }
    if shown:
        return facts, list_lines(shown, found, nodes.server_id)
    if any_node:
        asked = "this status" if options["status"] else "such a status (see --all)"
        return facts, [f"there are no nodes with {asked}", *list_lines([], found)]
    line = "there are no nodes"
    if nodes.above is not None:
        line += f": inventories are passed on to {nodes.above}, whose nodes they are"
    elif not nodes.place.is_made:
        line += f": {nodes.place} is not there (see --config)"
    return facts, [line]


def _is_wanted(status: Status, options: CommandOptions) -> bool:
    if options["status"] is not None:
        return status is options["status"]
    return bool(options["all"]) or status.is_live or status is Status.BLOCKED


def _show(nodes: Nodes, options: CommandOptions) -> Answer:
    node, found = nodes.node(options["node"])
    server_id = nodes.server_id
    return node_facts(node, found, server_id), node_lines(node, found, server_id)


def _history(nodes: Nodes, options: CommandOptions) -> Answer:
    node, _ = nodes.node(options["node"])
    events = nodes.read(lambda records: records.events(node.node_id)) or ()
    facts = {"id": node.node_id, "history": event_facts(events)}
    return facts, event_lines(events)


def _wait(nodes: Nodes, options: CommandOptions) -> Answer:
    node_id, status = options["node"], options["status"]
    wanted = (status,) if status else LIVE if node_id else (Status.PENDING,)

    def find(records: Records) -> tuple[list[Node], tuple[Suspicion, ...]] | None:
        if node_id is None:
            found = list(records.nodes(*wanted))
        else:
            node = records.node(node_id)
            found = [] if node is None or node.status not in wanted else [node]
        return (found, suspicions(records.nodes(*LIVE))) if found else None

    limit = options["timeout"]
    end = math.inf if limit is None else time.monotonic() + limit
    answered, away = False, ""
    while True:
        try:
            there = nodes.read(find)
        except (DatabaseAway, NodesAway) as error:
            if not answered:
                # More likely a mistake in its name than one that is restarted.
                raise
            nodes.close()
            there, away = None, f"; the database does not answer: {error}"
        else:
            answered, away = True, ""
        if there is not None:
            break
        left = end - time.monotonic()
        if left <= 0:
            named = " or ".join(x.value for x in wanted)
            msg = f"{node_id or 'no node'} is {'not ' if node_id else ''}{named} yet"
            raise Failed("timeout", msg + away)
        time.sleep(min(left, _LOOK_EVERY))
    found, doubts = there
    of_each, server_id = by_node(doubts), nodes.server_id
    own = [of_each.get(node.node_id, []) for node in found]
    facts = {
        "nodes": [
            node_facts(node, mine, server_id)
            for node, mine in zip(found, own, strict=True)
        ]
    }
    # Each once; comparing them would compare all that they name.
    about = {id(x): x for mine in own for x in mine}
    return facts, list_lines(found, about.values(), server_id)


def _copy(nodes: Nodes, options: CommandOptions) -> Answer:
    source = nodes.other(options["from"])
    if not source.is_made:
        raise Failed("no-database", f"{source} is not there")
    with open_nodes_at(source) as read:

        def work(records: Records) -> int:
            return cast(int, read(lambda found: copy_nodes(found, records), False))

        try:
            count = nodes.write(work)
        except NotEmpty as error:
            raise Failed("not-empty", f"{nodes.place}: {error}") from error
    facts = {"nodes": count, "from": str(source), "to": str(nodes.place)}
    return facts, [f"copied {count} nodes from {source} to {nodes.place}"]


_COMMANDS: dict[str, Callable[[Nodes, CommandOptions], Answer]] = {
    "list": _list,
    "show": _show,
    "history": _history,
    "wait": _wait,
    "copy": _copy,
    **DECISIONS,
}
