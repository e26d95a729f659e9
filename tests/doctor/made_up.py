"""Facts of ranks that nobody started, to be judged."""

from __future__ import annotations

from dataclasses import replace

from electra_ds.doctor.coordinator import Gathered
from electra_ds.doctor.disks import Space
from electra_ds.doctor.facts import Facts
from electra_ds.doctor.folders import FolderSight, Sight
from electra_ds.doctor.network import Exchange

VERSIONS = {"python": "3.11.2", "torch": "2.13.0", "electra_ds": "0.1.0", "source": "abcdefabcdef"}


def gathered(nodes: int = 4, per_node: int = 2) -> Gathered:
    """An allocation in which all is well."""
    ranks = range(nodes * per_node)
    node_of = {rank: f"n{1 + rank // per_node}" for rank in ranks}
    looking = list(range(0, nodes * per_node, per_node))
    return Gathered(
        world_size=len(ranks),
        launcher="srun",
        address="n1:20001",
        first_node="n1",
        expected={f"n{number}": per_node for number in range(1, nodes + 1)},
        node_of=node_of,
        facts={rank: _facts(rank, node_of[rank], per_node) for rank in ranks},
        looking=looking,
        sights={rank: _sight(rank, looking) for rank in looking},
        exchanges={rank: Exchange(backend="gloo", latency=1e-4, bandwidth=1e9, correct=True) for rank in ranks},
        output="/runs/base",
        data="/shards",
    )


def _facts(rank: int, node: str, per_node: int) -> Facts:
    return Facts(
        rank=rank,
        node=node,
        local_rank=rank % per_node,
        local_world_size=per_node,
        versions=VERSIONS,
        kernels={"gelu torch": "2.13.0", "gelu triton": "(triton is not installed: pip install triton)"},
        cores=(0, 1, 2, 3),
        machine_cores=4,
        open_files=65536,
        ahead=0.001,
        round_trip=0.002,
    )


def _sight(rank: int, looking: list[int]) -> Sight:
    return Sight(
        rank=rank,
        spaces={"temporary": Space(path="/tmp", total=10**12, free=10**11, speed=1e8, file_system="ext4 /dev/sda1")},
        fingerprint="f" * 64,
        folder=FolderSight(
            seen=True, wrote=True, sees=tuple(looking) if rank == 0 else (), file_system="nfs4 server:/runs"
        ),
    )


def change_facts(got: Gathered, node: str, **changes: object) -> None:
    """Alter the facts of all ranks of a node."""
    for rank, facts in got.facts.items():
        if facts.node == node:
            got.facts[rank] = replace(facts, **changes)  # type: ignore[arg-type]


def change_sight(got: Gathered, node: str, **changes: object) -> None:
    """Alter what a node finds; changes of `FolderSight` go to its folder."""
    rank = next(rank for rank in got.looking if got.node_of[rank] == node)
    sight = got.sights[rank]
    names = set(FolderSight.__dataclass_fields__) & set(changes)
    folder = replace(sight.folder, **{name: changes.pop(name) for name in names}) if names else sight.folder
    got.sights[rank] = replace(sight, folder=folder, **changes)  # type: ignore[arg-type]


def lose(got: Gathered, *ranks: int) -> None:
    """Let ranks never come."""
    for rank in ranks:
        for told in (got.node_of, got.facts, got.sights, got.exchanges):
            told.pop(rank, None)
    got.looking = [rank for rank in got.looking if rank not in ranks]
    got.exchanges.clear()
    got.not_exchanged = "not tried, because not all ranks answer"
