"""Is the export what the checkpoint holds, and does it compute what the checkpoint computes?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from electra_ds.errors import DataError
from electra_ds.export.huggingface import INDEX_NAME, WEIGHTS_NAME, assert_tied
from electra_ds.export.networks import Network
from electra_ds.export.weights import Weights
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.heads import DiscriminatorHead, GeneratorHead
from electra_ds.model.masking import SpecialIds
from electra_ds.model.objectives import build
from electra_ds.model.pretraining import JointPretraining, Pretraining

TOLERANCE = 1e-4
"""Greatest difference in float32 logits that passes, as a share of the largest logit."""


@dataclass(frozen=True)
class Verified:
    """What was compared of a network."""

    tensors: int
    """That are bit for bit the checkpoint's."""
    difference: float
    """Greatest absolute difference in logits."""
    largest: float
    """Largest absolute logit."""


def load_network(
    network: Network, weights: Weights, config: ModelConfig, special_ids: dict[str, int], objective: dict[str, Any]
) -> Pretraining:
    """The module that an engine takes, in evaluation mode, with one network in memory and the rest without storage."""
    with torch.device("meta"):
        model = build(config, ObjectiveConfig(**objective), SpecialIds(**special_ids))
    names = {name for origin in network.origins(config).values() for name in (origin.name, origin.plus) if name}
    for name in names:
        owner, _, attribute = name.rpartition(".")
        value = weights.read(name).view(weights.shapes[name]).float()
        setattr(model.get_submodule(owner), attribute, nn.Parameter(value, requires_grad=False))
    return model.eval()


def logits_of(network: Network, model: Pretraining, ids: Tensor, token_types: Tensor) -> Tensor:
    """Float32 logits of int64 ids [B, L], each row one segment: [B, L], or [B, L, V] where it restores tokens."""
    place = (ids, model.layout(torch.ones_like(ids)), torch.arange(ids.shape[1]).expand_as(ids), token_types)
    if network.sizes == "generator":
        assert isinstance(model, JointPretraining)
        return model.generator_logits(model.generator_states(*place))[..., : model.config.vocab_size]
    head, hidden = model.get_submodule(network.head), model.discriminator_states(*place)
    if isinstance(head, DiscriminatorHead):
        return head.logits(hidden)
    assert isinstance(head, GeneratorHead)
    return head.logits(hidden, model.output_matrix(None)[0])[..., : model.config.vocab_size]


@torch.no_grad()
def verify_network(
    folder: Path,
    network: Network,
    weights: Weights,
    config: ModelConfig,
    special_ids: dict[str, int],
    objective: dict[str, Any],
    compared: Callable[[int], None] = lambda size: None,
    rows: int = 4,
) -> Verified:
    """Compare a written network with what it was written from.

    First each tensor in the files, one at a time, with the checkpoint's. Then the logits of stock transformers with
    those of this project's own module, on random text in pairs: what the first comparison cannot see is a mistake in
    the mapping of names that both sides share. For the logits a whole network is in memory, in the one module and then
    in the other, however small the files are.

    Args:
        folder: of the network.
        network: which.
        weights: what it was written from.
        config: of the model.
        special_ids: ids of special tokens.
        objective: settings of the objective that trained it, as a checkpoint's state has them.
        compared: told the bytes of each tensor that was compared.
        rows: sequences of up to 128 tokens that are tried.

    Raises:
        DataError: a tensor is missing, left over, or differs; or the logits do.
    """
    tensors = _compare_tensors(folder, network, weights, config, compared)
    length = min(128, config.max_positions)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size or 0, (rows, length), generator=generator)
    types = (torch.arange(length).expand_as(ids) >= length // 2).long() * (config.token_types > 1)
    own = logits_of(network, load_network(network, weights, config, special_ids, objective), ids, types)
    theirs = load_huggingface(folder, network)
    logits = theirs(input_ids=ids, token_type_ids=types).logits
    difference, largest = float((logits - own).abs().max()), float(own.abs().max())
    limit = TOLERANCE * max(1.0, largest)
    if not difference <= limit:
        raise DataError(
            f"{network.name}: logits differ by up to {difference:.2e} from the checkpoint's, expected at most "
            f"{limit:.0e}"
        )
    return Verified(tensors, difference, largest)


def load_huggingface(folder: Path, network: Network) -> nn.Module:
    """A written network in stock transformers, in evaluation mode.

    Raises:
        DataError: it cannot be loaded, or not all of it comes from the files.
    """
    try:
        model, report = network.huggingface_class.from_pretrained(
            str(folder), output_loading_info=True, dtype=torch.float32, use_safetensors=True
        )
    except Exception as error:
        raise DataError(f"{folder}: cannot be loaded ({str(error).splitlines()[0]})") from error
    problems = [f"{kind.removesuffix('_keys')} {sorted(report[kind])}" for kind in report if report[kind]]
    if problems:
        raise DataError(f"{folder}: parameters {'; '.join(problems)}")
    assert_tied(model, network)
    loaded: nn.Module = model.eval()
    return loaded


def _compare_tensors(
    folder: Path, network: Network, weights: Weights, config: ModelConfig, compared: Callable[[int], None]
) -> int:
    from safetensors import SafetensorError, safe_open

    origins = network.origins(config)
    seen: set[str] = set()
    for path in weight_files(folder):
        try:
            with safe_open(str(path), framework="pt") as file:
                for key in list(file.keys()):
                    if key not in origins or key in seen:
                        raise DataError(f"{path}: {key} does not belong there")
                    seen.add(key)
                    written, wanted = file.get_tensor(key), origins[key].read(weights)
                    if written.dtype != wanted.dtype or not torch.equal(_bits(written), _bits(wanted)):
                        raise DataError(f"{path}: {key} is not what the checkpoint holds")
                    compared(wanted.nbytes)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
    if missing := sorted(origins.keys() - seen):
        raise DataError(f"{folder}: {missing[0]} is missing (with {len(missing) - 1} others)")
    return len(seen)


def weight_files(folder: Path) -> list[Path]:
    """The files of safetensors of a model folder, as its index names them.

    Raises:
        DataError: the index cannot be read, or a file is missing.
    """
    index = folder / INDEX_NAME
    names = [WEIGHTS_NAME]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{index}: cannot be read ({error!r})") from error
    for name in names:
        if "/" in name or not (folder / name).is_file():
            raise DataError(f"{folder}: {name} is missing")
    return [folder / name for name in names]


def _bits(value: Tensor) -> Tensor:
    """A float32 tensor as whole numbers, so that NaN equals itself and 0 differs from -0."""
    return value.view(torch.int32) if value.dtype == torch.float32 else value
