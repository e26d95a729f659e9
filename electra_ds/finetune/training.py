"""One run: one seed, one network, the stock `Trainer`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from electra_ds.errors import UserError
from electra_ds.finetune import models, optimizer
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tasks.base import Encoded, Task

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    network: Any
    """The trained model, for saving."""
    logits: dict[str, np.ndarray]
    """Output of the head per scored split, (inputs, ...) float32, in the order of the inputs."""
    scores: dict[str, dict[str, float]]
    """Scores per labelled split."""
    loss: float
    """Mean training loss over all updates."""
    seconds: float
    """Wall time of training and prediction."""


def updates_of(examples: int, config: FinetuneConfig) -> int:
    """Number of updates: the last batch of an epoch may be smaller, and is used."""
    return max(1, math.ceil(config.epochs * math.ceil(examples / config.batch_size)))


def run_seed(
    task: Task,
    config: FinetuneConfig,
    model_config: Any,
    tokenizer: Any,
    encoded: dict[str, Encoded],
    seed: int,
    from_scratch: bool,
    scratch_folder: Path,
    on_update: Callable[[], None],
) -> Outcome:
    """Train on ``train`` and predict every other split.

    Args:
        task: scores the predictions.
        config: settings, learning rate and layer decay resolved.
        model_config: the network's config with the task's head.
        tokenizer: pads the batches.
        encoded: splits from `Task.encode`.
        seed: of the head's weights, dropout and the order of texts.
        from_scratch: random weights for the encoder too.
        scratch_folder: where the Trainer may write (it is told to write nothing).
        on_update: called after each update, for a progress bar.

    Raises:
        UserError: the loss is no longer a number.
    """
    import transformers

    began = time.perf_counter()
    transformers.set_seed(seed)
    network = models.build_model(task.auto_model, config.model, model_config, from_scratch)
    trainer = _trainer(config, network, tokenizer, encoded["train"], seed, scratch_folder, on_update)
    loss = float(trainer.train().training_loss)
    logits = {name: _predict(trainer, split) for name, split in encoded.items() if name != "train"}
    if not math.isfinite(loss) or not all(math.isfinite(values.sum()) for values in logits.values()):
        raise UserError(
            f"seed {seed}: the training diverged (loss {loss}); lower --learning_rate {config.learning_rate}"
        )
    scores = {
        name: task.score(encoded[name], values) for name, values in logits.items() if encoded[name].split.labelled
    }
    return Outcome(network, logits, scores, loss, time.perf_counter() - began)


def _trainer(
    config: FinetuneConfig,
    network: Any,
    tokenizer: Any,
    train: Encoded,
    seed: int,
    scratch_folder: Path,
    on_update: Callable[[], None],
) -> Any:
    import torch
    from transformers import DataCollatorWithPadding, PrinterCallback, TrainingArguments

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
    micro = config.micro_batch_size or config.batch_size
    arguments = TrainingArguments(
        output_dir=str(scratch_folder),
        seed=seed,
        use_cpu=not torch.accelerator.is_available(),  # bf16 without a GPU wants it said
        max_steps=steps,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=config.batch_size // micro,
        max_grad_norm=config.clip,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # A Trainer on several GPUs of one process would multiply the batch behind the recipe's back.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = _trainer_class()(
        model=network,
        args=arguments,
        train_dataset=train.features,
        data_collator=DataCollatorWithPadding(tokenizer),
        optimizers=optimizer.build_optimizer(groups, config, steps),
        callbacks=[_update_callback(on_update)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _trainer_class() -> Any:
    from transformers import Trainer

    class WeighedTrainer(Trainer):
        """Weighs micro-batches by their labels, so that the loss is the mean over the whole batch.

        The stock Trainer leaves that to models that take a count of labels; ELECTRA's heads swallow the count and
        return the mean of their micro-batch, and with k micro-batches loss and gradient come out k times too large.
        """

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            if num_items_in_batch is not None:
                loss = loss * ((inputs["labels"] != -100).sum() / num_items_in_batch)
            return (loss, outputs) if return_outputs else loss

    return WeighedTrainer


def _update_callback(on_update: Callable[[], None]) -> Any:
    from transformers import TrainerCallback

    class Updates(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_update()

    return Updates()


def _predict(trainer: Any, encoded: Encoded) -> np.ndarray:
    """Predict sorted by length, which pads least, and return the order of the inputs."""
    import numpy as np

    order = sorted(range(len(encoded.features)), key=lambda i: len(encoded.features[i]["input_ids"]))
    predicted = trainer.predict([encoded.features[i] for i in order]).predictions
    logits = np.empty_like(predicted, dtype=np.float32)
    logits[np.asarray(order)] = predicted
    return logits
