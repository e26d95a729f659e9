"""Verdicts on what a rank has to itself: devices, kernels, cores, limits, clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from electra_ds.doctor.coordinator import Gathered
from electra_ds.doctor.facts import UNLIMITED, Facts
from electra_ds.doctor.findings import BAD, GOOD, WARNING, Finding
from electra_ds.doctor.nodes import merge, name_nodes

CLOCK_TOLERANCE = 2.0
"""Seconds."""
_OPEN_FILES = 1024
"""Beside a connection to every other rank."""
_LOCKED = 64 << 20
"""Bytes of locked memory that remote memory access needs at least."""


def by_node(got: Gathered) -> dict[str, list[Facts]]:
    """Facts of each node's ranks, by rank."""
    found: dict[str, list[Facts]] = defaultdict(list)
    for rank in sorted(got.facts):
        found[got.facts[rank].node].append(got.facts[rank])
    return dict(found)


def judge_devices(got: Gathered) -> Iterable[Finding]:
    """A GPU for every rank, of one kind; or none anywhere."""
    nodes = by_node(got)
    if not any(facts.gpus for facts in got.facts.values()):
        yield from _no_gpu(nodes)
        return
    without = {node: "no GPU that torch can use" for node, ranks in nodes.items() if any(not f.gpus for f in ranks)}
    if without:
        yield Finding(
            check="devices",
            verdict=BAD,
            value=f"no GPU on {name_nodes(without)}, where other nodes have some",
            advice="ask for GPUs on every node (--gpus-per-node); if they are there, look at nvidia-smi",
            nodes=without,
        )
    more = {node: len(ranks) for node, ranks in nodes.items() if node not in without and _too_many(ranks)}
    if more:
        counts = {node: f"{count} ranks, {_own_gpus(nodes[node])} GPUs" for node, count in more.items()}
        yield Finding(
            check="devices",
            verdict=BAD,
            value=f"more ranks than GPUs: {merge(counts, nodes)}",
            advice="start at most one rank per GPU (--ntasks-per-node as many as --gpus-per-node)",
        )
    kinds = {node: _kind(ranks) for node, ranks in nodes.items() if node not in without}
    lacking = [node for node, ranks in nodes.items() if any(not gpu.bf16 for f in ranks for gpu in f.gpus)]
    if lacking:
        yield Finding(
            check="devices",
            verdict=WARNING,
            value=f"no bfloat16: {merge({node: kinds[node] for node in lacking if node in kinds}, nodes)}",
            advice="train with --training.precision fp16 or float32",
        )
    mixed = len(set(kinds.values())) > 1
    advice = "the slowest GPU sets the pace of all; ask for one kind (--constraint, --gres)" if mixed else ""
    yield Finding(check="devices", verdict=WARNING if mixed else GOOD, value=merge(kinds), advice=advice)


def _no_gpu(nodes: dict[str, list[Facts]]) -> Iterable[Finding]:
    hidden = {node: f"{ranks[0].gpu_files} GPUs" for node, ranks in nodes.items() if ranks[0].gpu_files}
    if hidden:
        yield Finding(
            check="devices",
            verdict=WARNING,
            value=f"the driver shows GPUs that torch cannot use: {merge(hidden, nodes)}",
            advice="install a torch that is built for CUDA and this driver; 'nvidia-smi' shows the driver's state",
        )
    else:
        yield Finding(check="devices", verdict=GOOD, value="no GPU: training runs on CPU cores")


def _own_gpus(ranks: list[Facts]) -> int:
    return len({gpu.uuid for facts in ranks for gpu in facts.gpus})


def _too_many(ranks: list[Facts]) -> bool:
    own = [facts.gpus[facts.device].uuid for facts in ranks if facts.device is not None]
    return len(set(own)) < len(ranks)


def _kind(ranks: list[Facts]) -> str:
    gpus = {gpu.uuid: gpu for facts in ranks for gpu in facts.gpus}.values()
    kinds = sorted({f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB{', bf16' if gpu.bf16 else ''}" for gpu in gpus})
    return f"{len(gpus)} x " + " and ".join(kinds)


def judge_kernels(got: Gathered) -> Iterable[Finding]:
    """Backends of the fused operations and optional packages; torch does what is absent, so this is never bad."""
    texts = {node: _backends(ranks[0].kernels) for node, ranks in by_node(got).items()}
    if texts:
        differs = len(set(texts.values())) > 1
        advice = "nodes without a backend are slower; start the same environment everywhere" if differs else ""
        yield Finding(check="kernels", verdict=WARNING if differs else GOOD, value=merge(texts), advice=advice)
        packages = {
            node: ", ".join(f"{name} {version or '-'}" for name, version in ranks[0].packages.items())
            for node, ranks in by_node(got).items()
        }
        yield Finding(check="optional", verdict=GOOD, value=merge(packages))


def _backends(found: dict[str, str]) -> str:
    """Which backends are there, and which are not and why, each with its operations; torch's are always there."""
    operations: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, state in found.items():
        operation, _, backend = name.partition(" ")
        if backend != "torch":
            operations[backend, state].append(operation)
    there = ["torch for all operations"]
    absent = []
    for (backend, state), names in operations.items():
        if state.startswith("("):
            absent.append(f"no {backend} for {', '.join(names)} {state}")
        else:
            there.append(f"{backend} {state} for {', '.join(names)}")
    return "; ".join(there + absent)


def judge_cores(got: Gathered) -> Iterable[Finding]:
    """Enough cores for the ranks of a node and their threads."""
    texts, narrow, crowded = {}, {}, {}
    for node, ranks in by_node(got).items():
        cores = len({core for facts in ranks for core in facts.cores})
        threads = [int(given) for facts in ranks if (given := facts.omp_threads or "").isdigit()]
        texts[node] = f"{_count(cores, 'core')} for {_count(len(ranks), 'rank')}"
        if cores < len(ranks):
            narrow[node] = texts[node]
        elif sum(threads) > cores:
            crowded[node] = f"{texts[node]}, OMP_NUM_THREADS={threads[0]}"
    if narrow:
        yield Finding(
            check="cores",
            verdict=WARNING,
            value=f"ranks share cores: {merge(narrow, texts)}",
            advice="ask for more: --cpus-per-task, on sbatch and on srun",
        )
    if crowded:
        yield Finding(
            check="cores",
            verdict=WARNING,
            value=f"more threads than cores: {merge(crowded, texts)}",
            advice="set OMP_NUM_THREADS to cores / ranks of a node, or leave it out: training shares the cores itself",
        )
    loads = [facts.load / max(facts.machine_cores, 1) for facts in got.facts.values()]
    if texts and not narrow and not crowded:
        busy = f"; load before: at most {max(loads):.1f} processes a core"
        yield Finding(
            check="cores", verdict=GOOD, value=("each node: " if len(texts) > 1 else "") + merge(texts) + busy
        )


def judge_limits(got: Gathered) -> Iterable[Finding]:
    """Limits that bite late: open files, locked memory."""
    need = _OPEN_FILES + got.world_size
    few, locked, texts = {}, {}, {}
    for node, ranks in by_node(got).items():
        files = min((f.open_files for f in ranks if f.open_files != UNLIMITED), default=UNLIMITED)
        texts[node] = "open files " + ("unlimited" if files == UNLIMITED else f"{files:,}")
        if files != UNLIMITED and files < need:
            few[node] = f"open files {files:,}"
        memory = min((f.locked_memory for f in ranks if f.locked_memory != UNLIMITED), default=UNLIMITED)
        if ranks[0].gpus and ranks[0].infiniband and memory != UNLIMITED and memory < _LOCKED:
            locked[node] = f"locked memory {memory / 1024:,.0f} kiB"
    if few:
        yield Finding(
            check="limits",
            verdict=WARNING,
            value=merge(few, texts),
            advice=f"shards and connections to {got.world_size} ranks may need {need:,}: 'ulimit -n {need}' in the "
            "batch script, or LimitNOFILE of slurmd",
        )
    if locked:
        yield Finding(
            check="limits",
            verdict=WARNING,
            value=merge(locked, texts),
            advice="NCCL over InfiniBand needs 'ulimit -l unlimited' (LimitMEMLOCK of slurmd)",
        )
    if texts and not few and not locked:
        yield Finding(check="limits", verdict=GOOD, value=merge(texts))


def judge_clock(got: Gathered) -> Iterable[Finding]:
    """Clocks that agree with the first rank's."""
    best: dict[str, tuple[float, float]] = {}
    for facts in got.facts.values():
        if facts.ahead is not None and facts.round_trip is not None:
            best[facts.node] = min(best.get(facts.node, (9e9, 0.0)), (facts.round_trip, facts.ahead))
    if len(best) < 2:
        return
    off = {
        node: f"{abs(ahead):,.1f} s {'ahead of' if ahead > 0 else 'behind'} {got.first_node}"
        for node, (round_trip, ahead) in best.items()
        if abs(ahead) - round_trip / 2 > CLOCK_TOLERANCE
    }
    if off:
        yield Finding(
            check="clock",
            verdict=WARNING,
            value="; ".join(f"{node} is {text}" for node, text in off.items()),
            advice="file times and logs mislead; have the clocks synchronized (chrony, ntpd)",
            nodes=off,
        )
        return
    largest = max(abs(ahead) for _, ahead in best.values())
    trip = max(round_trip for round_trip, _ in best.values())
    value = f"within {largest * 1e3:,.1f} ms of {got.first_node}'s (round trip {trip * 1e3:,.1f} ms)"
    yield Finding(check="clock", verdict=GOOD, value=value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
