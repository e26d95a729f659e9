"""The kinds of problems that can be fine-tuned on: one small class each.

A new task is one module with one class (see `base.Task`) and one line here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from electra_ds.finetune.config import FinetuneConfig
    from electra_ds.finetune.tasks.base import Task

_HERE = "electra_ds.finetune.tasks"
TASKS = {
    "classification": (f"{_HERE}.classification", "Classification"),
    "regression": (f"{_HERE}.regression", "Regression"),
    "tagging": (f"{_HERE}.tagging", "Tagging"),
    "question_answering": (f"{_HERE}.question_answering", "QuestionAnswering"),
    "multiple_choice": (f"{_HERE}.multiple_choice", "MultipleChoice"),
}
"""Name: (module, class)."""


def build_task(config: FinetuneConfig) -> Task:
    """Return the task a config names; imports its module only."""
    module, name = TASKS[config.kind]
    task: Task = getattr(importlib.import_module(module), name)(config)
    return task
