"""Writing and reading the two Hugging Face folders, ties restored and asserted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds.errors import DataError, UserError
from electra_ds.export.mapping import discriminator_to_huggingface, generator_to_huggingface, huggingface_config
from electra_ds.model.config import ModelConfig

NETWORKS = ("discriminator", "generator")
EXPORT_NAME = "electra_ds.json"
"""Beside the two folders: the model's config and where the weights come from, so that the pair can be read back."""


def build_huggingface(
    weights: dict[str, Tensor], config: ModelConfig, special_ids: dict[str, int], network: str
) -> Any:
    """Stock `ElectraForPreTraining` or `ElectraForMaskedLM` with these weights, every key accounted for.

    Raises:
        DataError: a key is missing or left over, or what should be one tensor is not.
    """
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    hf_config = ElectraConfig(**huggingface_config(config, special_ids, network))
    if network == "generator":
        model = ElectraForMaskedLM(hf_config)
        state = generator_to_huggingface(weights, config)
        state["generator_lm_head.weight"] = state["electra.embeddings.word_embeddings.weight"]
    else:
        model = ElectraForPreTraining(hf_config)
        state = discriminator_to_huggingface(weights, config)
    result = model.load_state_dict(state, strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise DataError(
            f"{network}: parameters missing {result.missing_keys}, left over {result.unexpected_keys}; "
            "the checkpoint is of another model than its state says"
        )
    model.tie_weights()
    assert_tied(model, network)
    return model.eval()


def assert_tied(model: Any, network: str) -> None:
    """Refuse a generator whose output matrix is not its embedding matrix.

    Replacing one of them leaves the other behind in `transformers`; after every load this is checked.
    """
    if network == "generator":
        head, word = model.generator_lm_head.weight, model.electra.embeddings.word_embeddings.weight
        if head.data_ptr() != word.data_ptr():
            raise DataError("generator: its output matrix and its word embeddings are two tensors, expected one")


def write_folders(
    output: Path,
    weights: dict[str, Tensor],
    config: ModelConfig,
    special_ids: dict[str, int],
    tokenizer: Path | None,
    card: dict[str, str],
    source: dict[str, Any],
) -> None:
    """Write ``generator/`` and ``discriminator/`` into an existing folder.

    Args:
        output: folder that receives both.
        weights: full state dict of `Electra`.
        config: its config.
        special_ids: ids of special tokens.
        tokenizer: folder whose files go along; None leaves them out.
        card: text of README.md per network.
        source: goes into `EXPORT_NAME`.
    """
    from electra_ds.command_line import plain
    from electra_ds.files import write_json

    for network in NETWORKS:
        model = build_huggingface(weights, config, special_ids, network)
        model.save_pretrained(str(output / network), safe_serialization=True)
        if tokenizer is not None:
            for file in sorted(tokenizer.iterdir()):
                if file.is_file():
                    shutil.copyfile(file, output / network / file.name)
        (output / network / "README.md").write_text(card[network], "utf-8")
    write_json(output / EXPORT_NAME, {"model": plain(config), "special_ids": special_ids, "source": source})


def read_folders(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], ModelConfig, dict[str, int]]:
    """Load both networks with stock transformers.

    Returns:
        State dicts of generator and discriminator, the model's config and the special ids.

    Raises:
        UserError: not an export of this project. DataError: damaged.
    """
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    try:
        export = json.loads((folder / EXPORT_NAME).read_text("utf-8"))
        config = ModelConfig(**export["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: no readable {EXPORT_NAME} ({error}); expected a folder written by 'electra-ds convert'"
        ) from error
    states = []
    for network, kind in (("generator", ElectraForMaskedLM), ("discriminator", ElectraForPreTraining)):
        try:
            model, report = kind.from_pretrained(str(folder / network), output_loading_info=True, dtype=torch.float32)
        except Exception as error:
            raise DataError(f"{folder / network}: cannot be loaded ({str(error).splitlines()[0]})") from error
        if report["missing_keys"] or report["mismatched_keys"]:
            raise DataError(f"{folder / network}: parameters missing {sorted(report['missing_keys'])}")
        assert_tied(model, network)
        states.append(model.state_dict())
    return states[0], states[1], config, export["special_ids"]
