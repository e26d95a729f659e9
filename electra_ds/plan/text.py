"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer (masters, moments)",
    "buckets": "communication buckets",
    "activations": "activations",
}
_SAVED = {
    "generator": "  saved by the generator",
    "generator_head": "  by its vocabulary head, and sampling",
    "discriminator": "  by the discriminator",
    "discriminator_head": "  by its head",
    "vocabulary_head": "  by the full-size network's vocabulary head",
}


def render(plan: dict[str, Any]) -> str:
    """Everything a person decides by; ``--json`` has the rest."""
    blocks = [_head(plan)]
    for part in plan["phases"]:
        blocks += [_memory(plan, part), _batches(part), _wire(part)]
    blocks += [_run(plan), _notes(plan)]
    return "\n\n".join(block for block in blocks if block)


def _head(plan: dict[str, Any]) -> str:
    machine = plan["machine"]
    return (
        f"{plan['parameters'] / 1e6:,.1f} M parameters, {plan['precision']}, {plan['steps']:,} steps, "
        f"{_number(plan['tokens'])} tokens\n{plan['ranks']:,} ranks on {plan['nodes']:,} nodes; {machine['name']}: "
        f"{_gb(machine['memory'])} GB a rank, of which {_gb(plan['reserved_bytes'])} GB kept free of tensors"
    )


def _memory(plan: dict[str, Any], part: dict[str, Any]) -> str:
    stages = part["stages"]
    rows = [[label, *(_gb(stage["parts"][name]) for stage in stages.values())] for name, label in _PARTS.items()]
    saved = next(iter(stages.values()))["saved"]
    rows += [[_SAVED[name], *(_gb(stage["saved"][name]) for stage in stages.values())] for name in saved]
    rows.append(["  intermediate results then, and the batch", *(_other(stage) for stage in stages.values())])
    rows.append(["peak", *(_gb(stage["total"]) for stage in stages.values())])
    rows.append(["  reached in", *(stage["moment"] for stage in stages.values())])
    rows.append(["fits", *("yes" if stage["fits"] else "NO" for stage in stages.values())])
    if any(stage["host_bytes"] for stage in stages.values()):
        rows.append(["in the host's memory", *(_gb(stage["host_bytes"]) for stage in stages.values())])
    title = (
        f"Memory of a rank at its highest moment (GB): rows of {part['sequence_length']} tokens, micro-batch "
        f"{part['micro_batch']}, {part['accumulation']} a step"
    )
    return f"{title}\n{_table(['', *stages], rows)}"


def _batches(part: dict[str, Any]) -> str:
    stages = part["stages"]
    sizes = list(next(iter(stages.values()))["by_micro_batch"])
    rows = [[size, *(_gb(stage["by_micro_batch"][size]) for stage in stages.values())] for size in sizes]
    largest = [stage["largest_micro_batch"] for stage in stages.values()]
    rows.append(["largest that fits", *("none" if size is None else str(size) for size in largest)])
    return f"Peak by micro-batch (GB)\n{_table(['rows', *stages], rows)}"


def _wire(part: dict[str, Any]) -> str:
    stages = part["stages"]
    rows = [
        ["sent by a rank in a step (GB)", *(_gb(stage["sent_bytes"]) for stage in stages.values())],
        ["time of that, not overlapped (ms)", *(f"{1e3 * stage['wire_seconds']:,.1f}" for stage in stages.values())],
    ]
    if part["compute_seconds"]:
        compute = part["compute_seconds"]
        rows.append(["computing a step (ms)", *(f"{1e3 * compute:,.1f}" for _ in stages)])
        if not part["rate"]["has_wire"]:
            shares = (stage["wire_seconds"] / (stage["wire_seconds"] + compute) for stage in stages.values())
            rows.append(["share of a step on the wire", *(f"{share:.1%}" for share in shares)])
    said = (
        f"\nrate of a rank: {part['rate']['tokens_per_second']:,.0f} tokens/s, {part['rate']['source']}"
        if part["rate"]
        else ""
    )
    return f"Traffic and time of a step of {part['global_batch']:,} rows\n{_table(['', *stages], rows)}{said}"


def _run(plan: dict[str, Any]) -> str:
    rows = []
    if all(plan["run"].values()):
        for name, label in (("hours", "hours"), ("node_hours", "node-hours"), ("gpu_hours", "GPU-hours")):
            rows.append([label, *(f"{run[name]:,.1f}" for run in plan["run"].values())])
    rows.append(["a checkpoint (GB)", *(_gb(found["bytes"]) for found in plan["checkpoints"].values())])
    rows.append(["  its files", *(f"{found['files']:,}" for found in plan["checkpoints"].values())])
    return f"The whole run\n{_table(['', *plan['checkpoints']], rows)}"


def _notes(plan: dict[str, Any]) -> str:
    notes = list(plan["notes"])
    if plan["machine"]["traced_as"] == "cuda":
        notes.append("attention is taken to be torch's memory-efficient kernel; a CPU writes the probabilities out")
    if not all(plan["run"].values()):
        notes.append("no rate is known, so no time: give tokens_per_second, like or training.peak_flops")
    return "\n".join(f"note: {note}" for note in notes)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    lines = []
    for row in (header, *rows):
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  " + "  ".join((first, *rest)).rstrip())
    return "\n".join(lines)


def _other(stage: dict[str, Any]) -> str:
    """Activations that are not saved for the backward pass; later than the forward pass what is saved dwindles."""
    return _gb(stage["parts"]["activations"] - sum(stage["saved"].values())) if stage["moment"] == "forward" else ""


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f}"


def _number(value: float) -> str:
    for limit, unit in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= limit:
            return f"{value / limit:,.1f} {unit}"
    return f"{value:,.0f}"
