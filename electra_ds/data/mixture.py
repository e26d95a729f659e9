"""Several corpora in one order of rows, by weight: still a pure function of position.

A periodic table of K slots says whose turn it is. Each canonical stream walks through the table from a place of its
own, so every stream sees the whole table in every K steps, and a corpus's rows come to its streams at one pace. Step t
of stream s that falls to a corpus for the j-th time takes position j S + s of that corpus's own order (`RowOrder`: its
own permutation of blocks, its own windows, its own epochs). So each row of a corpus comes once per epoch of that
corpus, a rank whose world size divides S keeps to its own streams, and finding a row takes a few table look-ups.

Slots of a corpus are spread evenly over the table: within a stream, its count after any number of steps is within a
few rows of the share asked for; places jittered apart keep streams from taking turns together.

Shape legend: P positions asked for, S streams, C corpora, K slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from electra_ds.data.config import DataConfig
from electra_ds.data.format import Manifest, ShardInfo
from electra_ds.data.mixing import hash_words, uniform
from electra_ds.data.order import Located, RowOrder
from electra_ds.errors import UserError, did_you_mean

SLOTS = 65_536
"""K: shares are rounded to 1 / 65,536."""
_PLACES, _SPREAD = 13, 14


class Mixture:
    """Maps positions of the training run to rows of several corpora."""

    def __init__(
        self,
        orders: Sequence[RowOrder],
        blocks: Sequence[np.ndarray],
        shares: Mapping[str, float],
        first_row: np.ndarray,
    ) -> None:
        """Describe a mixture.

        Args:
            orders: of each corpus alone, all with the same number of streams.
            blocks: int64, for each corpus, the numbers in the shard set of the blocks its order counts.
            shares: corpus: share of the rows, above 0, all together 1; in the order of `orders`.
            first_row: int64, for every block of the shard set, the number of its first row.
        """
        self.names, self.shares = tuple(shares), dict(shares)
        self.total = sum(order.total for order in orders)
        self._orders, self._blocks, self._first_row = orders, blocks, first_row
        self.streams = orders[0].streams
        keys = [order.key for order in orders]
        self._slots = apportion(list(shares.values()), SLOTS)
        self._corpus = spread(self._slots, keys)
        self._places = [np.flatnonzero(self._corpus == corpus) for corpus in range(len(orders))]
        self._before = np.empty(SLOTS, np.int64)
        for places in self._places:
            self._before[places] = np.arange(len(places))
        stream = np.arange(self.streams)
        jitter = uniform(hash_words(keys[0], _PLACES, stream)) * max(1, SLOTS // self.streams)
        self._begin = (stream * SLOTS // self.streams + jitter.astype(np.int64)) % SLOTS
        # [C, S]: slots of each corpus before each stream's place.
        self._skipped = np.stack([np.searchsorted(places, self._begin) for places in self._places])

    def open_blocks(self) -> float:
        """Blocks that all streams work on at once, at most."""
        return sum(order.open_blocks() for order in self._orders)

    def locate(self, positions: np.ndarray) -> Located:
        """Find the rows at `positions`, int64 [P]; `epoch` of the answer is that of the row's own corpus."""
        positions = np.asarray(positions, np.int64)
        corpus, own = self.turns(positions)
        epoch, block, row = (np.empty_like(positions) for _ in range(3))
        for number in np.unique(corpus):
            here = corpus == number
            found = self._orders[number].locate(own[here])
            epoch[here], block[here], row[here] = found.epoch, self._blocks[number][found.block], found.row
        return Located(epoch, block, row, self._first_row[block] + row)

    def turns(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the corpus, and position in that corpus's own order, of each position; int64 [P] both."""
        stream, step = positions % self.streams, positions // self.streams
        round_, slot = np.divmod(step + self._begin[stream], SLOTS)
        corpus = self._corpus[slot]
        times = round_ * self._slots[corpus] + self._before[slot] - self._skipped[corpus, stream]
        return corpus, times * self.streams + stream

    def consumed(self, rows: int) -> dict[str, int]:
        """How many of the run's first `rows` rows came from each corpus."""
        stream = np.arange(self.streams)
        steps = (rows - stream + self.streams - 1) // self.streams
        round_, slot = np.divmod(steps + self._begin, SLOTS)
        counts = (
            np.sum(round_ * self._slots[corpus] + np.searchsorted(places, slot) - self._skipped[corpus])
            for corpus, places in enumerate(self._places)
        )
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}

    def epochs(self, consumed: int) -> dict[str, float]:
        """Passes over each corpus that the run's first `consumed` rows make."""
        rows = self.consumed(consumed)
        return {name: rows[name] / order.total for name, order in zip(self.names, self._orders, strict=True)}


def order_of(
    manifest: Manifest, split: str, rows: np.ndarray, config: DataConfig, length: int, seed: int
) -> RowOrder | Mixture:
    """Build the order of a split's rows.

    Args:
        manifest: of the shard set.
        split: its name.
        rows: int64, rows of each block of the split in manifest order.
        config: streams, windows and mixture.
        length: L, tokens of a row.
        seed: of the run.

    Raises:
        UserError: the weights do not fit the corpora.
    """
    shards = manifest.splits[split]
    shares = mixture_shares(shards, manifest.weights, config)
    if not shares:
        window = max(1, config.shuffle_tokens // length)
        return RowOrder(rows, seed, manifest.fingerprint, length, config.streams, window)
    blocks = corpora(shards)
    # A window of the mixed stream holds each corpus's share of it: mixing more corpora keeps few more blocks open.
    orders = [
        RowOrder(
            rows[blocks[name]],
            seed,
            manifest.fingerprint,
            length,
            config.streams,
            max(1, round(share * config.shuffle_tokens / length)),
            corpus=number,
        )
        for number, (name, share) in enumerate(shares.items())
    ]
    return Mixture(orders, [blocks[name] for name in shares], shares, np.cumsum(rows) - rows)


def apportion(shares: Sequence[float], slots: int) -> np.ndarray:
    """Divide slots by shares (largest remainder), at least one each; int64 of the same length."""
    exact = np.asarray(shares, np.float64) / np.sum(shares) * slots
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    remainder = exact - counts
    while (missing := slots - int(counts.sum())) > 0:
        counts[np.argsort(-remainder, kind="stable")[:missing]] += 1
    while counts.sum() > slots:  # many tiny shares were lifted to one slot: the largest gives
        counts[np.argmax(counts)] -= 1
    return counts


def spread(counts: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """Arrange `counts` slots of each corpus so that each stands evenly spaced, int64 [sum of counts]."""
    corpus = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(corpus)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Corpora of equal share would all come at the same times; each is given its own phase.
    phase = np.array([float(uniform(hash_words(key, _SPREAD))[0]) for key in keys])
    return corpus[np.argsort((number + phase[corpus]) / counts[corpus], kind="stable")]


def corpora(shards: Sequence[ShardInfo]) -> dict[str, np.ndarray]:
    """Numbers of the blocks of each corpus, int64, in the order in which corpora first appear."""
    names = list(dict.fromkeys(shard.corpus for shard in shards))
    of_block = np.repeat([names.index(shard.corpus) for shard in shards], [shard.blocks for shard in shards])
    return {name: np.flatnonzero(of_block == number) for number, name in enumerate(names)}


def mixture_shares(
    shards: Sequence[ShardInfo], own_weights: Mapping[str, float], config: DataConfig
) -> dict[str, float]:
    """Share of the rows that each corpus shall have; corpora of weight 0 are left out. Empty for mixing=natural.

    Args:
        shards: of the split.
        own_weights: of the manifest.
        config: how to mix.

    Raises:
        UserError: a weight is missing, or given to a corpus that is not there.
    """
    if config.mixing == "natural":
        return {}
    tokens: dict[str, int] = {}
    for shard in shards:
        tokens[shard.corpus] = tokens.get(shard.corpus, 0) + shard.tokens
    known = ", ".join(name or "(unnamed)" for name in tokens)
    if config.mixing == "temperature":
        weights = {name: float(count) ** (1 / config.temperature) for name, count in tokens.items()}
    else:
        weights = dict(config.weights or own_weights)
        where = "data.weights" if config.weights else "the weights in manifest.json"
        if not weights:
            raise UserError(
                f"data.mixing=weights, but neither data.weights nor the shard set gives any; its corpora are {known}"
            )
        for name in weights.keys() - tokens.keys():
            raise UserError(f"{where}: no corpus '{name}', there are {known}{did_you_mean(name, tokens)}")
        if missing := [name for name in tokens if name not in weights]:
            raise UserError(f"{where}: no weight for {', '.join(missing)}; each corpus needs one (0 leaves it out)")
    weights = {name: weights[name] for name in tokens if weights[name] > 0 and tokens[name]}
    if not weights:
        raise UserError(f"data.mixing={config.mixing}: every corpus has weight 0; the corpora are {known}")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}
