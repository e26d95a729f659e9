"""Post-LayerNorm BERT encoder over packed rows.

Shape legend: B rows, L tokens, E embedding size, H heads, D features of a head, F hidden size (H x D).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from electra_ds.kernels.attention import Layout, attention
from electra_ds.kernels.config import Backends
from electra_ds.kernels.dropout import dropout
from electra_ds.kernels.gelu import bias_gelu
from electra_ds.kernels.layer_norm import dropout_add_layer_norm

LAYER_SITES = 3
"""Places of a layer that drop: attention probabilities, and both sublayers' outputs."""


class ResidualNorm(nn.LayerNorm):
    """LayerNorm of a residual and a sublayer's output with dropout; uses its weights through its own call."""

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        bias: Tensor | None,
        residual: Tensor,
        keys: Tensor | None,
        probability: float,
        backend: str,
    ) -> Tensor:
        """See `kernels.layer_norm.dropout_add_layer_norm`."""
        return dropout_add_layer_norm(
            hidden, bias, residual, self.weight, self.bias, self.eps, keys, probability, backend
        )


class Layer(nn.Module):
    """One transformer layer: attention and feed-forward, each followed by dropout, residual and LayerNorm."""

    def __init__(
        self, hidden_size: int, heads: int, intermediate_size: int, dropout: float, attention_dropout: float, eps: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.backends = Backends()
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_output = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = ResidualNorm(hidden_size, eps=eps)
        self.intermediate = nn.Linear(hidden_size, intermediate_size)
        self.output = nn.Linear(intermediate_size, hidden_size)
        self.output_norm = ResidualNorm(hidden_size, eps=eps)

    def forward(self, hidden: Tensor, layout: Layout, keys: Tensor | None) -> Tensor:
        """Map [B, L, F] to [B, L, F]; `layout` confines attention to segments, `keys` int32 [3, B, 2] drop."""
        rows, length, features = hidden.shape
        backends = self.backends
        attention_keys, first_keys, second_keys = (None, None, None) if keys is None else keys.unbind(0)
        projected = self.qkv(hidden).view(rows, length, 3, self.heads, features // self.heads)
        context = attention(projected, layout, self.attention_dropout, attention_keys, backends.attention)
        product, bias = _product(self.attention_output, context, backends.takes_bias("layer_norm"))
        hidden = self.attention_norm(product, bias, hidden, first_keys, self.dropout, backends.layer_norm)
        product, bias = _product(self.intermediate, hidden, backends.takes_bias("gelu"))
        expanded = bias_gelu(product, bias, backends.gelu)
        product, bias = _product(self.output, expanded, backends.takes_bias("layer_norm"))
        return self.output_norm(product, bias, hidden, second_keys, self.dropout, backends.layer_norm)


def _product(linear: nn.Linear, value: Tensor, apart: bool) -> tuple[Tensor, Tensor | None]:
    """A linear layer's matrix product and its bias, which the next operation adds; or both in one, and None."""
    if apart:
        return functional.linear(value, linear.weight), linear.bias
    return linear(value), None


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
        self.recomputes = False
        self.embeddings_project = (
            nn.Linear(embedding_size, hidden_size) if embedding_size != hidden_size else nn.Identity()
        )
        self.layers = nn.ModuleList(
            Layer(hidden_size, heads, intermediate_size, dropout, attention_dropout, eps) for _ in range(layers)
        )

    @property
    def sites(self) -> int:
        """Places that drop (count): one after the embeddings, and each layer's."""
        return 1 + LAYER_SITES * len(self.layers)

    def forward(self, embedded: Tensor, layout: Layout, keys: Tensor | None = None) -> Tensor:
        """Map embeddings [B, L, E] to hidden states [B, L, F]; `keys` int32 [sites, B, 2], or None to drop nothing."""
        hidden = self.embeddings_project(dropout(embedded, None if keys is None else keys[0], self.dropout))
        for number, layer in enumerate(self.layers):
            begin = 1 + LAYER_SITES * number
            own = None if keys is None else keys[begin : begin + LAYER_SITES]
            if self.recomputes and self.training:
                # Dropout by counters comes out the same again; attention kernels on a GPU draw from torch's generator.
                draws = hidden.device.type == "cuda"
                hidden = checkpoint(layer, hidden, layout, own, use_reentrant=False, preserve_rng_state=draws)
            else:
                hidden = layer(hidden, layout, own)
        return hidden
