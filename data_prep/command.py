"""``electra-ds prep``: corpora to a tokenizer and WebDataset shards."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from data_prep.config import PrepConfig
from electra_ds.command_line import parse
from electra_ds.data.format import Manifest
from electra_ds.errors import UserError
from electra_ds.files import explain_full_disk


def main(arguments: list[str], program: str) -> int:
    """Run the command; return 0, or raise `UserError`."""
    config = parse(PrepConfig, arguments, program)
    from data_prep.pipeline import run

    start = time.monotonic()
    try:
        with explain_full_disk(config.output):
            manifest, measured, rank = run(config)
    except OSError as error:
        raise UserError(f"{error.filename or config.output}: {error.strerror or error}") from error
    if rank:
        return 0
    if measured is None:
        print(f"{config.output} is finished and fits this command (sizes checked); nothing to do.")
    print(summary(manifest, config, time.monotonic() - start if measured else None))
    _report(config.output, manifest, measured)
    return 0


def _report(folder: Path, manifest: Manifest, measured: dict[str, Any] | None) -> None:
    """Leave the page in the folder, unless there is one; a page that fails is said and takes nothing from the set."""
    try:
        from data_prep.report import REPORT_NAME, write_report

        path = folder / REPORT_NAME
        print(f"report: {path if path.exists() else write_report(folder, manifest, measured)}")
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        print(f"no report ({problem}); the set is whole, and the same command tries again", file=sys.stderr)


def summary(manifest: Manifest, config: PrepConfig, seconds: float | None) -> str:
    """Say in a few lines what was made, and where."""
    statistics = manifest.statistics
    kept, megabytes = statistics["documents_kept"], statistics["text_bytes"] / 1e6
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in statistics["documents_dropped"].items())
    lines = [
        f"{sum(kept.values()):,} documents, {megabytes:,.1f} MB of text, {statistics['tokens']:,} tokens"
        + (f", in {seconds:.1f} s ({megabytes / seconds:.1f} MB/s)" if seconds else ""),
        f"  dropped: {dropped or 'none'}; cut over several blocks: {statistics['documents_cut']:,}",
    ]
    for split in manifest.splits:
        lines.append(
            f"  {split}: {kept[split]:,} documents, {manifest.total(split, 'tokens'):,} tokens "
            f"({manifest.total(split, 'tokens') / max(statistics['tokens'], 1):.2%}), "
            f"{manifest.total(split, 'blocks'):,} blocks in {len(manifest.splits[split]):,} shards"
        )
    if pairs := sum(corpus.get("translation_pairs", 0) for corpus in statistics["corpora"].values()):
        lines.append(f"  of these {pairs:,} translation pairs, two documents each")
    kept_bytes = sum(corpus["bytes"] for corpus in statistics["corpora"].values())
    unknown = statistics["unknown_tokens"] / max(statistics["tokens"], 1)
    lines.append(
        f"  tokenizer: {manifest.tokenizer.type}, {manifest.tokenizer.vocab_size:,} ids, "
        f"{kept_bytes / max(statistics['tokens'], 1):.2f} bytes a token, {unknown:.3%} unknown"
    )
    if config.validation_fraction and not manifest.splits["validation"]:
        lines.append("  no document fell into the validation split; raise --validation_fraction to have one")
    return "\n".join([*lines, f"  in {config.output} (manifest {manifest.fingerprint[:12]})"])
