"""The training loop: build, resume, then step after step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from electra_ds.checkpoint import CHECKPOINTS, RunState, newest_whole
from electra_ds.command_line import plain
from electra_ds.data.loader import Portion, Rows, RowSource, StepRows, open_shards, require_enough_rows
from electra_ds.data.mixture import mixture_shares
from electra_ds.data.prefetch import Job, LoaderProcess, Prefetcher
from electra_ds.distributed import Place
from electra_ds.errors import DataError, UserError
from electra_ds.model.electra import Electra
from electra_ds.model.flops import peak_flops, step_flops_per_token
from electra_ds.recipe import Recipe
from electra_ds.training import engine as engines
from electra_ds.training.batches import PreparedRows, micro_batches, prepare
from electra_ds.training.checkpoint import SafeCheckpointEngine, load_checkpoint, save_checkpoint
from electra_ds.training.fit import (
    check_fits,
    fit_tokenizer,
    is_finite,
    seed_everything,
    try_batch,
    versions,
    word_table,
)
from electra_ds.training.metrics import Audit, Meter, Writer
from electra_ds.training.progress import Progress
from electra_ds.training.schedule import PhasePlan, learning_rate, phase_at, plan_phases
from electra_ds.training.validation import Validator


class Trainer:
    """One rank of one life of a run."""

    def __init__(self, recipe: Recipe, place: Place, device: torch.device) -> None:
        """Open the data, build model and engine, resume; the process group must be up."""
        self.recipe, self.place, self.device = recipe, place, device
        self.folder = Path(recipe.output)
        self.shards = open_shards(recipe.data)
        self.plans = plan_phases(recipe, place.world_size)
        self.special, self.model_config = fit_tokenizer(recipe, self.shards)
        self.continues = word_table(recipe, self.shards)
        self._sources: dict[int, RowSource] = {}
        for plan in self.plans:
            require_enough_rows(self.source(plan.sequence_length), plan.global_batch, place.world_size)
            if (needed := self.source(plan.sequence_length).live_bytes(place.world_size)) > recipe.data.cache_bytes:
                self._say(
                    f"data.cache_bytes={recipe.data.cache_bytes:,} is less than the {needed:,} bytes of blocks that a "
                    f"rank works on at {plan.sequence_length} tokens a row: blocks will be read and packed repeatedly"
                )

        torch.manual_seed(recipe.training.seed)
        model = Electra(self.model_config, recipe.objective, self.special)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        config = engines.read_deepspeed_config(recipe.deepspeed)
        self.stage = engines.zero_stage(config)
        self.clips_itself = engines.clips_itself(config, recipe)
        model.to(device)
        if recipe.training.try_batch:
            largest = max(self.plans, key=lambda plan: plan.micro_batch * plan.sequence_length)
            source = self.source(largest.sequence_length)
            rows = source.unshuffled(np.arange(largest.micro_batch) % len(source))
            prepared = prepare(rows, recipe.objective, self.special, recipe.training.seed, self.continues)
            try_batch(model, prepared, recipe.training.precision, device, 1 if self.stage == 0 else place.world_size)
        self.engine = engines.build_engine(model, recipe, config, self.plans, place)
        self.engine.checkpoint_engine = SafeCheckpointEngine()
        self.state = self._resume()
        self.waited_seconds = 0.0
        self.meter = Meter(recipe.objective, place.world_size, self.state.tokens_consumed, self.state.elapsed_seconds)
        self.writer = Writer(self.folder, recipe, self.state.step) if place.is_first else None
        self.audit = Audit(self.folder, place.rank, self.state.step) if recipe.data.audit else None
        self.progress = Progress(recipe.training.steps, self.state.step, place.is_first)

    def run(self) -> None:
        """Train from where the run stands to its end, or to training.stop_after."""
        last = min(self.recipe.training.steps, self.recipe.training.stop_after or self.recipe.training.steps)
        self._event("resume" if self.state.step else "start", **self._description())
        while self.state.step < last:
            plan = phase_at(self.plans, self.state.step)
            self._run_phase(plan, min(plan.end, last))
        self._record_pending()
        self._event("end" if last == self.recipe.training.steps else "stop")
        if self.writer:
            self.writer.close()
        self.progress.close()

    def _run_phase(self, plan: PhasePlan, last: int) -> None:
        """Run the steps of one phase up to `last`."""
        rows_of = self._loader(plan)
        batches = Prefetcher(self._preparer(rows_of), self.state.step, self.recipe.data.prefetch)
        validator = self._validator(plan)
        try:
            for step in range(self.state.step + 1, last + 1):
                waited = batches.waited_seconds
                prepared = next(batches)
                self.waited_seconds += batches.waited_seconds - waited
                self._step(plan, step, prepared)
                ends = step == self.recipe.training.steps
                stops = step == last and last in (self.recipe.training.steps, self.recipe.training.stop_after)
                if validator and (step % self.recipe.validation.every == 0 or ends):
                    self._validate(validator, step)
                if step % self.recipe.checkpoint.every == 0 or stops:
                    self._save()
        finally:
            rows_of.close()
            batches.close()
            self.source(plan.sequence_length).clear()  # another phase has another row length

    def _step(self, plan: PhasePlan, step: int, prepared: PreparedRows) -> None:
        """One optimizer update: forward and backward over the micro-batches, then the step and its record."""
        recipe, world_size = self.recipe, self.place.world_size
        seed_everything(recipe.training.seed, step, self.place.rank)
        rate = learning_rate(recipe.schedule, recipe.optimizer.learning_rate, step - 1, recipe.training.steps)
        engines.set_hyperparameters(self.engine, recipe.optimizer, rate, step - self.engine.skipped_steps)
        counts = engines.all_reduce_sum(prepared.counts, self.device, world_size)
        # Read before the step: here a GPU waits for the small exchange alone.
        tokens, skipped = (int(count) for count in counts[1:].tolist())
        self._check_skipped(plan, skipped)
        sums: Tensor | None = None
        histogram: Tensor | None = None
        for number, batch in enumerate(micro_batches(prepared, plan.micro_batch, counts, world_size, self.device)):
            self.engine.set_gradient_accumulation_boundary(number == plan.accumulation - 1)
            output = self.engine(batch)
            # The engine divides by its accumulation count, at stage 0 even when told not to (scale_wrt_gas): undone
            # here, as the scales of a batch already make the sum over micro-batches the mean of the global batch.
            self.engine.backward(output["loss"] * self.engine.gradient_accumulation_steps())
            sums = output["statistics"] if sums is None else sums + output["statistics"]
            histogram = output["histogram"] if histogram is None else histogram + output["histogram"]
        assert sums is not None and histogram is not None
        gradient_norm = self._clip()
        self.engine.step()
        gradient_norm = self.engine.get_global_grad_norm() if gradient_norm is None else gradient_norm

        self.meter.count_tokens(tokens)
        self.state = dataclasses.replace(
            self.state,
            step=step,
            rows_consumed=self.state.rows_consumed + plan.global_batch,
            phase_rows=(step - plan.begin) * plan.global_batch,
            tokens_consumed=self.meter.tokens_consumed,
            rows_skipped=self.state.rows_skipped + skipped,
        )
        if self.audit:
            self.audit.write(step, prepared.epochs, prepared.row_ids)
        if step % recipe.logging.every == 0:
            source = self.source(plan.sequence_length)
            line = {
                "kind": "train",
                "step": step,
                "learning_rate": rate,
                "rows_consumed": self.state.rows_consumed,
                "rows_skipped": self.state.rows_skipped,
                "epoch": (plan.first_row + self.state.phase_rows) / source.total,
            }
            if epochs := source.order.epochs(plan.first_row + self.state.phase_rows):
                line["epochs"] = epochs
            self.meter.record(line, sums, histogram, gradient_norm, self.waited_seconds)
            # The first line of a life comes at once: a person waits for it.
            if self.meter.pending >= recipe.logging.flush_every or not self.meter.flushed:
                self._record_pending()
        self.progress.advance(step)

    def _check_skipped(self, plan: PhasePlan, skipped: int) -> None:
        """Stop, on every rank at the same step, once more rows were skipped than data.corrupt_share allows.

        One block is always allowed, so that the first batch does not trip over a single bad one.
        """
        total, consumed = self.state.rows_skipped + skipped, self.state.rows_consumed + plan.global_batch
        share, one_block = self.recipe.data.corrupt_share, int(self.source(plan.sequence_length).rows.max())
        if skipped and total > max(share * consumed, one_block):
            raise DataError(
                f"{total:,} of {consumed:,} rows were in blocks that cannot be read: more than "
                f"data.corrupt_share={share:g}, and than one block. The lines 'skipped, ...' above name them, and "
                f"'electra-ds inspect {self.shards.folder} --verify' finds all; rebuild those shards, or allow a "
                "larger data.corrupt_share"
            )

    def _clip(self) -> Tensor | None:
        """Clip where DeepSpeed would keep the norm to itself (float32 without ZeRO)."""
        if not self.clips_itself:
            return None
        limit = self.recipe.optimizer.clip_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(self.engine.module.parameters(), limit)

    def _record_pending(self) -> None:
        """Exchange and write the lines kept so far; stop if a loss is not a number."""
        lines = self.meter.flush()
        for line in lines:
            flops = self._flops_per_token()
            peak = self.recipe.training.peak_flops or (
                peak_flops(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None
            )
            line["mfu"] = line["tokens_per_second"] * flops / (peak * self.place.world_size) if peak else None
            if self.writer:
                self.writer.write(line)
        if lines:
            if self.writer:
                self.writer.flush()
            self.progress.show(lines[-1])
        bad = next((line for line in lines if not is_finite(line["loss"])), None)
        if bad:
            raise UserError(
                f"the loss of step {bad['step']} is not a finite number (generator {bad['generator_loss']}, "
                f"discriminator {bad['discriminator_loss']}); lower optimizer.learning_rate, or take another "
                "training.precision, and run again: it goes on from the last checkpoint"
            )

    def _flops_per_token(self) -> float:
        """Useful FLOPs at the current phase's row length, as if each row were one segment."""
        length = phase_at(self.plans, self.state.step).sequence_length
        return step_flops_per_token(self.model_config, self.recipe.objective.mask_fraction, length)

    def _validate(self, validator: Validator, step: int) -> None:
        self._record_pending()
        named = self.meter.named(validator.run(self.engine))
        validator.write_samples(
            self.engine, self.folder, self.shards.tokenizer_folder(), step, self.recipe.validation.samples
        )
        line = {"kind": "validation", "step": step, **named, "elapsed_seconds": self.meter.elapsed}
        if self.writer:
            self.writer.write(line)
            self.writer.flush()
        self.progress.show(line)

    def _save(self) -> None:
        self._record_pending()
        begun = time.perf_counter()
        self.state = dataclasses.replace(self.state, elapsed_seconds=self.meter.elapsed)
        path = save_checkpoint(
            self.engine, self.folder / CHECKPOINTS, self.state, self.recipe.checkpoint, self._exchange
        )
        self._event("save", checkpoint=path.name, seconds=time.perf_counter() - begun)

    def _resume(self) -> RunState:
        """Load the newest whole checkpoint, or describe a run that has not begun."""
        found: tuple[Path, RunState] | None = None
        error: Exception | None = None
        if self.place.is_first:
            try:
                found = newest_whole(self.folder / CHECKPOINTS, self._say)
            except UserError as problem:
                error = problem
        found, error = self._exchange((found, error))[0]
        if error:
            raise error
        fresh = self._fresh_state()
        if found is None:
            return fresh
        path, state = found
        check_fits(path, state, fresh)
        load_checkpoint(self.engine, path, state, self.place.world_size, self.stage)
        self._say(f"resumed from {path} at step {state.step}")
        return dataclasses.replace(
            state,
            world_size=fresh.world_size,
            zero_stage=fresh.zero_stage,
            precision=fresh.precision,
            versions=fresh.versions,
        )

    def _fresh_state(self) -> RunState:
        manifest = self.shards.manifest
        return RunState(
            step=0,
            rows_consumed=0,
            phase_rows=0,
            tokens_consumed=0,
            seed=self.recipe.training.seed,
            fingerprint=manifest.fingerprint,
            tokenizer_fingerprint=manifest.tokenizer.fingerprint,
            special_ids=dataclasses.asdict(self.special),
            model=plain(self.model_config),
            objective=plain(self.recipe.objective),
            world_size=self.place.world_size,
            zero_stage=self.stage,
            precision=self.recipe.training.precision,
            elapsed_seconds=0.0,
            versions=versions(),
            mixture=mixture_shares(manifest.splits[self.shards.split], manifest.weights, self.recipe.data),
        )

    def source(self, length: int) -> RowSource:
        """Training rows of `length` tokens."""
        if length not in self._sources:
            self._sources[length] = RowSource(self.shards, self.recipe.data, length, self.recipe.training.seed)
        return self._sources[length]

    def _loader(self, plan: PhasePlan) -> StepRows | LoaderProcess:
        """Function of the updates made so far: this rank's rows of the next one."""
        portion = Portion(plan.begin, plan.first_row, plan.global_batch, self.place.rank, self.place.world_size)
        if not self.recipe.data.prefetch_process:
            return StepRows(self.source(plan.sequence_length), portion)
        job = Job(
            config=self.recipe.data,
            split=self.shards.split,
            length=plan.sequence_length,
            seed=self.recipe.training.seed,
            portion=portion,
            begin=self.state.step,
            fingerprint=self.shards.manifest.fingerprint,
        )
        return LoaderProcess(job, self.shards.manifest.dtype)

    def _preparer(self, rows_of: Callable[[int], Rows]) -> Callable[[int], PreparedRows]:
        """The same with masks drawn: torch, so in a thread of this process, where it lets go of the interpreter."""
        recipe, pin = self.recipe, self.device.type == "cuda"

        def make(step: int) -> PreparedRows:
            rows = rows_of(step)
            return prepare(rows, recipe.objective, self.special, recipe.training.seed, self.continues, pin)

        return make

    def _validator(self, plan: PhasePlan) -> Validator | None:
        if not self.shards.manifest.total("validation", "blocks"):
            return None
        # All of its blocks are one pool: the same held-out rows whatever the mixture.
        data = dataclasses.replace(self.recipe.data, mixing="natural", weights={})
        shards = open_shards(data, "validation", self.shards.manifest.fingerprint)
        source = RowSource(shards, data, plan.sequence_length, seed=0)
        return Validator(
            source,
            self.recipe.validation.rows,
            plan.micro_batch,
            self.recipe.objective,
            self.special,
            self.continues,
            self.place.rank,
            self.place.world_size,
            self.device,
        )

    def _event(self, event: str, **details: Any) -> None:
        if self.writer:
            self.writer.write(
                {"kind": "event", "step": self.state.step, "event": event, "time": time.time(), **details}
            )
            self.writer.flush()
        if event in ("stop", "end"):
            verb = "stopped" if event == "stop" else "finished"
            self._say(f"{verb} after step {self.state.step} of {self.recipe.training.steps}; run folder {self.folder}")

    def _description(self) -> dict[str, Any]:
        return {
            "world_size": self.place.world_size,
            "launcher": self.place.launcher,
            "zero_stage": self.stage,
            "precision": self.recipe.training.precision,
            "device": str(self.device.type),
            "parameters": self.parameters,
            "versions": versions(),
        }

    def _exchange(self, value: Any) -> list[Any]:
        """Gather one object of each rank on every rank."""
        gathered: list[Any] = [None] * self.place.world_size
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def _say(self, message: str) -> None:
        if self.place.is_first:
            print(message, flush=True)
