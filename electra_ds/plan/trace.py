"""What one micro-batch's forward and backward hold, found by running the real model on tensors without memory.

No formula of activations stands here: whatever the model and its kernels do is what is counted. DeepSpeed casts the
module's weights to the precision of the run, and so does this.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from electra_ds.kernels.config import Backends
from electra_ds.kernels.vocabulary import CHUNK_ENTRIES
from electra_ds.model.batch import Batch
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.electra import Electra
from electra_ds.model.masking import SpecialIds, max_selected
from electra_ds.model.objectives import build
from electra_ds.plan.ledger import Ledger, storage_bytes

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
PARTS = Electra.parts
"""Children of `Electra` that held bytes are put down to; other objectives have theirs."""
_SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


@dataclass(frozen=True)
class Timeline:
    """One micro-batch, operation by operation (E of them)."""

    rows: int
    """Rows of the micro-batch."""
    held: np.ndarray
    """float64 [E], bytes of the batch, activations and intermediate results; weights and finished gradients apart."""
    ready: np.ndarray
    """int64 [E], elements of the parameters whose gradient is finished."""
    forward: int
    """Operations of the forward pass; the rest are the backward's."""
    saved: dict[str, float]
    """Bytes that each part left for the backward pass, at the end of the forward pass."""

    @property
    def peak(self) -> float:
        """Most bytes held at any moment."""
        return float(self.held.max())


class TracedModel:
    """The model of a recipe on tensors without memory; traces are kept, sizes between them interpolated."""

    def __init__(
        self, config: ModelConfig, objective: ObjectiveConfig, precision: str, device: str, recomputes: bool = False
    ) -> None:
        """Build the networks.

        Args:
            config: sizes; the vocabulary must be known.
            objective: what is learned, and the selected share.
            precision: of the run.
            device: ``cpu``, whose attention writes out the probabilities, or ``cuda``, whose attention is taken to be
                torch's kernel for packed segments. The other operations are traced as the references write them, not
                compiled.
            recomputes: see kernels.activation_checkpointing.
        """
        self.objective, self.on_cpu = objective, device == "cpu"
        self._mode = _fake_mode() if self.on_cpu else contextlib.nullcontext()
        with torch.device("meta"):
            self.model = build(config, objective, _SPECIAL)
        self.model.use(Backends(attention="torch" if self.on_cpu else "varlen"))
        self.model.recompute_layers(recomputes)
        with self._mode:
            for module in self.model.modules():
                for name, parameter in list(module._parameters.items()):
                    if parameter is not None:
                        empty = torch.empty(parameter.shape, dtype=DTYPES[precision], device=self._device)
                        module._parameters[name] = nn.Parameter(empty)
        self._timelines: dict[tuple[int, int, bool], Timeline] = {}

    def named_sizes(self) -> list[tuple[str, int]]:
        """Name and elements of each parameter."""
        return [(name, parameter.numel()) for name, parameter in self.model.named_parameters()]

    def timeline(self, rows: int, length: int, sharded: bool = False) -> Timeline:
        """Trace a micro-batch of `rows` rows of `length` tokens, or work it out from two traces.

        Every operation's bytes are linear in the rows, so two and four rows tell all others. Where the operations are
        not the same ones at both sizes, and for one row, whose layouts may be views, the size itself is traced; so are
        sizes at which a vocabulary head that runs everywhere takes its positions in several portions.

        Args:
            rows: B.
            length: L.
            sharded: the engine takes weights apart (ZeRO-3): then uses of the word matrix do not share a gradient.
        """
        everywhere = self.objective.name in ("all_tokens_mlm", "electric")
        if everywhere and rows * length > CHUNK_ENTRIES // self.model.config.padded_vocab_size:
            return self._traced(rows, length, sharded)
        low, high = self._traced(2, length, sharded), self._traced(4, length, sharded)
        if rows < 2 or len(low.held) != len(high.held):
            return self._traced(rows, length, sharded)
        share = (rows - 2) / 2
        saved = {part: low.saved[part] + share * (high.saved[part] - low.saved[part]) for part in low.saved}
        return Timeline(rows, low.held + share * (high.held - low.held), low.ready, low.forward, saved)

    def _traced(self, rows: int, length: int, sharded: bool) -> Timeline:
        key = (rows, length, sharded)
        if key not in self._timelines:
            self.model.hands_on = not sharded
            with self._mode:
                self._timelines[key] = self._run(rows, length)
        return self._timelines[key]

    def _run(self, rows: int, length: int) -> Timeline:
        batch = self.batch(rows, length)
        tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
        inputs = storage_bytes(tensors)
        held: list[int] = []
        ready: list[int] = []
        finished = 0

        def after(_: str) -> None:
            held.append(ledger.high)
            ledger.high = ledger.held
            ready.append(finished)

        def on_gradient(parameter: Tensor) -> None:
            nonlocal finished
            finished += parameter.numel()
            parameter.grad = None  # whose bytes they are from here on depends on the ZeRO stage

        hooks = [parameter.register_post_accumulate_grad_hook(on_gradient) for parameter in self.model.parameters()]
        ledger = Ledger(known=[*self.model.parameters(), *tensors], after=after)
        handles = [
            self.model.get_submodule(part).register_forward_pre_hook(
                lambda *_, part=part: setattr(ledger, "part", part)
            )
            for part in self.model.parts
        ]
        ledger.part = self.model.parts[0]
        with ledger:
            output = self.model(batch)
            forward, parts = len(held), ledger.by_part()
            output["loss"].backward()
        held.append(ledger.held)
        ready.append(finished)
        for handle in (*hooks, *handles):
            handle.remove()
        saved = {part: float(parts.get(part, 0)) for part in self.model.parts}
        return Timeline(rows, np.array(held, np.float64) + inputs, np.array(ready), forward, saved)

    def batch(self, rows: int, length: int) -> Batch:
        """A micro-batch of the right shapes."""
        slots = max_selected(self.objective.mask_fraction, length)

        def ids(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.int64, device=self._device)

        scale = torch.empty((), device=self._device)
        valid = torch.empty(rows, slots, dtype=torch.bool, device=self._device)
        return Batch(
            input_ids=ids(rows, length),
            segments=ids(rows, length),
            positions=ids(rows, length),
            token_types=ids(rows, length),
            keys=ids(rows),
            selected=ids(rows, slots),
            selected_valid=valid,
            generator_ids=ids(rows, length),
            generator_scale=scale,
            discriminator_scale=scale,
        )

    @property
    def _device(self) -> str:
        return "cpu" if self.on_cpu else "meta"


def _fake_mode() -> contextlib.AbstractContextManager[Any]:
    """Tensors that say they lie on a CPU, so that code which asks takes the way it takes there."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()
