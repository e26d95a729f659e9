"""The run over its steps: headline facts, plots, and what they say in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from electra_ds.report.figures import Mark, Series, curves
from electra_ds.report.reading import Inputs, number

Lines = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Fact:
    """One headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A figure with its caption."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A group of plots under one heading."""

    title: str
    text: list[str]
    plots: list[Plot]


def points(lines: Lines, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric, where it is a number."""
    found = [(number(line["step"]), number(line.get(key))) for line in lines]
    kept = [(step, value) for step, value in found if step is not None and value is not None]
    return [step for step, _ in kept], [value for _, value in kept]


def last(lines: Lines, key: str) -> float | None:
    """The latest value of a metric that is a number."""
    values = points(lines, key)[1]
    return values[-1] if values else None


def learned(inputs: Inputs) -> str:
    """What the run learns, as its recipe says."""
    section = inputs.recipe.get("objective")
    name = str(section.get("name", "electra")) if isinstance(section, dict) else "electra"
    return {
        "electra_15": "telling replaced tokens from original ones at the selected positions",
        "mlm": "filling masked tokens in (objective mlm)",
        "replace_mlm": "restoring replaced tokens (objective replace_mlm)",
        "all_tokens_mlm": "restoring all tokens of a corrupted text (objective all_tokens_mlm)",
        "electric": "telling tokens from noise by their energy (objective electric)",
    }.get(name, "telling replaced tokens from original ones")


def lives(inputs: Inputs) -> list[dict[str, Any]]:
    """Events that began a life of the run: its start and each resume."""
    return [event for event in inputs.events if event.get("event") in ("start", "resume")]


def distinct(events: Lines, key: str) -> list[str]:
    """Values of a key over the lives, in order, repeats left out."""
    return list(dict.fromkeys(str(event[key]) for event in events if event.get(key) is not None))


def facts(inputs: Inputs) -> list[Fact]:
    """The numbers one looks for first; what is not known is left out."""
    made: list[Fact] = []
    lines = [*inputs.train, *inputs.validation, *inputs.events]
    if steps := max((int(number(line["step"]) or 0) for line in lines), default=0):
        training = inputs.recipe.get("training")
        planned = number(training.get("steps")) if isinstance(training, dict) else None
        made.append(Fact("updates", f"{steps:,}", f"of {int(planned):,} planned" if planned else ""))
    if tokens := last(inputs.train, "tokens_consumed"):
        epoch = last(inputs.train, "epoch")
        made.append(Fact("tokens seen", short(tokens), f"{epoch:.2f} epochs" if epoch is not None else ""))
    if elapsed := last(sorted([*inputs.train, *inputs.validation], key=_step), "elapsed_seconds"):
        speed = points(inputs.train, "tokens_per_second")[1]
        note = f"median {short(statistics.median(speed))} tokens/s" if speed else ""
        made.append(Fact("training time", duration(elapsed), note))
    held_out = last(inputs.validation, "discriminator_auc")
    auc = last(inputs.train, "discriminator_auc") if held_out is None else held_out
    if auc is not None:
        where = "on training text" if held_out is None else "held-out text"
        made.append(Fact("AUC, replaced tokens", f"{auc:.3f}", f"{where}; guessing: 0.5"))
    held_out = last(inputs.validation, "vocabulary_accuracy")
    restored = last(inputs.train, "vocabulary_accuracy") if held_out is None else held_out
    if restored is not None:
        where = "training text" if held_out is None else "held-out text"
        made.append(Fact("selected tokens restored", f"{100 * restored:.1f} %", where))
    return made + _machine_facts(inputs)


def _machine_facts(inputs: Inputs) -> list[Fact]:
    begun, made = lives(inputs), []
    if parameters := last([{"step": 0, **event} for event in begun], "parameters"):
        made.append(Fact("parameters", short(parameters), "of all networks, shared ones once"))
    if ranks := distinct(begun, "world_size"):
        made.append(Fact("ranks", " → ".join(ranks), ", ".join(distinct(begun, "device"))))
    if stage := distinct(begun, "zero_stage"):
        made.append(Fact("ZeRO stage", " → ".join(stage), ", ".join(distinct(begun, "precision"))))
    if begun:
        resumed = sum(event.get("event") == "resume" for event in begun)
        saves = sum(event.get("event") == "save" for event in inputs.events)
        made.append(Fact("times resumed", str(resumed), f"{saves} checkpoint{'' if saves == 1 else 's'} saved"))
    if saved := [event for event in inputs.events if number(event.get("stall_seconds")) is not None]:
        stall = statistics.median(event["stall_seconds"] for event in saved)
        size, written = last(saved, "bytes"), statistics.median(number(event.get("seconds")) or 0.0 for event in saved)
        note = f"median; {written:.2g} s until it was published" + (f", {short(size)}B each" if size else "")
        made.append(Fact("training stood still for a checkpoint", f"{stall:.2g} s", note))
    if mfu := last(inputs.train, "mfu"):
        made.append(Fact("MFU", f"{100 * mfu:.1f} %", "useful FLOPs of the device's peak"))
    return made


def versions(inputs: Inputs) -> list[tuple[str, str]]:
    """Library and its version, or versions if the lives of the run differ."""
    found: dict[str, dict[str, None]] = {}
    for event in lives(inputs):
        for name, version in (event.get("versions") or {}).items():
            found.setdefault(name, {})[str(version)] = None
    return [(name, " → ".join(versions)) for name, versions in found.items()]


def marks(inputs: Inputs) -> list[Mark]:
    """Where the run was stopped and resumed: one mark per resume."""
    made = []
    for event in inputs.events:
        step = number(event.get("step"))
        if event.get("event") == "resume" and step:
            ranks = number(event.get("world_size"))
            made.append(Mark(step, f"resumed on {int(ranks)} rank{'s' if ranks > 1 else ''}" if ranks else "resumed"))
    return made


def sections(inputs: Inputs) -> list[Section]:
    """Every group of plots that has something to show."""
    if not inputs.train and not inputs.validation:
        return []
    made = [_losses(inputs), _detection(inputs), _running(inputs)]
    return [section for section in made if section.plots]


def _losses(inputs: Inputs) -> Section:
    changes = []
    for key, name in (
        ("generator_loss", "generator"),
        ("discriminator_loss", "discriminator"),
        ("vocabulary_loss", "full-size network"),
    ):
        seen = points(inputs.validation, key)[1]
        if len(seen) > 1:
            changes.append(f"the {name}’s from {seen[0]:.3f} to {seen[-1]:.3f}")
    text = [f"Loss on held-out text: {' and '.join(changes)}." if changes else "", _interruptions(inputs)]
    plots = [
        _both(inputs, "generator_loss", "Generator loss", "cross-entropy at the selected positions, nats"),
        _both(inputs, "discriminator_loss", "Discriminator loss", "binary cross-entropy over all tokens, nats"),
        _both(inputs, "vocabulary_loss", "Full-size network’s loss", "cross-entropy of the original tokens, nats"),
        _both(inputs, "pair_generator_loss", "Generator loss, pairs", "of rows with translation pairs, nats"),
        _both(inputs, "pair_discriminator_loss", "Discriminator loss, pairs", "of rows with translation pairs, nats"),
        _both(
            inputs, "pair_vocabulary_loss", "Full-size network’s loss, pairs", "of rows with translation pairs, nats"
        ),
    ]
    return Section("Losses", [line for line in text if line], [plot for plot in plots if plot])


def _detection(inputs: Inputs) -> Section:
    lines = inputs.validation or inputs.train
    where = "held-out" if inputs.validation else "training"
    steps, replaced = points(lines, "replaced_rate")
    baseline = Series("always “original”", steps, [1 - rate for rate in replaced], "muted", dashed=True)
    guessing = Series("guessing", steps[:1] + steps[-1:], [0.5] * len(steps[:1] + steps[-1:]), "muted", dashed=True)
    plots = [
        _both(inputs, "discriminator_auc", "AUC", "of “replaced” against “original”", [guessing]),
        _both(inputs, "discriminator_accuracy", "Accuracy", "over all tokens", [baseline], percent=True),
        _several(
            inputs, lines, "precision-recall", "Precision and recall", f"of “replaced”, {where} text",
            (("discriminator_precision", "precision", "c1"), ("discriminator_recall", "recall", "c3")),
        ),
        _several(
            inputs, lines, "generator-quality", "Generator", f"{where} text",
            (("generator_accuracy", "right at selected positions", "c2"), ("replaced_rate", "tokens replaced", "c4")),
        ),
        _both(inputs, "vocabulary_accuracy", "Restored", "originals that are most probable", percent=True),
    ]  # fmt: skip
    title = "Telling replaced tokens" if points(lines, "discriminator_accuracy")[0] else "Restoring tokens"
    return Section(title, _against_trivial(lines, where), [plot for plot in plots if plot])


def _against_trivial(lines: Lines, where: str) -> list[str]:
    accuracy, replaced = last(lines, "discriminator_accuracy"), last(lines, "replaced_rate")
    if accuracy is None or replaced is None:
        return []
    trivial = 1 - replaced
    gap = 100 * (accuracy - trivial)
    verdict = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if abs(gap) >= 0.05 else "no better than"
    text = (
        f"On {where} text the discriminator ends at {100 * accuracy:.1f} % accuracy, {verdict} the trivial answer "
        f"“original” for every token ({100 * trivial:.1f} %)."
    )
    precision, recall = last(lines, "discriminator_precision"), last(lines, "discriminator_recall")
    if precision is not None and recall is not None:
        text += (
            f" It finds {100 * recall:.0f} % of the replaced tokens; {100 * precision:.0f} % of what it flags is one."
        )
    return [text]


def _running(inputs: Inputs) -> Section:
    train, made = inputs.train, marks(inputs)
    plots = []
    for key, title, caption, colour, percent in (
        ("tokens_per_second", "Throughput", "real tokens per second, all ranks, waiting included", "c1", False),
        ("data_wait", "Waiting for data", "share of the time", "c2", True),
        ("learning_rate", "Learning rate", "", "c3", False),
        ("gradient_norm", "Gradient norm", "before clipping", "c4", False),
    ):
        steps, values = points(train, key)
        if steps:
            wide = min(values) > 0 and max(values) / min(values) > 50 and key == "gradient_norm"
            svg = curves(key.replace("_", "-"), [Series(title, steps, values, colour)], made, wide, percent)
            plots.append(Plot(title, caption, svg))
    waits = points(train, "data_wait")[1]
    text = [f"Waiting for data took {100 * statistics.mean(waits):.1f} % of the time on average."] if waits else []
    return Section("Speed and schedule", text, plots)


def _both(
    inputs: Inputs, key: str, title: str, caption: str, extra: Sequence[Series] = (), percent: bool = False
) -> Plot | None:
    """Training and held-out curve of one metric."""
    series = [
        Series("training", *points(inputs.train, key), "c1"),
        Series("held out", *points(inputs.validation, key), "c2", dots=True),
    ]
    if not any(one.steps for one in series):
        return None
    return Plot(title, caption, curves(key.replace("_", "-"), [*series, *extra], marks(inputs), percent=percent))


def _several(
    inputs: Inputs, lines: Lines, name: str, title: str, caption: str, keys: Sequence[tuple[str, str, str]]
) -> Plot | None:
    """Several shares in one plot."""
    dots = lines is inputs.validation
    series = [Series(label, *points(lines, key), colour, dots=dots) for key, label, colour in keys]
    if not any(one.steps for one in series):
        return None
    return Plot(title, caption, curves(name, series, marks(inputs), percent=True))


def _interruptions(inputs: Inputs) -> str:
    steps = [f"{int(mark.step):,}" for mark in marks(inputs)]
    if not steps:
        return ""
    return f"Dashed lines: the run was stopped, and resumed from the checkpoint of step {' and '.join(steps)}."


def _step(line: dict[str, Any]) -> float:
    return number(line["step"]) or 0.0


def short(value: float) -> str:
    """12345678 as ``12.3 M``."""
    for limit, ending in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {ending}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as ``2 h 05 min``, ``3 min 07 s`` or ``4.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"
