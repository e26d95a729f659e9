"""The folder a fine-tuning run writes: who may write there, what a restart keeps, and how it is finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from electra_ds.errors import UserError
from electra_ds.files import TEMPORARY_SUFFIX, explain_full_disk, sha256_of, take_output_folder, write_json
from electra_ds.finetune.tables import HUB
from electra_ds.finetune.tasks.base import Encoded, Split

SETTINGS = "finetune.yaml"
"""Written first; it marks a folder as ours."""
RESULTS = "results.json"
"""Written last; it marks a folder as finished."""
MODEL = "model"
BEST = "best.json"
"""Which run ``model/`` is of, while a run goes on."""
FROM_SCRATCH = "from-scratch"
CHECKPOINTS = "checkpoints"
"""Inside a seed's folder, until it is finished."""
RUN = "run.json"
"""Written last into a seed's folder; it marks the seed as finished."""
SUBMISSION = "submission"
FREE = (
    "output",
    "seeds",
    "first_seed",
    "compare_from_scratch",
    "baseline",
    "threads",
    "micro_batch_size",
    "save_steps",
    "suite",
    "tasks",
)
"""Settings that a restart may change: they decide which runs there are, not what one gives."""


def prepare(output: str) -> Path:
    """Create the output folder, or take over an unfinished one of our own; nothing is deleted yet.

    Raises:
        UserError: it holds finished results, or something that is not ours.
    """
    return take_output_folder(output, SETTINGS, RESULTS, _ours)[0]


def _ours(name: str) -> bool:
    return name in (SETTINGS, RESULTS, MODEL, BEST, FROM_SCRATCH, SUBMISSION) or _is_seed(name)


def _is_seed(name: str) -> bool:
    return name.startswith("seed-") and name.removeprefix("seed-").isdecimal()


def seed_folder(output: Path, seed: int, extra: bool) -> Path:
    """Folder of one run; those that only serve the comparison stand apart."""
    return (output / FROM_SCRATCH if extra else output) / f"seed-{seed}"


def fingerprint(settings: dict[str, Any], encoded: dict[str, Encoded], model: str) -> dict[str, str]:
    """Say in three digests what a run's result depends on: settings, tokenized data, and the model's files."""
    data = hashlib.sha256()
    for name, part in sorted(encoded.items()):
        data.update(name.encode())
        for example in part.split.examples:
            data.update(repr(example).encode())
        for feature in part.features:
            data.update(repr(feature["input_ids"]).encode())
    fixed = {name: value for name, value in settings.items() if name not in FREE}
    return {
        "settings": hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest(),
        "data": data.hexdigest(),
        "model": model_digest(model),
    }


def texts_digest(splits: dict[str, Split]) -> str:
    """Digest of every split's examples, read but not tokenized: quick, for results that are already finished."""
    digest = hashlib.sha256()
    for name, split in sorted(splits.items()):
        digest.update(name.encode())
        for example in split.examples:
            digest.update(repr(example).encode())
    return digest.hexdigest()


def model_digest(model: str) -> str:
    """Digest of a folder's config, weights and tokenizer; of the hub's only the name."""
    digest = hashlib.sha256(model.encode() if model.startswith(HUB) else b"")
    if not model.startswith(HUB):
        for path in sorted(Path(model).iterdir()):
            if path.is_file() and path.suffix in (".json", ".safetensors", ".bin", ".txt", ".model"):
                digest.update(f"{path.name} {sha256_of(path)}".encode())
    return digest.hexdigest()


def check_same(folder: Path, results: dict[str, Any], settings: dict[str, Any], splits: dict[str, Split]) -> bool:
    """Refuse finished results of other settings, texts or weights.

    Args:
        folder: where they lie.
        results: its results.json.
        settings: this run's, all filled in.
        splits: this run's texts.

    Returns:
        Whether texts and weights could be compared; the first versions did not write down what they were.

    Raises:
        UserError: what differs.
    """
    cure = "choose another --output, or delete that folder to run it again"
    there = results["settings"]
    for name, value in settings.items():
        if (
            name not in ("output", "threads", "micro_batch_size", "save_steps")
            and name in there
            and there[name] != value
        ):
            raise UserError(
                f"output: {folder} holds results of another {name} ({there[name]!r}, now {value!r}); {cure}"
            )
    known = results.get("fingerprint", {})
    if not {"texts", "model"} <= set(known):
        return False
    sources = ", ".join(dict.fromkeys(split.source for split in splits.values()))
    if known["texts"] != texts_digest(splits):
        raise UserError(f"output: {folder} holds results of other texts than {sources} have now; {cure}")
    if known["model"] != model_digest(settings["model"]):
        raise UserError(f"output: {folder} holds results of other weights than {settings['model']} has now; {cure}")
    return True


def take_over(
    folder: Path, known: dict[str, str], settings: dict[str, Any], planned: Collection[tuple[bool, int]]
) -> dict[tuple[bool, int], dict[str, Any]]:
    """Keep what an interrupted run has finished, and the checkpoints of planned seeds; delete the rest of it.

    Args:
        folder: from `prepare`.
        known: this run's `fingerprint`.
        settings: this run's settings, to name the difference.
        planned: this run's (extra, seed).

    Returns:
        Finished runs by (extra, seed).

    Raises:
        UserError: there are finished seeds, but of other settings, data or weights, or ones that are not planned.
    """
    kept: dict[tuple[bool, int], dict[str, Any]] = {}
    for path in [*folder.glob(f"seed-*/{RUN}"), *folder.glob(f"{FROM_SCRATCH}/seed-*/{RUN}")]:
        try:
            stored = json.loads(path.read_text("utf-8"))
            if stored["fingerprint"] != known:
                differing = [name for name in known if stored["fingerprint"].get(name) != known[name]]
                raise UserError(
                    f"output: {folder} holds finished seeds of an interrupted run with other {' and '.join(differing)}"
                    f"{_difference(folder, settings)}; choose another --output, or delete it to start over"
                )
            kept[path.parent.parent.name == FROM_SCRATCH, int(stored["run"]["seed"])] = stored["run"]
        except (OSError, ValueError, KeyError):
            continue  # not whole: that seed runs again
    if others := sorted(seed for extra, seed in kept if (extra, seed) not in planned):
        raise UserError(
            f"output: {folder} holds finished runs that these settings leave out (seed {', '.join(map(str, others))}); "
            "give the --seeds, --first_seed and --compare_from_scratch of the interrupted run, or delete the folder"
        )
    best = _read_best(folder)
    if best is not None and (False, best["seed"]) not in kept:
        best = None
    for key in [key for key in kept if not key[0]]:
        # The saved model must be the best finished seed's: where a kill fell between the two, a better one runs again.
        if best is None or _score(kept[key], best) > best["score"]:
            del kept[key]
    for name in os.listdir(folder):
        path = folder / name
        if _is_seed(name):
            _reduce(path, False, kept, planned)
            continue
        if name == FROM_SCRATCH:
            for inner in path.iterdir():
                if _is_seed(inner.name):
                    _reduce(inner, True, kept, planned)
            if not any(path.iterdir()):
                path.rmdir()
            continue
        if best is not None and name in (MODEL, BEST):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return kept


def _reduce(
    place: Path, extra: bool, kept: Collection[tuple[bool, int]], planned: Collection[tuple[bool, int]]
) -> None:
    """Take the checkpoints out of a finished seed's folder, and all else out of one that goes on."""
    run = extra, int(place.name.removeprefix("seed-"))
    for path in place.iterdir() if run in kept or run in planned else ():
        if (path.name == CHECKPOINTS) == (run in kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if run not in planned or not any(place.iterdir()):
        shutil.rmtree(place)


def clear_checkpoints(place: Path) -> None:
    """Remove the checkpoints of a seed that is finished."""
    shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)


def _read_best(folder: Path) -> dict[str, Any] | None:
    try:
        best: dict[str, Any] = json.loads((folder / BEST).read_text("utf-8"))
        return best if (folder / MODEL / "config.json").is_file() else None
    except (OSError, ValueError):
        return None


def _score(run: dict[str, Any], best: dict[str, Any]) -> float:
    return float(run["scores"]["validation"][best["metric"]])


def _difference(folder: Path, settings: dict[str, Any]) -> str:
    """Name the first setting that differs from those of the interrupted run."""
    import yaml

    try:
        before = yaml.safe_load((folder / SETTINGS).read_text("utf-8"))
        changed = [name for name in settings if name not in FREE and before.get(name) != settings[name]]
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return ""
    return f" ({changed[0]} was {before.get(changed[0])!r}, is {settings[changed[0]]!r})" if changed else ""


def finish_seed(place: Path, run: dict[str, Any], known: dict[str, str]) -> None:
    """Mark a seed as finished."""
    write_json(place / RUN, {"run": run, "fingerprint": known})


def save_model(output: Path, network: Any, tokenizer: Any, run: dict[str, Any], metric: str) -> None:
    """Save weights, config and tokenizer under a temporary name, then publish ``model/`` by renaming it."""
    final = output / MODEL
    temporary = output / (MODEL + TEMPORARY_SUFFIX)
    shutil.rmtree(temporary, ignore_errors=True)
    with explain_full_disk(final):
        network.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (output / BEST).unlink(missing_ok=True)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    write_json(output / BEST, {"seed": run["seed"], "metric": metric, "score": run["scores"]["validation"][metric]})
