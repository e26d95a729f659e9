"""What a person sees: a bar with ETA on a terminal, plain lines in a job log."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """Shows rank 0's progress; silent on other ranks."""

    def __init__(self, steps: int, begin: int, visible: bool, seconds_between_lines: float = 10.0) -> None:
        """Args: steps: of the run. begin: made before this life. visible: whether to show anything."""
        self._steps, self._visible, self._pause = steps, visible, seconds_between_lines
        self._bar: Any = None
        self._begin, self._began, self._last_line = begin, time.monotonic(), 0.0
        self._step = begin
        if visible and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=begin, unit="step", dynamic_ncols=True, smoothing=0.05)

    def advance(self, step: int) -> None:
        """A step is done."""
        self._step = step
        if self._bar is not None:
            self._bar.update(1)

    def show(self, line: dict[str, Any]) -> None:
        """Show the newest metrics: validation always, training at most every ten seconds in a log."""
        if not self._visible:
            return
        text = describe(line)
        if line["kind"] == "train" and self._bar is not None:
            self._bar.set_postfix_str(text)
            return
        now = time.monotonic()
        if line["kind"] == "train" and now - self._last_line < self._pause and line["step"] < self._steps:
            return
        self._last_line = now
        message = f"step {line['step']:,}/{self._steps:,}  {text}"
        if line["kind"] == "validation":
            message = "held out: " + message
        else:
            message += f"  {self._remaining()} left"
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        else:
            print(message, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def _remaining(self) -> str:
        done = self._step - self._begin
        if not done:
            return "?"
        seconds = (time.monotonic() - self._began) / done * (self._steps - self._step)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def describe(line: dict[str, Any]) -> str:
    """The few numbers worth a glance."""
    parts = [f"loss {line['loss']:.3f}"]
    for name, key, pattern in (
        ("generator", "generator_loss", "{:.3f}"),
        ("discriminator", "discriminator_loss", "{:.4f}"),
        ("cross-entropy", "vocabulary_loss", "{:.3f}"),
        ("AUC", "discriminator_auc", "{:.3f}"),
        ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ):
        if line.get(key) is not None:
            parts.append(f"{name} {pattern.format(line[key])}")
    return "  ".join(parts)
