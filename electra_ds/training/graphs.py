"""CUDA graphs: a network's launches, forward and backward, recorded once and replayed as one.

Small networks run kernels that are shorter than the time to launch them. The encoders are recorded, after the engine
has moved the weights to where they stay; look-ups, heads and the sample's search between them run as they are. The
batch's own numbers reach a recording as inputs: layout, dropout keys, embeddings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from electra_ds.errors import UserError
from electra_ds.kernels.attention import Layout
from electra_ds.model.batch import Batch
from electra_ds.model.encoder import Encoder
from electra_ds.model.pretraining import Pretraining
from electra_ds.training.schedule import PhasePlan


def check_graphs(asked: bool, device: torch.device, model: Pretraining, stage: int, phases: list[PhasePlan]) -> None:
    """Refuse what a recording cannot serve.

    Raises:
        UserError: says what stands against it.
    """
    if not asked:
        return
    against = {
        f"training.device is {device.type}, and graphs are CUDA's": device.type != "cuda",
        "ZeRO stage 3 moves the weights about between steps (take deepspeed zero1)": stage == 3,
        "a recording writes each gradient where it wrote the last one, so micro-batches cannot be accumulated (make "
        "training.micro_batch_size a rank's whole share)": any(phase.accumulation > 1 for phase in phases),
        "model.sharing=all_tied runs one encoder twice in a step": len(set(model.encoders)) < len(model.encoders),
        "kernels.activation_checkpointing runs layers again inside the backward pass": any(
            encoder.recomputes for encoder in model.encoders
        ),
    }
    reasons = [reason for reason, holds in against.items() if holds]
    if reasons:
        raise UserError(
            f"kernels.cuda_graphs=true cannot run here: {'; '.join(reasons)}; or take kernels.cuda_graphs false"
        )


def record_encoders(model: Pretraining, batch: Batch, say: Callable[[str], None]) -> None:
    """Record every encoder at a batch's shapes; other shapes, and evaluation, go on as before.

    Args:
        model: in training mode, its weights where the engine keeps them.
        batch: any micro-batch of the usual shape.
        say: is told, once, of a micro-batch that was trained on without a recording since it has another shape.
    """
    encoders = model.encoders
    recordings = tuple(Recording(encoder) for encoder in encoders)
    with torch.no_grad():
        embedded = model.embeddings(batch.generator_ids, batch.positions, batch.token_types)
        layouts = model.layouts(batch)
        keys = model.dropout_keys(batch.keys)
    samples = []
    for recording, layout, own in zip(recordings, layouts, keys, strict=True):
        recording.longest, recording.has_bias = layout.longest, layout.bias is not None
        # Copies: what a recording reads must be nobody else's, or the next one overwrites what its backward pass needs.
        flat = flat_arguments(embedded.detach().clone().requires_grad_(), layout, own)
        samples.append((flat[0], *(tensor.clone() for tensor in flat[1:])))
    # In the order in which they run, so that the recordings may share memory.
    torch.cuda.make_graphed_callables(recordings, tuple(samples))
    told = once(say)
    for encoder, recording, sample in zip(encoders, recordings, samples, strict=True):
        encoder.forward = replaying(encoder, recording, sample, told)  # type: ignore[method-assign]


class Recording(nn.Module):
    """An encoder whose arguments are tensors only: those of `flat_arguments`."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._forward, self.layers = encoder.forward, nn.ModuleList([encoder])
        self.longest, self.has_bias = 0, False

    def forward(self, embedded: Tensor, place: Tensor, keys: Tensor | None = None) -> Tensor:
        """Run it on embedded [B, L, E], bias or borders of a `Layout`, and dropout keys."""
        layout = Layout(place, None, self.longest) if self.has_bias else Layout(None, place, self.longest)
        return self._forward(embedded, layout, keys)


def replaying(
    encoder: Encoder, recording: nn.Module, sample: tuple[Tensor, ...], say: Callable[[str], None]
) -> Callable[..., Tensor]:
    """The forward pass that takes a recording where it fits.

    Args:
        encoder: what was recorded.
        recording: of the tensors among its arguments.
        sample: those that it was recorded with.
        say: is told where another shape comes in training.
    """
    plain, shapes = encoder.forward, [list(tensor.shape) for tensor in sample]

    def either(embedded: Tensor, layout: Layout, keys: Tensor | None = None) -> Tensor:
        if not encoder.training:
            return plain(embedded, layout, keys)
        flat = flat_arguments(embedded, layout, keys)
        found = [list(tensor.shape) for tensor in flat]
        if found == shapes:
            replayed: Tensor = recording(*flat)
            return replayed
        say(
            f"kernels.cuda_graphs: a micro-batch has other shapes (embeddings, segments, dropout keys: {found}) than "
            f"what was recorded ({shapes}); the networks run launch by launch there, which is slower for small ones"
        )
        return plain(embedded, layout, keys)

    return either


def flat_arguments(embedded: Tensor, layout: Layout, keys: Tensor | None) -> tuple[Tensor, ...]:
    """The tensors among an encoder's arguments."""
    place = layout.bias if layout.bias is not None else layout.borders
    assert place is not None
    return (embedded, place) if keys is None else (embedded, place, keys)


def once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Say the first thing only."""
    said: list[str] = []

    def tell(message: str) -> None:
        if not said:
            said.append(message)
            say(message)

    return tell
