"""Verdicts from everything that the ranks told. Pure functions: the same facts, the same verdicts.

Who differs is to blame where more than half of the nodes agree; where no majority does, nobody is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from electra_ds.doctor.coordinator import Gathered
from electra_ds.doctor.findings import BAD, GOOD, WARNING, Finding
from electra_ds.doctor.judging_disks import judge_data, judge_output, judge_space
from electra_ds.doctor.judging_machines import judge_clock, judge_cores, judge_devices, judge_kernels, judge_limits
from electra_ds.doctor.nodes import fellow_node, lacking_nodes, merge, name_nodes, odd_nodes

GRAVE = ("torch", "deepspeed", "electra_ds", "source", "NCCL")
"""What must be the same on all ranks; a difference of the others is worth a warning."""


def judge(got: Gathered) -> list[Finding]:
    """All verdicts, in the order in which a report shows them."""
    checks: list[Callable[[Gathered], Iterable[Finding]]] = [
        judge_arrival, judge_answers, judge_versions, judge_devices, judge_kernels, judge_cores, judge_limits,
        judge_clock, judge_space, judge_data, judge_output, judge_network,
    ]  # fmt: skip
    return [finding for check in checks for finding in check(got)]


def judge_arrival(got: Gathered) -> Iterable[Finding]:
    """Ranks that did not reach the first one."""
    missing = [rank for rank in range(got.world_size) if rank not in got.node_of]
    if not missing:
        if got.world_size > 1:
            value = f"all {got.world_size} ranks reached the first one at {got.address}"
            yield Finding(check="arrival", verdict=GOOD, value=value)
        return
    lacking = lacking_nodes(got.expected, got.node_of)
    if not lacking:
        per_node = max([facts.local_world_size for facts in got.facts.values()], default=1)
        found = [(rank, fellow_node(rank, got.node_of, per_node)) for rank in missing]
        lacking = {node: sum(node == other for _, other in found) for _, node in found if node}
    reasons = {
        node: f"{_ranks(count)} did not reach the first rank at {got.address}" for node, count in lacking.items()
    }
    others = set(got.expected) - {got.first_node}
    if len(others) > 1 and all(node in lacking and node not in got.node_of.values() for node in others):
        reasons = {got.first_node: f"no other node reached its address {got.address}"}
    where = f", of {name_nodes(lacking)}" if lacking else ""
    yield Finding(
        check="arrival",
        verdict=BAD,
        value=f"{_ranks(len(missing))} of {got.world_size} did not come: {_list(missing)}{where}",
        advice=f"see what those ranks printed; each must reach {got.address}. If they printed nothing, they did not "
        "start: look at the node (sinfo -R, its slurmd log)",
        nodes=reasons,
    )


def judge_answers(got: Gathered) -> Iterable[Finding]:
    """Ranks that came and then stopped answering, or met an error."""
    for rank, stage in got.silent.items():
        node = got.node_of[rank]
        yield Finding(
            check="answers",
            verdict=BAD,
            value=f"rank {rank} on {node} stopped answering while {stage}",
            advice="a process that was stopped or killed, or a file system that hangs: look on that node",
            nodes={node: f"rank {rank} stopped answering while {stage}"},
        )
    for rank, error in got.errors.items():
        node = got.node_of[rank]
        yield Finding(
            check="answers",
            verdict=BAD,
            value=f"rank {rank} on {node}: {error}",
            advice="this check could not be made there: repair what the message says",
            nodes={node: f"rank {rank}: {error}"},
        )


def judge_versions(got: Gathered) -> Iterable[Finding]:
    """The same software everywhere."""
    if not got.facts:
        return
    names = list(dict.fromkeys(name for facts in got.facts.values() for name in facts.versions))
    same = []
    for name in names:
        by_node: dict[str, set[str]] = {}
        for facts in got.facts.values():
            by_node.setdefault(facts.node, set()).add(facts.versions.get(name, "not there"))
        texts = {node: " and ".join(sorted(values)) for node, values in by_node.items()}
        if len(set(texts.values())) == 1 and all(len(values) == 1 for values in by_node.values()):
            same.append(f"{name} {next(iter(texts.values()))}")
            continue
        common, odd = odd_nodes(texts)
        yield Finding(
            check="versions",
            verdict=BAD if name in GRAVE else WARNING,
            value=f"{_called(name)} differs: {merge(texts)}",
            advice="start the same environment and the same code on every node",
            nodes={node: f"{_called(name)} {text}, elsewhere {common}" for node, text in odd.items()} if common else {},
        )
    yield Finding(check="versions", verdict=GOOD, value=", ".join(same))


def judge_network(got: Gathered) -> Iterable[Finding]:
    """The all-reduce among all ranks."""
    if got.port_taken:
        reason = f"the port before {got.address}, which training takes, cannot be opened: {got.port_taken}"
        yield Finding(
            check="network",
            verdict=BAD,
            value=f"{got.first_node}: {reason}",
            advice="export another MASTER_PORT, or end the program that holds it",
            nodes={got.first_node: reason},
        )
    if got.not_exchanged:
        alone = got.world_size == 1
        yield Finding(check="network", verdict=GOOD if alone else WARNING, value=f"all-reduce: {got.not_exchanged}")
        return
    failed = {rank: told.error for rank, told in got.exchanges.items() if told.error}
    wrong = [rank for rank, told in got.exchanges.items() if not told.error and not told.correct]
    if failed or wrong or not got.exchanges:
        texts = {got.node_of[rank]: error for rank, error in failed.items()}
        said = (
            f"failed ({merge(texts, got.node_of.values())})" if failed else f"gave wrong sums on ranks {_list(wrong)}"
        )
        yield Finding(
            check="network",
            verdict=BAD,
            value=f"all-reduce among {got.world_size} ranks " + (said if got.exchanges else "did not end"),
            advice="between the nodes every port must be open; if a node has several networks, name the one to use: "
            "GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME (ip -brief address lists them)",
            secondary=True,
        )
        return
    slowest = max(told.latency for told in got.exchanges.values())
    bandwidth = min(told.bandwidth for told in got.exchanges.values())
    backend = next(iter(got.exchanges.values())).backend
    value = (
        f"all-reduce ({backend}): {slowest * 1e6:,.0f} us for 4 bytes, {bandwidth / 1e9:.2f} GB/s for 16 MiB, "
        "sums right"
    )
    yield Finding(check="network", verdict=GOOD, value=value)


def _called(name: str) -> str:
    return "source of electra_ds" if name == "source" else name


def _ranks(count: int) -> str:
    return f"{count} rank" + ("s" if count > 1 else "")


def _list(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:16]))
    return shown + (f" and {len(ranks) - 16} more" if len(ranks) > 16 else "")
