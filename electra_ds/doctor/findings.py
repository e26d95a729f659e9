"""A verdict on one thing, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from electra_ds.lives import BAD_NODES, DONE, USER_ERROR

GOOD, WARNING, BAD = "good", "warning", "bad"
SEVERITY = (GOOD, WARNING, BAD)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check says."""

    check: str
    """``versions``, ``clock``, ..."""
    verdict: str
    """``good``, ``warning`` (training works, something may surprise) or ``bad`` (it would fail or be wrong)."""
    value: str
    """What was found."""
    advice: str = ""
    """What to do; empty where there is nothing to be done."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Nodes to blame with the reason; empty where no node in particular is at fault."""
    secondary: bool = False
    """Whether it may well follow from another finding, and says little by itself."""


def worst(findings: Iterable[Finding]) -> str:
    """The gravest verdict among findings."""
    return max((finding.verdict for finding in findings), key=SEVERITY.index, default=GOOD)


def bad_nodes(findings: Iterable[Finding]) -> dict[str, str]:
    """Nodes that a bad finding blames, each with all reasons."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict == BAD:
            for node, reason in finding.nodes.items():
                reasons.setdefault(node, []).append(reason)
    return {node: "; ".join(dict.fromkeys(given)) for node, given in reasons.items()}


def exit_status(findings: Iterable[Finding], preflight: bool) -> int:
    """0 if nothing is bad; for a batch script 79 if other nodes would mend it; else 2.

    Something bad that no node is to blame for (data that are missing everywhere) would be so on other nodes too: 2,
    unless it may follow from the nodes that are blamed.
    """
    bad = [finding for finding in findings if finding.verdict == BAD]
    if not bad:
        return DONE
    blamed = any(finding.nodes for finding in bad)
    everywhere = any(not finding.nodes and not finding.secondary for finding in bad)
    return BAD_NODES if preflight and blamed and not everywhere else USER_ERROR
