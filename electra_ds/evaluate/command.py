"""``electra-ds evaluate KIND``: one kind of evaluation each, with a page, plots and results.json in its folder."""

from __future__ import annotations

from electra_ds.command_line import run_named

EVALUATIONS = {
    "heldout": (
        "electra_ds.evaluate.heldout",
        "generator and discriminator on held-out shards, corrupted as in training",
    ),
    "zero-shot": ("electra_ds.evaluate.zero_shot", "classification by a prompt with label words, without fine-tuning"),
    "bias": ("electra_ds.evaluate.bias", "minimal pairs in CrowS-Pairs' format, scored by both networks"),
    "robustness": ("electra_ds.evaluate.robustness", "a fine-tuned model under typos, other casing and other domains"),
}
"""Name: (module with `main`, one line for the overview)."""


def main(arguments: list[str], program: str) -> int:
    """Run one evaluation; return the exit status."""
    return run_named(arguments, program, EVALUATIONS, "evaluation", "KIND", "kind")
