"""Which nodes of an allocation a run trains on. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFLIGHT_NAME = "preflight.json"
"""What the preflight found, in a life's folder: ``{"good_nodes": [...], "bad_nodes": {node: reason}}``."""
NODES_NAME = "nodes.json"
"""The nodes chosen and the tasks of each, in a life's folder."""


@dataclass(frozen=True)
class Choice:
    """Nodes of a life."""

    chosen: list[str]
    """In Slurm's order; ranks are laid out over them in this order."""
    bad: dict[str, str] = field(default_factory=dict)
    """Node: what the preflight found wrong with it."""
    left_over: list[str] = field(default_factory=list)
    """Good nodes that are not needed."""

    def messages(self) -> list[str]:
        """What a log should say of the choice; nothing if all nodes are good and needed."""
        lines = [f"node {node} is not used: {reason}" for node, reason in self.bad.items()]
        if self.left_over:
            lines.append(f"spare nodes, idle in this life: {', '.join(self.left_over)}")
        return lines


def choose_nodes(allocated: Sequence[str], need: int, bad: Mapping[str, str]) -> Choice:
    """Take the first `need` good nodes, in Slurm's order; `chosen` is shorter if there are fewer."""
    good = [node for node in allocated if node not in bad]
    wrong = {node: bad[node] for node in allocated if node in bad}
    return Choice(good[:need], wrong, good[need:])


def read_bad_nodes(life: Path) -> dict[str, str] | None:
    """What the preflight found wrong, by node; None if it left no report."""
    try:
        report = json.loads((life / PREFLIGHT_NAME).read_text("utf-8"))
        return {str(node): str(reason) for node, reason in report["bad_nodes"].items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def write_nodes(life: Path, nodes: Sequence[str], tasks_per_node: int) -> None:
    """Leave the choice in the life's folder, where a summary finds the node of a rank."""
    value = {"nodes": list(nodes), "tasks_per_node": tasks_per_node}
    (life / NODES_NAME).write_text(json.dumps(value) + "\n", "utf-8")


def read_nodes(life: Path) -> tuple[list[str], int]:
    """Nodes of a life and tasks of each; ([], 1) where none were chosen yet."""
    try:
        value: dict[str, Any] = json.loads((life / NODES_NAME).read_text("utf-8"))
        return [str(node) for node in value["nodes"]], int(value["tasks_per_node"])
    except (OSError, ValueError, KeyError):
        return [], 1
