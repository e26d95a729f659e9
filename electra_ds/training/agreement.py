"""Before anything is trained: do all ranks run the same code with the same recipe on the same data, in one folder?"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from electra_ds.errors import DataError, UserError
from electra_ds.lives import node_name
from electra_ds.recipe import Recipe, recipe_yaml
from electra_ds.source import source_hash
from electra_ds.training.fit import versions
from electra_ds.training.lock import LOCK_NAME
from electra_ds.training.peers import Peers

_FOLDER_PATIENCE = 30.0
"""Seconds until a file that another node made must be seen: network file systems remember absence for a while."""


def check_ranks_agree(recipe: Recipe, peers: Peers) -> None:
    """Refuse ranks of different code, libraries or recipes.

    Raises:
        UserError: names the first rank that differs from rank 0, its node, and what differs.
    """
    mine = {
        **{f"version of {name}": version for name, version in versions().items()},
        "recipe": hashlib.sha256(recipe_yaml(recipe).encode()).hexdigest()[:12],
    }
    if peers.first_of_node:
        mine["source code"] = source_hash()
    gathered: list[tuple[str, dict[str, str]]] = peers.gather((node_name(), mine))
    _, first = gathered[0]
    problems = [
        f"rank {rank} on {node} has another {key} ({value}) than rank 0 on {gathered[0][0]} ({first[key]})"
        for rank, (node, theirs) in enumerate(gathered)
        for key, value in theirs.items()
        if value != first[key]
    ]
    if problems:
        raise UserError(
            f"{problems[0]}{_more(problems)}; start all ranks by one command, from one environment that all nodes see"
        )


def check_shared_folder(folder: Path, key: str, peers: Peers) -> None:
    """Refuse a run folder that is not the same on all nodes.

    Args:
        folder: of the run, in which rank 0 holds the lock.
        key: of that lock.
        peers: the ranks.

    Raises:
        UserError: names the nodes that do not see it.
    """
    problem = None
    if peers.first_of_node and not _sees(folder / LOCK_NAME, key):
        problem = f"does not see what rank 0 writes into --output {folder}"
    raise_what_nodes_met(problem, peers, "; choose a folder on a file system that all nodes share", UserError)


def raise_what_nodes_met(problem: str | None, peers: Peers, advice: str, kind: type[UserError] = DataError) -> None:
    """Raise, on every rank, what ranks met on their nodes; None where all is well."""
    gathered = peers.gather((node_name(), problem))
    met = list(dict.fromkeys(f"node {node} {what}" for node, what in gathered if what))
    if met:
        raise kind(f"{met[0]}{_more(met)}{advice}")


def _sees(path: Path, key: str) -> bool:
    deadline = time.monotonic() + _FOLDER_PATIENCE
    while True:
        try:
            if key in path.read_text("utf-8", "replace"):
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)


def _more(items: list[str]) -> str:
    return f" (and {len(items) - 1} more like it)" if len(items) > 1 else ""
