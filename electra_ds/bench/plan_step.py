"""The real step, as training makes it, on made-up text: what `bench plan` measures."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from electra_ds.data.loader import RowSource, open_shards
from electra_ds.distributed import Place
from electra_ds.model.masking import SpecialIds
from electra_ds.model.objectives import build
from electra_ds.recipe import Recipe
from electra_ds.training import engine as engines
from electra_ds.training.batches import micro_batches, prepare
from electra_ds.training.schedule import learning_rate, plan_phases


class RealStep:
    """An engine over the recipe's model, and rows of its shard set; the process group must be up."""

    def __init__(self, recipe: Recipe, place: Place) -> None:
        """Build both, without a run folder."""
        self.recipe, self.place = recipe, place
        self.plan = plan_phases(recipe, place.world_size)[0]
        shards = open_shards(recipe.data)
        info = shards.manifest.tokenizer
        self.special = SpecialIds(pad=info.pad_id, unk=info.unk_id, cls=info.cls_id, sep=info.sep_id, mask=info.mask_id)
        self.source = RowSource(shards, recipe.data, self.plan.sequence_length, recipe.training.seed)
        torch.manual_seed(recipe.training.seed)
        config = dataclasses.replace(recipe.model, vocab_size=info.vocab_size)
        model = build(config, recipe.objective, self.special)
        self.vocab_size = info.vocab_size
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        deepspeed_config = engines.read_deepspeed_config(recipe.deepspeed)
        self.clips_itself = engines.clips_itself(deepspeed_config, recipe)
        self.engine = engines.build_engine(model, recipe, deepspeed_config, [self.plan], place)

    def run(self, step: int) -> None:
        """One optimizer update, as `training.loop` makes it, without its records."""
        recipe, plan, place, device = self.recipe, self.plan, self.place, torch.device("cpu")
        share = plan.global_batch // place.world_size
        rows = self.source.unshuffled((np.arange(share) + place.rank * share) % len(self.source))
        seed, vocab_size = recipe.training.seed, self.vocab_size
        prepared = prepare(rows, recipe.objective, self.special, seed, vocab_size=vocab_size)
        rate = learning_rate(recipe.schedule, recipe.optimizer.learning_rate, step, recipe.training.steps)
        engines.set_hyperparameters(self.engine, recipe.optimizer, rate, step)
        # With the counts the loop exchanges seven flags.
        counts = torch.cat([prepared.counts, torch.zeros(7, dtype=torch.float64)])
        if place.world_size > 1:
            torch.distributed.all_reduce(counts)
        counts = counts[: len(prepared.counts)]
        for number, batch in enumerate(micro_batches(prepared, plan.micro_batch, counts, place.world_size, device)):
            self.engine.set_gradient_accumulation_boundary(number == plan.accumulation - 1)
            output = self.engine(batch)
            self.engine.backward(output["loss"] * self.engine.gradient_accumulation_steps())
        if self.clips_itself:
            torch.nn.utils.clip_grad_norm_(self.engine.module.parameters(), recipe.optimizer.clip_norm or float("inf"))
        self.engine.step()
