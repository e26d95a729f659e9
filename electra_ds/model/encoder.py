"""Post-LayerNorm BERT encoder over packed rows.

Shape legend: B rows, L tokens, E embedding size, H heads, D features of a head, F hidden size (H x D).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from electra_ds.kernels.attention import attention


class Layer(nn.Module):
    """One transformer layer: attention and feed-forward, each followed by dropout, residual and LayerNorm."""

    def __init__(
        self, hidden_size: int, heads: int, intermediate_size: int, dropout: float, attention_dropout: float, eps: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_output = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=eps)
        self.intermediate = nn.Linear(hidden_size, intermediate_size)
        self.output = nn.Linear(intermediate_size, hidden_size)
        self.output_norm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Map [B, L, F] to [B, L, F]; `bias` [B, 1, L, L] confines attention to segments."""
        rows, length, features = hidden.shape
        projected = self.qkv(hidden).view(rows, length, 3, self.heads, features // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        context = attention(query, key, value, bias, self.attention_dropout if self.training else 0.0)
        context = context.transpose(1, 2).reshape(rows, length, features)
        hidden = self.attention_norm(hidden + self._drop(self.attention_output(context)))
        expanded = functional.gelu(self.intermediate(hidden))
        return self.output_norm(hidden + self._drop(self.output(expanded)))

    def _drop(self, value: Tensor) -> Tensor:
        return functional.dropout(value, self.dropout, self.training) if self.dropout else value


class Encoder(nn.Module):
    """Dropout, projection from the embedding size where it differs, and the layers."""

    def __init__(
        self,
        embedding_size: int,
        hidden_size: int,
        heads: int,
        intermediate_size: int,
        layers: int,
        dropout: float,
        attention_dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.embeddings_project = (
            nn.Linear(embedding_size, hidden_size) if embedding_size != hidden_size else nn.Identity()
        )
        self.layers = nn.ModuleList(
            Layer(hidden_size, heads, intermediate_size, dropout, attention_dropout, eps) for _ in range(layers)
        )

    def forward(self, embedded: Tensor, bias: Tensor) -> Tensor:
        """Map embeddings [B, L, E] to hidden states [B, L, F]."""
        if self.dropout:
            embedded = functional.dropout(embedded, self.dropout, self.training)
        hidden = self.embeddings_project(embedded)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return hidden
