"""Model cards, filled from the recipe, the data set's summary and the metrics of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from electra_ds.checkpoint import METRICS_NAME
from electra_ds.data.summary import SUMMARY_NAME, data_summary
from electra_ds.errors import DataError, UserError
from electra_ds.export.mapping import huggingface_config
from electra_ds.export.networks import Network
from electra_ds.export.sources import Source
from electra_ds.model.config import ModelConfig

_SETTINGS = (
    ("objective", "objective.name"),
    ("masked share of a row", "objective.mask_fraction"),
    ("masking", "objective.masking"),
    ("sampling temperature", "objective.temperature"),
    ("weight of the discriminator's loss", "objective.discriminator_weight"),
    ("tokens of a row", "data.sequence_length"),
    ("rows of a step", "training.global_batch_size"),
    ("steps planned", "training.steps"),
    ("learning rate", "optimizer.learning_rate"),
    ("Adam's betas and epsilon", "optimizer.beta1 optimizer.beta2 optimizer.eps"),
    ("weight decay", "optimizer.weight_decay"),
    ("schedule, warmup", "schedule.name schedule.warmup"),
    ("precision", "training.precision"),
    ("begun from", "init.from init.generator"),
    ("seed", "training.seed"),
)
"""Rows of the table of settings: a title, and the recipe's fields."""
_SOURCES = 20
"""Sources that the table of them names."""


def model_card(network: Network, source: Source, license_: str, hub: str | None = None) -> str:
    """Markdown for ``README.md``: what it is, how and on what it was trained, what was measured on held-out text.

    Args:
        network: which of the checkpoint's.
        source: the weights, and their run.
        license_: of the model.
        hub: ``OWNER/NAME`` if it goes to the hub.
    """
    recipe, data = _recipe(source.run), _data(source)
    learned = "masked-language-modeling" if network.head == "vocabulary_head" else "replaced-token-detection"
    languages = sorted({code for corpus in data.get("corpora", {}).values() for code in corpus["languages"]})
    lines = [
        "---",
        f"license: {license_}",
        "library_name: transformers",
        *_front("language", [code for code in languages if code.isalpha() and 2 <= len(code) <= 3]),
        f"tags: [electra, {learned}]",
        "---",
        "",
        f"# ELECTRA {network.name}",
        "",
        network.use.replace("{name}", f"{hub}-{network.name}" if hub else network.name),
        "",
        "## Pretraining",
        "",
        *_facts(network, source),
        "",
        *_settings(recipe),
        *_about_data(data, source),
        *_held_out(source.run / METRICS_NAME, source.state.step),
        "## Limits",
        "",
        "The networks reflect the text they were trained on, its errors and its prejudices included. Nothing was "
        "measured here but what stands above.",
        "",
    ]
    return "\n".join(lines)


def _front(key: str, values: list[str]) -> list[str]:
    return [f"{key}: [{', '.join(json.dumps(value) for value in values)}]"] if values else []


def _facts(network: Network, source: Source) -> list[str]:
    state, model = source.state, ModelConfig(**source.state.model)
    sizes = huggingface_config(model, state.special_ids, network.sizes)
    shared = f"; embeddings shared with the other network: {model.sharing}" if len(source.networks) > 1 else ""
    lines = [
        f"- {sizes['num_hidden_layers']} layers, hidden size {sizes['hidden_size']}, {sizes['num_attention_heads']} "
        f"heads, embeddings of {model.embedding_size}, vocabulary {model.vocab_size:,}{shared}",
        f"- {state.step:,} steps, {state.rows_consumed:,} rows, {state.tokens_consumed:,} tokens, "
        f"{state.elapsed_seconds / 3600:.2f} hours",
        f"- {state.world_size} rank(s), ZeRO stage {state.zero_stage}, {state.precision}; "
        + ", ".join(f"{name} {version}" for name, version in state.versions.items()),
    ]
    if source.ema_decay is not None:
        lines.append(f"- these are an exponential moving average of the weights, decay {source.ema_decay:g}")
    if source.averaged:
        lines.append(f"- these are the mean of {len(source.averaged)} checkpoints: {', '.join(source.averaged)}")
    return lines


def _settings(recipe: dict[str, Any]) -> list[str]:
    """Table of what the recipe set."""
    rows = []
    for title, fields in _SETTINGS:
        values = [value for field in fields.split() if (value := _get(recipe, field)) is not None]
        if values:
            rows.append(f"| {title} | {', '.join(_cell(value) for value in values)} |")
    return ["| setting | |", "|---|---|", *rows, ""] if rows else []


def _get(recipe: dict[str, Any], field: str) -> Any:
    value: Any = recipe
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _cell(value: Any) -> str:
    """A setting as text; of a path that begins at the machine's root, the last name."""
    text = Path(value).name if isinstance(value, str) and value.startswith("/") else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _about_data(data: dict[str, Any], source: Source) -> list[str]:
    state = source.state
    lines = ["## Data", ""]
    if not data:
        return [*lines, f"Shard set {state.fingerprint[:16]}; what it was made of is not recorded in the run.", ""]
    train = data["splits"].get("train", {"documents": 0, "tokens": 0})
    tokenizer = data["tokenizer"]
    lines += [
        f"{train['documents']:,} documents, {train['tokens']:,} tokens for training; a {tokenizer['type']} vocabulary "
        f"of {tokenizer['vocab_size']:,}; shard set {state.fingerprint[:16]}, tokenizer "
        f"{state.tokenizer_fingerprint[:16]}.",
        "",
    ]
    corpora, licenses = data["corpora"], data["licenses"]
    if corpora:
        lines += ["| corpus | languages | documents | tokens | licence |", "|---|---|---:|---:|---|"]
        lines += [
            f"| {_cell(name)} | {', '.join(map(_cell, entry['languages'])) or 'unknown'} | {entry['documents']:,} | "
            f"{entry['tokens']:,} | {_cell(licenses.get(name, 'not recorded'))} |"
            for name, entry in corpora.items()
        ]
        lines.append("")
    ranked = sorted(data["sources"].items(), key=lambda item: (-item[1], item[0]))
    if ranked:
        named = ", ".join(f"{_cell(name)} ({tokens:,} tokens)" for name, tokens in ranked[:_SOURCES])
        more = f" and {len(ranked) - _SOURCES} more" if len(ranked) > _SOURCES else ""
        lines += [f"Sources: {named}{more}.", ""]
    if state.mixture:
        shares = ", ".join(f"{_cell(name)} {share:.1%}" for name, share in state.mixture.items())
        lines += [f"Mixed in training: {shares}.", ""]
    return lines


def _recipe(run: Path) -> dict[str, Any]:
    """The run's recipe as it stands; empty if it is not there."""
    import yaml

    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _data(source: Source) -> dict[str, Any]:
    """Summary of the shard set: the run's own, else made from the set if it is where it was; empty if neither fits."""
    from electra_ds.data.format import read_manifest

    fingerprint = source.state.fingerprint
    try:
        summary = json.loads((source.run / SUMMARY_NAME).read_text("utf-8"))
        if isinstance(summary, dict) and summary.get("fingerprint") == fingerprint:
            return summary
    except (OSError, ValueError):
        pass
    path = _get(_recipe(source.run), "data.path")
    try:
        manifest = read_manifest(path) if isinstance(path, str) else None
    except (DataError, UserError, OSError):
        return {}
    return data_summary(manifest) if manifest is not None and manifest.fingerprint == fingerprint else {}


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
        ("loss of the full-size network (nats)", "vocabulary_loss", "{:.3f}"),
        ("accuracy of the full-size network", "vocabulary_accuracy", "{:.3f}"),
        ("discriminator loss (nats)", "discriminator_loss", "{:.4f}"),
        ("AUC on replaced tokens", "discriminator_auc", "{:.3f}"),
        ("precision on replaced tokens", "discriminator_precision", "{:.3f}"),
        ("recall on replaced tokens", "discriminator_recall", "{:.3f}"),
    ]
    table = [f"| {title} | {form.format(last[key])} |" for title, key, form in rows if last.get(key) is not None]
    if not table:
        return []
    return [
        "## Held-out text",
        "",
        f"At step {last['step']:,}, by the weights in training:",
        "",
        "| | |",
        "|---|---|",
        *table,
        "",
    ]
