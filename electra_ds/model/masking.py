"""Which positions the generator must fill in (arXiv 2003.10555, section 2; `mask` in the original pretrain_helpers.py).

Shape legend: B rows, L tokens, K = `max_selected`, the static number of slots for selected positions of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from electra_ds.model import noise
from electra_ds.model.words import span_begins, take_units, word_begins


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens, as the shards' tokenizer numbers them."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True)
class Selection:
    """Selected positions of a batch.

    Attributes:
        positions: int64 [B, K], ascending within the valid ones; 0 where not valid.
        valid: bool [B, K].
        generator_ids: int64 [B, L], the text with [MASK] (or a random token) at most selected positions.
    """

    positions: Tensor
    valid: Tensor
    generator_ids: Tensor


def max_selected(mask_fraction: float, length: int) -> int:
    """Most positions that a row of `length` tokens can have selected: int((p + .005) L), at least 1."""
    return min(length, max(1, int((mask_fraction + 0.005) * length)))


def selected_count(real: Tensor, candidates: Tensor, mask_fraction: float, length: int) -> Tensor:
    """How many positions to select, int64 [B].

    Args:
        real: int64 [B], real tokens with [CLS] and [SEP].
        candidates: int64 [B], tokens that may be selected.
        mask_fraction: share of real tokens.
        length: L.
    """
    wanted = torch.round(real.to(torch.float64) * mask_fraction).to(torch.int64)  # half to even, as Python rounds
    return torch.minimum(wanted.clamp(1, max_selected(mask_fraction, length)), candidates)


def select(
    input_ids: Tensor,
    segments: Tensor,
    keys: Tensor,
    special: SpecialIds,
    mask_fraction: float,
    mask_token_probability: float,
    masking: str = "token",
    continues: Tensor | None = None,
    random_token_probability: float = 0.0,
    vocab_size: int | None = None,
) -> Selection:
    """Draw positions without replacement, and put [MASK] at most of them.

    Without replacement, unlike the original, where 7-12% of positions come twice. [CLS], [SEP], [MASK] and padding are
    never selected, [UNK] may be. A row without candidates has none. Whole words and n-grams are drawn until no other
    fits into the same count, so they may select somewhat less; whether a token becomes [MASK] is decided token by token
    with them too, as BERT's whole word masking does, so that the shares of step 2 stay what they are.

    Args:
        input_ids: int64 [B, L].
        segments: int64 [B, L], 0 at padding; words end with their segment.
        keys: int64 [B], from `noise.row_keys`.
        special: ids of special tokens.
        mask_fraction: share of real tokens to select.
        mask_token_probability: chance of a selected position to become [MASK].
        masking: what is drawn: "token", "whole_word" or "ngram".
        continues: bool [V], tokens that go on with the word before them; needed unless `masking` is "token".
        random_token_probability: chance of a selected position to become a random token, special ones and the original
            included, as BERT draws them (create_pretraining_data.py).
        vocab_size: entries that a random token is drawn from.

    Raises:
        ValueError: words are wanted and `continues` is missing, or random tokens without `vocab_size`.
    """
    length = input_ids.shape[1]
    index = torch.arange(length, device=input_ids.device)
    real = segments > 0
    candidates = selectable(input_ids, segments, special)
    count = selected_count(real.sum(1), candidates.sum(1), mask_fraction, length)
    slots = max_selected(mask_fraction, length)
    if masking == "token":
        score = noise.bits(keys[:, None], index[None, :], noise.SELECT)
        score = score.masked_fill(~candidates, torch.iinfo(torch.int64).max)
        chosen = score.topk(slots, dim=1, largest=False, sorted=True).indices
        valid = torch.arange(slots, device=input_ids.device)[None, :] < count[:, None]
        positions = chosen.masked_fill(~valid, length).sort(dim=1).values
    elif continues is None:
        raise ValueError(f"masking={masking} needs the table of tokens that continue a word")
    else:
        begins = word_begins(input_ids, segments, candidates, continues)
        if masking == "ngram":
            begins = span_begins(begins, segments, candidates, keys)
        taken = take_units(begins, candidates, count, keys)
        positions = index.where(taken, length).sort(dim=1).values[:, :slots]
        valid = positions < length
    positions = positions.masked_fill(~valid, 0)
    fate = noise.uniform(keys[:, None], positions, noise.MASK)
    put_in, changes = torch.full_like(positions, special.mask), fate < mask_token_probability
    if random_token_probability:
        if vocab_size is None:
            raise ValueError(f"random_token_probability={random_token_probability} needs vocab_size")
        drawn = noise.bits(keys[:, None], positions, noise.RANDOM) % vocab_size
        put_in = torch.where(changes, put_in, drawn)
        changes = fate < mask_token_probability + random_token_probability
    return Selection(positions, valid, scatter_tokens(input_ids, positions, put_in, valid & changes))


def selectable(input_ids: Tensor, segments: Tensor, special: SpecialIds) -> Tensor:
    """Candidates for selection, bool [B, L]: real tokens other than [CLS], [SEP] and [MASK]."""
    candidates = segments > 0
    for token in (special.cls, special.sep, special.mask, special.pad):
        candidates &= input_ids != token
    return candidates


def scatter_tokens(input_ids: Tensor, positions: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    """Copy of `input_ids` [B, L] with `tokens` [B, K] put at `positions` [B, K] wherever `where` [B, K] is true."""
    length = input_ids.shape[1]
    # One slot more than the row holds takes the writes that are not wanted.
    extended = torch.nn.functional.pad(input_ids, (0, 1))
    return extended.scatter(1, positions.masked_fill(~where, length), tokens)[:, :length]
