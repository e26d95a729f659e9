"""One rank of `bench plan`: a few real steps of the engine, and what they hold and send.

Started by torchrun, with the path of a job file. Memory is what live tensors hold, from before the model was built,
operation by operation (`plan.ledger`, here on real tensors); beside it the kernel's count of resident pages, and for
comparison what torch's profiler tells. Traffic is counted where torch hands collectives to gloo, and beside it on the
loopback interface.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from electra_ds.backend import import_deepspeed
from electra_ds.bench.plan_collectives import Collectives, loopback_bytes, network
from electra_ds.bench.plan_step import RealStep
from electra_ds.distributed import Place, find_place, leave
from electra_ds.plan.ledger import Ledger
from electra_ds.recipe import Recipe, parse_recipe

WARM_STEPS = 2
"""Before the measured one: the first makes the optimizer's state, and ZeRO-3 records its order of modules in it."""
MARK = "measured step"


def main() -> None:
    """Run the job named on the command line; rank R writes ``rank-R.json`` beside it."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text("utf-8"))
    place = find_place()
    torch.set_num_threads(1)
    recipe = parse_recipe(job["recipe"], "bench plan")
    place.export()
    import_deepspeed().init_distributed("gloo", verbose=False, auto_mpi_discovery=False)
    result = run(recipe, place, job.get("profiled", False))
    (path.parent / f"rank-{place.rank}.json").write_text(json.dumps(result), "utf-8")
    torch.distributed.barrier()
    leave(0)


def run(recipe: Recipe, place: Place, profiled: bool = False) -> dict[str, Any]:
    """Build the engine, warm up, measure one step's memory, then another's traffic and time.

    Args:
        recipe: of the run.
        place: of this rank; the process group must be up.
        profiled: let torch's profiler count allocations too, from the start.
    """
    activities = [ProfilerActivity.CPU]
    profiler = profile(activities=activities, profile_memory=True) if profiled else contextlib.nullcontext()
    with profiler, Ledger(only="cpu") as ledger:
        step = RealStep(recipe, place)
        for number in range(WARM_STEPS):
            step.run(number + 1)
        gc.collect()
        torch.distributed.barrier()
        between = ledger.high = ledger.held
        pages = resident_pages()
        with record_function(MARK):
            step.run(WARM_STEPS + 1)
        highest = resident_pages("VmHWM")
        memory = {"between": between, "peak": ledger.high, "after": ledger.held}
    if profiled:
        memory |= {f"profiler_{name}": value for name, value in allocator_peak(profiler).items()}
    return {
        **memory,
        "resident_between": pages,
        "resident_peak": highest,
        "parameters": step.parameters,
        "network": network(),
        **traffic(step),
    }


def traffic(step: RealStep) -> dict[str, Any]:
    """Run one more step; its collectives, its seconds, and what went over the loopback interface meanwhile."""
    for _ in range(2):
        torch.distributed.barrier()
        before = loopback_bytes()
    collectives = Collectives()
    torch.distributed.barrier()
    with collectives:
        begun = time.perf_counter()
        step.run(WARM_STEPS + 2)
        seconds = time.perf_counter() - begun
    torch.distributed.barrier()
    return {"collectives": collectives.calls, "loopback": loopback_bytes() - before, "seconds": seconds}


def resident_pages(field: str = "VmRSS") -> int:
    """Resident bytes now, or the highest since the last call for ``VmRSS``, which starts the high-water mark anew."""
    if field == "VmRSS":
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    return 0


def allocator_peak(profiler: Any) -> dict[str, int]:
    """Bytes that torch's allocator had given out before the marked step, and at its highest point, as profiled."""
    events: list[tuple[int, int]] = []
    span = (0, 0)
    stack = list(profiler.profiler.kineto_results.experimental_event_tree())
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.name == MARK:
            span = (event.start_time_ns, event.end_time_ns)
        if hasattr(event.extra_fields, "alloc_size"):
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    held, between, peak = 0, 0, 0
    for moment, size in sorted(events):
        held += size
        if moment < span[0]:
            between = peak = held
        elif moment <= span[1]:
            peak = max(peak, held)
    return {"between": between, "peak": peak}


if __name__ == "__main__":
    main()
