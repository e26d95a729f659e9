"""What the first rank prints, and the JSON file with everything."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from electra_ds.doctor.coordinator import Gathered
from electra_ds.doctor.findings import BAD, GOOD, WARNING, Finding, bad_nodes, worst

_WIDTH = 118


def report(got: Gathered, findings: Sequence[Finding], brief: bool = False) -> str:
    """Findings as one text, a line or more each, what to do below; `brief` leaves out what is good."""
    lines = [f"electra-ds doctor: {describe(got)}", ""]
    for finding in findings:
        if not (brief and finding.verdict == GOOD):
            lines += show(finding)
    return "\n".join([*lines, "", conclusion(findings)])


def describe(got: Gathered) -> str:
    """Nodes and ranks in a few words, for example ``4 nodes x 2 ranks by srun, the first on n1``."""
    ranks = Counter(got.node_of.values())
    counts = sorted(set(ranks.values()))
    if len(counts) == 1 and sum(ranks.values()) == got.world_size:
        size = f"{_count(len(ranks), 'node')} x {_count(counts[0], 'rank')}"
    else:
        size = f"{len(got.node_of)} of {_count(got.world_size, 'rank')} came, from {_count(len(ranks), 'node')}"
    return size + (f" by {got.launcher}, the first on {got.first_node}" if got.world_size > 1 else "")


def show(finding: Finding) -> list[str]:
    """One finding as lines."""
    head = f"  {finding.verdict:<8} {finding.check:<9} "
    indent = " " * len(head)
    lines = textwrap.wrap(finding.value, _WIDTH, initial_indent=head, subsequent_indent=indent) or [head]
    if finding.advice and finding.verdict != GOOD:
        lines += textwrap.wrap(
            f"-> {finding.advice}", _WIDTH, initial_indent=indent, subsequent_indent=indent + "   "
        )  # fmt: skip
    return lines


def conclusion(findings: Sequence[Finding]) -> str:
    """The last line: one word, and the nodes to blame."""
    verdict, wrong = worst(findings), bad_nodes(findings)
    if verdict == BAD:
        checks = dict.fromkeys(finding.check for finding in findings if finding.verdict == BAD)
        return "bad: " + ("; ".join(f"{node}: {why}" for node, why in wrong.items()) or ", ".join(checks))
    warnings = sum(finding.verdict == WARNING for finding in findings)
    return "good" + (f", with {_count(warnings, 'warning')}" if warnings else ": fit to train")


def one_line(got: Gathered, findings: Sequence[Finding]) -> str:
    """What a preflight says when nothing is bad."""
    warned = [f"{finding.check}: {finding.value}" for finding in findings if finding.verdict == WARNING]
    network = [f.value for f in findings if f.check == "network" and f.verdict == GOOD]
    return "; ".join([f"preflight good: {describe(got)}", *network, *(f"warning, {text}" for text in warned)])


def everything(got: Gathered, findings: Sequence[Finding]) -> dict[str, Any]:
    """Facts and verdicts as one JSON object."""
    return {
        "verdict": worst(findings),
        "bad_nodes": bad_nodes(findings),
        "findings": [{**vars(finding), "nodes": dict(finding.nodes)} for finding in findings],
        **asdict(got),
    }


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
