"""``electra-ds bench NAME``: one report a benchmark, `NAME.md` and `NAME.json` in the output folder."""

from __future__ import annotations

from electra_ds.command_line import run_named

BENCHMARKS = {
    "step": ("electra_ds.bench.step", "tokens a second of a training step, beside a plain step with transformers"),
    "kernels": ("electra_ds.bench.kernels", "time of each fused operation, by backend, beside plain torch"),
    "launches": ("electra_ds.bench.launches", "kernel launches and bytes of each fused operation, counted, not timed"),
    "quality": ("electra_ds.bench.quality", "loss curves of the fast backends beside the reference's, seed by seed"),
    "loader": ("electra_ds.bench.loader", "rows a second from shards, on one core, beside other loaders"),
    "checkpoint": ("electra_ds.bench.checkpoint", "what saving costs, in the background and not, and going on from it"),
    "convert": ("electra_ds.bench.convert", "seconds and memory of a conversion, beside DeepSpeed's own"),
    "plan": ("electra_ds.bench.plan", "memory and traffic of real steps beside what the plan says, by ZeRO stage"),
    "prep": ("electra_ds.bench.prep", "corpora to shards: documents and megabytes a second, by workers"),
    "all": ("electra_ds.bench.all", "every benchmark, one after another, and what could not be measured"),
}
"""Name: (module with `main`, one line for the overview)."""


def main(arguments: list[str], program: str) -> int:
    """Run one benchmark; return the exit status."""
    return run_named(arguments, program, BENCHMARKS, "benchmark", "NAME", "benchmark")
