"""The stock `Trainer` with exact batches: the same texts and the same mean, however many processes share them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback

ITEMS = "items"
"""Key of a batch: how many labels count in it; 0 where it only keeps a process in step, see `GlobalBatches`."""
_FILLER = "filler"


class GlobalBatches(Sampler[list[int]]):
    """Micro-batches of one process, so that all processes together read consecutive batches of one random order.

    The order of an epoch depends on the seed alone. The last batch may be smaller; a process without a part of it gets
    one text marked as filler (as a negative number), for the processes must step together.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        skip_epochs: int = 0,
    ):
        """Take the sizes (texts, per update, per forward pass of a process), and how many epochs were made before."""
        self.examples, self.batch_size, self.micro = examples, batch_size, micro_batch_size
        self.rank, self.world = rank, world
        self.generator = torch.Generator().manual_seed(seed)
        for _ in range(skip_epochs):
            torch.randperm(examples, generator=self.generator)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield one epoch; each call is the next epoch."""
        order = torch.randperm(self.examples, generator=self.generator).tolist()
        for start in range(0, self.examples, self.batch_size):
            batch = order[start : start + self.batch_size]
            for low in range(0, len(batch), self.micro * self.world):
                first = low + self.rank * self.micro
                yield batch[first : first + self.micro] or [-1 - batch[0]]

    def __len__(self) -> int:
        """Micro-batches of one process in an epoch."""
        whole, rest = divmod(self.examples, self.batch_size)
        step = self.micro * self.world
        return whole * math.ceil(self.batch_size / step) + math.ceil(rest / step)


class _Features(Dataset[dict[str, Any]]):
    def __init__(self, features: list[dict[str, Any]]):
        self.features = features

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.features[index] if index >= 0 else {**self.features[-1 - index], _FILLER: True}

    def __len__(self) -> int:
        return len(self.features)


class ExactTrainer(Trainer):
    """Weighs micro-batches by their labels, so that the loss is the mean over the whole batch of all processes.

    The stock Trainer leaves that to models that take a count of labels; ELECTRA's heads swallow the count and
    return the mean of their micro-batch, and with k micro-batches loss and gradient come out k times too large. It also
    fills the last batch of several processes with texts from the beginning, which then count twice.
    """

    def __init__(self, *arguments: Any, batches: GlobalBatches, **options: Any):
        super().__init__(*arguments, **options)
        self.batches = batches
        self.loss_sum = torch.tensor(0.0, device=self.args.device)
        """Sum of the loss over the updates; the stock one forgets those before a checkpoint."""
        self.model_accepts_loss_kwargs = True  # the loss is scaled here, once

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Give each process its part of every batch."""
        collate = self.data_collator

        def marked(features: list[dict[str, Any]]) -> dict[str, Any]:
            filler = any(_FILLER in feature for feature in features)
            batch = dict(collate([{k: v for k, v in feature.items() if k != _FILLER} for feature in features]))
            return {**batch, ITEMS: 0 if filler else _items(batch)}

        return DataLoader(
            _Features(self.train_dataset),
            batch_sampler=self.batches,
            collate_fn=marked,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),  # the default one would be moved by how often the loader is opened
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Gather the micro-batches of an update, and count its labels over all processes."""
        samples = []
        for _ in range(num_batches):
            try:
                samples.append(next(epoch_iterator))
            except StopIteration:
                break
        count = torch.tensor(sum(sample[ITEMS] for sample in samples), device=device)
        return samples, self.accelerator.reduce(count, "sum")

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Add the loss of a micro-batch to the sum, where it is a number; of one that is none the outputs tell."""
        loss: torch.Tensor = super().training_step(*arguments, **options)
        self.loss_sum = self.loss_sum + torch.where(torch.isfinite(loss), loss, 0.0)
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Weigh the mean loss of a micro-batch by its share of the batch's labels."""
        items = inputs.pop(ITEMS, 0)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if num_items_in_batch is not None:
            # Gradients are averaged over processes, hence the factor.
            loss = loss * (items * self.accelerator.num_processes / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


def _items(batch: Any) -> int:
    """Labels of a batch: those that count where there are classes, else one for each row."""
    labels = batch.get("labels")
    if labels is None or labels.is_floating_point():
        return len(batch["input_ids"])
    return int((labels != -100).sum())


class Updates(TrainerCallback):
    """Calls back after each update; may stop the training."""

    def __init__(self, on_update: Callable[[int], bool]):
        self.on_update = on_update

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop where the callback says so."""
        if self.on_update(state.global_step):
            control.should_training_stop = True
