"""Writing and reading Hugging Face folders, tensor by tensor, ties asserted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds.errors import DataError, UserError
from electra_ds.export.networks import DISCRIMINATOR, EXPORT_NAME, GENERATOR, Network, Trained, trained_by
from electra_ds.export.weights import TensorWeights, Weights
from electra_ds.model.config import ModelConfig

WEIGHTS_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"


def plan_files(network: Network, weights: Weights, config: ModelConfig, shard_size: int) -> dict[str, list[str]]:
    """Which tensors go into which file: in order, a new file where the next tensor would make one too large.

    A tensor that is larger than `shard_size` has a file to itself.

    Returns:
        Name of each file to its tensors' names; one file `WEIGHTS_NAME` if all fit.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    shapes = {key: torch.empty(origin.shape(weights), device="meta") for key, origin in network.origins(config).items()}
    split = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=shard_size
    )
    return dict(split.filename_to_tensors)


def check_complete(network: Network, weights: Weights, config: ModelConfig, special_ids: dict[str, int]) -> None:
    """Compare names and shapes of what would be written with what the class of transformers has.

    Raises:
        DataError: lists what is missing, left over or of another shape.
    """
    with torch.device("meta"):
        model = network.build(network.config(config, special_ids))
    wanted = {key: value.shape for key, value in model.state_dict().items() if key not in network.tied}
    given = {key: origin.shape(weights) for key, origin in network.origins(config).items()}
    problems = [f"{key}: missing" for key in wanted.keys() - given.keys()]
    problems += [f"{key}: left over" for key in given.keys() - wanted.keys()]
    problems += [
        f"{key}: {tuple(given[key])}, expected {tuple(wanted[key])}"
        for key in wanted.keys() & given.keys()
        if given[key] != wanted[key]
    ]
    if problems:
        raise DataError(
            f"{network.name}: {'; '.join(sorted(problems)[:8])}; the checkpoint is of another model than its state says"
        )


def write_network(
    folder: Path,
    network: Network,
    weights: Weights,
    config: ModelConfig,
    special_ids: dict[str, int],
    shard_size: int,
    wrote: Callable[[str, int], None] = lambda name, size: None,
) -> None:
    """Write config and weights of one network; at most one file's tensors are in memory at a time.

    Args:
        folder: new folder.
        network: which.
        weights: where its numbers come from.
        config: of the model.
        special_ids: ids of special tokens.
        shard_size: bytes of a file, unless one tensor is larger.
        wrote: told of each tensor that was read (empty name, bytes) and each file that is written (name, its bytes).

    Raises:
        DataError: the checkpoint does not hold what the network needs.
    """
    from safetensors.torch import save_file

    from electra_ds.files import write_json

    check_complete(network, weights, config, special_ids)
    folder.mkdir(parents=True)
    network.config(config, special_ids).save_pretrained(str(folder))
    origins, total, numbers = network.origins(config), 0, 0
    files = plan_files(network, weights, config, shard_size)
    for name, keys in files.items():
        tensors = {}
        for key in keys:
            tensors[key] = origins[key].read(weights)
            wrote("", tensors[key].nbytes)
        save_file(tensors, str(folder / name), metadata={"format": "pt"})
        total += (size := sum(tensor.nbytes for tensor in tensors.values()))
        numbers += sum(tensor.numel() for tensor in tensors.values())
        wrote(name, size)
        del tensors
    if len(files) > 1:
        where = {key: name for name, keys in files.items() for key in keys}
        metadata = {"total_size": total, "total_parameters": numbers}
        write_json(folder / INDEX_NAME, {"metadata": metadata, "weight_map": where})


def add_tokenizer(folder: Path, tokenizer: Path) -> None:
    """Copy a tokenizer's files beside the weights."""
    for file in sorted(tokenizer.iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def write_export(
    output: Path,
    networks: Sequence[Network],
    config: ModelConfig,
    special_ids: dict[str, int],
    source: dict[str, Any],
) -> None:
    """Write `EXPORT_NAME`, by which the folders are known again."""
    from electra_ds.command_line import plain
    from electra_ds.files import write_json

    content = {
        "model": plain(config),
        "special_ids": special_ids,
        "networks": [network.name for network in networks],
        "source": source,
    }
    write_json(output / EXPORT_NAME, content)


def build_huggingface(
    weights: dict[str, Tensor], config: ModelConfig, special_ids: dict[str, int], network: str
) -> Any:
    """Stock `ElectraForPreTraining` or `ElectraForMaskedLM` with these weights, every key accounted for.

    Raises:
        DataError: a key is missing or left over, or what should be one tensor is not.
    """
    kind = GENERATOR if network == "generator" else DISCRIMINATOR
    stored = TensorWeights(weights)
    check_complete(kind, stored, config, special_ids)
    model = kind.build(kind.config(config, special_ids))
    state = {key: origin.read(stored) for key, origin in kind.origins(config).items()}
    model.load_state_dict({**state, **{tied: state[other] for tied, other in kind.tied.items()}})
    model.tie_weights()
    assert_tied(model, kind)
    return model.eval()


def assert_tied(model: Any, network: Network) -> None:
    """Refuse a model in which two names of one parameter have become two tensors.

    Replacing one of them leaves the other behind in `transformers`; after every load this is checked.
    """
    for tied, other in network.tied.items():
        if model.get_parameter(tied).data_ptr() != model.get_parameter(other).data_ptr():
            raise DataError(f"{network.name}: {tied} and {other} are two tensors, expected one")


def read_folders(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Load every network of an export with stock transformers.

    Returns:
        State dict of each network by its name, and the content of `EXPORT_NAME`.

    Raises:
        UserError: not an export of this project. DataError: damaged.
    """
    export = read_export(folder)
    states = {}
    for network in exported_networks(export).networks:
        try:
            model, report = network.huggingface_class.from_pretrained(
                str(folder / network.name), output_loading_info=True, dtype=torch.float32, use_safetensors=True
            )
        except Exception as error:
            raise DataError(f"{folder / network.name}: cannot be loaded ({str(error).splitlines()[0]})") from error
        if report["missing_keys"] or report["mismatched_keys"]:
            raise DataError(f"{folder / network.name}: parameters missing {sorted(report['missing_keys'])}")
        assert_tied(model, network)
        states[network.name] = model.state_dict()
    return states, export


def exported_networks(export: dict[str, Any]) -> Trained:
    """What an export holds, from the content of its `EXPORT_NAME`."""
    return trained_by(export.get("source", {}).get("state", {}).get("objective", {}))


def read_export(folder: Path) -> dict[str, Any]:
    """Content of `EXPORT_NAME`.

    Raises:
        UserError: not there, or not readable.
    """
    try:
        content = json.loads((folder / EXPORT_NAME).read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object in it")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: no readable {EXPORT_NAME} ({error}); expected a folder written by 'electra-ds convert'"
        ) from error
    return content
