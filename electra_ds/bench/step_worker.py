"""One rank of `bench step`: builds the sides, lets them take turns, and writes what it measured.

Started by torchrun, with the path of a job file.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from electra_ds.bench.statistics import in_turn
from electra_ds.bench.step_memory import Memory
from electra_ds.bench.step_parts import clocked, time_calls, time_parts
from electra_ds.bench.step_sides import OURS, OwnStep, Setting, Side, Step, built
from electra_ds.distributed import find_place, leave
from electra_ds.model import pretraining
from electra_ds.model.flops import step_flops_per_token
from electra_ds.training.allocator import give_back_freed_memory, keep_freed_memory
from electra_ds.training.batches import PreparedRows
from electra_ds.training.engine import choose_device
from electra_ds.training.peers import Peers, start_process_group

_PATIENCE = 300.0
"""Seconds that the ranks wait for each other at the start."""
_MATRIX = 2048
"""Rows and columns of the product that tells a CPU's peak."""
_TABLE_ROWS = 25


def main() -> None:
    """Run the job named on the command line; rank R writes ``rank-R.json`` beside it."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text("utf-8"))
    setting, sides = Setting(**job["setting"]), [Side(**side) for side in job["sides"]]
    place = find_place()
    device = choose_device(setting.device, setting.precision, place.local_rank)
    start_process_group(place, device, _PATIENCE)
    peers = Peers(place, place.local_rank == 0)
    result = MODES[job["mode"]](job, setting, sides, peers, device)
    (path.parent / f"rank-{place.rank}.json").write_text(json.dumps(result), "utf-8")
    peers.barrier()
    leave(0)


def compare(job: dict[str, Any], setting: Setting, sides: list[Side], peers: Peers, device: torch.device) -> Any:
    """Let all sides take turns, then look into some of them."""
    result: dict[str, Any] = {"sides": {}, "failed": {}}
    measured = result["sides"]
    with contextlib.ExitStack() as stack:
        steps: dict[str, Step] = {}
        for side in sides:
            try:
                held = torch.cuda.memory_allocated() if device.type == "cuda" else 0
                steps[side.name] = stack.enter_context(built(side, setting, peers, device))
                visit(steps[side.name], job["warm"], peers, device)
                measured[side.name] = {"visits": []}
                if device.type == "cuda":
                    memory = Memory(device).of_a_step(steps[side.name].step)
                    measured[side.name]["memory"] = {key: size - held for key, size in memory.items()}
            except Exception as error:
                if side.kind == OURS and not side.may_fail:
                    raise
                steps.pop(side.name, None)
                result["failed"][side.name] = _reason(error)
        own = steps[OURS]
        assert isinstance(own, OwnStep)
        counted: list[dict[str, float]] = []
        for _, name in in_turn(list(steps), job["rounds"]):
            figures, seen = visit(steps[name], job["steps"], peers, device)
            measured[name]["visits"].append(figures)
            counted += [count_rows(prepared) for prepared in seen] if name == OURS else []
        rows = {key: sum(one[key] for one in counted) for key in counted[0]}
        result["rows"] = {**rows, "attended": rows["squares"] / max(1.0, rows["tokens"])}
        model_config = own.trainer.supply.model_config
        share = result["rows"]["selected"] / result["rows"]["tokens"]
        result["flops_per_token"] = step_flops_per_token(model_config, share, result["rows"]["attended"])
        result["model"] = asdict(model_config)
        result["peak_flops"] = matrix_peak(device, setting.precision, peers) if device.type == "cpu" else None
        for name in job["parts"]:
            if name in steps:
                measured[name]["parts"] = time_parts(steps[name], job["part_steps"], device)
        result["records"] = time_records(own, job["part_steps"], device)
        if job["trace"]:
            result["profile"] = trace(own, device, job["trace"] if peers.place.is_first else None)
    return result


def visit(step: Step, count: int, peers: Peers, device: torch.device) -> tuple[dict[str, float], list[PreparedRows]]:
    """Some steps of one side: seconds, real tokens of all ranks and seconds of waiting for data; and the rows."""
    gc.collect()
    if device.type == "cpu":
        # As `pretrain` has it for ours; for a peer, whose user would not know, as glibc has it by itself.
        (keep_freed_memory if isinstance(step, OwnStep) else give_back_freed_memory)()
    rows = []
    _settle(peers, device)
    waited, begun = step.batches.waited_seconds, time.perf_counter()
    for _ in range(count):
        rows.append(step.step())
    _settle(peers, device)
    seconds = time.perf_counter() - begun
    tokens = peers.sum(torch.stack([prepared.counts[1] for prepared in rows]).sum())
    return {"seconds": seconds, "tokens": float(tokens), "waited": step.batches.waited_seconds - waited}, rows


def count_rows(prepared: PreparedRows) -> dict[str, float]:
    """What the FLOPs of some rows follow from.

    Returns:
        ``tokens``, ``selected`` positions, ``slots`` (padding included), and ``squares``: sum of the squared lengths of
        segments, which over the tokens is how many tokens one attends to.
    """
    segments = prepared.tensors["segments"].cpu()
    lengths = _segment_lengths(segments)
    return {
        "tokens": float(prepared.counts[1]),
        "selected": float(prepared.counts[0]),
        "slots": float(segments.numel()),
        "squares": float((lengths * lengths).sum()),
    }


def _segment_lengths(segments: Tensor) -> Tensor:
    """Tokens of each segment, int64 [segments], of int64 [B, L]; padding (0) is none."""
    rows = torch.arange(len(segments))[:, None] * (int(segments.max()) + 1)
    counted = torch.bincount((rows + segments)[segments > 0])
    return counted[counted > 0]


def matrix_peak(device: torch.device, precision: str, peers: Peers) -> float:
    """FLOP/s of all ranks at large matrix products at the same time: the best of several tries, added up."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    one = torch.randn(_MATRIX, _MATRIX, device=device).to(dtype)
    best = float("inf")
    peers.barrier()
    for _ in range(8):
        begun = time.perf_counter()
        torch.mm(one, one)
        best = min(best, time.perf_counter() - begun)
    return float(peers.sum(torch.tensor(2.0 * _MATRIX**3 / best, dtype=torch.float64)))


def time_records(own: OwnStep, count: int, device: torch.device) -> dict[str, float]:
    """Seconds of a step in what only informs: metrics, audit, progress; and in the ranks' agreement.

    Lines are written together, `logging.flush_every` of them; here after `count` steps, which are fewer, so that a
    step's share in the writing is rather too high. A GPU has nothing else to do while such a call is clocked, so what
    the call makes it compute counts and what it was busy with does not; but a step is then slower, and is timed in a
    run of its own.
    """
    trainer = own.trainer
    settle = torch.cuda.synchronize if device.type == "cuda" else None

    def run() -> None:
        for _ in range(count):
            own.step()

    calls = [
        (pretraining, "batch_statistics"),
        (pretraining, "verdict_counts"),
        (trainer.meter, "record"),
        (trainer, "_record_pending"),
        (trainer.audit, "write"),
        (trainer.progress, "advance"),
    ]
    seconds = clocked(run, settle)
    trainer._record_pending()
    spent = time_calls(calls, run, settle)
    spent += clocked(trainer._record_pending, settle)
    agreed = time_calls([(trainer, "_agree")], run, settle)
    return {"seconds": spent / count, "agreement_seconds": agreed / count, "step_seconds": seconds / count}


def trace(own: OwnStep, device: torch.device, path: str | None) -> list[dict[str, Any]]:
    """One step under torch's profiler.

    Args:
        own: what to profile.
        device: that computes.
        path: of the Chrome trace; None writes none.

    Returns:
        The operations that took longest by themselves: ``name``, ``calls``, ``seconds``, ``share``.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        own.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(path)
    kind = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, kind))
    total = sum(getattr(event, kind) for event in events) or 1.0
    return [
        {
            "name": event.key,
            "calls": event.count,
            "seconds": getattr(event, kind) / 1e6,
            "share": getattr(event, kind) / total,
        }
        for event in events[:_TABLE_ROWS]
    ]


def measure_memory(job: dict[str, Any], setting: Setting, sides: list[Side], peers: Peers, device: torch.device) -> Any:
    """One side alone in its processes: what it holds between steps, and at the highest moment of a step."""
    memory = Memory(device)
    with built(sides[0], setting, peers, device) as step:
        for _ in range(job["warm"]):
            step.step()
        return memory.of_a_step(step.step)


def try_sides(job: dict[str, Any], setting: Setting, sides: list[Side], peers: Peers, device: torch.device) -> Any:
    """Seconds of the fastest step of each side, one after another, each let go before the next."""
    found: dict[str, float | None] = {}
    for side in sides:
        try:
            with built(side, setting, peers, device) as step:
                visit(step, job["warm"], peers, device)
                found[side.name] = min(visit(step, 1, peers, device)[0]["seconds"] for _ in range(job["steps"]))
        except Exception as error:
            found[side.name] = None
            print(f"{side.name}: {_reason(error)}", file=sys.stderr)
        _forget(device)
    return found


def find_micro_batch(
    job: dict[str, Any], setting: Setting, sides: list[Side], peers: Peers, device: torch.device
) -> Any:
    """Largest power of two of rows that fits beside the state of as many sides as will be held at once.

    What a step holds grows in proportion to its rows: two sizes tell which will fit, and that one is tried.
    """
    budget = job["share"] * torch.cuda.get_device_properties(device).total_memory
    begin = int(job["begin"])

    def needed(rows: int) -> float:
        return _needed(sides, setting, peers, device, rows, job["held"])

    low, high = needed(begin), needed(2 * begin)
    if low > budget:
        rows, surely = begin // 2, 1
    elif high > budget:
        rows = surely = begin
    else:
        most = begin + begin * (budget - low) / max(1.0, high - low)
        rows, surely = 1 << int(math.log2(most)), 2 * begin
    while rows > surely and needed(rows) > budget:
        rows //= 2
    return {"micro_batch": rows}


def _needed(sides: list[Side], setting: Setting, peers: Peers, device: torch.device, rows: int, held: int) -> float:
    """Bytes of the side that needs most, with the state of the others that are held at the same time."""
    most = 0.0
    for side in sides:
        try:
            with built(side, replace(setting, micro_batch=rows), peers, device) as step:
                step.step()
                memory = Memory(device).of_a_step(step.step)
            del step
        except torch.OutOfMemoryError:
            most = float("inf")
        _forget(device)
        most = max(most, memory["peak"] + (held - 1) * memory["between"]) if most < float("inf") else most
    return most


def _settle(peers: Peers, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    peers.barrier()


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:200]}"


MODES: dict[str, Callable[..., Any]] = {
    "compare": compare,
    "memory": measure_memory,
    "try": try_sides,
    "fit": find_micro_batch,
}

if __name__ == "__main__":
    main()
