"""The training loop: build, resume, then step after step."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds.checkpoint import CHECKPOINTS, RunState, newest_whole
from electra_ds.data.prefetch import Prefetcher
from electra_ds.errors import DataError
from electra_ds.lives import DONE, REQUEUE, STOPPED
from electra_ds.model.config import idle_settings
from electra_ds.model.flops import peak_flops, step_flops_per_token
from electra_ds.model.objectives import build
from electra_ds.model.pretraining import Pretraining
from electra_ds.recipe import Recipe
from electra_ds.training import engine as engines
from electra_ds.training.batches import PreparedRows, micro_batches
from electra_ds.training.checkpoint import NOT_WRITTEN, WRITTEN, Saved, Saver, load_checkpoint
from electra_ds.training.compiled_cache import CompiledCache
from electra_ds.training.compiling import choose_backends, compile_blocks, kept_share
from electra_ds.training.ema import MovingAverage
from electra_ds.training.fit import check_fits, fresh_state, seed_everything, try_batch, versions
from electra_ds.training.graphs import check_graphs, record_encoders
from electra_ds.training.initial import begin_from, begin_masters, hand_on
from electra_ds.training.lock import RunLock
from electra_ds.training.metrics import Audit, Meter, Writer
from electra_ds.training.nonfinite import NonfiniteWatch, loss_scale_falls, losses_of, telling_loss
from electra_ds.training.peers import Peers
from electra_ds.training.progress import Progress
from electra_ds.training.room import SegmentRoom
from electra_ds.training.schedule import PhasePlan, learning_rate, phase_at, plan_phases
from electra_ds.training.stopping import SAVE_NAME, STOP_NAME, RequestFiles, signalled
from electra_ds.training.supply import Supply
from electra_ds.training.validation import Validator
from electra_ds.training.watchdog import Watchdog


@dataclass(frozen=True)
class Agreed:
    """What all ranks know before a step."""

    counts: Tensor
    """Float64 [5], on the CPU: `PreparedRows.counts` of the global batch."""
    stop: str | None
    """Why the run ends here: ``signal`` or ``STOP``."""
    save: bool
    """Whether a SAVE file asked for a checkpoint after this step."""


class Trainer:
    """One rank of one life of a run."""

    def __init__(
        self, recipe: Recipe, peers: Peers, device: torch.device, lock: RunLock | None, life: str, watchdog: Watchdog
    ) -> None:
        """Open the data, build model and engine, resume.

        Args:
            recipe: of the run.
            peers: the ranks, whose process group is up.
            device: this rank's.
            lock: of the run folder; rank 0 has it.
            life: name of this life, the same on all ranks.
            watchdog: told of progress.
        """
        self.recipe, self.peers, self.place, self.device = recipe, peers, peers.place, device
        self.folder = Path(recipe.output)
        self.watchdog, self.lock = watchdog, lock
        self.supply = Supply(recipe, peers)
        self.plans = plan_phases(recipe, self.place.world_size)
        self.supply.check(self.plans, self._say)
        watchdog.beat("looking for a checkpoint")
        begun = time.perf_counter()
        found = peers.from_first(lambda: newest_whole(self.folder / CHECKPOINTS, self._say))
        looked = time.perf_counter() - begun
        watchdog.beat("building the model")
        torch.manual_seed(recipe.training.seed)
        model = build(self.supply.model_config, recipe.objective, self.supply.special)
        if idle := idle_settings(recipe.model, recipe.objective):
            self._say(f"objective.name={recipe.objective.name} makes no use of {', '.join(idle)}")
        self.backends, notes = choose_backends(recipe, self.supply.model_config, device)
        for note in notes:
            self._say(note)
        model.use(self.backends)
        told = self._say if self.backends.attention != "torch" else None  # under a mask slots are no shape
        self.room = SegmentRoom(lambda length: self.supply.source(length).segments_a_row, told)
        model.recompute_layers(recipe.kernels.activation_checkpointing)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        config = engines.read_deepspeed_config(recipe.deepspeed)
        self.stage = engines.zero_stage(config)
        self.clips_itself = engines.clips_itself(config, recipe)
        self.initial = self._begin(model) if found is None and recipe.init.from_ else []
        model.to(device)
        loaded: dict[str, Tensor] = {}
        if self.initial:
            hand_on(model, peers)
            if recipe.training.precision != "float32":
                loaded = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
        if recipe.training.try_batch:
            shares = 1 if self.stage == 0 else self.place.world_size
            try_batch(model, self.supply.one_batch(self.plans), recipe.training.precision, device, shares)
        check_graphs(recipe.kernels.cuda_graphs, device, model, self.stage, self.plans)
        self.compiled_cache = CompiledCache() if self.backends.compiled else None
        if self.backends.compiled:
            drops = (recipe.model.dropout if (own := recipe.model.attention_dropout) is None else own) > 0
            compile_blocks(model, self.stage == 3, kept_share(recipe.kernels, self.backends, device, drops))
            self._say("the first step compiles the model's blocks, which takes a while (kernels.compile)")
        self.engine = engines.build_engine(model, recipe, config, self.plans, self.place, self.backends.optimizer)
        if loaded:
            begin_masters(self.engine, self.stage, loaded)
            loaded.clear()
        watchdog.beat("resuming")
        self.saver = Saver(
            self.engine,
            self.folder / CHECKPOINTS,
            recipe.checkpoint,
            peers,
            life,
            check_lock=lock.check if lock else lambda: None,
            beat=lambda doing: watchdog.beat(doing, self.state.step),
        )
        self.saved_step = 0
        begun = time.perf_counter()
        self.state = self._resume(found)
        self.resume_seconds = looked + time.perf_counter() - begun
        if recipe.kernels.cuda_graphs:
            longest = max(self.plans, key=lambda plan: plan.end - plan.begin)
            rows = self.supply.one_batch([longest])
            batch = next(micro_batches(rows, longest.micro_batch, rows.counts, 1, device, self.room))
            record_encoders(model, batch, self._say)
        self.requests = RequestFiles(self.folder, self.place.is_first)
        self.waited_seconds = 0.0
        self.meter = Meter(
            recipe.objective, self.place.world_size, self.state.tokens_consumed, self.state.elapsed_seconds
        )
        self.writer = Writer(self.folder, recipe, self.state.step) if self.place.is_first else None
        self.nonfinite = NonfiniteWatch(recipe.training, peers, self.folder, self._event, self._wind_up)
        self.audit: Audit | None = None
        if recipe.data.audit:
            self.audit = Audit(self.folder, self.place.rank, self.place.world_size, self.state.step)
        self.progress = Progress(recipe.training.steps, self.state.step, self.place.is_first)

    def run(self) -> int:
        """Train from where the run stands to its end, to training.stop_after, or until told to stop.

        Returns:
            Exit status: `DONE`, `REQUEUE` after a signal, `STOPPED` by a STOP file.
        """
        last = min(self.recipe.training.steps, self.recipe.training.stop_after or self.recipe.training.steps)
        self._event("resume" if self.state.step else "start", **self._description())
        stop: str | None = None
        while self.state.step < last and stop is None:
            plan = phase_at(self.plans, self.state.step)
            stop = self._run_phase(plan, min(plan.end, last))
        self._record_pending()
        self.nonfinite.settle()
        if self.saved_step != self.state.step:
            self._save()
        self._finish_save()
        self.saver.close()
        self._event(
            "end" if self.state.step == self.recipe.training.steps else "stop", **({"why": stop} if stop else {})
        )
        if stop == STOP_NAME:
            self.requests.remove(STOP_NAME)
        if self.writer:
            self.writer.close()
        if self.compiled_cache:
            self.compiled_cache.release()
        self.progress.close()
        return {None: DONE, STOP_NAME: STOPPED}.get(stop, REQUEUE)

    def _run_phase(self, plan: PhasePlan, last: int) -> str | None:
        """Run the steps of one phase up to `last`; returns why it ended before, if it did."""
        self.watchdog.beat("opening the phase's data", self.state.step)
        rows_of = self.supply.rows_of_step(plan, self.state.step)
        prepare = self.supply.preparer(rows_of, self.device)
        batches = Prefetcher(prepare, self.state.step, self.recipe.data.prefetch)
        validator = self.supply.validator(plan, self.device)
        try:
            for step in range(self.state.step + 1, last + 1):
                self.watchdog.beat("waiting for data", self.state.step)
                waited = batches.waited_seconds
                prepared = next(batches)
                self.waited_seconds += batches.waited_seconds - waited
                self.watchdog.beat("making a step", self.state.step)
                agreed = self._agree(prepared)
                if agreed.stop:
                    return agreed.stop
                self._step(plan, step, prepared, agreed.counts)
                ends = step == self.recipe.training.steps
                if validator and (step % self.recipe.validation.every == 0 or ends):
                    self._validate(validator, step)
                if step % self.recipe.checkpoint.every == 0 or agreed.save:
                    self._save()
                    if agreed.save:
                        self.requests.remove(SAVE_NAME)
            return None
        finally:
            rows_of.close()
            batches.close()
            self.supply.source(plan.sequence_length).clear()  # another phase has another row length

    def _agree(self, prepared: PreparedRows) -> Agreed:
        """Add up the ranks' counts, and with them what any rank was told or found, and how far the checkpoint is."""
        progress, (stop, save) = self.saver.progress, self.requests.read()
        lost = self.lock is not None and self.lock.is_lost
        found = self.nonfinite.look()
        told = [progress == WRITTEN, progress == NOT_WRITTEN, signalled() is not None, stop, save, lost, found]
        total = self.peers.sum(torch.cat([prepared.counts, torch.tensor(told, dtype=torch.float64)]))
        written, failed, signals, stops, saves, losses, finds = total[len(prepared.counts) :].tolist()
        if losses:
            self.peers.from_first(lambda: self.lock.check() if self.lock else None)
        if finds:
            self.nonfinite.report()
        if failed or written == self.place.world_size:
            self._finish_save()
        why = STOP_NAME if stops else "signal" if signals else None  # who says STOP does not want to see it again
        return Agreed(total[: len(prepared.counts)], why, bool(saves))

    def _step(self, plan: PhasePlan, step: int, prepared: PreparedRows, counts: Tensor) -> None:
        """One optimizer update: forward and backward over the micro-batches, then the step and its record."""
        recipe, world_size = self.recipe, self.place.world_size
        seed_everything(recipe.training.seed, step, self.place.rank)
        rate = learning_rate(recipe.schedule, recipe.optimizer.learning_rate, step - 1, recipe.training.steps)
        engines.set_hyperparameters(self.engine, recipe.optimizer, rate, step - self.engine.skipped_steps)
        tokens, skipped = (int(count) for count in counts[1:3].tolist())
        self._check_skipped(plan, skipped)
        sums: Tensor | None = None
        histogram: Tensor | None = None
        losses: list[Tensor] = []
        batches = micro_batches(prepared, plan.micro_batch, counts, world_size, self.device, self.room)
        for number, batch in enumerate(batches):
            self.engine.set_gradient_accumulation_boundary(number == plan.accumulation - 1)
            output = self.engine(batch)
            # The engine divides by its accumulation count, at stage 0 even when told not to (scale_wrt_gas): undone
            # here, as the scales of a batch already make the sum over micro-batches the mean of the global batch.
            self.engine.backward(telling_loss(output["loss"]) * self.engine.gradient_accumulation_steps())
            losses.append(losses_of(output))
            sums = output["statistics"] if sums is None else sums + output["statistics"]
            histogram = output["histogram"] if histogram is None else histogram + output["histogram"]
        assert sums is not None and histogram is not None
        scale_falls, scale = loss_scale_falls(self.engine), engines.scale_of_norm(self.engine)
        gradient_norm = self._clip()
        self.engine.step()
        if self.saver.average is not None:
            self.saver.average.update()
        if gradient_norm is None:
            gradient_norm = self.engine.get_global_grad_norm()
            if scale is not None and gradient_norm is not None:
                gradient_norm = gradient_norm / scale
        self.nonfinite.note(step, prepared, losses, gradient_norm, scale_falls)

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
            source = self.supply.source(plan.sequence_length)
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
        share, one_block = self.recipe.data.corrupt_share, int(self.supply.source(plan.sequence_length).rows.max())
        if skipped and total > max(share * consumed, one_block):
            raise DataError(
                f"{total:,} of {consumed:,} rows were in blocks that cannot be read: more than "
                f"data.corrupt_share={share:g}, and than one block. The lines 'skipped, ...' above name them, and "
                f"'electra-ds inspect {self.supply.shards.folder} --verify' finds all; rebuild those shards, or allow "
                "a larger data.corrupt_share"
            )

    def _clip(self) -> Tensor | None:
        """Clip where DeepSpeed would keep the norm to itself (float32 without ZeRO)."""
        if not self.clips_itself:
            return None
        skip = self.recipe.training.on_nonfinite == "skip"
        return engines.clip_gradients(self.engine, self.recipe.optimizer.clip_norm, skip)

    def _record_pending(self) -> None:
        """Exchange and write the lines kept so far."""
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

    def _flops_per_token(self) -> float:
        """Useful FLOPs at the current phase's row length, as if each row were one segment."""
        length = phase_at(self.plans, self.state.step).sequence_length
        objective = self.recipe.objective
        return step_flops_per_token(self.supply.model_config, objective.mask_fraction, length, objective.name)

    def _validate(self, validator: Validator, step: int) -> None:
        self._record_pending()
        named = self.meter.named(validator.run(self.engine))
        validator.write_samples(
            self.engine, self.folder, self.supply.shards.tokenizer_folder(), step, self.recipe.validation.samples
        )
        line = {"kind": "validation", "step": step, **named, "elapsed_seconds": self.meter.elapsed}
        if self.writer:
            self.writer.write(line)
            self.writer.flush()
        self.progress.show(line)

    def _save(self) -> None:
        """Begin a checkpoint, unless a step before was not finite; the one before is published first if it is not."""
        self._record_pending()
        self.nonfinite.settle()
        self.watchdog.beat("saving", self.state.step)
        self.state = dataclasses.replace(self.state, elapsed_seconds=self.meter.elapsed)
        published = self.saver.begin(self.state)
        self.saved_step = self.state.step
        for saved in published:
            self._tell_saved(saved)

    def _wind_up(self) -> None:
        """Before the run stops at a bad step: write the lines so far, and publish a good checkpoint still underway."""
        self._record_pending()
        self._finish_save()

    def _finish_save(self) -> None:
        self.watchdog.beat("publishing a checkpoint", self.state.step)
        for saved in self.saver.finish():
            self._tell_saved(saved)

    def _tell_saved(self, saved: Saved) -> None:
        details = {**dataclasses.asdict(saved), "checkpoint": saved.name}
        del details["name"]
        self._event("save", **{**details, "step": saved.step})
        lead = float(os.environ.get("ELECTRA_DS_SIGNAL_SECONDS") or "inf")
        if saved.seconds > lead:
            self._say(
                f"checkpoint {saved.name} took {saved.seconds:.0f} s, but Slurm's signal comes {lead:g} s before the "
                "time limit: submit again with a greater --signal_seconds, or the end of a job will be lost"
            )

    def _begin(self, model: Pretraining) -> list[str]:
        """Fill the model with the weights that init.from names, on rank 0; returns what is to be told of it."""
        init, special = self.recipe.init, dataclasses.asdict(self.supply.special)
        tokenizer, seed = self.folder / "tokenizer", self.recipe.training.seed
        lines = self.peers.from_first(lambda: begin_from(model, init, tokenizer, special, seed))
        for line in lines:
            self._say(line)
        return lines

    def _resume(self, found: tuple[Path, RunState] | None) -> RunState:
        """Load a checkpoint, or describe a run that has not begun; begin the moving average there."""
        fresh = dataclasses.replace(
            fresh_state(self.recipe, self.supply, self.place.world_size, self.stage), optimizer=self.backends.optimizer
        )
        decay = self.recipe.training.ema_decay
        if found is None:
            self.saver.average = MovingAverage(self.engine, self.stage, decay) if decay is not None else None
            return fresh
        path, state = found
        check_fits(path, state, fresh)
        load_checkpoint(self.engine, path, state, fresh)
        if decay is not None:
            self.saver.average = MovingAverage(self.engine, self.stage, decay)
            if not self.saver.average.restore(path, state):
                self._say(f"{path} holds no moving average (training.ema_decay): it begins here")
        self.saved_step = state.step
        was = f"{state.world_size} rank(s) at ZeRO stage {state.zero_stage}"
        other = (state.world_size, state.zero_stage) != (self.place.world_size, self.stage)
        self._say(f"resumed from {path} at step {state.step}" + (f", saved by {was}" if other else ""))
        return dataclasses.replace(
            state,
            world_size=fresh.world_size,
            zero_stage=fresh.zero_stage,
            precision=fresh.precision,
            versions=fresh.versions,
            optimizer=fresh.optimizer,
        )

    def _event(self, event: str, **details: Any) -> None:
        if self.writer:
            line = {"kind": "event", "step": self.state.step, "event": event, "time": time.time()}
            self.writer.write({**line, **details})
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
            "seconds": self.resume_seconds,
            "versions": versions(),
            **({"init": self.initial} if self.initial else {}),
        }

    def _say(self, message: str) -> None:
        if self.place.is_first:
            print(message, flush=True)
