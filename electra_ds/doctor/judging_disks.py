"""Verdicts on file systems: space, the data, and whether the output folder is one and the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from electra_ds.doctor.coordinator import Gathered
from electra_ds.doctor.disks import Space
from electra_ds.doctor.findings import BAD, GOOD, WARNING, Finding
from electra_ds.doctor.folders import FolderSight
from electra_ds.doctor.nodes import merge, name_nodes, odd_nodes

TIGHT, FULL = 2 << 30, 100 << 20
"""Bytes free below which there is a warning (a few checkpoints of a small model), and below which nothing works."""
SLOW = 5e6
"""Bytes per second of a small synced file below which a save takes minutes."""
_SHM = 256 << 20
"""Bytes of /dev/shm that the libraries' exchange between processes wants; containers often give 64 MiB."""


def judge_space(got: Gathered) -> Iterable[Finding]:
    """Free space and write speed of the output and the temporary folder, size of /dev/shm."""
    for name in ("output", "temporary", "shm"):
        spaces = {got.node_of[rank]: sight.spaces[name] for rank, sight in got.sights.items() if name in sight.spaces}
        if spaces:
            yield from _judge_spaces(name, spaces)


def _judge_spaces(name: str, spaces: dict[str, Space]) -> Iterable[Finding]:
    path = next(iter(spaces.values())).path
    called = path if name == "shm" else f"{name} folder {path}"
    floor = _SHM if name == "shm" else TIGHT
    broken = {node: space.error for node, space in spaces.items() if space.error}
    broken |= {node: f"{_size(space.free)} free" for node, space in spaces.items()
               if not space.error and space.free < FULL and name != "shm"}  # fmt: skip
    tight = {node: f"{_size(space.total if name == 'shm' else space.free)}" for node, space in spaces.items()
             if node not in broken and (space.total if name == "shm" else space.free) < floor}  # fmt: skip
    slow = {node: f"{space.speed / 1e6:.1f} MB/s" for node, space in spaces.items()
            if space.speed is not None and space.speed < SLOW and node not in broken}  # fmt: skip
    if broken:
        _, odd = odd_nodes({node: node in broken for node in spaces})
        own = name == "temporary" or len(odd) < len(spaces)
        reasons = {node: f"{called}: {text}" for node, text in broken.items()} if own else {}
        yield Finding(
            check="space",
            verdict=BAD,
            value=f"{called} cannot be used: {merge(broken, spaces)}",
            advice="free some space, or choose another folder" + ("" if name == "output" else " (TMPDIR)"),
            nodes=reasons if len(broken) < len(spaces) else {},
        )
    if tight:
        what = (
            f"is small: {merge(tight, spaces)}" if name == "shm" else f"has little space: {merge(tight, spaces)} free"
        )
        advice = "give the container more (--shm-size, --ipc=host)" if name == "shm" else "free some space"
        yield Finding(check="space", verdict=WARNING, value=f"{called} {what}", advice=advice)
    if slow:
        yield Finding(
            check="space",
            verdict=WARNING,
            value=f"{called} is slow: {merge(slow, spaces)} for a synced file of 8 MiB",
            advice="checkpoints will take long to save; choose a faster file system if there is one",
        )
    if not (broken or tight or slow):
        yield Finding(check="space", verdict=GOOD, value=f"{called}: {_spread(name, list(spaces.values()))}")


def _spread(name: str, spaces: list[Space]) -> str:
    if name == "shm":
        return _size(min(space.total for space in spaces))
    text = f"{_size(min(space.free for space in spaces))} free"
    speeds = [space.speed for space in spaces if space.speed is not None]
    if speeds:
        low, high = min(speeds) / 1e6, max(speeds) / 1e6
        text += f", writes {low:,.0f} MB/s" if len(speeds) == 1 else f", writes {low:,.0f} to {high:,.0f} MB/s a node"
    kinds = sorted({space.file_system for space in spaces if space.file_system})
    return text + (f" ({', '.join(kinds)})" if len(kinds) < 3 else "")


def judge_data(got: Gathered) -> Iterable[Finding]:
    """Every node sees the same shard set."""
    if got.data is None or not got.sights:
        return
    seen = {
        got.node_of[rank]: sight.fingerprint or f"cannot be read: {sight.data_error}"
        for rank, sight in got.sights.items()
    }
    common, odd = odd_nodes(seen)
    if common is not None and not odd and not common.startswith("cannot"):
        value = f"{got.data}: every node reads the same manifest ({common[:12]})"
        yield Finding(check="data", verdict=GOOD, value=value)
        return
    blamed = odd if common is not None and not common.startswith("cannot") else {}
    shown = {node: text if text.startswith("cannot") else f"fingerprint {text[:12]}" for node, text in seen.items()}
    yield Finding(
        check="data",
        verdict=BAD,
        value=f"data {got.data}: {merge(shown)}",
        advice="every node must read the same shard set: mount it, copy it whole, or give its address",
        nodes={node: f"data {got.data} {shown[node]}" for node in blamed},
    )


def judge_output(got: Gathered) -> Iterable[Finding]:
    """Every node sees the same output folder."""
    found = {rank: sight.folder for rank, sight in got.sights.items() if sight.folder is not None}
    if got.output is None or not found or got.looking[0] not in found:
        return
    writer = got.looking[0]
    first = got.node_of[writer]
    if not found[writer].wrote:
        others = {got.node_of[rank]: sight.wrote for rank, sight in found.items()}
        _, odd = odd_nodes(others)
        reason = f"output {got.output} cannot be written: {found[writer].error}"
        yield Finding(
            check="output",
            verdict=BAD,
            value=f"{first}: {reason}",
            advice="choose a folder that you may write to",
            nodes={first: reason} if set(odd) == {first} else {},
        )
        return
    groups = group_nodes(found, writer)
    if len(groups) > 1:
        yield _not_shared(got, found, groups)
    names = [got.node_of[rank] for rank in found]
    unwritten = {got.node_of[rank]: sight.error for rank, sight in found.items() if sight.seen and not sight.wrote}
    if unwritten:
        yield Finding(
            check="output",
            verdict=BAD,
            value=f"output {got.output} is seen but cannot be written: {merge(unwritten, names)}",
            advice="mount it for writing there",
            nodes={node: f"output {got.output} cannot be written: {error}" for node, error in unwritten.items()},
        )
    if len(groups) == 1 and not unwritten:
        kind = found[writer].file_system
        value = f"{got.output}: {'one folder, seen by all nodes' if len(found) > 1 else 'can be written'} ({kind})"
        yield Finding(check="output", verdict=GOOD, value=value)


def group_nodes(found: Mapping[int, FolderSight], writer: int) -> list[set[int]]:
    """Ranks that see each other's files, the largest group first, the writer's among equals."""
    groups: list[set[int]] = [
        {rank for rank, sight in found.items() if rank == writer or _with_writer(sight, rank, found[writer])}
    ]
    for rank in sorted(set(found) - groups[0]):
        joined = next((group for group in groups[1:] if group & set(found[rank].sees)), None)
        if joined is None:
            groups.append({rank})
        else:
            joined.add(rank)
    return sorted(groups, key=len, reverse=True)


def _with_writer(sight: FolderSight, rank: int, writers: FolderSight) -> bool:
    """Both see the other's file; a node that cannot write has none to be seen."""
    return sight.seen and (rank in writers.sees or not sight.wrote)


def _not_shared(got: Gathered, found: Mapping[int, FolderSight], groups: list[set[int]]) -> Finding:
    """Name the nodes outside the largest group, if more than half are in it; else the folder itself is at fault."""
    right = groups[0] if 2 * len(groups[0]) > len(found) else set()
    reference = got.node_of[min(right)] if right else got.first_node
    away = set(found) - (right or next(group for group in groups if got.looking[0] in group))
    odd = {got.node_of[rank]: found[rank].file_system or "no such folder" for rank in away}
    kinds = merge({got.node_of[rank]: sight.file_system for rank, sight in found.items()})
    reasons = {node: f"output {got.output} is not the folder that {reference} sees ({odd[node]})" for node in odd}
    return Finding(
        check="output",
        verdict=BAD,
        value=f"output {got.output} on node{'s' if len(odd) > 1 else ''} {name_nodes(odd)} is not the folder that "
        f"{reference} sees (it lies on: {kinds})",
        advice="put the run on a file system that all nodes share, or mount it where it is missing",
        nodes=reasons if right else {},
    )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
