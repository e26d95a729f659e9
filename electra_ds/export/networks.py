"""Which networks a checkpoint has, and what each becomes: the one table that export, verification and cards read.

An objective that trains other networks adds its line to `OBJECTIVES`, and a `Network` if none here fits. The full-size
network of every objective is called ``discriminator`` in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from electra_ds.errors import DataError
from electra_ds.export.mapping import (
    Origins,
    State,
    discriminator_origins,
    encoder_with_vocabulary_origins,
    generator_origins,
    huggingface_config,
    to_own,
)
from electra_ds.export.weights import Weights
from electra_ds.model.config import ModelConfig

EXPORT_NAME = "electra_ds.json"
"""Beside the networks' folders: the model's config and where the weights come from, so that they can be read back."""


@dataclass(frozen=True)
class Network:
    """One network of a checkpoint, and the class of transformers that it becomes."""

    name: str
    """Of its folder."""
    class_name: str
    """In transformers."""
    sizes: Literal["generator", "discriminator"]
    """Whose sizes in the model's config it has."""
    origins: Callable[[ModelConfig], Origins]
    """Where each of its tensors comes from."""
    head: Literal["generator_head", "discriminator_head", "vocabulary_head"]
    """Name of its pretraining head in our module."""
    use: str
    """What it is for, in the model card; {name} stands for where it lies."""
    tied: dict[str, str] = field(default_factory=dict)
    """Parameters that are not stored, as they are one with another: theirs to that other."""
    heads: tuple[str, ...] = ()
    """Prefixes of the parameters of its pretraining head."""

    def config(self, model: ModelConfig, special_ids: dict[str, int]) -> Any:
        """`ElectraConfig` of this network."""
        from transformers import ElectraConfig

        return ElectraConfig(
            architectures=[self.class_name], dtype="float32", **huggingface_config(model, special_ids, self.sizes)
        )

    def build(self, config: Any) -> Any:
        """An instance of its class, as transformers initialises it."""
        return self.huggingface_class(config)

    @property
    def huggingface_class(self) -> Any:
        """Its class."""
        import transformers

        return getattr(transformers, self.class_name)


DISCRIMINATOR = Network(
    name="discriminator",
    class_name="ElectraForPreTraining",
    sizes="discriminator",
    origins=discriminator_origins,
    head="discriminator_head",
    use=(
        "This is the network to fine-tune. For every token it says whether it was replaced.\n\n"
        "```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'model = AutoModelForSequenceClassification.from_pretrained("{name}", num_labels=2)\n'
        'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```'
    ),
    heads=("discriminator_predictions.",),
)
GENERATOR = Network(
    name="generator",
    class_name="ElectraForMaskedLM",
    sizes="generator",
    origins=generator_origins,
    head="generator_head",
    use=(
        "This is the small network that filled masked tokens during pretraining. Fine-tune the discriminator instead; "
        "the generator serves to continue pretraining.\n\n"
        "```python\nfrom transformers import AutoTokenizer, ElectraForMaskedLM\n\n"
        'model = ElectraForMaskedLM.from_pretrained("{name}")\n'
        'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```'
    ),
    tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    heads=("generator_predictions.", "generator_lm_head.bias"),
)

ENCODER = Network(
    name="encoder",
    class_name="ElectraForMaskedLM",
    sizes="discriminator",
    origins=encoder_with_vocabulary_origins,
    head="vocabulary_head",
    use=(
        "This is the network to fine-tune. Pretraining taught it to restore tokens, and the head for that is with "
        "it.\n\n"
        "```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'model = AutoModelForSequenceClassification.from_pretrained("{name}", num_labels=2)\n'
        'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```'
    ),
    tied=GENERATOR.tied,
    heads=GENERATOR.heads,
)
ENERGY = replace(
    DISCRIMINATOR,
    use=DISCRIMINATOR.use.replace(
        "For every token it says whether it was replaced.",
        "For every token it gives an energy: the higher, the less likely the token is in its context.",
    ),
)


@dataclass(frozen=True)
class Trained:
    """What an objective leaves in a checkpoint."""

    networks: tuple[Network, ...]
    """Those that are exported, the one to fine-tune first."""
    left_out: tuple[str, ...] = ()
    """Prefixes of parameters that no class of transformers has a place for."""


OBJECTIVES: dict[str, Trained] = {
    "electra": Trained((DISCRIMINATOR, GENERATOR)),
    "electra_15": Trained((DISCRIMINATOR, GENERATOR)),
    "mlm": Trained((ENCODER,)),
    "replace_mlm": Trained((ENCODER, GENERATOR)),
    "all_tokens_mlm": Trained((ENCODER, GENERATOR), ("vocabulary_head.copy_gate.",)),
    "electric": Trained((ENERGY,), ("generator.", "generator_head.")),
}
"""By ``objective.name``."""


def trained_by(objective: dict[str, Any]) -> Trained:
    """What a checkpoint holds, from the objective in its state.

    Raises:
        DataError: this release cannot export that objective.
    """
    name = objective.get("name", "electra")
    if name not in OBJECTIVES:
        raise DataError(
            f"objective.name={name}: this release exports {', '.join(OBJECTIVES)}; convert it with the release that "
            "trained it"
        )
    return OBJECTIVES[name]


def own_weights(
    networks: Sequence[Network], states: Sequence[State], config: ModelConfig, shapes: Mapping[str, torch.Size]
) -> State:
    """Our parameters from the state dicts of some networks; see `mapping.to_own`."""
    parts = [(network.origins(config), state) for network, state in zip(networks, states, strict=True)]
    return to_own(parts, shapes, config.sharing)


def left_out(trained: Trained, weights: Weights, config: ModelConfig) -> list[str]:
    """Parameters of a checkpoint that no folder will have.

    Raises:
        DataError: there are some that nobody knows of.
    """
    origins = [origin for network in trained.networks for origin in network.origins(config).values()]
    used = {name for origin in origins for name in (origin.name, origin.plus)}
    unused = sorted(weights.shapes.keys() - used)
    unknown = _without(unused, trained.left_out)
    if unknown:
        raise DataError(
            f"the checkpoint has parameters that belong to none of its networks ({', '.join(unknown[:3])}): it is of "
            "another model than its state says"
        )
    return unused


def _without(names: Sequence[str], prefixes: tuple[str, ...]) -> list[str]:
    return [name for name in names if not name.startswith(prefixes)] if prefixes else list(names)
