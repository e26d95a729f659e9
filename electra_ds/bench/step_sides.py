"""The sides of `bench step`: each an engine of its own over the same rows, in the same process group."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from electra_ds.backend import import_deepspeed
from electra_ds.bench.step_peers import FIELDS, ElectraPytorchStep, JointStep, ModernBertStep
from electra_ds.data.prefetch import Prefetcher
from electra_ds.recipe import Recipe, parse_recipe
from electra_ds.training import engine as engines
from electra_ds.training import feeding
from electra_ds.training.batches import PreparedRows
from electra_ds.training.loop import Trainer
from electra_ds.training.peers import Peers
from electra_ds.training.schedule import PhasePlan, plan_phases
from electra_ds.training.supply import Supply
from electra_ds.training.watchdog import Watchdog

OURS = "electra_ds"
VARIANT = "electra_ds_with_"
"""Begins the name of ours with another setting."""
NEVER = 10**9
"""Steps: more than any benchmark makes."""
RECORDED = ("--logging.every=1", "--data.audit=true")
"""Every step leaves its metrics and its rows' ids: more records than a recipe asks for."""
BARE = (f"--logging.every={NEVER}", "--data.audit=false")
_PEER_RATE = 1e-4


@dataclass(frozen=True)
class Setting:
    """What all sides have in common; travels to the ranks as JSON."""

    shards: str
    folder: str
    """For what the sides write."""
    recipe: str
    """Name of a shipped recipe, or a file."""
    sequence_length: int
    micro_batch: int
    """Rows of a rank and step."""
    precision: str
    device: str
    deepspeed: str
    options: Sequence[str] = ()
    """Further options of `pretrain`, for every side's sizes."""

    def parse(self, name: str, world_size: int, options: Sequence[str] = ()) -> Recipe:
        """The recipe of one side, its run folder named after it."""
        output = Path(self.folder) / name
        output.mkdir(parents=True, exist_ok=True)
        arguments = [
            f"--config={self.recipe}",
            f"--data.path={self.shards}",
            f"--data.sequence_length={self.sequence_length}",
            f"--output={output}",
            f"--deepspeed={self.deepspeed}",
            f"--training.micro_batch_size={self.micro_batch}",
            f"--training.global_batch_size={self.micro_batch * world_size}",
            f"--training.precision={self.precision}",
            f"--training.device={self.device}",
            "--training.try_batch=false",
        ]
        return parse_recipe([*arguments, *self.options, *options], "bench step")


@dataclass(frozen=True)
class Side:
    """One thing to measure; travels to the ranks as JSON."""

    name: str
    title: str
    """For people."""
    kind: str
    """Of `KINDS`."""
    options: Sequence[str] = ()
    """Of ours: further options of `pretrain`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of a peer: arguments of its module."""
    may_fail: bool = False
    """Of ours: whether the others are measured without it where it fails, as they are without a peer."""


class Step(Protocol):
    """A side that was built."""

    engine: Any
    """DeepSpeed's."""
    batches: Prefetcher[PreparedRows]

    def step(self) -> PreparedRows:
        """Make one optimizer update, of rows that it waits for; returns the rows of this rank."""

    def close(self) -> None:
        """Let go of everything."""


class OwnStep:
    """This package's training loop, step by step: its data, its agreement between ranks, its records."""

    def __init__(self, side: Side, setting: Setting, peers: Peers, device: torch.device) -> None:
        """Args: side, setting: what to build. peers: the ranks. device: this rank's."""
        recipe = setting.parse(side.name, peers.place.world_size, side.options)
        self.trainer = Trainer(recipe, peers, device, None, "bench", Watchdog(peers.place.rank, None))
        self.engine = self.trainer.engine
        self._plan = self.trainer.plans[0]
        self._number = 0
        self.batches, self._close = feed(self.trainer.supply, self._plan, recipe, device)

    def step(self) -> PreparedRows:
        """One update as `Trainer.run` makes it."""
        prepared = next(self.batches)
        self.trainer.waited_seconds = self.batches.waited_seconds
        agreed = self.trainer._agree(prepared)
        self._number += 1
        self.trainer._step(self._plan, self._number, prepared, agreed.counts)
        return prepared

    def close(self) -> None:
        """Stop the data thread and end the records."""
        self._close()
        if self.trainer.compiled_cache:
            self.trainer.compiled_cache.release()
        self.trainer.saver.close()
        if self.trainer.writer:
            with contextlib.redirect_stdout(io.StringIO()):
                self.trainer.writer.close()


class PeerStep:
    """A peer's module under the same DeepSpeed config, fed by this package's loader and masks, without any records."""

    def __init__(self, side: Side, setting: Setting, peers: Peers, device: torch.device) -> None:
        """Args: side, setting: what to build. peers: the ranks. device: this rank's."""
        recipe = setting.parse(side.name, peers.place.world_size)
        supply = Supply(recipe, peers)
        plan = plan_phases(recipe, peers.place.world_size)[0]
        torch.manual_seed(recipe.training.seed)
        module = _MODULES[side.kind](supply, recipe, side.settings).to(device)
        self.engine = peer_engine(module, recipe, plan)
        self.loss = torch.tensor(0.0)
        self.batches, self._close = feed(supply, plan, recipe, device)

    def step(self) -> PreparedRows:
        """Forward, backward, update."""
        prepared = next(self.batches)
        tensors = feeding.received(prepared.tensors, prepared.sent)
        self.loss = self.engine(**{name: tensors[name] for name in FIELDS})
        self.engine.backward(self.loss)
        self.engine.step()
        return prepared

    def close(self) -> None:
        """Stop the data thread."""
        self._close()


def feed(
    supply: Supply, plan: PhasePlan, recipe: Recipe, device: torch.device
) -> tuple[Prefetcher[PreparedRows], Callable[[], None]]:
    """Batches from the first row on, made ahead as in training, and how to end them."""
    rows_of = supply.rows_of_step(plan, 0)
    batches = Prefetcher(supply.preparer(rows_of, device), 0, recipe.data.prefetch)

    def close() -> None:
        rows_of.close()
        batches.close()

    return batches, close


def peer_engine(module: nn.Module, recipe: Recipe, plan: PhasePlan) -> Any:
    """The engine a user of DeepSpeed would build: torch's fused AdamW, no decay on biases and LayerNorm."""
    named = list(module.named_parameters())
    kept = [parameter for name, parameter in named if name.endswith("bias") or "norm" in name.lower()]
    decayed = [parameter for name, parameter in named if not (name.endswith("bias") or "norm" in name.lower())]
    groups = [{"params": decayed, "weight_decay": recipe.optimizer.weight_decay}]
    groups += [{"params": kept, "weight_decay": 0.0}] if kept else []
    optimizer = torch.optim.AdamW(groups, lr=_PEER_RATE, eps=recipe.optimizer.eps, fused=True)
    config = engines.read_deepspeed_config(recipe.deepspeed)
    count = sum(parameter.numel() for _, parameter in named)
    config = engines.complete_config(config, recipe, [plan], count)
    engine, *_ = import_deepspeed().initialize(
        model=module, optimizer=optimizer, config=config, dist_init_required=False
    )
    engine.train()
    return engine


def _transformers(supply: Supply, recipe: Recipe, settings: dict[str, Any]) -> nn.Module:
    return JointStep(supply.model_config, supply.special, recipe.objective, **settings)


def _modernbert(supply: Supply, recipe: Recipe, settings: dict[str, Any]) -> nn.Module:
    return ModernBertStep(supply.model_config, supply.special)


def _electra_pytorch(supply: Supply, recipe: Recipe, settings: dict[str, Any]) -> nn.Module:
    return ElectraPytorchStep(supply.model_config, supply.special, recipe.objective)


_MODULES = {"transformers": _transformers, "modernbert": _modernbert, "electra_pytorch": _electra_pytorch}
KINDS = (OURS, *_MODULES)


@contextlib.contextmanager
def built(side: Side, setting: Setting, peers: Peers, device: torch.device) -> Iterator[Step]:
    """A side, closed again at the end."""
    step: Step = (OwnStep if side.kind == OURS else PeerStep)(side, setting, peers, device)
    try:
        yield step
    finally:
        step.close()
