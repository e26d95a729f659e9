"""``electra-ds bench NAME``: one report a benchmark, `NAME.md` and `NAME.json` in the output folder."""

from __future__ import annotations

import importlib

from electra_ds.errors import UserError, did_you_mean

BENCHMARKS = {
    "loader": ("electra_ds.bench.loader", "rows a second from shards, on one core, beside other loaders"),
    "checkpoint": ("electra_ds.bench.checkpoint", "what saving costs, in the background and not, and going on from it"),
    "plan": ("electra_ds.bench.plan", "memory and traffic of real steps beside what the plan says, by ZeRO stage"),
    "prep": ("electra_ds.bench.prep", "corpora to shards: documents and megabytes a second, by workers"),
}
"""Name: (module with `main`, one line for the overview)."""


def main(arguments: list[str], program: str) -> int:
    """Run one benchmark; return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(program))
        return 0
    name = arguments[0]
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark '{name}'{did_you_mean(name, BENCHMARKS)}. '{program} --help' lists them")
    module = importlib.import_module(BENCHMARKS[name][0])
    return int(module.main(arguments[1:], f"{program} {name}") or 0)


def _usage(program: str) -> str:
    width = max(map(len, BENCHMARKS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in BENCHMARKS.items()]
    return "\n".join(
        [
            f"usage: {program} NAME [options]",
            "",
            "options: each benchmark has its own; NAME --help shows them",
            "",
            "benchmarks:",
            *lines,
        ]
    )
