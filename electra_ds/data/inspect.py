"""``electra-ds inspect``: what a shard set holds, and whether it is whole."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from electra_ds.command_line import bare_flag, parse
from electra_ds.data.config import DataConfig
from electra_ds.data.format import Manifest, read_manifest, verify_shards
from electra_ds.data.mixture import corpora
from electra_ds.data.rows import LONGEST_ROW, SHORTEST_ROW
from electra_ds.data.shards import ShardSet
from electra_ds.data.show import show_block, show_document, show_row
from electra_ds.errors import DataError, UserError


@dataclass(frozen=True)
class InspectConfig:
    """Show what a shard set holds: counts, any block, document or row; verify every checksum."""

    path: str
    """Folder or URL of the shard set (may be given without ``--path``)."""
    verify: bool = False
    """Read everything and compare every checksum with the manifest."""
    split: str = "train"
    """Split that samples are shown of."""
    block: int | None = None
    """Number of the block to show, counted from 0 through the split; unset shows the first."""
    documents: int = 3
    """Documents, or translation pairs, of that block to decode (count), each text in its first 60 tokens."""
    document: int | None = None
    """Number of a document to show whole, counted from 0 through the split as its index counts document starts."""
    row: int | None = None
    """Number of a row to show as a run of training sees it, counted from 0 through the split, as audits number rows."""
    sequence_length: int = 128
    """With `row`: tokens of a row, as the run's data.sequence_length or its phase's."""
    pairs: bool = True
    """With `row`: the run's data.pairs."""
    single_segment_every: int = 10
    """With `row`: the run's data.single_segment_every (count)."""
    short_segment_every: int = 20
    """With `row`: the run's data.short_segment_every (count)."""
    seed: int = 0
    """With `row`: the run's training.seed; it decides where pairs are split."""
    epoch: int = 0
    """With `row`: pass over the data (count from 0); each splits pairs elsewhere."""

    def __post_init__(self) -> None:
        if self.documents < 0:
            raise UserError(f"documents: {self.documents} is not possible; expected 0 or more")
        if sum(value is not None for value in (self.block, self.document, self.row)) > 1:
            raise UserError("block, document, row: only one of them can be shown at a time")
        if not SHORTEST_ROW <= self.sequence_length <= LONGEST_ROW:
            raise UserError(
                f"sequence_length: {self.sequence_length} is not possible; expected {SHORTEST_ROW} to {LONGEST_ROW:,}"
            )
        for name, least in (("single_segment_every", 2), ("short_segment_every", 2), ("epoch", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)} is not possible; expected {least} or more")


def main(arguments: list[str], program: str) -> int:
    """Run the command; return 0, or 1 if the set is damaged."""
    config = parse(InspectConfig, _flag(arguments), program, positional="path")
    manifest = read_manifest(config.path)
    if config.verify:
        return _verify(config.path, manifest)
    asked = next((name for name in ("block", "document", "row") if getattr(config, name) is not None), None)
    if not asked:
        print(describe(config.path, manifest), end="\n\n")
        if config.split in manifest.splits and not manifest.total(config.split, "blocks"):
            return 0
    shards = ShardSet(config.path, config.split)
    if config.row is not None:
        data = DataConfig(
            path=config.path,
            sequence_length=config.sequence_length,
            pairs=config.pairs,
            single_segment_every=config.single_segment_every,
            short_segment_every=config.short_segment_every,
        )
        print(show_row(shards, data, config.row, config.seed, config.epoch))
    elif config.document is not None:
        print(show_document(shards, config.document))
    else:
        print(show_block(shards, config.block or 0, config.documents))
    return 0


def _flag(arguments: list[str]) -> list[str]:
    """Let ``--verify`` stand alone, and the path follow the options."""
    result = bare_flag(arguments, "--verify")
    # The path may follow the options too: `inspect --verify shards`.
    if result and result[0].startswith("-") and not any(entry.split("=")[0] == "--path" for entry in result):
        loose = [n for n in range(1, len(result)) if not result[n].startswith("-") and _complete(result[n - 1])]
        if loose:
            result.insert(0, result.pop(loose[0]))
    return result


def _complete(option: str) -> bool:
    return not option.startswith("-") or "=" in option


def describe(folder: str, manifest: Manifest) -> str:
    """Say in a table what each split holds, and what it costs on disk."""
    tokenizer = manifest.tokenizer
    ids = ", ".join(f"{name}={getattr(tokenizer, name + '_id')}" for name in ("pad", "unk", "cls", "sep", "mask"))
    lines = [
        f"{folder}: {manifest.dtype} tokens, manifest {manifest.fingerprint[:12]}"
        + (", with translation pairs" if manifest.has_pairs else ""),
        f"tokenizer: {tokenizer.type}, {tokenizer.vocab_size:,} ids ({ids}), fingerprint {tokenizer.fingerprint[:12]}",
        "",
        f"{'split':<12}{'shards':>8}{'blocks':>8}{'documents':>12}{'tokens':>16}"
        f"{'tokens/doc':>12}{'tokens/sent':>12}{'tar MB':>10}{'tar/payload':>12}",
    ]
    for split, shards in manifest.splits.items():
        blocks, documents, sentences, tokens, size = (
            manifest.total(split, name) for name in ("blocks", "documents", "sentences", "tokens", "bytes")
        )
        payload = np.dtype(manifest.dtype).itemsize * tokens + 4 * (documents + sentences)
        lines.append(
            f"{split:<12}{len(shards):>8,}{blocks:>8,}{documents:>12,}{tokens:>16,}"
            f"{tokens / max(documents, 1):>12.1f}{tokens / max(sentences, 1):>12.1f}{size / 1e6:>10.2f}"
            f"{size / max(payload, 1):>12.3f}"
        )
    lines += _corpora(manifest)
    statistics = manifest.statistics
    if sources := statistics.get("sources"):
        lines += ["", f"{'source':<24}{'documents':>12}{'MB of text':>12}{'tokens':>16}"]
        lines += [
            f"{name[:23]:<24}{entry['documents']:>12,}{entry['bytes'] / 1e6:>12.2f}{entry['tokens']:>16,}"
            for name, entry in sorted(sources.items(), key=lambda item: -item[1]["tokens"])[:20]
        ]
        if len(sources) > 20:
            lines.append(f"... and {len(sources) - 20:,} more in manifest.json")
    if dropped := statistics.get("documents_dropped"):
        lines += ["", "dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())]
    return "\n".join(lines)


def _corpora(manifest: Manifest) -> list[str]:
    """A table of the corpora of the training split, if they have names."""
    shards = manifest.splits.get("train", ())
    names = [name for name in corpora(shards) if name]
    if not names:
        return []
    total = max(1, manifest.total("train", "tokens"))
    weights = sum(manifest.weights.values())
    lines = ["", f"{'corpus':<24}{'shards':>8}{'blocks':>8}{'documents':>12}{'tokens':>16}{'share':>9}{'weight':>9}"]
    lines[-1] += f"{'kind':>8}" if manifest.has_pairs else ""
    for name in names:
        own = [shard for shard in shards if shard.corpus == name]
        blocks, documents, tokens = (sum(getattr(s, key) for s in own) for key in ("blocks", "documents", "tokens"))
        weight = f"{manifest.weights[name] / weights:>9.2%}" if manifest.weights.get(name) is not None else f"{'':>9}"
        lines.append(
            f"{name[:23]:<24}{len(own):>8,}{blocks:>8,}{documents:>12,}{tokens:>16,}{tokens / total:>9.2%}{weight}"
        )
        lines[-1] += f"{own[0].kind:>8}" if manifest.has_pairs else ""
    return lines


def _verify(folder: str, manifest: Manifest) -> int:
    total = sum(shard.bytes for shards in manifest.splits.values() for shard in shards)
    advance = lambda _: None  # noqa: E731
    bar = None
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(desc="verifying", total=total, unit="B", unit_scale=True)
        advance = bar.update
    problems = verify_shards(folder, manifest, advance)
    if bar is not None:
        bar.close()
    if problems:
        listed = "\n  ".join(problems)
        raise DataError(f"{folder}: {len(problems)} of its files are damaged:\n  {listed}")
    shards = sum(len(shards) for shards in manifest.splits.values())
    print(f"{folder}: {shards} shards ({total / 1e6:,.1f} MB), their indexes and the tokenizer are whole")
    return 0
