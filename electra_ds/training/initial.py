"""Weights to begin with: a full-size network, perhaps its generator, from Hugging Face folders into the joint module.

Rank 0 reads them before the engine is built and hands them to the others, so that they are the same under every ZeRO
stage. What does not match is refused as one list; what is new or left out is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from electra_ds.errors import DataError, UserError
from electra_ds.export.foreign import ROLES, ForeignModel, find_pair, read_vocabulary
from electra_ds.export.mapping import huggingface_config
from electra_ds.export.networks import GENERATOR, OBJECTIVES, Network, own_weights
from electra_ds.export.weights import TensorWeights
from electra_ds.model.config import ModelConfig
from electra_ds.model.pretraining import Pretraining
from electra_ds.training.config import InitConfig
from electra_ds.training.peers import Peers
from electra_ds.training.reshard import targets

NOISE = 0.1
"""Standard deviation of the noise on a new token's embedding, as a share of the old embeddings' own, by feature."""
_EMBEDDINGS = "electra.embeddings."
_WORD, _POSITION = f"{_EMBEDDINGS}word_embeddings.weight", f"{_EMBEDDINGS}position_embeddings.weight"
_BY_TOKEN = (_WORD, "generator_lm_head.bias")
_SIZES = {
    "discriminator": {
        "embedding_size": "model.embedding_size",
        "hidden_size": "model.hidden_size",
        "num_hidden_layers": "model.layers",
        "num_attention_heads": "model.heads",
        "intermediate_size": "model.intermediate_size",
        "type_vocab_size": "model.token_types",
        "layer_norm_eps": "model.layer_norm_eps",
        "hidden_act": "no recipe has another",
    },
    "generator": {
        "embedding_size": "model.embedding_size",
        "hidden_size": "model.generator_width times model.hidden_size",
        "num_hidden_layers": "model.generator_layers",
        "num_attention_heads": "the generator's hidden size / 64",
        "intermediate_size": "4 times the generator's hidden size",
        "type_vocab_size": "model.token_types",
        "layer_norm_eps": "model.layer_norm_eps",
        "hidden_act": "no recipe has another",
    },
}
"""Fields of `ElectraConfig` that decide shapes or what is computed, and what in a recipe sets them."""
_SHOWN = 12
"""Names that a line lists."""


@dataclass(frozen=True)
class Rows:
    """Which row of an old table each row of the new one comes from."""

    old: Tensor
    """Int64 [V]: row of the old table, or -1 for a new token."""
    used: Tensor
    """Int64: rows of the old table that have a token."""


_NO_ROWS = Rows(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))


def begin_from(
    model: Pretraining, init: InitConfig, tokenizer: Path, special_ids: dict[str, int], seed: int
) -> list[str]:
    """Fill a freshly initialised module that lies on the CPU.

    Args:
        model: the joint module.
        init: where the weights come from; `from_` is set.
        tokenizer: folder of the shards' tokenizer.
        special_ids: ids of special tokens in it.
        seed: of the noise on new embeddings.

    Returns:
        What was taken, made new and left out, a sentence a line.

    Raises:
        UserError: lists everything that does not match the recipe. DataError: a file cannot be read.
    """
    assert init.from_ is not None
    trained = OBJECTIVES[model.objective.name]
    main, smaller = trained.networks[0], trained.networks[1:]
    if not smaller and init.generator is not None:
        raise UserError(
            f"init.generator={init.generator}: objective.name={model.objective.name} trains no generator that this "
            "could be; leave it out"
        )
    folder, generator_folder = find_pair(init.from_, init.generator, main.name)
    lines: list[str] = []
    fresh = {name: parameter.detach() for name, parameter in model.named_parameters()}
    states: list[dict[str, Tensor]] = []
    for network, path in zip(trained.networks, (folder, generator_folder), strict=False):
        if path is None:
            states.append(_new_generator(fresh, states[0], model.config, lines))
            continue
        option = "init.from" if network is main else "init.generator"
        source = ForeignModel(path, option)
        noise = torch.Generator().manual_seed(seed)  # the same for both: what they share stays the same
        rows = _check(source, network, model.config, init, tokenizer, special_ids, fresh, option, lines)
        states.append(_state(source, network, model.config, init, rows, fresh, noise, lines))
    try:
        shapes = {name: value.shape for name, value in fresh.items()}
        weights = own_weights(trained.networks, states, model.config, shapes)
    except DataError as error:
        raise UserError(f"init.from: {error}") from error
    if new := sorted(fresh.keys() - weights.keys()):
        lines.append(f"new, as no model of transformers has them: {_some(new)}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    return lines


def hand_on(model: nn.Module, peers: Peers) -> None:
    """Give every rank the parameters of rank 0; on the model's device, before the engine is built."""
    if peers.place.world_size > 1:
        for parameter in model.parameters():
            torch.distributed.broadcast(parameter.data, 0)


def begin_masters(engine: Any, stage: int, weights: dict[str, Tensor]) -> None:
    """Give the optimizer's float32 weights the numbers that were loaded, not those that 16 bits have of them.

    Args:
        engine: that was built around the loaded module.
        stage: of ZeRO.
        weights: float32, on the CPU, by parameter, as they were before the engine took the module.
    """
    if getattr(engine.optimizer, "swap_optimizer", False):
        return  # on NVMe, out of reach: it begins with what 16 bits have
    with torch.no_grad():
        for target in targets(engine, stage):
            value = weights[target.name].view(-1)[target.begin : target.begin + target.count]
            target.of(target.owner).copy_(value)


def _check(
    source: ForeignModel,
    network: Network,
    config: ModelConfig,
    init: InitConfig,
    tokenizer: Path,
    special_ids: dict[str, int],
    fresh: dict[str, Tensor],
    option: str,
    lines: list[str],
) -> Rows:
    """Compare a model with the recipe.

    Returns:
        Which token's row goes where.

    Raises:
        UserError: the list of what does not match.
    """
    kind = source.config.get("model_type")
    problems = [] if kind == "electra" else [f"model_type: {kind} there, electra expected"]
    wanted = huggingface_config(config, special_ids, network.sizes)
    for name, setting in _SIZES[network.sizes].items():
        if name not in source.config and kind != "electra":
            continue
        found = source.config.get(name, _default(name))
        if found != wanted[name]:
            problems.append(f"{name}: {found} there, {wanted[name]} in the recipe ({setting})")
    if (style := source.config.get("position_embedding_type", "absolute")) != "absolute":
        problems.append(f"position_embedding_type: {style} there, absolute expected")
    stored = TensorWeights(fresh)
    shapes = {key: origin.shape(stored) for key, origin in network.origins(config).items()}
    prefix = _prefix(source)
    heads = [key for key in shapes if key.startswith(network.heads)]
    missing = [key for key in shapes if key not in heads and _key(key, prefix) not in source.shapes]
    if missing:
        begins = sorted({key.split(".")[0] for key in source.shapes})
        problems.append(
            f"{len(missing)} tensors are not there ({_some(missing)}; its names begin with {_some(begins)})"
        )
    if not problems:  # else they follow from the sizes
        for key, shape in shapes.items():
            theirs = source.shapes.get(_key(key, prefix), shape)
            free = key in _BY_TOKEN or key == _POSITION
            if theirs[1:] != shape[1:] or (theirs != shape and not free):
                problems.append(f"{key}: {tuple(theirs)} there, {tuple(shape)} in the recipe")
    positions = source.shapes.get(_key(_POSITION, prefix))
    if positions is not None and positions[0] != config.max_positions and init.positions == "same":
        problems.append(
            f"positions: {positions[0]} there, {config.max_positions} in the recipe (model.max_positions; or "
            "init.positions resize)"
        )
    words = source.shapes.get(_key(_WORD, prefix))
    rows = _NO_ROWS
    if words is not None:
        rows, trouble = _match(source, words[0], init, tokenizer, special_ids, config, network, lines)
        problems += trouble
    if problems:
        raise UserError(f"{option}: {source.folder} does not fit the recipe: {'; '.join(problems)}")
    return rows


def _match(
    source: ForeignModel,
    count: int,
    init: InitConfig,
    tokenizer: Path,
    special_ids: dict[str, int],
    config: ModelConfig,
    network: Network,
    lines: list[str],
) -> tuple[Rows, list[str]]:
    """Match tokens by spelling, special ones by role; what stands against it."""
    size = config.vocab_size or 0
    ours, theirs = read_vocabulary(tokenizer), source.vocabulary()
    if ours is None:
        raise DataError(f"{tokenizer}: the shards' tokenizer has no file that transformers loads")
    if theirs is None:
        if init.vocabulary != "same":
            return _NO_ROWS, [
                f"tokenizer: none lies in {source.folder}, so init.vocabulary={init.vocabulary} cannot match tokens; "
                "copy tokenizer.json or vocab.txt beside the weights"
            ]
        if count != size:
            return _NO_ROWS, [f"vocabulary: {count:,} tokens there, {size:,} in the shards'"]
        lines.append(f"{network.name}: no tokenizer lies beside it, so only the number of tokens was compared")
        return Rows(torch.arange(size), torch.arange(size)), []
    spelled, roles = theirs
    old = torch.full((size,), -1, dtype=torch.long)
    for token, id_ in ours[0].items():
        if id_ < size and spelled.get(token, count) < count:
            old[id_] = spelled[token]
    for role in ROLES:
        if role in roles and roles[role] < count:
            old[special_ids[role]] = roles[role]
    matched, used = int((old >= 0).sum()), {id_ for id_ in spelled.values() if id_ < count}
    rows = Rows(old, torch.tensor(sorted(used), dtype=torch.long))
    if init.vocabulary == "same":
        same = int((old == torch.arange(size)).sum())
        if same != size or len(used) != size:
            return rows, [
                f"vocabulary: {len(used):,} tokens there, {size:,} in the shards', {same:,} of them the same; prepare "
                "the shards with its tokenizer (--tokenizer.type existing --tokenizer.path ...), or set "
                "init.vocabulary to extend or replace"
            ]
    lost = used - set(old.tolist())
    if init.vocabulary == "extend" and lost:
        names = sorted(token for token, id_ in spelled.items() if id_ in lost)
        return rows, [
            f"vocabulary: {len(lost):,} of its {len(used):,} tokens are not in the shards' ({_some(names)}), so that "
            "is no extension; init.vocabulary replace gives them up"
        ]
    if init.vocabulary != "same":
        how = "the mean of the old ones and a little noise" if init.new_rows == "mean" else "random"
        lines.append(
            f"{network.name}: {matched:,} of {size:,} tokens keep their embeddings, {size - matched:,} are new ({how}),"
            f" {len(lost):,} of the old {len(used):,} are given up"
        )
    return rows, []


def _state(
    source: ForeignModel,
    network: Network,
    config: ModelConfig,
    init: InitConfig,
    rows: Rows,
    fresh: dict[str, Tensor],
    noise: torch.Generator,
    lines: list[str],
) -> dict[str, Tensor]:
    """State dict of the network: the model's tensors, rows matched, and new heads where it has none."""
    stored, prefix, state = TensorWeights(fresh), _prefix(source), {}
    made, taken = [], {_key(key, prefix) for key in network.tied}
    for key, origin in network.origins(config).items():
        name = _key(key, prefix)
        if name not in source.shapes:
            state[key] = origin.read(stored)
            made.append(key)
            continue
        value = source.tensor(name)
        if key in _BY_TOKEN:
            value = _take_rows(value, rows, init, config.initializer_range, noise)
        elif key == _POSITION:
            value = value[torch.arange(config.max_positions) % len(value)]
        state[key] = value
        taken.add(name)
    for tied, other in network.tied.items():
        if tied in source.shapes and not torch.equal(source.tensor(tied), source.tensor(_key(other, prefix))):
            raise UserError(f"{source.folder}: {tied} and {_key(other, prefix)} differ, expected one tensor")
    left = sorted(source.shapes.keys() - taken)
    lines.append(f"{network.name}: {len(state) - len(made)} tensors from {source.folder}")
    if made:
        lines.append(f"{network.name}: new, as it has none: {', '.join(made)}")
    if left:
        lines.append(f"{network.name}: left out, as nothing here takes them: {_some(left)}")
    if (length := source.shapes[_key(_POSITION, prefix)][0]) != config.max_positions:
        how = "repeated from the first on" if length < config.max_positions else "the last ones cut"
        lines.append(f"{network.name}: {length} positions became {config.max_positions}, {how}")
    return state


def _new_generator(
    fresh: dict[str, Tensor], discriminator: dict[str, Tensor], config: ModelConfig, lines: list[str]
) -> dict[str, Tensor]:
    """A generator for a discriminator that came alone: its embeddings, and all of its encoder if that is shared."""
    stored, made = TensorWeights(fresh), []
    state = {}
    for key, origin in GENERATOR.origins(config).items():
        shared = key.startswith(_EMBEDDINGS) or (config.sharing == "all_tied" and key.startswith("electra."))
        state[key] = discriminator[key] if shared else origin.read(stored)
        if not shared:
            made.append(key)
    lines.append(
        f"generator: none was given; its embeddings are the discriminator's, {len(made)} tensors are new "
        f"({_some(made)})"
    )
    return state


def _take_rows(table: Tensor, rows: Rows, init: InitConfig, spread: float, noise: torch.Generator) -> Tensor:
    """The new table [V, ...] of an old one: rows that have a match, and made-up ones."""
    new = table[rows.old.clamp(min=0)]
    missing = rows.old < 0
    if missing.any():
        used = table[rows.used]
        shape = (int(missing.sum()), *table.shape[1:])
        drawn = torch.randn(shape, generator=noise)
        if init.new_rows == "mean":
            deviation = used.std(0) if table.dim() > 1 else torch.zeros(())
            new[missing] = used.mean(0) + NOISE * deviation * drawn
        else:
            new[missing] = spread * drawn if table.dim() > 1 else torch.zeros(shape)
    return new


def _prefix(source: ForeignModel) -> str:
    """What stands before the names of an encoder's tensors: nothing, where the encoder was saved on its own."""
    return "" if "embeddings.word_embeddings.weight" in source.shapes else "electra."


def _key(key: str, prefix: str) -> str:
    """Name in the model of a tensor that `network.origins` names."""
    return prefix + _inner(key) if key.startswith("electra.") else key


def _inner(key: str) -> str:
    return key.removeprefix("electra.")


def _default(name: str) -> Any:
    from transformers import ElectraConfig

    return getattr(ElectraConfig(), name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
