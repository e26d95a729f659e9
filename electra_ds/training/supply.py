"""What a rank trains on: the shard set opened once for all ranks, its rows, and batches made ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from electra_ds.data.format import read_manifest
from electra_ds.data.loader import Portion, Rows, RowSource, StepRows, open_shards, require_enough_rows
from electra_ds.data.prefetch import Job, LoaderProcess
from electra_ds.data.shards import ShardSet
from electra_ds.errors import DataError, UserError
from electra_ds.recipe import Recipe
from electra_ds.training.batches import PreparedRows, prepare
from electra_ds.training.feeding import Sender
from electra_ds.training.fit import fit_tokenizer, word_table
from electra_ds.training.peers import Peers
from electra_ds.training.schedule import PhasePlan
from electra_ds.training.validation import Validator


class Supply:
    """Rows of the run for one rank.

    Rank 0 alone reads manifest and indexes and hands them to the others: thousands of ranks that open the same files at
    once are what a file system's metadata server suffers from most.
    """

    def __init__(self, recipe: Recipe, peers: Peers) -> None:
        """Open the training split; collective."""
        self._recipe, self._peers = recipe, peers
        self.shards = self._open("train")
        self.special, self.model_config = fit_tokenizer(recipe, self.shards)
        self.continues = peers.from_first(lambda: word_table(recipe, self.shards))
        self._sources: dict[int, RowSource] = {}

    def source(self, length: int) -> RowSource:
        """Training rows of `length` tokens."""
        if length not in self._sources:
            config, seed = self._recipe.data, self._recipe.training.seed
            self._sources[length] = RowSource(self.shards, config, length, seed)
        return self._sources[length]

    def check(self, plans: list[PhasePlan], say: Callable[[str], None]) -> None:
        """Refuse a set that is too small, and say where the cache of packed blocks is.

        Raises:
            UserError: fewer rows than one global batch.
        """
        world_size, cache = self._peers.place.world_size, self._recipe.data.cache_bytes
        for plan in plans:
            source = self.source(plan.sequence_length)
            require_enough_rows(source, plan.global_batch, world_size)
            if (needed := source.live_bytes(world_size)) > cache:
                say(
                    f"data.cache_bytes={cache:,} is less than the {needed:,} bytes of blocks that a rank works on at "
                    f"{plan.sequence_length} tokens a row: blocks will be read and packed repeatedly"
                )

    def one_batch(self, plans: list[PhasePlan]) -> PreparedRows:
        """Rows of the largest micro-batch, to see whether it fits."""
        largest = max(plans, key=lambda plan: plan.micro_batch * plan.sequence_length)
        source = self.source(largest.sequence_length)
        return self.prepare(source.unshuffled(np.arange(largest.micro_batch) % len(source)))

    def prepare(self, rows: Rows, pin: bool = False) -> PreparedRows:
        """Draw the masks of some rows."""
        recipe, vocab_size = self._recipe, self.model_config.vocab_size
        return prepare(rows, recipe.objective, self.special, recipe.training.seed, self.continues, pin, vocab_size)

    def rows_of_step(self, plan: PhasePlan, begin: int) -> StepRows | LoaderProcess:
        """Function of the updates made so far: this rank's rows of the next one; `begin`: the first to be asked for."""
        place, seed = self._peers.place, self._recipe.training.seed
        portion = Portion(plan.begin, plan.first_row, plan.global_batch, place.rank, place.world_size)
        if not self._recipe.data.prefetch_process:
            return StepRows(self.source(plan.sequence_length), portion)
        job = Job(
            config=self._recipe.data,
            split=self.shards.split,
            length=plan.sequence_length,
            seed=seed,
            portion=portion,
            begin=begin,
            fingerprint=self.shards.manifest.fingerprint,
        )
        return LoaderProcess(job, self.shards.manifest.dtype, self.shards.manifest.has_pairs)

    def preparer(self, rows_of: Callable[[int], Rows], device: torch.device) -> Callable[[int], PreparedRows]:
        """The same with masks drawn, and on their way to a GPU.

        This is torch, so it runs in a thread of this process, where it lets go of the interpreter.
        """
        if device.type != "cuda":
            return lambda step: self.prepare(rows_of(step))
        sender = Sender(device)

        def make(step: int) -> PreparedRows:
            prepared = self.prepare(rows_of(step), pin=True)
            tensors, sent = sender.send(prepared.tensors)
            return dataclasses.replace(prepared, tensors=tensors, sent=sent)

        return make

    def validator(self, plan: PhasePlan, device: torch.device) -> Validator | None:
        """Held-out rows of a phase; None if the set has none. Collective."""
        manifest, recipe, place = self.shards.manifest, self._recipe, self._peers.place
        if not manifest.total("validation", "blocks"):
            return None
        # All of its blocks are one pool: the same held-out rows whatever the mixture.
        data = dataclasses.replace(recipe.data, mixing="natural", weights={})
        source = RowSource(self._open("validation", manifest.fingerprint), data, plan.sequence_length, seed=0)
        return Validator(
            source,
            recipe.validation.rows,
            plan.micro_batch,
            recipe.objective,
            self.special,
            self.continues,
            self.model_config.vocab_size,
            place.rank,
            place.world_size,
            device,
        )

    def _open(self, split: str, fingerprint: str | None = None) -> ShardSet:
        """Open a split on rank 0, and on the others from what it read."""
        opened: list[ShardSet] = []

        def read() -> tuple[object, np.ndarray]:
            opened.append(open_shards(self._recipe.data, split, fingerprint))
            return opened[0].manifest, opened[0].records

        table = self._peers.from_first(read)
        return opened[0] if opened else open_shards(self._recipe.data, split, table=table)  # type: ignore[arg-type]


def see_the_same_set(recipe: Recipe, fingerprint: str) -> str | None:
    """What is wrong with the shard set as this node sees it; None if it is rank 0's."""
    try:
        found = read_manifest(recipe.data.path).fingerprint
    except (DataError, UserError) as error:
        return f"does not see the shard set that rank 0 reads: {error}"
    if found != fingerprint:
        return (
            f"sees another shard set at data.path={recipe.data.path} (fingerprint {found[:12]}..., rank 0's is "
            f"{fingerprint[:12]}...)"
        )
    return None
