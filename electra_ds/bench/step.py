"""``electra-ds bench step``: tokens a second of a training step beside what a user would write with `transformers`."""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from electra_ds.bench import step_report
from electra_ds.bench.machine import describe
from electra_ds.bench.plan import TINY
from electra_ds.bench.report import Report, command_line
from electra_ds.bench.step_launch import Launcher
from electra_ds.bench.step_sides import BARE, OURS, RECORDED, VARIANT, Setting, Side
from electra_ds.bench.step_summary import Devices, summarise
from electra_ds.bench.text import write_text_set
from electra_ds.bench.worker import is_installed
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.files import write_json
from electra_ds.recipe import parse_recipe

PACKAGES = ("torch", "deepspeed", "transformers", "triton", "electra-pytorch")
PEERS = {"hf": "transformers", "modernbert": "transformers", "electra_pytorch": "electra_pytorch"}
"""Peers, and the module each needs."""
HF, HF_COMPILED = "transformers", "transformers_compiled"
HF_MASKED, HF_MASKED_COMPILED = "transformers_masked_head", "transformers_masked_head_compiled"
OURS_BARE = "electra_ds_bare"
_SHORT = (*TINY[1:], "--kernels.compile=false")
_VARIANT = re.compile(r"\w+\.\w+=[\w.+-]+")
_SEARCH = {"begin": 8, "share": 0.92}
"""Rows to try first, and the share of a GPU's memory that may be filled."""


@dataclass(frozen=True, kw_only=True)
class StepBenchConfig:
    """Measure the joint training step end to end beside the one a user would write with transformers, in turn."""

    output: Path = Path("benchmarks")
    """Folder for the report, its JSON file and its plot, named after recipe, row length and ranks."""
    peer: str = "hf"
    """Others to measure, with commas between: hf, modernbert, electra_pytorch. Those not installed are named."""
    recipe: str = "small"
    """Sizes: a shipped recipe's name (small, base, large) or a file."""
    sequence_length: int | None = None
    """Tokens of a row; null takes the recipe's."""
    micro_batch: int | None = None
    """Rows of a rank and step; null takes 16 on a CPU, and on a GPU the largest power of two that fits every side."""
    precision: Literal["bf16", "float32", "fp16"] = "bf16"
    """Of all sides."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where torch finds one."""
    ranks: int = 1
    """Ranks on this machine, one to a GPU; on a CPU they share the cores."""
    deepspeed: str = "zero1"
    """DeepSpeed config of all sides."""
    stages: list[int] = field(default_factory=list)
    """ZeRO stages of which ours is measured too, in the same turns, for example [0, 1]."""
    variants: list[str] = field(default_factory=list)
    """Settings with which ours is measured too, in the same turns, for example ["kernels.cuda_graphs=true"]."""
    rounds: int = 5
    """Visits to each side, in turn; ratios are taken round by round."""
    steps_per_round: int = 4
    """Steps of a visit: more than `data.prefetch`, so that batches made while others had their turn do not suffice."""
    warm_steps: int = 2
    """Steps before, in which things are compiled and memory is taken."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Of the peer's networks; auto takes the faster of both, tried beforehand; on a GPU sdpa, which is fused."""
    compiled: bool = True
    """Measure the peer with torch.compile too."""
    options: list[str] = field(default_factory=list)
    """Further options of `pretrain` for ours, for example ["--kernels.compile=false"]."""
    shards: str | None = None
    """Shard set to read; null makes one of synthetic text."""
    tokens: int = 2_097_152
    """Tokens of the synthetic set."""
    memory: bool = True
    """Measure the peak memory of each side on a CPU, alone in a process of its own; a GPU's allocator tells anyway."""
    profile: bool = False
    """Write a Chrome trace of one of our steps beside the report, and a table of its operations into it."""
    json: Path | None = None
    """File for the figures alone: ratio, ratio_compiled, tokens_per_second, mfu and the others."""
    short: bool = False
    """A tiny model and two rounds, nothing compiled: for tests; its figures mean nothing."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.peers if name not in PEERS]
        if unknown:
            raise ValueError(f"peer={self.peer}: {', '.join(unknown)} unknown; must be some of {', '.join(PEERS)}")
        for name in ("ranks", "rounds", "steps_per_round", "warm_steps", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not set(self.stages) <= {0, 1, 2, 3}:
            raise ValueError(f"stages={self.stages}: must hold some of 0, 1, 2, 3")
        odd = [variant for variant in self.variants if not _VARIANT.fullmatch(variant)]
        if odd:
            raise ValueError(f"variants={self.variants}: '{odd[0]}' is no setting; expected SECTION.NAME=VALUE")

    @property
    def peers(self) -> list[str]:
        """Names in `peer`."""
        return [name for name in self.peer.split(",") if name]


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    given = list(arguments)
    for flag in ("--short", "--profile"):
        given = bare_flag(given, flag)
    config = parse(StepBenchConfig, given, program)
    with tempfile.TemporaryDirectory(prefix="bench-step-") as folder:
        report = run(config, Path(folder), command_line(program, arguments))
    report.publish(config.output, step_report.told(report.results))
    if config.json:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.json, report.results)
    return 0


def run(config: StepBenchConfig, folder: Path, command: str) -> Report:
    """Measure everything, and describe it.

    Args:
        config: what to measure.
        folder: for shards and what ranks write; may be deleted afterwards.
        command: how the reader repeats it.
    """
    if config.short:
        config = replace(config, rounds=2, steps_per_round=1, warm_steps=1, compiled=False, attention="sdpa")
        config = replace(config, tokens=60_000, micro_batch=2, sequence_length=config.sequence_length or 64)
    machine = describe(PACKAGES)
    devices = Devices.find(config.device, config.ranks)
    machine |= devices.described
    setting = _setting(config, folder, devices.kind)
    launcher = Launcher(folder / "jobs", config.ranks)
    present = [name for name in config.peers if is_installed(PEERS[name])]
    attention = _attention(config, setting, launcher) if "hf" in present else {}
    sides = _sides(config, present, attention)
    if devices.kind == "cuda" and config.micro_batch is None:
        setting = replace(setting, micro_batch=_largest_micro_batch(setting, sides, launcher))
    name = report_name(config, setting, devices.kind)
    trace = config.output / f"{name}.trace.json.gz" if config.profile else None
    _say(f"{len(sides)} sides in turn, {setting.micro_batch} rows of {setting.sequence_length} tokens")
    ranks = launcher.run(
        "compare",
        setting,
        sides,
        rounds=config.rounds,
        steps=config.steps_per_round,
        warm=config.warm_steps,
        parts=[OURS, HF, HF_MASKED],
        part_steps=1 if config.short else 3,
        trace=str(trace.absolute()) if trace else None,
    )
    alone = config.memory and devices.kind == "cpu"
    ran = [side for side in sides if side.name not in ranks[0]["failed"]]
    memory = _memory(config, setting, ran, launcher) if alone else {}
    results = summarise(ranks, memory, sides, devices)
    results["missing"] = [peer for peer in config.peers if peer not in present]
    results["attention"], results["figure"] = attention, f"{name}.svg"
    results["setting"] = {
        name: getattr(setting, name)
        for name in ("recipe", "sequence_length", "micro_batch", "precision", "device", "deepspeed")
    } | {"ranks": config.ranks}
    report = Report(name, step_report.title(results), step_report.LEAD, command, machine, plain(config))
    report.results = results
    report.sections = step_report.sections(results, trace.name if trace else None)
    report.figures = step_report.figures(results, name)
    return report


def report_name(config: StepBenchConfig, setting: Setting, device: str) -> str:
    """Name of the report: one for each model, row length, device and number of ranks."""
    parts = ["step", Path(config.recipe).stem, str(setting.sequence_length)]
    parts += [f"{config.ranks}-ranks"] if config.ranks > 1 else []
    return "-".join([*parts, *(["cuda"] if device == "cuda" else [])])


def _setting(config: StepBenchConfig, folder: Path, device: str) -> Setting:
    block = 8192 if config.short else 262_144
    shards = config.shards or str(write_text_set(folder / "shards", config.tokens, block_tokens=block))
    recipe = parse_recipe([f"--config={config.recipe}", "--output=unused", f"--data.path={shards}"], "bench step")
    return Setting(
        shards=shards,
        folder=str(folder / "runs"),
        recipe=config.recipe,
        sequence_length=config.sequence_length or recipe.data.sequence_length,
        micro_batch=config.micro_batch or 16,
        precision=config.precision,
        device=device,
        deepspeed=config.deepspeed,
        options=_SHORT if config.short else (),
    )


def _sides(config: StepBenchConfig, present: list[str], attention: dict[str, str]) -> list[Side]:
    own = tuple(config.options)
    sides = [
        Side(OURS, "electra_ds", OURS, (*RECORDED, *own)),
        Side(OURS_BARE, "electra_ds, no records", OURS, (*BARE, *own)),
    ]
    sides += [
        Side(f"electra_ds_zero{stage}", f"electra_ds, ZeRO {stage}", OURS, (f"--deepspeed=zero{stage}", *own))
        for stage in config.stages
    ]
    sides += [
        Side(variant_name(one), f"{OURS}, {one}", OURS, (*RECORDED, *own, f"--{one}"), may_fail=True)
        for one in config.variants
    ]
    if "hf" in present:
        sides += [hugging_face(attention["not compiled"], masked, False) for masked in (False, True)]
        if config.compiled:
            sides += [hugging_face(attention["compiled"], masked, True) for masked in (False, True)]
    titles = {"modernbert": "ModernBERT, masked LM only", "electra_pytorch": "electra-pytorch"}
    return [*sides, *(Side(name, titles[name], name) for name in present if name in titles)]


def variant_name(setting: str) -> str:
    """Name of the side that measures ours with a setting, ``SECTION.NAME=VALUE``."""
    return VARIANT + setting.replace("=", "-")


def hugging_face(attention: str, masked: bool, compiled: bool) -> Side:
    """One way to write the joint step with transformers."""
    name = {(False, False): HF, (False, True): HF_COMPILED, (True, False): HF_MASKED, (True, True): HF_MASKED_COMPILED}
    title = "transformers" + (", head where masked" if masked else "") + (", compiled" if compiled else "")
    settings = {"attention": attention, "masked_head": masked, "compiled": compiled}
    return Side(name[masked, compiled], title, "transformers", settings=settings)


def _attention(config: StepBenchConfig, setting: Setting, launcher: Launcher) -> dict[str, str]:
    """The peer's faster attention, compiled and not."""
    ways = {"not compiled": False, **({"compiled": True} if config.compiled else {})}
    if config.attention != "auto" or setting.device == "cuda":
        return dict.fromkeys(ways, "sdpa" if config.attention == "auto" else config.attention)
    _say("which attention suits the peer")
    tried = [
        replace(hugging_face(attention, False, compiled), name=f"{way}, {attention}")
        for way, compiled in ways.items()
        for attention in ("sdpa", "eager")
    ]
    (found, *_) = launcher.run("try", setting, tried, warm=config.warm_steps, steps=2)
    fastest = {way: [(found[f"{way}, {name}"] or float("inf"), name) for name in ("sdpa", "eager")] for way in ways}
    return {way: min(times)[1] for way, times in fastest.items()}


def _memory(
    config: StepBenchConfig, setting: Setting, sides: list[Side], launcher: Launcher
) -> dict[str, dict[str, Any]]:
    """Memory of the rank that held most, by side."""
    found = {}
    for side in sides:
        if side.name == OURS_BARE or (config.short and side.name not in (OURS, HF)):
            continue
        _say(f"memory: {side.title}")
        alone = replace(setting, folder=f"{setting.folder}-memory")
        ranks = launcher.run("memory", alone, [side], warm=config.warm_steps)
        found[side.name] = max(ranks, key=lambda rank: rank["peak"])
    return found


def _largest_micro_batch(setting: Setting, sides: list[Side], launcher: Launcher) -> int:
    _say("looking for the micro-batch")
    eager = [replace(side, settings={**side.settings, "compiled": False}) for side in sides if side.name == HF]
    own = next(side for side in sides if side.name == OURS)
    tried = [replace(own, options=(*own.options, "--kernels.compile=false")), *eager]
    ranks = launcher.run("fit", setting, tried, held=len(sides), **_SEARCH)
    return max(1, min(int(rank["micro_batch"]) for rank in ranks))


def _say(message: str) -> None:
    if sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)
