"""The two networks of a pair and their tokenizer, found, loaded and checked against each other."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from electra_ds.errors import DataError, UserError
from electra_ds.finetune import models
from electra_ds.finetune.models import check_vocabulary, first_line, quiet_libraries
from electra_ds.finetune.tables import HUB

DISCRIMINATOR, GENERATOR, ENCODER = "discriminator", "generator", "encoder"
READS_REPLACEMENTS = ("replace_mlm", "all_tokens_mlm")
"""Objectives whose full-size network restores tokens and was never shown [MASK]."""
EXPORT_NAME = "electra_ds.json"
ANY_LENGTH = 1 << 30
"""Tokens, where a network has no table of positions."""


@dataclass(frozen=True)
class Pair:
    """What was found of a model."""

    networks: dict[str, Any]
    """``discriminator`` (ElectraForPreTraining), ``generator`` and ``encoder`` (masked language models; the encoder
    is the full-size network of an objective that restores tokens): those that are there."""
    sources: dict[str, str]
    """Where each comes from."""
    tokenizer: Any
    export: dict[str, Any] = field(default_factory=dict)
    """electra_ds.json of the folder, empty where there is none."""

    @property
    def discriminator(self) -> Any | None:
        """None where the model has none."""
        return self.networks.get(DISCRIMINATOR)

    @property
    def generator(self) -> Any | None:
        """None where the model has none."""
        return self.networks.get(GENERATOR)

    @property
    def encoder(self) -> Any | None:
        """None where the objective leaves a discriminator."""
        return self.networks.get(ENCODER)

    @property
    def max_positions(self) -> int:
        """Longest sequence that every network takes (tokens)."""
        return min(usable_positions(network) for network in self.networks.values())

    @property
    def state(self) -> dict[str, Any]:
        """The checkpoint's state that the export tells of, empty where it tells none."""
        return _state(self.export)

    @property
    def objective(self) -> str | None:
        """Name of the objective that trained it; None where no export tells."""
        return objective_name(self.export)


def find_networks(model: str, generator: str | None = None) -> dict[str, str]:
    """Say where the networks of a model are, before anything slow is imported.

    Args:
        model: a folder of ``electra-ds convert``, a folder of one network, or ``hf:NAME`` of a discriminator.
        generator: a folder or ``hf:NAME`` of a masked language model in place of the model's own.

    Returns:
        Folder or ``hf:NAME`` by ``discriminator`` (or ``encoder``, where the objective restores tokens) and
        ``generator``, those that are there; the full-size network first.

    Raises:
        DataError: no such folder, or nothing in it that can be evaluated.
    """
    found: dict[str, str] = {}
    if model.startswith(HUB):
        found[DISCRIMINATOR] = model
    else:
        folder = Path(model)
        if not folder.is_dir():
            raise DataError(
                f"model: no folder {model}; name one that 'electra-ds convert' made, or hf:NAME for the hub"
            )
        if (folder / "config.json").is_file():
            kind = _kind(folder)
            exported = folder.name == ENCODER and (folder.parent / EXPORT_NAME).is_file()
            found[ENCODER if exported and kind == GENERATOR else kind] = str(folder)
        else:
            there = [name for name in (DISCRIMINATOR, ENCODER, GENERATOR) if (folder / name / "config.json").is_file()]
            if DISCRIMINATOR in there and ENCODER in there:
                there.remove(ENCODER)
            found = {name: str(folder / name) for name in there}
        if not found:
            run = "; it is a run folder: 'electra-ds convert' makes a model of it" if _is_run(folder) else ""
            raise DataError(
                f"model: {model} is not a model folder, it holds neither discriminator/ nor generator/ nor encoder/ "
                f"nor a config.json{run}"
            )
    if generator is not None:
        if not generator.startswith(HUB):
            if not (Path(generator) / "config.json").is_file():
                raise DataError(f"generator: no config.json in {generator}; name a folder with a masked language model")
            if _kind(Path(generator)) != GENERATOR:
                raise DataError(f"generator: {generator} holds a discriminator, expected a masked language model")
        found[GENERATOR] = generator
    return found


def find_scorers(model: str, generator: str | None = None) -> dict[str, str]:
    """`find_networks` for texts that are scored by masks and verdicts: an encoder takes the generator's place.

    Raises:
        UserError: a generator is named beside an encoder. DataError: as `find_networks`.
    """
    found = find_networks(model, generator)
    if ENCODER not in found:
        return found
    if generator is not None:
        raise UserError(
            f"generator: {generator}, but {found[ENCODER]} fills masks in by its own head; leave --generator out, or "
            "name that generator as --model"
        )
    return {GENERATOR: found[ENCODER]}


def scorer_notes(pair: Pair) -> list[str]:
    """What a reader must know of the networks of `find_scorers`: one sentence or two for each thing."""
    name, notes = pair.objective, []
    if is_encoder(pair.sources.get(GENERATOR)):
        said = "What is called generator here is encoder/, the full-size network"
        said += f" that objective {name} trained, by its vocabulary head." if name else ", by its vocabulary head."
        if name in READS_REPLACEMENTS:
            said += (
                " The small generator/ beside it is left out. Training showed the full-size network that generator's "
                "samples and never [MASK], so masks are foreign to it."
            )
        if name == "all_tokens_mlm":
            said += " Its copy gate has no place in an export: the head is scored without it."
        notes.append(said)
    if name == "electric" and DISCRIMINATOR in pair.sources:
        notes.append(
            "The discriminator's logit is the energy that objective electric learns, not the log odds of having been "
            "replaced: what is called log P(original) falls as the energy rises, and is no probability."
        )
    if name == "electra_15" and DISCRIMINATOR in pair.sources:
        notes.append(
            "Objective electra_15 trained the discriminator's verdict at selected positions alone; here it is asked "
            "about others too."
        )
    return notes


def is_encoder(source: str | None) -> bool:
    """Whether a source is the folder in which ``electra-ds convert`` puts a full-size masked language model."""
    return source is not None and not source.startswith(HUB) and Path(source).name == ENCODER


def _kind(folder: Path) -> str:
    """Which of the two a folder of one network holds."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        names = [str(name) for name in config.get("architectures") or ()]
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"model: {folder / 'config.json'} cannot be read ({error})") from error
    if any(name.endswith("ForMaskedLM") for name in names):
        return GENERATOR
    if "ElectraForPreTraining" in names:
        return DISCRIMINATOR
    raise DataError(
        f"model: {folder} holds {', '.join(names) or 'a network without a name'}, expected an ElectraForPreTraining or "
        "a masked language model; a fine-tuned model is for 'electra-ds evaluate robustness'"
    )


def _is_run(folder: Path) -> bool:
    return (folder / "checkpoints").is_dir() or (folder / "metrics.jsonl").is_file()


def load_pair(sources: dict[str, str]) -> Pair:
    """Load networks and tokenizer, on the CPU in float32.

    Raises:
        DataError: weights or tokenizer missing, damaged, with code in them, or not of one model.
    """
    for source in sources.values():
        models.refuse_code(source)
    with quiet_libraries():
        networks = {name: _load(name, source) for name, source in sources.items()}
        tokenizer = load_tokenizer(next(iter(sources.values())))
    sizes = {name: network.config.vocab_size for name, network in networks.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"model: its networks have vocabularies of {sizes}; they do not belong together")
    for name, source in sources.items():
        check_vocabulary(source, tokenizer, networks[name].config.vocab_size)
    if tokenizer.mask_token_id is None:
        raise DataError(f"model: the tokenizer of {next(iter(sources.values()))} has no mask token")
    return Pair(networks, sources, tokenizer, read_export(sources))


def _load(name: str, source: str) -> Any:
    import torch
    from transformers import AutoModelForMaskedLM, ElectraForPreTraining

    kind = ElectraForPreTraining if name == DISCRIMINATOR else AutoModelForMaskedLM
    try:
        network, report = kind.from_pretrained(
            source.removeprefix(HUB), dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # transformers, safetensors and the hub's client each raise their own kinds
        raise DataError(f"{name}: the weights of {source} cannot be loaded ({first_line(error)})") from error
    if missing := sorted(report["missing_keys"]):
        raise DataError(
            f"{name}: {source} has no weights for {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; "
            f"expected a whole {kind.__name__}"
        )
    return network.eval()


def load_tokenizer(source: str) -> Any:
    """Load the tokenizer that lies beside weights.

    Raises:
        DataError: none, one without padding, or one that does not say where its tokens stand in a text.
    """
    tokenizer = models.load_tokenizer(source)
    models.require_offsets(tokenizer, source)
    return tokenizer


def read_export(sources: dict[str, str]) -> dict[str, Any]:
    """electra_ds.json beside the folder of the first network, the full-size one; empty where there is none.

    Raises:
        DataError: it cannot be read.
    """
    source = next(iter(sources.values()))
    path = Path(source).parent / EXPORT_NAME
    if source.startswith(HUB) or not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); convert the checkpoint again") from error
    return value if isinstance(value, dict) else {}


def _state(export: dict[str, Any]) -> dict[str, Any]:
    state = (export.get("source") or {}).get("state")
    return state if isinstance(state, dict) else {}


def objective_name(export: dict[str, Any]) -> str | None:
    """Name of the objective that an export was trained by; None where it tells none."""
    told = _state(export).get("objective")
    return str(told.get("name", "electra")) if isinstance(told, dict) and told else None


def random_pair(pair: Pair, seed: int) -> Pair:
    """Networks of the same shapes with random weights, as transformers initialises them."""
    import torch

    networks = {}
    for number, (name, network) in enumerate(pair.networks.items()):
        with torch.random.fork_rng(devices=[]), quiet_libraries():
            torch.manual_seed(2 * seed + number)
            networks[name] = type(network)(copy.deepcopy(network.config)).eval()
    return Pair(networks, dict.fromkeys(networks, f"random weights, seed {seed}"), pair.tokenizer)


def left_out(pair: Pair, without: dict[str, str]) -> list[str]:
    """One sentence for each network that is not there: `without` says by name what cannot be measured."""
    return [f"{_why_missing(pair, name)}: {what}." for name, what in without.items() if name not in pair.networks]


def _why_missing(pair: Pair, name: str) -> str:
    objective = pair.objective
    if name == DISCRIMINATOR and objective in ("mlm", *READS_REPLACEMENTS):
        return f"Objective {objective} trains no discriminator"
    if name == GENERATOR and objective == "electric":
        return "The generator of objective electric, two causal towers, has no place in an export"
    return f"No {name} was found"


def usable_positions(network: Any) -> int:
    """Longest sequence that a network takes (tokens), by `finetune.models.usable_positions`; `ANY_LENGTH`: any."""
    positions = models.usable_positions(network.config)
    return ANY_LENGTH if positions is None else positions


def require_limit(asked: int | None, limit: int, option: str) -> int:
    """The longest sequence to use, within what the network takes.

    Raises:
        UserError: more is asked for.
    """
    if asked is not None and asked > limit:
        raise UserError(f"{option}: {asked}, but the model takes {limit} tokens; choose at most that")
    return limit if asked is None else asked
