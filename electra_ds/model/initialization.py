"""Initial weights, as Hugging Face or as Google's original draws them."""

from __future__ import annotations

import torch
from torch import nn

from electra_ds.model.config import ModelConfig
from electra_ds.model.embeddings import DeltaEmbeddings, TiedEmbedding
from electra_ds.model.encoder import Encoder
from electra_ds.model.heads import DiscriminatorHead


def initialize(model: nn.Module, config: ModelConfig) -> None:
    """Draw all weights from torch's global generator, in the order of `model.modules()`.

    `huggingface`: N(0, range), zero biases, [PAD] row zero. `google`: truncated at two sigma, and Glorot uniform for
    `embeddings_project` and the discriminator's last dense. Deltas of gdes start at zero.
    """
    google = config.initialization == "google"

    def normal(weight: torch.Tensor) -> None:
        if google:
            bound = 2 * config.initializer_range
            nn.init.trunc_normal_(weight, std=config.initializer_range, a=-bound, b=bound)
        else:
            nn.init.normal_(weight, std=config.initializer_range)

    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding, TiedEmbedding)):
            normal(module.weight)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, TiedEmbedding) and not google:
            with torch.no_grad():
                module.weight[module.padding_id].zero_()
    for module in model.modules():
        if isinstance(module, DeltaEmbeddings):
            nn.init.zeros_(module.word_delta.weight)
            if module.position_delta is not None:
                nn.init.zeros_(module.position_delta.weight)
        if google and isinstance(module, Encoder) and isinstance(module.embeddings_project, nn.Linear):
            nn.init.xavier_uniform_(module.embeddings_project.weight)
        if google and isinstance(module, DiscriminatorHead):
            nn.init.xavier_uniform_(module.prediction.weight)
