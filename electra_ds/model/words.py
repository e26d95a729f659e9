"""Whole words and n-grams as what is selected, in place of single tokens.

A *unit* is a run of tokens that are selected together or not at all. Units are drawn in a random order and taken while
they fit into the row's count; one that does not fit is left out and later, smaller ones may still be taken, as in
BERT's `create_masked_lm_predictions` (google-research/bert, create_pretraining_data.py).

Shape legend: B rows, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from electra_ds.model import noise

LONGEST_SPAN = 3
"""Words of the longest n-gram (arXiv 1909.11942, section 4.1)."""


def word_begins(input_ids: Tensor, segments: Tensor, candidates: Tensor, continues: Tensor) -> Tensor:
    """Where words begin: at every candidate but one that continues the candidate before it in its segment.

    Args:
        input_ids: int64 [B, L].
        segments: int64 [B, L].
        candidates: bool [B, L], tokens that may be selected; special tokens, which are none, end a word.
        continues: bool [V], from `data.vocabulary.continuation_table`.

    Returns:
        bool [B, L]; false wherever `candidates` is.
    """
    return candidates & ~(continues[input_ids] & _follows(candidates, segments))


def span_begins(begins: Tensor, segments: Tensor, candidates: Tensor, keys: Tensor) -> Tensor:
    """Where n-grams of one to three words begin, their numbers in the proportion p(n) ~ 1/n (ALBERT, section 4.1).

    The words between two special tokens are cut into tiles of three, from a random phase on, and each tile is divided
    at random: 3 with probability 1/3, 2+1 and 1+2 with 1/4 each, 1+1+1 with 1/6. So a tile has on average one 1-gram,
    half a 2-gram and a third of a 3-gram: exactly 1 : 1/2 : 1/3, and every word belongs to one n-gram. At both ends of
    the words a tile may be cut off, which makes its n-grams shorter.

    Args:
        begins: bool [B, L], where words begin.
        segments: int64 [B, L].
        candidates: bool [B, L], see `word_begins`.
        keys: int64 [B], from `noise.row_keys`.

    Returns:
        bool [B, L]; true at the first token of each n-gram.
    """
    index = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    run = torch.where(candidates & ~_follows(candidates, segments), index, 0).cummax(1).values
    words = begins.cumsum(1)
    in_run = words - words.gather(1, run)
    place = in_run + noise.bits(keys[:, None], run, noise.PHASE) % LONGEST_SPAN
    in_tile = place % LONGEST_SPAN
    # The first word of a tile names it: the last token where a tile begins, or the run where the tile was cut off.
    tile = torch.where(begins & ((in_tile == 0) | (index == run)), index, 0).cummax(1).values
    draw = noise.bits(keys[:, None], tile, noise.DIVIDE) % 12
    # Of 12 equal chances 4 keep the tile whole, 3 cut after its second word, 3 after its first, 2 after both.
    cut_at_second = (draw >= 7) & (in_tile == 1)
    cut_at_third = (((draw >= 4) & (draw < 7)) | (draw >= 10)) & (in_tile == 2)
    return begins & ((in_tile == 0) | (index == run) | cut_at_second | cut_at_third)


def take_units(begins: Tensor, candidates: Tensor, count: Tensor, keys: Tensor) -> Tensor:
    """Take units in a random order as long as they fit.

    Where no unit of a row fits (one word as long as the row), each of its tokens is a unit by itself, so that every row
    with candidates has something selected.

    Args:
        begins: bool [B, L], first token of each unit; the unit goes on until the next one or a special token.
        candidates: bool [B, L].
        count: int64 [B], most tokens to select.
        keys: int64 [B], from `noise.row_keys`.

    Returns:
        bool [B, L], the selected tokens, at most `count` in a row.
    """
    sizes, first = unit_sizes(begins, candidates)
    smallest = sizes.masked_fill(~begins, begins.shape[1] + 1).amin(1)
    alone = (smallest > count)[:, None] & candidates
    begins = begins | alone
    index = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    first = torch.where(alone, index, first)
    sizes = torch.where(alone, 1, sizes)

    score = noise.bits(keys[:, None], index, noise.WORD).masked_fill(~begins, torch.iinfo(torch.int64).max)
    order = score.argsort(1)
    taken = take_in_order(sizes.masked_fill(~begins, 0).gather(1, order), count)
    return torch.zeros_like(begins).scatter(1, order, taken).gather(1, first) & candidates


def unit_sizes(begins: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of each unit, int64 [B, L], at its first token; and the first token of each token's unit, int64 [B, L]."""
    index = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    first = torch.where(begins, index, 0).cummax(1).values
    return torch.zeros_like(first).scatter_add(1, first, candidates.to(torch.int64)), first


def take_in_order(sizes: Tensor, count: Tensor) -> Tensor:
    """Go through units in order, and take each that still fits: the plain loop's answer, all rows at once.

    Each round takes the longest run of undecided units that fits, and refuses all that are larger than what is left.
    The unit that ended the run is among them and was as large as any still undecided, or smaller; so the largest
    undecided size falls in every round, and there are at most as many rounds as distinct sizes (about four in text).

    Args:
        sizes: int64 [B, U]; 0 where there is no unit.
        count: int64 [B], what the taken sizes may sum to.

    Returns:
        bool [B, U].
    """
    taken = torch.zeros_like(sizes, dtype=torch.bool)
    left = count[:, None]
    undecided = (sizes > 0) & (sizes <= left)
    while bool(undecided.any()):
        upto = (sizes * undecided).cumsum(1)
        fits = undecided & (upto <= left)
        taken |= fits
        left = left - (sizes * fits).sum(1, keepdim=True)
        undecided &= ~fits & (sizes <= left)
    return taken


def _follows(candidates: Tensor, segments: Tensor) -> Tensor:
    """Whether the token before is a candidate of the same segment, bool [B, L]."""
    follows = torch.zeros_like(candidates)
    follows[:, 1:] = candidates[:, :-1] & (segments[:, 1:] == segments[:, :-1])
    return follows
