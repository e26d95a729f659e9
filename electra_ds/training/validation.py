"""Held-out quality during training, and examples for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from electra_ds.data.loader import RowSource
from electra_ds.files import write_json
from electra_ds.model import statistics
from electra_ds.model.batch import Batch
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.masking import SpecialIds
from electra_ds.training.batches import micro_batches, prepare

SAMPLES_NAME = "samples.json"


class Validator:
    """The same rows and masks at every call, whatever the world size."""

    def __init__(
        self,
        source: RowSource,
        rows: int,
        micro_batch: int,
        objective: ObjectiveConfig,
        special: SpecialIds,
        continues: Tensor | None,
        vocab_size: int | None,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        """Args: source: rows of the validation split. rows: how many to use, spread evenly. The rest: of the run."""
        self._source, self._micro_batch = source, micro_batch
        self._objective, self._special, self._continues = objective, special, continues
        self._vocab_size = vocab_size
        self._rank, self._world_size, self._device = rank, world_size, device
        count = min(rows, source.total)
        self._rows = np.arange(count) * source.total // count if count else np.empty(0, np.int64)

    @torch.no_grad()
    def run(self, engine: Any) -> Tensor:
        """Sums over all ranks, packed as `Meter.named` takes them; the engine is left in training mode."""
        engine.eval()
        bins = 2 * statistics.HISTOGRAM_BINS
        total = torch.zeros(len(statistics.STATISTICS) + bins, dtype=torch.float64, device=self._device)
        for rows, own in self._portions():
            for batch in self._batches(rows):
                output = engine(batch)
                if own:  # an even number of forward passes on each rank, as ZeRO-3 gathers weights in them
                    total += torch.cat([output["statistics"], output["histogram"].flatten()])
        if self._world_size > 1:
            torch.distributed.all_reduce(total)
        engine.train()
        return total.cpu()

    @torch.no_grad()
    def write_samples(self, engine: Any, folder: Path, tokenizer_folder: Path, step: int, count: int) -> None:
        """Write what the generator made of some rows, and the discriminator's opinion of each token.

        Nothing for objectives that have none.
        """
        count = min(count, len(self._rows))
        if not count or not self._objective.detects:
            return
        engine.eval()
        chosen = self._rows[np.arange(count) * len(self._rows) // count]
        batches = list(self._batches(chosen))
        outputs = [engine(batch) for batch in batches]
        engine.train()
        if self._rank == 0:
            write_json(folder / SAMPLES_NAME, {"step": step, "examples": _examples(batches, outputs, tokenizer_folder)})

    def _portions(self) -> list[tuple[np.ndarray, bool]]:
        """This rank's rows in equal portions; a rank that runs out repeats a row without counting it."""
        portions: list[tuple[np.ndarray, bool]] = []
        stride = self._world_size * self._micro_batch
        for begin in range(0, len(self._rows), stride):
            rows = self._rows[begin : begin + stride][self._rank :: self._world_size]
            portions.append((rows, True) if len(rows) else (self._rows[:1], False))
        return portions

    def _batches(self, rows: np.ndarray) -> list[Batch]:
        found, vocab_size = self._source.unshuffled(rows), self._vocab_size
        prepared = prepare(found, self._objective, self._special, 0, self._continues, vocab_size=vocab_size)
        return list(micro_batches(prepared, len(rows), prepared.counts, 1, self._device))


def _examples(batches: list[Batch], outputs: list[dict[str, Tensor]], tokenizer_folder: Path) -> list[dict[str, Any]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    examples = []
    for batch, output in zip(batches, outputs, strict=True):
        for row in range(len(batch.input_ids)):
            real = batch.segments[row] > 0
            original, corrupted = batch.input_ids[row][real], output["corrupted_ids"][row][real]
            examples.append(
                {
                    "tokens": tokenizer.convert_ids_to_tokens(corrupted.tolist()),
                    "original": tokenizer.convert_ids_to_tokens(original.tolist()),
                    "corrupted": tokenizer.convert_ids_to_tokens(corrupted.tolist()),
                    "replaced": (original != corrupted).tolist(),
                    "probability": output["discriminator_logits"][row][real].sigmoid().tolist(),
                }
            )
    return examples
