"""Which nodes there should be, and which of them differ from the rest."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value", bound=Hashable)

_NAMED_AT_MOST = 12


def expected_nodes(env: Mapping[str, str], launcher: str) -> dict[str, int]:
    """Ranks that each node should bring, from Slurm's own variables; empty where nobody tells."""
    names, counts = env.get("SLURM_STEP_NODELIST"), env.get("SLURM_STEP_TASKS_PER_NODE")
    if launcher != "srun" or not names or not counts:
        return {}
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", names], capture_output=True, text=True, check=True, timeout=10
        ).stdout.split()
    except (OSError, subprocess.SubprocessError):
        listed = expand_names(names)  # inside a container there is no scontrol
    tasks = expand_tasks(counts)
    return dict(zip(listed, tasks, strict=True)) if len(tasks) == len(listed) else {}


def expand_names(names: str) -> list[str]:
    """Expand Slurm's ``gpu[08-10,12],login`` to names; one pair of brackets a name, the common form."""
    found = []
    for before, inside, after in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)", names):
        for part in inside.split(",") if inside else [""]:
            low, _, high = part.partition("-")
            numbers = [f"{number:0{len(low)}d}" for number in range(int(low), int(high or low) + 1)] if low else [""]
            found += [f"{before}{number}{after}" for number in numbers]
    return found


def expand_tasks(counts: str) -> list[int]:
    """Expand Slurm's ``2(x3),1`` to ``[2, 2, 2, 1]``."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def lacking_nodes(expected: Mapping[str, int], node_of: Mapping[int, str]) -> dict[str, int]:
    """Ranks that each node still owes."""
    came = Counter(node_of.values())
    return {node: count - came[node] for node, count in expected.items() if came[node] < count}


def fellow_node(rank: int, node_of: Mapping[int, str], per_node: int) -> str | None:
    """Node of a rank that did not come, if ranks are dealt in blocks of `per_node` and one of its block came."""
    first = rank - rank % per_node if per_node > 1 else rank
    return next((node_of[other] for other in range(first, first + per_node) if other in node_of), None)


def odd_nodes(values: Mapping[str, Value]) -> tuple[Value | None, dict[str, Value]]:
    """Tell who differs.

    Returns:
        What more than half of the nodes have, and the nodes that have something else. Where no value has such a
        majority, None, and all nodes if they differ at all: then nobody can say who is right.
    """
    if not values:
        return None, {}
    common, count = Counter(values.values()).most_common(1)[0]
    if 2 * count > len(values):
        return common, {node: value for node, value in values.items() if value != common}
    return None, dict(values)


def name_nodes(nodes: Iterable[str]) -> str:
    """List nodes, in the order of their numbers, the first dozen by name."""
    ordered = sorted(set(nodes), key=_by_number)
    shown = ", ".join(ordered[:_NAMED_AT_MOST])
    return shown + (f" and {len(ordered) - _NAMED_AT_MOST} more" if len(ordered) > _NAMED_AT_MOST else "")


def merge(values: Mapping[str, str], nodes: Iterable[str] | None = None) -> str:
    """One text where all `nodes` (default: those of `values`) have the same, else who has what."""
    by_text: dict[str, list[str]] = {}
    for node, text in values.items():
        by_text.setdefault(text, []).append(node)
    if len(by_text) == 1 and set(values) >= set(nodes or ()):
        return next(iter(by_text))
    groups = sorted(by_text.items(), key=lambda group: -len(group[1]))
    return "; ".join(f"{name_nodes(nodes)}: {text}" for text, nodes in groups)


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
