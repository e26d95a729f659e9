"""Model cards, filled from the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from electra_ds.checkpoint import RunState

_USE = {
    "discriminator": (
        "This is the network to fine-tune. For every token it says whether it was replaced.\n\n"
        "```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'model = AutoModelForSequenceClassification.from_pretrained("discriminator", num_labels=2)\n'
        'tokenizer = AutoTokenizer.from_pretrained("discriminator")\n```'
    ),
    "generator": (
        "This is the small network that filled masked tokens during pretraining. Fine-tune the discriminator instead; "
        "the generator serves to continue pretraining.\n\n"
        "```python\nfrom transformers import AutoTokenizer, ElectraForMaskedLM\n\n"
        'model = ElectraForMaskedLM.from_pretrained("generator")\n'
        'tokenizer = AutoTokenizer.from_pretrained("generator")\n```'
    ),
}


def model_card(network: str, state: RunState, run: Path, license_: str) -> str:
    """Markdown for ``README.md``: what it is, how it was trained, what was measured on held-out text."""
    model = state.model
    lines = [
        "---",
        f"license: {license_}",
        "library_name: transformers",
        "tags: [electra, replaced-token-detection]",
        "---",
        "",
        f"# ELECTRA {network}",
        "",
        _USE[network],
        "",
        "## Pretraining",
        "",
        f"- {model['layers']} layers, hidden size {model['hidden_size']}, {model['heads']} heads, vocabulary "
        f"{model['vocab_size']:,}; embeddings shared with the other network: {model['sharing']}",
        f"- {state.step:,} steps, {state.rows_consumed:,} rows, {state.tokens_consumed:,} tokens, "
        f"{state.elapsed_seconds / 3600:.2f} hours",
        f"- {state.objective['mask_fraction']:.0%} of positions selected, sampling temperature "
        f"{state.objective['temperature']:g}, discriminator weight {state.objective['discriminator_weight']:g}",
        f"- {state.world_size} rank(s), ZeRO stage {state.zero_stage}, {state.precision}; "
        + ", ".join(f"{name} {version}" for name, version in state.versions.items()),
        f"- shard set {state.fingerprint[:16]}, tokenizer {state.tokenizer_fingerprint[:16]}",
        "",
        *_held_out(run / "metrics.jsonl", state.step),
        "## Limits",
        "",
        "The networks reflect the text they were trained on, its errors and its prejudices included. Nothing was "
        "measured here but what stands above.",
        "",
    ]
    return "\n".join(lines)


def _held_out(metrics: Path, step: int) -> list[str]:
    """Table of the last validation up to this step, if there is one."""
    last: dict[str, Any] | None = None
    if metrics.is_file():
        for text in metrics.read_text("utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if line.get("kind") == "validation" and line["step"] <= step:
                last = line
    if last is None:
        return []
    rows = [
        ("generator loss (nats)", "generator_loss", "{:.3f}"),
        ("generator accuracy on selected tokens", "generator_accuracy", "{:.3f}"),
        ("discriminator loss (nats)", "discriminator_loss", "{:.4f}"),
        ("AUC on replaced tokens", "discriminator_auc", "{:.3f}"),
        ("precision on replaced tokens", "discriminator_precision", "{:.3f}"),
        ("recall on replaced tokens", "discriminator_recall", "{:.3f}"),
    ]
    table = [f"| {title} | {form.format(last[key])} |" for title, key, form in rows if last.get(key) is not None]
    return [f"Held-out text, step {last['step']:,}:", "", "| | |", "|---|---|", *table, ""]
