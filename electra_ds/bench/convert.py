"""``electra-ds bench convert``: seconds and memory of `electra-ds convert`, beside DeepSpeed's own consolidation."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from electra_ds.bench.checkpoint import Size, pretrain_run
from electra_ds.bench.machine import describe, usable_cores
from electra_ds.bench.plan import TINY
from electra_ds.bench.processes import measure
from electra_ds.bench.report import Report, Section, command_line
from electra_ds.bench.statistics import Spread, in_turn, ratios
from electra_ds.bench.text import write_text_set
from electra_ds.checkpoint import CHECKPOINTS, LATEST_NAME, read_state
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.export.spelling import shard_bytes

LEAD = """\
A checkpoint of `electra-ds pretrain` (optimizer state included, as ZeRO left it) to the two Hugging Face folders, each
time in a process of its own, beside DeepSpeed's `get_fp32_state_dict_from_zero_checkpoint` and `torch.save`, which ends
with one file of this project's own names. The ways take turns; figures are medians, with the lowest and the highest in
brackets. The checkpoint is in the page cache. *Memory*: largest resident size of the process, mapped pages of the
checkpoint included, which the system takes back when it needs them. *Anonymous, over imports*: largest anonymous
resident size (sampled fifty times a second), less that of a process that only imports the same packages. *Allowed*: 1.3
times the largest file of safetensors that was written, and the largest tensor. `convert` checks every SHA-256 sum of
the checkpoint and runs no code from it; DeepSpeed's way does neither."""

OURS, CHECKED, BACK, DEEPSPEED = "convert", "convert --verify", "convert back to a pair", "DeepSpeed's zero_to_fp32"
SHARE_OF_FILE = 1.3
"""Anonymous memory that a conversion may take, in largest files; and one tensor more."""
SAMPLE_SECONDS = 0.02
_IMPORTS = (
    "import electra_ds.export.verify, electra_ds.export.command, electra_ds.export.sources, electra_ds.zero_pieces; "
)
_IMPORTS += "from electra_ds.backend import import_deepspeed; import_deepspeed(); "
_IMPORTS += "import huggingface_hub.serialization; from transformers import ElectraForMaskedLM, ElectraForPreTraining"
_IMPORTS_DEEPSPEED = "from electra_ds.backend import import_deepspeed; import_deepspeed()"
_CONSOLIDATE = """\
import sys, torch
from electra_ds.backend import import_deepspeed
import_deepspeed()
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
torch.save(get_fp32_state_dict_from_zero_checkpoint(sys.argv[1], sys.argv[2]), sys.argv[3])
"""


@dataclass(frozen=True, kw_only=True)
class ConvertBenchConfig:
    """Measure converting a checkpoint to Hugging Face folders and back, beside DeepSpeed's consolidation."""

    output: Path = Path("benchmarks")
    """Folder for convert.md and convert.json."""
    recipes: list[str] = field(default_factory=lambda: ["base"])
    """Sizes: names of shipped recipes, or files. Each is trained for one step on text made up."""
    ranks: int = 2
    """Ranks that wrote the checkpoint."""
    stages: list[int] = field(default_factory=lambda: [1])
    """ZeRO stages that the checkpoints are of."""
    rounds: int = 3
    """Conversions of each way, in turn."""
    shard_sizes: list[str] = field(default_factory=lambda: ["5GB", "200MB"])
    """Sizes of files that convert is told to write, the first by its other ways too."""
    short: bool = False
    """A tiny model and one round: for tests."""

    def __post_init__(self) -> None:
        if not self.shard_sizes:
            raise ValueError("shard_sizes=[]: must hold a size such as 5GB")
        for size in self.shard_sizes:
            shard_bytes(size)
        for name in ("ranks", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not self.stages or not set(self.stages) <= {0, 1, 2, 3}:
            raise ValueError(f"stages={self.stages}: must hold some of 0, 1, 2, 3")


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(ConvertBenchConfig, bare_flag(arguments, "--short"), program)
    with tempfile.TemporaryDirectory(prefix="bench-convert-") as folder:
        run(config, Path(folder), command_line(program, arguments)).publish(config.output)
    return 0


def run(config: ConvertBenchConfig, folder: Path, command: str) -> Report:
    """Measure everything; `folder` is for shards, runs and results and may be deleted afterwards."""
    report = Report(
        "convert",
        "What a conversion costs",
        LEAD,
        command,
        describe(("torch", "deepspeed", "transformers", "safetensors")),
        plain(config),
    )
    shards = write_text_set(folder / "shards", 60_000, block_tokens=8192)
    sizes = [Size("tiny", TINY, 2, 1, 1)] if config.short else []
    sizes = sizes or [Size(name, (f"--config={name}",), 1, 1, 1) for name in config.recipes]
    imports = {
        name: measure([sys.executable, "-c", text], len(usable_cores()), sample_seconds=SAMPLE_SECONDS).numbers()
        for name, text in ((OURS, _IMPORTS), (DEEPSPEED, _IMPORTS_DEEPSPEED))
    }
    found = []
    for size in sizes:
        for stage in config.stages:
            run_folder = folder / f"{size.name}-zero{stage}"
            pretrain_run(size, shards, run_folder, config.ranks, [f"--deepspeed=zero{stage}"])
            rounds = 1 if config.short else config.rounds
            left_out = (CHECKED,) if config.short else ()
            files = ["5GB", "1MB"] if config.short else config.shard_sizes
            found.append(
                {
                    "size": size.name,
                    "stage": stage,
                    "ranks": config.ranks,
                    "imports": imports,
                    **convert(run_folder, folder / "converted", rounds, files, left_out),
                }
            )
            shutil.rmtree(run_folder)
    report.results["checkpoints"] = found
    report.sections = [_section(one) for one in found]
    return report


def convert(
    run_folder: Path, output: Path, rounds: int, shard_sizes: Sequence[str], left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """Convert a run's newest checkpoint in every way.

    Args:
        run_folder: of `pretrain`.
        output: for what is written; deleted each time.
        rounds: of each way.
        shard_sizes: of files; the first is taken by all ways.
        left_out: ways not to take.

    Returns:
        ``checkpoint_bytes`` and ``written_bytes``, and ``ways``: of each ``seconds``, ``cpu_seconds``, ``memory`` and
        ``anonymous`` (bytes) by round; of `OURS` with each size of files also ``largest_file``, ``files``,
        ``largest_tensor`` and ``allowed`` (bytes, but for the count of files).
    """
    checkpoints = run_folder / CHECKPOINTS
    tag = (checkpoints / LATEST_NAME).read_text("utf-8").strip()
    own = [sys.executable, "-m", "electra_ds", "convert"]
    kept = output.with_name("folders")
    shutil.rmtree(kept, ignore_errors=True)
    measure([*own, str(run_folder), f"--output={kept}"], len(usable_cores()))
    first = f"--shard_size={shard_sizes[0]}"
    ways = {
        **{
            _name(size, shard_sizes): [*own, str(run_folder), f"--output={output}", f"--shard_size={size}"]
            for size in shard_sizes
        },
        CHECKED: [*own, str(run_folder), f"--output={output}", "--verify", first],
        BACK: [*own, str(kept), f"--output={output}"],
        DEEPSPEED: [sys.executable, "-c", _CONSOLIDATE, str(checkpoints), tag, str(output)],
    }
    if read_state(checkpoints / tag)[0].zero_stage == 0:
        del ways[DEEPSPEED]  # it refuses checkpoints of stage 0
    ways = {name: words for name, words in ways.items() if name not in left_out}
    keys = ("seconds", "cpu_seconds", "memory", "anonymous")
    found: dict[str, Any] = {name: {key: [] for key in keys} for name in ways}
    for _, name in in_turn(list(ways), rounds):
        usage = measure(ways[name], len(usable_cores()), sample_seconds=SAMPLE_SECONDS)
        for key, value in (
            ("seconds", usage.seconds),
            ("cpu_seconds", usage.cpu_seconds),
            ("memory", max(usage.memory, usage.worker_memory)),
            ("anonymous", usage.anonymous),
        ):
            found[name][key].append(value)
        if name.startswith(OURS) and name != BACK:
            found[name] |= _allowed(output)
        if output.is_dir():
            shutil.rmtree(output)
        else:
            output.unlink()
    return {"checkpoint_bytes": _size(checkpoints / tag), "written_bytes": _size(kept), "ways": found}


def _name(size: str, sizes: Sequence[str]) -> str:
    return OURS if size == sizes[0] else f"{OURS}, files of {size}"


def _allowed(folder: Path) -> dict[str, int]:
    """What is in memory at least: the largest file and the largest tensor that were written; and the bound on that."""
    from safetensors import safe_open

    files = list(folder.rglob("*.safetensors"))
    largest_file, largest_tensor = max(file.stat().st_size for file in files), 0
    for path in files:
        with safe_open(str(path), framework="np") as file:
            for key in list(file.keys()):
                numbers = 1
                for extent in file.get_slice(key).get_shape():
                    numbers *= extent
                largest_tensor = max(largest_tensor, 4 * numbers)
    return {
        "files": len(files),
        "largest_file": largest_file,
        "largest_tensor": largest_tensor,
        "allowed": int(SHARE_OF_FILE * largest_file) + largest_tensor,
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _section(found: dict[str, Any]) -> Section:
    imports = found["imports"]
    text = (
        f"Written by {found['ranks']} ranks: {found['checkpoint_bytes'] / 1e6:,.0f} MB; the two folders have "
        f"{found['written_bytes'] / 1e6:,.0f} MB. Importing alone takes {imports[OURS]['memory'] / 1e6:,.0f} MB for "
        f"`convert` ({imports[OURS]['anonymous'] / 1e6:,.0f} MB of it anonymous; most of it torch, DeepSpeed and "
        f"transformers) and {imports[DEEPSPEED]['memory'] / 1e6:,.0f} MB for DeepSpeed's way."
    )
    header = (
        "", "seconds", "this / convert", "CPU seconds", "memory, MB", "anonymous, over imports, MB", "allowed, MB",
        "files", "largest file, MB",
    )  # fmt: skip
    rows = []
    for name, way in found["ways"].items():
        base = imports.get(name, imports[OURS])["anonymous"]
        over = Spread(tuple((size - base) / 1e6 for size in way["anonymous"]))
        rows.append(
            [
                name,
                Spread(tuple(way["seconds"])).show(",.1f"),
                "" if name == OURS else ratios(way["seconds"], found["ways"][OURS]["seconds"]).show(".2f"),
                Spread(tuple(way["cpu_seconds"])).show(",.1f"),
                Spread(tuple(size / 1e6 for size in way["memory"])).show(",.0f"),
                over.show(",.0f"),
                f"{way['allowed'] / 1e6:,.0f}" if "allowed" in way and name != CHECKED else "",
                str(way["files"]) if "files" in way else "",
                f"{way['largest_file'] / 1e6:,.0f}" if "files" in way else "",
            ]
        )
    return Section(f"{found['size']}, ZeRO stage {found['stage']}", text, header, rows)
