"""The sides of `bench prep` on one corpus: `electra-ds prep`, the tokenizer's library alone, `datasets.map`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from electra_ds.bench.machine import usable_cores
from electra_ds.bench.processes import Usage, measure
from electra_ds.bench.statistics import in_turn
from electra_ds.bench.worker import is_installed
from electra_ds.data.format import Manifest, read_manifest
from electra_ds.errors import UserError

PREP, RAW, DATASETS = "electra-ds prep", "library alone", "datasets.map"
_STAGE = re.compile(r"^tokenized ([\d.]+) MB in ([\d.]+) s", re.MULTILINE)


class Prep:
    """Runs `electra-ds prep` on a corpus, or on copies of it."""

    def __init__(self, inputs: list[str], corpus: Path, folder: Path, text_field: str) -> None:
        """Keep what all runs share.

        Args:
            inputs: the corpus's own files.
            corpus: the same documents as plain JSON lines, each once.
            folder: for outputs.
            text_field: where the text stands in `inputs`.
        """
        self.corpus, self.folder = corpus, folder
        self._own = [f"--inputs={json.dumps(inputs)}", f"--text_field={text_field}"]

    def options(self, tokenizer: Path, inputs: str | None = None) -> list[str]:
        """Options of a preparation with a vocabulary at hand.

        Args:
            tokenizer: folder.
            inputs: files with the field ``text``, or None for the corpus itself.
        """
        taken = self._own if inputs is None else [f"--inputs={inputs}"]
        return [*taken, "--tokenizer.type=existing", f"--tokenizer.path={tokenizer}"]

    def train(self, kind: str, entries: int, sample_bytes: int) -> tuple[dict[str, Any], Path]:
        """Prepare with a vocabulary to train first, on all cores; the output stays.

        Returns:
            What it took; the tokenizer's folder.
        """
        output, cores = self.folder / kind, len(usable_cores())
        wanted = [f"--tokenizer.type={kind}", f"--tokenizer.vocab_size={entries}"]
        options = [*self._own, *wanted, f"--tokenizer.sample_bytes={sample_bytes}", f"--workers={cores}"]
        usage, manifest = self._run(options, output, cores)
        trained = {"workers": cores, "entries": entries, "sample_bytes": sample_bytes}
        return usage.numbers() | _counts(manifest) | trained, output / "tokenizer"

    def existing(
        self, tokenizer: Path, workers: int = 1, inputs: str | None = None, launcher: Sequence[str] = (), cores: int = 0
    ) -> tuple[dict[str, Any], Usage]:
        """Prepare with a vocabulary at hand, and delete what was made.

        Args:
            tokenizer: folder.
            workers: processes, or of each rank.
            inputs: see `options`.
            launcher: command that starts several.
            cores: to hold it to, `workers` unless given.
        """
        output = self.folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        options = [*self.options(tokenizer, inputs), f"--workers={workers}"]
        usage, manifest = self._run(options, output, cores or workers, launcher)
        shutil.rmtree(output)
        stage = _STAGE.search(usage.said)
        stages = {"tokenizing_seconds": float(stage[2])} if stage else {}
        return usage.numbers() | _counts(manifest) | stages, usage

    def _run(
        self, options: Sequence[str], output: Path, cores: int, launcher: Sequence[str] = ()
    ) -> tuple[Usage, Manifest]:
        command = [*launcher, sys.executable, "-m", "electra_ds", "prep", *options, f"--output={output}"]
        return measure(command, cores), read_manifest(output)


def _counts(manifest: Manifest) -> dict[str, int]:
    return {
        "tokens": sum(manifest.total(split, "tokens") for split in manifest.splits),
        "text_bytes": int(manifest.statistics["text_bytes"]),
    }


def compare(
    prep: Prep, tokenizers: dict[str, Path], rounds: int, peer_rounds: int, say: Callable[[str], None]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Measure every side with every kind of vocabulary, in turn, on one core.

    Args:
        prep: the corpus.
        tokenizers: folders by kind.
        rounds: measurements of each.
        peer_rounds: those in which `datasets.map` takes part.
        say: told what comes next.

    Returns:
        Rounds by side by kind.

    Raises:
        UserError: a side failed, or gave another number of tokens.
    """
    peer = peer_rounds > 0 and is_installed("datasets") and is_installed("transformers")
    names = [side for side in (PREP, RAW, DATASETS) if side != DATASETS or peer]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {kind: {name: [] for name in names} for kind in tokenizers}
    order = in_turn([f"{kind}|{name}" for kind in tokenizers for name in names], rounds)
    for number, entry in order:
        kind, name = entry.split("|")
        if name == DATASETS and number >= peer_rounds:
            continue
        say(f"round {number + 1}: {kind}, {name}")
        if name == PREP:
            measured, _ = prep.existing(tokenizers[kind])
        else:
            measured = (_alone if name == RAW else _datasets)(prep, tokenizers[kind])
        found[kind][name].append(measured)
        counts = {side: taken["tokens"] for side, all_ in found[kind].items() for taken in all_}
        if len(set(counts.values())) > 1:
            raise UserError(f"{kind}: the sides did not find as many tokens in the same text: {counts}")
    return found


def _alone(prep: Prep, tokenizer: Path) -> dict[str, Any]:
    """The library's own encoding, timed inside its process."""
    command = [sys.executable, "-m", "electra_ds.bench.prep_raw", str(tokenizer), str(prep.corpus)]
    usage = measure(command, 1, {"TOKENIZERS_PARALLELISM": "false"})
    return {"memory": usage.memory} | json.loads(usage.said.splitlines()[-1])


def _datasets(prep: Prep, tokenizer: Path) -> dict[str, Any]:
    output = prep.folder / "datasets"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    command = [sys.executable, "-m", "electra_ds.bench.prep_peer", str(prep.corpus), str(tokenizer), str(output), "1"]
    usage = measure(command, 1)
    shutil.rmtree(output)
    return usage.numbers() | {"tokens": int(usage.said.split()[-1])}


def profile(prep: Prep, tokenizer: Path) -> dict[str, Any]:
    """One preparation by one worker under the profiler (see `prep_profile`)."""
    output = prep.folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    options = [*prep.options(tokenizer), "--workers=1", f"--output={output}"]
    usage = measure([sys.executable, "-m", "electra_ds.bench.prep_profile", *options], 1)
    shutil.rmtree(output)
    found: dict[str, Any] = json.loads(usage.said.splitlines()[-1])
    return found
