"""Many sequences of different lengths through a network of stock transformers, batch by batch.

Shape legend: B sequences of a batch, L tokens of its longest, N queried positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from electra_ds.evaluate.machine import Advance, Machine, silent
from electra_ds.evaluate.tokens import Tokens

LARGEST_LOGITS = 1 << 26
"""Logits over the vocabulary that are held at once (count)."""


Reduce = Callable[[Tensor, np.ndarray], tuple[Tensor, ...]]
"""From float32 logits [N, V] and the numbers of the queries, int64 [N], to tensors [N]."""


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Group sequences by length, longest first, so that a batch with its padding stays within `tokens`.

    A sequence longer than `tokens` is a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def inputs_of(sequences: Sequence[Tokens], pad_id: int, network: Any, device: torch.device) -> dict[str, Tensor]:
    """Pad a batch into what a network of transformers takes, each tensor int64 [B, L]."""
    longest = max(len(one.ids) for one in sequences)
    arrays = {
        "input_ids": np.full((len(sequences), longest), pad_id, np.int64),
        "attention_mask": np.zeros((len(sequences), longest), np.int64),
        "token_type_ids": np.zeros((len(sequences), longest), np.int64),
    }
    has_types = getattr(network.config, "type_vocab_size", 1) > 1
    for row, one in enumerate(sequences):
        arrays["input_ids"][row, : len(one.ids)] = one.ids
        arrays["attention_mask"][row, : len(one.ids)] = 1
        if has_types:
            arrays["token_type_ids"][row, : len(one.ids)] = one.types
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def verdicts(
    network: Any, sequences: Sequence[Tokens], pad_id: int, machine: Machine, advance: Advance = silent
) -> list[np.ndarray]:
    """The discriminator's logits of "replaced", float32 [L] for each sequence, in order."""
    found: list[np.ndarray] = [np.empty(0, np.float32)] * len(sequences)
    for batch in batches([len(one.ids) for one in sequences], machine.batch_tokens):
        with machine.computing():
            logits = network(**inputs_of([sequences[i] for i in batch], pad_id, network, machine.device)).logits
        rows = logits.float().cpu().numpy()
        for row, number in zip(rows, batch, strict=True):
            found[number] = row[: len(sequences[number].ids)].copy()
        advance(len(batch))
    return found


def class_logits(
    network: Any, sequences: Sequence[Tokens], pad_id: int, machine: Machine, advance: Advance = silent
) -> np.ndarray:
    """A classifier's output, float32 [sequences, labels], in order."""
    found = np.zeros((len(sequences), network.config.num_labels), np.float32)
    for batch in batches([len(one.ids) for one in sequences], machine.batch_tokens):
        with machine.computing():
            logits = network(**inputs_of([sequences[i] for i in batch], pad_id, network, machine.device)).logits
        found[batch] = logits.float().cpu().numpy()
        advance(len(batch))
    return found


def task_outputs(
    network: Any,
    features: Sequence[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    machine: Machine,
) -> Any:
    """What a fine-tuned head says of a task's features, as `finetune` hands it to the task.

    Args:
        network: on the machine.
        features: of `Encoded`; their labels are not read.
        collate: the task's, which pads features to a batch.
        machine: where to run.

    Returns:
        An array [features, ...], or a tuple of such arrays where the head says several things; shorter inputs are
        padded with -100.
    """
    inputs = [{key: value for key, value in one.items() if key != "labels"} for one in features]
    found: list[list[np.ndarray]] = [[]] * len(inputs)
    for batch in batches([len(one["input_ids"]) for one in inputs], machine.batch_tokens):
        padded = collate([inputs[number] for number in batch])
        with machine.computing():
            said = network(**{key: value.to(machine.device) for key, value in padded.items()}).to_tuple()
        arrays = [(values.float() if values.is_floating_point() else values).cpu().numpy() for values in said]
        for row, number in enumerate(batch):
            found[number] = [values[row] for values in arrays]
    columns = tuple(_stacked(values) for values in zip(*found, strict=True))
    return columns if len(columns) > 1 else columns[0]


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one array."""
    if not rows[0].ndim:
        return np.array(rows)
    whole = np.full((len(rows), max(len(row) for row in rows), *rows[0].shape[1:]), -100, rows[0].dtype)
    for number, row in enumerate(rows):
        whole[number, : len(row)] = row
    return whole


def fill_ins(
    network: Any,
    sequences: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    pad_id: int,
    machine: Machine,
    reduce: Reduce,
    advance: Advance = silent,
) -> list[np.ndarray]:
    """What the generator says at some positions, reduced batch by batch, as the logits of all would not fit.

    Args:
        network: a masked language model of transformers.
        sequences: with their masks.
        positions: asked for in each sequence; a position may be asked for more than once.
        pad_id: id of padding.
        machine: where to run.
        reduce: given logits and the queries' numbers, counted through all sequences in order.
        advance: told how many sequences were done.

    Returns:
        What `reduce` gives, each joined to an array [queries] in the order of the queries.
    """
    counts = np.array([len(asked) for asked in positions], np.int64)
    first = np.cumsum(counts) - counts
    found: list[np.ndarray] = []
    for batch in batches([len(one.ids) for one in sequences], machine.batch_tokens):
        inputs = inputs_of([sequences[i] for i in batch], pad_id, network, machine.device)
        rows = np.repeat(np.arange(len(batch)), counts[batch])
        columns = np.array([place for i in batch for place in positions[i]], np.int64)
        numbers = np.concatenate([np.arange(first[i], first[i] + counts[i]) for i in batch])
        if not len(numbers):
            advance(len(batch))
            continue
        with machine.computing():
            for part, logits in _logits(network, inputs, rows, columns, machine.device):
                values = [value.cpu().numpy() for value in reduce(logits, numbers[part])]
                if not found:
                    found = [np.empty(int(counts.sum()), value.dtype) for value in values]
                for target, value in zip(found, values, strict=True):
                    target[numbers[part]] = value
        advance(len(batch))
    return found


def _logits(
    network: Any, inputs: dict[str, Tensor], rows: np.ndarray, columns: np.ndarray, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Float32 logits [N, V] at the queries of a batch, in portions."""
    step = max(1, LARGEST_LOGITS // network.config.vocab_size)
    at = (torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device))
    # The head at the queried positions alone, where the network lets it be run by itself.
    if hasattr(network, "generator_predictions"):
        hidden = network.electra(**inputs)[0][at]
        for begin in range(0, len(hidden), step):
            part = slice(begin, begin + step)
            yield part, network.generator_lm_head(network.generator_predictions(hidden[part])).float()
        return
    logits = network(**inputs).logits[at]
    yield slice(0, len(logits)), logits.float()


def log_probabilities(
    network: Any,
    sequences: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    targets: np.ndarray,
    pad_id: int,
    machine: Machine,
    advance: Advance = silent,
) -> np.ndarray:
    """Log P(target) by the generator at each query, float64 [queries]; `targets` int64 [queries] are token ids."""

    def reduce(logits: Tensor, numbers: np.ndarray) -> tuple[Tensor, ...]:
        wanted = torch.from_numpy(targets[numbers]).to(logits.device)
        return ((-functional.cross_entropy(logits, wanted, reduction="none")).double(),)

    found = fill_ins(network, sequences, positions, pad_id, machine, reduce, advance)
    return found[0] if found else np.empty(0)


def original(logits: np.ndarray) -> np.ndarray:
    """Log P(original), float64, from the discriminator's logits of "replaced"."""
    return -np.logaddexp(0.0, logits.astype(np.float64))
