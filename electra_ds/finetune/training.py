"""One run: one seed, one network, the stock `Trainer`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_ds.errors import UserError
from electra_ds.files import explain_full_disk
from electra_ds.finetune import models, optimizer, output, processes
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tasks.base import Encoded, Scored, Task


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    network: Any
    """The trained model, for saving."""
    logits: dict[str, Any]
    """Output of the head per scored split, (inputs, ...) or a tuple of such arrays, in the order of the inputs."""
    scores: dict[str, Scored]
    """Scores per labelled split."""
    loss: float
    """Mean training loss over all updates."""
    updates: int
    """Updates that were made: fewer than planned after an early stop."""
    evaluations: list[dict[str, Any]]
    """Scores on the validation texts while training, where those were asked for."""
    best_update: int | None
    """Update whose weights were kept; None: the last."""
    seconds: float
    """Wall time of training and prediction, over all lives of an interrupted run."""
    resumed_after: int
    """Update of the checkpoint that the seed went on from; 0: from the beginning."""


def updates_of(examples: int, config: FinetuneConfig) -> int:
    """Number of updates: the last batch of an epoch may be smaller, and is used."""
    assert config.epochs is not None
    return max(1, math.ceil(config.epochs * math.ceil(examples / config.batch_size)))


def evaluation_updates(examples: int, config: FinetuneConfig) -> set[int]:
    """Updates after which the validation texts are scored: evenly spaced in each epoch, and after the last."""
    if not config.evaluations_per_epoch:
        return set()
    total, per_epoch = updates_of(examples, config), math.ceil(examples / config.batch_size)
    count = math.ceil(total / per_epoch) * config.evaluations_per_epoch
    spaced = {max(1, round(i * per_epoch / config.evaluations_per_epoch)) for i in range(1, count + 1)}
    return {update for update in spaced if update < total} | {total}


def unlayered(task: Task, config: FinetuneConfig, model_config: Any) -> list[str]:
    """Say where layer-wise decay finds no layer by the names of the encoder's weights, as in ALBERT and Funnel."""
    import torch

    if config.layer_decay == 1:
        return []
    with torch.device("meta"):  # names only
        network = models.build_model(task.loads_by, config.model, model_config, from_scratch=True)
    if any(optimizer.depth_of(name, network.base_model_prefix) for name, _ in network.named_parameters()):
        return []
    return [
        f"layer_decay: {config.layer_decay:g}, but the weights of {config.model} ({model_config.model_type}) are in no "
        f"layers that can be told apart: the embeddings have the decay of {model_config.num_hidden_layers} layers, the "
        f"rest of the encoder the head's rate {config.learning_rate:g}; --layer_decay 1 gives one rate to all"
    ]


def run_seed(
    task: Task,
    config: FinetuneConfig,
    model_config: Any,
    tokenizer: Any,
    encoded: dict[str, Encoded],
    seed: int,
    from_scratch: bool,
    folder: Path,
    known: dict[str, str],
    on_update: Callable[[], None],
) -> Outcome:
    """Train on ``train`` and predict every other split; goes on from a checkpoint that an interrupted run left.

    Args:
        task: scores the predictions.
        config: settings, learning rate and layer decay resolved.
        model_config: the network's config with the task's head.
        tokenizer: pads the batches.
        encoded: splits from `Task.encode`.
        seed: of the head's weights, dropout and the order of texts.
        from_scratch: random weights for the encoder too.
        folder: of the seed; checkpoints are written into it where `save_steps` asks for them.
        known: fingerprint of settings, texts and weights, on the first process: only checkpoints of the same serve.
        on_update: called for each update that was made, for a progress bar.

    Raises:
        UserError: the loss is no longer a number; or a checkpoint of other settings is there.
    """
    import torch
    import transformers

    from electra_ds.finetune import checkpoints

    began = time.perf_counter()
    saved, before = checkpoints.newest(folder / output.CHECKPOINTS, known)
    transformers.set_seed(seed)
    network = models.build_model(task.loads_by, config.model, model_config, from_scratch)
    watch = _Watch(task, encoded["validation"], config, evaluation_updates(len(encoded["train"].features), config))

    def after_update(update: int) -> bool:
        on_update()
        return watch.after(update)

    def progress(update: int) -> checkpoints.Progress:
        seconds = before.seconds + time.perf_counter() - began
        return checkpoints.Progress(update, mean_over_processes(trainer.loss_sum), seconds, watch.state(), known)

    def mean_over_processes(value: Any) -> float:
        return float(trainer.accelerator.reduce(value, "mean"))

    callbacks = [checkpoints.Saving(config.save_steps, progress)] if config.save_steps else []
    place = folder / output.CHECKPOINTS if config.save_steps else folder
    trainer = _trainer(
        task, config, network, tokenizer, encoded["train"], seed, place, before.update, after_update, callbacks
    )
    watch.trainer, trainer.loss_sum = trainer, trainer.loss_sum + before.loss
    watch.load(before.watch)
    for _ in range(before.update):
        on_update()
    rank, _ = processes.world()
    if rank:
        torch.manual_seed(seed + 1_000_003 * rank)  # dropout of its own on each process
    with explain_full_disk(folder):
        state = trainer.train(resume_from_checkpoint=str(saved) if saved else None)
    loss = mean_over_processes(trainer.loss_sum) / state.global_step
    _check_finite(config, seed, loss)
    best = watch.restore()
    outputs = {name: predict(trainer, split) for name, split in encoded.items() if name != "train"}
    for found in outputs.values():
        _check_finite(config, seed, loss, found)
    scores = {name: task.score(encoded[name], found) for name, found in outputs.items() if encoded[name].split.labelled}
    seconds = before.seconds + time.perf_counter() - began
    return Outcome(network, outputs, scores, loss, int(state.global_step), watch.seen, best, seconds, before.update)


def _check_finite(config: FinetuneConfig, seed: int, loss: float, outputs: Any = ()) -> None:
    import numpy as np

    arrays = outputs if isinstance(outputs, tuple) else (outputs,)
    if not math.isfinite(loss) or not all(np.isfinite(values).all() for values in arrays):
        raise UserError(
            f"seed {seed}: the training diverged (loss {loss}); lower --learning_rate {config.learning_rate}"
        )


class _Watch:
    """Scores the validation texts now and then, keeps the best weights, and says when to stop."""

    def __init__(self, task: Task, validation: Encoded, config: FinetuneConfig, updates: set[int]):
        self.task, self.validation, self.config, self.updates = task, validation, config, updates
        self.trainer: Any = None
        self.seen: list[dict[str, Any]] = []
        self.best: tuple[float, int, dict[str, Any]] | None = None
        self.without_gain = 0

    def after(self, update: int) -> bool:
        """Return whether the training may end here."""
        if update not in self.updates:
            return False
        outputs = predict(self.trainer, self.validation)
        _check_finite(self.config, self.trainer.args.seed, 0.0, outputs)
        score = self.task.score(self.validation, outputs)[self.task.metric]
        self.seen.append({"update": update, self.task.metric: score})
        if self.best is None or score > self.best[0]:
            weights = self.trainer.model.state_dict()
            self.best = (score, update, {name: value.detach().cpu().clone() for name, value in weights.items()})
            self.without_gain = 0
        else:
            self.without_gain += 1
        return self.config.patience is not None and self.without_gain >= self.config.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: tensors and plain values."""
        seen = [{name: v if isinstance(v, int) else float(v) for name, v in entry.items()} for entry in self.seen]
        best = None if self.best is None else (float(self.best[0]), *self.best[1:])
        return {"seen": seen, "best": best, "without_gain": self.without_gain}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` told; nothing of an empty one."""
        for name, value in state.items():
            setattr(self, name, value)

    def restore(self) -> int | None:
        """Put the best weights back; return the update they are of, None where nothing was scored."""
        if self.best is None:
            return None
        self.trainer.model.load_state_dict(self.best[2])
        return self.best[1]


def _trainer(
    task: Task,
    config: FinetuneConfig,
    network: Any,
    tokenizer: Any,
    train: Encoded,
    seed: int,
    folder: Path,
    done: int,
    on_update: Callable[[int], bool],
    callbacks: list[Any],
) -> Any:
    """The trainer of one seed; `done` updates were made before, `folder` is where it puts checkpoints."""
    import torch
    from transformers import PrinterCallback, TrainingArguments

    from electra_ds.finetune.trainer import ExactTrainer, GlobalBatches, Updates

    assert config.learning_rate is not None and config.layer_decay is not None
    steps = updates_of(len(train.features), config)
    groups = optimizer.parameter_groups(
        network,
        network.config.num_hidden_layers,
        network.base_model_prefix,
        config.learning_rate,
        config.layer_decay,
        config.layer_decay_kind,
        config.weight_decay,
    )
    rank, world = processes.world()
    micro = processes.micro_batch_size(config, world)
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        use_cpu=not torch.accelerator.is_available(),  # bf16 without a GPU wants it said
        max_steps=steps,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=config.batch_size // (micro * world),
        max_grad_norm=config.clip,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        eval_strategy="no",
        save_strategy="no",  # `checkpoints.Saving` asks for them
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        log_level="error",
        log_level_replica="error",  # else the Trainer makes all but the first process talkative
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # A Trainer on several GPUs of one process would multiply the batch behind the recipe's back.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = ExactTrainer(
        model=network,
        args=arguments,
        train_dataset=train.features,
        data_collator=task.collator(tokenizer),
        optimizers=optimizer.build_optimizer(groups, config, steps),
        callbacks=[Updates(on_update), *callbacks],
        batches=GlobalBatches(
            len(train.features),
            config.batch_size,
            micro,
            seed,
            rank,
            world,
            skip_epochs=done // math.ceil(len(train.features) / config.batch_size),
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def predict(trainer: Any, encoded: Encoded) -> Any:
    """Predict sorted by length, which pads least, and return the order of the inputs.

    Returns:
        An array (inputs, ...), or a tuple of such arrays where the head says several things; floats as float32.
    """
    import numpy as np

    features = [{key: value for key, value in feature.items() if key != "labels"} for feature in encoded.features]
    order = sorted(range(len(features)), key=lambda i: _length(features[i]["input_ids"]))
    predicted = trainer.predict([features[i] for i in order]).predictions
    restored = []
    for values in predicted if isinstance(predicted, tuple) else (predicted,):
        kind = np.float32 if np.issubdtype(values.dtype, np.floating) else values.dtype
        placed = np.empty(values.shape, dtype=kind)
        placed[np.asarray(order)] = values
        restored.append(placed)
    return tuple(restored) if isinstance(predicted, tuple) else restored[0]


def _length(ids: list[Any]) -> int:
    """Tokens of an input; of the longest choice where it has several."""
    return max(map(len, ids)) if ids and isinstance(ids[0], list) else len(ids)
