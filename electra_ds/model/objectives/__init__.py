"""What can be learned from the same text: one class an objective, all behind the same call (docs/objectives.md)."""

from __future__ import annotations

from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.electra import Electra
from electra_ds.model.masking import SpecialIds
from electra_ds.model.objectives.all_tokens_mlm import AllTokensMLM
from electra_ds.model.objectives.electra_15 import Electra15
from electra_ds.model.objectives.electric import Electric
from electra_ds.model.objectives.mlm import MaskedLM
from electra_ds.model.objectives.replace_mlm import ReplaceMLM
from electra_ds.model.pretraining import Pretraining

OBJECTIVES: dict[str, type[Pretraining]] = {
    "electra": Electra,
    "electra_15": Electra15,
    "mlm": MaskedLM,
    "replace_mlm": ReplaceMLM,
    "all_tokens_mlm": AllTokensMLM,
    "electric": Electric,
}
"""By ``objective.name``."""


def build(config: ModelConfig, objective: ObjectiveConfig, special: SpecialIds) -> Pretraining:
    """The module of an objective, its weights drawn from torch's global generator.

    Args:
        config: sizes; the vocabulary must be known.
        objective: what is learned.
        special: ids of special tokens.

    Raises:
        ValueError: the objective has no use for this way of sharing.
    """
    return OBJECTIVES[objective.name](config, objective, special)
