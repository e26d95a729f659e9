"""The sections of `bench plan`'s report."""

from __future__ import annotations

from typing import Any

from electra_ds.bench.plots import bars
from electra_ds.bench.report import Section

LEAD = """\
Real optimizer steps of the engine that `electra-ds pretrain` builds, on ranks of this machine over gloo, beside what
`electra-ds plan` works out beforehand without running anything. Measured is the third step: the first makes the
optimizer's state, and in it ZeRO-3 records the order of its modules. One thread a rank; dropout on; 30,522 entries of
vocabulary; text made up."""

_MEMORY = """\
*Held* is what all live tensors of a rank occupy: every storage that an operation returned, from before the model was
built until its last holder lets go, of the rank that held most. *Between steps* is that before the step, *peak* the
highest moment within it. *Plan / real* compares peaks. *Moment* is where the plan has its peak. *Pages / plan* is an
independent check: how far the resident set rose in the step over how far the plan has it rise. The plan follows the
same operations with the same ledger, on tensors without memory, so *plan / real* shows that it leaves nothing out,
and *pages* that the ledger does not. No GPU was at hand: none of this was held against one."""

_METHODS = """\
Three ways to count the same step. *Tensors* is what the tables use. *Pages* is how far the resident set rose over its
size before the step (`VmHWM`, set back by `clear_refs`; allocations from 64 KiB on are pages of their own, so that
freed memory leaves at once): it sees what kernels and gloo take for themselves, and does not see what was allocated
and never written, such as the reduction bucket of stages 1 and 2 while it is being filled, which an allocator on a
GPU does count. *Profiler* is the running sum of torch's own allocation events (`profile_memory`): it agrees with the
tensors on one rank, and loses what gloo's threads free, as it listens in the thread it was started in; so it counts
too much on several ranks, and was not chosen."""

_TRAFFIC = """\
*Collectives* is what a rank gave to each, counted where torch hands it to gloo (bytes of the whole tensor). *Sent* is
what all ranks together put on the loopback interface in a network of their own, TCP headers included, in one step.
*Ring* is what the plan says they send: 2 (N - 1) / N of the whole for an all-reduce, (N - 1) / N for an all-gather or a
reduce-scatter. gloo makes a reduce-scatter out of an all-reduce, so at stage 3 it sends more than NCCL would; *gloo* is
the ring with that."""

_SHARED = """

Here the ranks could not be given a network of their own, so *sent* has in it what other processes sent meanwhile."""

_FINDINGS = """\
- Stage 1 and stage 2 **all-reduce** the gradients, although each rank needs a part of them only, and all-gather the
  weights afterwards: 3 (N - 1) / N bytes for each byte of weights, half as much again as stage 0. Stage 2 does so after
  *every* micro-batch. `"use_multi_rank_bucket_allreduce": false` in the DeepSpeed file reduces each rank's part to it
  alone: 2 (N - 1) / N, in N calls a bucket.
- Stage 3 gathers the weights once for both passes, as they all lie within `stage3_max_reuse_distance` (10^9 elements),
  and truly reduce-scatters: 2 (N - 1) / N, as little as stage 0. The gathered weights, and the flat buffer they came
  in, are held until the forward pass is over: 4 bytes for each parameter in bf16, more than stage 1 holds then. So at
  these sizes it saves no memory."""


def sections(results: list[dict[str, Any]]) -> list[Section]:
    """Memory, methods, traffic, findings."""
    return [memory(results), *methods(results), traffic(results), Section("What was found", _FINDINGS)]


def memory(results: list[dict[str, Any]]) -> Section:
    """Peaks, measured and planned."""
    errors = [found["planned"]["peak"] / found["measured"]["peak"] - 1 for found in results]
    said = f"\n\nThe plan is off by {min(errors):+.2%} to {max(errors):+.2%}."
    said += "\n\n![Peak memory, measured and planned](plan-memory.svg)"
    header = [
        "model",
        "rows x micro-batches",
        "precision",
        "ranks",
        "stage",
        "between steps, MB",
        "planned",
        "peak, MB",
    ]
    section = Section("Memory of a rank", _MEMORY + said, [*header, "planned", "plan / real", "moment", "pages / plan"])
    for found in results:
        job, real, plan = found["job"], found["measured"], found["planned"]
        section.rows.append(
            [
                job["model"],
                f"{job['micro_batch']} x {job['accumulation']}",
                job["precision"],
                str(job["ranks"]),
                str(job["stage"]),
                _mb(real["between"]),
                _mb(plan["between"]),
                _mb(real["peak"]),
                _mb(plan["peak"]),
                f"{plan['peak'] / real['peak']:.3f}",
                plan["moment"],
                f"{(real['resident_peak'] - real['resident_between']) / (plan['peak'] - plan['between']):.3f}",
            ]
        )
    return section


def methods(results: list[dict[str, Any]]) -> list[Section]:
    """How far a step rises over what is between steps, counted in three ways."""
    chosen = [found for found in results if "profiler_peak" in found["measured"]]
    header = ["model", "ranks", "stage", "tensors, MB", "pages, MB", "profiler, MB", "profiler between steps / tensors"]
    section = Section("How it was counted", _METHODS, header)
    for found in chosen:
        job, real = found["job"], found["measured"]
        section.rows.append(
            [
                job["model"],
                str(job["ranks"]),
                str(job["stage"]),
                _mb(real["peak"] - real["between"]),
                _mb(real["resident_peak"] - real["resident_between"]),
                _mb(real["profiler_peak"] - real["profiler_between"]),
                f"{real['profiler_between'] / real['between']:.3f}",
            ]
        )
    return [section] if chosen else []


def traffic(results: list[dict[str, Any]]) -> Section:
    """Collectives and bytes sent, measured and planned."""
    header = [
        "model",
        "rows x micro-batches",
        "ranks",
        "stage",
        "all_reduce, MB",
        "all_gather, MB",
        "reduce_scatter, MB",
    ]
    section = Section(
        "Bytes on the wire in a step",
        _TRAFFIC,
        [*header, "collectives, plan / real", "sent, MB", "ring, MB", "gloo, MB", "gloo / sent"],
    )
    if not all(found["own_network"] for found in results):
        section.text += _SHARED
    for found in results:
        job, plan = found["job"], found["planned"]
        if job["ranks"] == 1:
            continue
        section.rows.append(
            [
                f"{job['model']}, {job['precision']}",
                f"{job['micro_batch']} x {job['accumulation']}",
                str(job["ranks"]),
                str(job["stage"]),
                *(_mb(found["collectives"].get(kind, 0)) for kind in ("all_reduce", "all_gather", "reduce_scatter")),
                f"{sum(plan['collectives'].values()) / sum(found['collectives'].values()):.4f}",
                _mb(found["loopback"]),
                _mb(plan["sent"]),
                _mb(plan["sent_by_gloo"]),
                f"{plan['sent_by_gloo'] / found['loopback']:.3f}",
            ]
        )
    return section


def figure(results: list[dict[str, Any]]) -> str:
    """Measured and planned peaks of the first model, by ranks and stage."""
    first = results[0]["job"]
    alike = ("model", "micro_batch", "accumulation", "precision")
    groups = [
        (
            f"{found['job']['ranks']} ranks, stage {found['job']['stage']}",
            [("measured", found["measured"]["peak"] / 1e6), ("planned", found["planned"]["peak"] / 1e6)],
        )
        for found in results
        if all(found["job"][name] == first[name] for name in alike)
    ]
    return bars("plan-memory", groups, f"peak of a rank, {first['model']}, {first['micro_batch']} rows (MB)")


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f}"
