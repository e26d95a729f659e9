"""Does it fit: model to tokenizer, checkpoint to recipe, batch to memory. And what a step begins with."""

from __future__ import annotations

import copy
import platform
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy.random
import torch

from electra_ds.checkpoint import RunState
from electra_ds.command_line import plain
from electra_ds.data.mixing import hash_words
from electra_ds.data.mixture import mixture_shares
from electra_ds.data.shards import ShardSet
from electra_ds.data.vocabulary import continuation_table
from electra_ds.errors import UserError
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.masking import SpecialIds
from electra_ds.model.pretraining import Pretraining
from electra_ds.recipe import Recipe
from electra_ds.training.batches import PreparedRows, micro_batches

if TYPE_CHECKING:
    from electra_ds.training.supply import Supply

_STEP_SEED = 31
_BYTES_PER_PARAMETER = 12
"""Gradient and both moments in float32, on top of the weight itself."""


def try_batch(model: Pretraining, prepared: PreparedRows, precision: str, device: torch.device, shares: int) -> None:
    """Run one micro-batch forward and backward, on weights as the engine will have them, beside a stand-in for the
    gradients' and the optimizer's state.

    Args:
        model: on its device, in float32.
        prepared: rows of one micro-batch.
        precision: of the run.
        device: where the model lies.
        shares: ranks that the optimizer's state is divided among.

    Raises:
        UserError: it does not fit into memory.
    """
    rows, length = prepared.tensors["input_ids"].shape
    parameters = sum(parameter.numel() for parameter in model.parameters())
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    batch = next(micro_batches(prepared, rows, prepared.counts, 1, device))
    try:
        size = parameters * -(-_BYTES_PER_PARAMETER // shares)
        stand_in = torch.empty(size, dtype=torch.uint8, device=device)
        lowered = copy.deepcopy(model).to(dtype)
        lowered(batch)["loss"].backward()
        del stand_in, lowered
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "memory" not in str(error):
            raise
        raise UserError(
            f"one micro-batch of {rows} rows of {length} tokens does not fit into the memory of {device} "
            f"({str(error).splitlines()[0]}); lower training.micro_batch_size: the global batch stays what it is, in "
            "more portions"
        ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()


def seed_everything(seed: int, step: int, rank: int) -> None:
    """Seed dropout for one step of one rank, so that a resumed run draws what the undisturbed one would."""
    word = int(hash_words(_STEP_SEED, seed, step, rank)[0])
    torch.manual_seed(word % (1 << 63))
    numpy.random.seed(word % (1 << 32))
    random.seed(word)


def versions() -> dict[str, str]:
    """Releases of what computes."""
    import deepspeed

    from electra_ds import __version__

    return {
        "electra_ds": __version__,
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
        "python": platform.python_version(),
    }


def fit_tokenizer(recipe: Recipe, shards: ShardSet) -> tuple[SpecialIds, ModelConfig]:
    """Take vocabulary size and special ids from the shards, and refuse a model that disagrees."""
    info = shards.manifest.tokenizer
    asked = recipe.model.vocab_size
    if asked is not None and asked != info.vocab_size:
        raise UserError(
            f"model.vocab_size={asked}, but the tokenizer of {shards.folder} has {info.vocab_size} entries; "
            "leave model.vocab_size null to take the tokenizer's"
        )
    special = SpecialIds(pad=info.pad_id, unk=info.unk_id, cls=info.cls_id, sep=info.sep_id, mask=info.mask_id)
    return special, replace(recipe.model, vocab_size=info.vocab_size)


def word_table(recipe: Recipe, shards: ShardSet) -> torch.Tensor | None:
    """Which tokens continue the word before them, bool [V]; None where objective.masking needs no words."""
    if recipe.objective.masking == "token":
        return None
    table = continuation_table(shards.tokenizer_folder(), shards.manifest.tokenizer.vocab_size)
    return torch.from_numpy(table)


def check_fits(path: Path, state: RunState, fresh: RunState) -> None:
    """Refuse a checkpoint of another model, objective, seed or shard set."""
    if state.fingerprint != fresh.fingerprint:
        raise UserError(
            f"checkpoint {path} was trained on another shard set (fingerprint {state.fingerprint[:12]}..., these "
            f"shards are {fresh.fingerprint[:12]}...), so its place in the data means nothing here; give the run "
            "its own shards as data.path, or choose another --output"
        )
    if state.mixture != fresh.mixture:
        raise UserError(
            f"checkpoint {path} was trained on another mixture of the corpora ({_shares(state.mixture)} there, "
            f"{_shares(fresh.mixture)} here); give data.weights as they were, or choose another --output"
        )
    different = [
        f"{key}: {state.model.get(key)!r} there, {value!r} here"
        for key, value in fresh.model.items()
        if state.model.get(key) != value
    ]
    learned = {**plain(ObjectiveConfig()), **state.objective}  # fields that an older release did not write
    different += [
        f"objective.{key}: {learned.get(key)!r} there, {value!r} here"
        for key, value in fresh.objective.items()
        if learned.get(key) != value
    ]
    if different or state.seed != fresh.seed:
        different += [f"seed: {state.seed} there, {fresh.seed} here"] if state.seed != fresh.seed else []
        raise UserError(f"checkpoint {path} is of another model ({'; '.join(different)}); choose another --output")


def fresh_state(recipe: Recipe, supply: Supply, world_size: int, stage: int) -> RunState:
    """Where a run stands that has not begun."""
    manifest = supply.shards.manifest
    return RunState(
        step=0,
        rows_consumed=0,
        phase_rows=0,
        tokens_consumed=0,
        seed=recipe.training.seed,
        fingerprint=manifest.fingerprint,
        tokenizer_fingerprint=manifest.tokenizer.fingerprint,
        special_ids=asdict(supply.special),
        model=plain(supply.model_config),
        objective=plain(recipe.objective),
        world_size=world_size,
        zero_stage=stage,
        precision=recipe.training.precision,
        elapsed_seconds=0.0,
        versions=versions(),
        mixture=mixture_shares(manifest.splits[supply.shards.split], manifest.weights, recipe.data),
    )


def _shares(mixture: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.4f}" for name, share in mixture.items()) or "one pool"
