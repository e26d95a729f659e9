"""What one process does with one piece or one shard: the stages' work, without their order."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.build import TEXT, Batch, TextPart, TokenPart, dropped_numbers, read_batches
from data_prep.clean.removals import Removals
from data_prep.clean.steps import Cleaner
from data_prep.config import PrepConfig
from data_prep.documents import content_hashes, pair_hashes
from data_prep.pack import Shard, write_shard
from data_prep.part import PartFile
from data_prep.plan import MAX_DOCUMENTS, PartId, Plan
from data_prep.sources import Document, Piece
from data_prep.tokenizer import Encoder, load_encoder
from electra_ds.errors import DataError

if TYPE_CHECKING:
    from data_prep.dedup.decontaminate import Decontamination

BATCH_BYTES = 1_000_000
"""Text that is cleaned and tokenized at a time."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What every process of a preparation knows."""

    config: PrepConfig
    plan: Plan
    output: Path
    work: Path
    """Folder of the part files."""
    target: Path
    """Folder that shards are written to."""

    def path(self, part: PartId) -> Path:
        """Path of a piece's part files, without ending."""
        return self.work / part.stem


class Worker:
    """Keeps tokenizer, filters and inputs from task to task."""

    def __init__(self, job: Job) -> None:
        """`job`: of the preparation."""
        self._job = job
        self._cleaners: dict[str, Cleaner] = {}
        self._decontamination: Decontamination | None = None
        self._encoder: Encoder | None = None

    def read(self, number: int, piece: Piece, with_tokens: bool) -> int:
        """Read and clean a piece of an input, into its text part, or on into its token part.

        Returns:
            Bytes of text.
        """
        job = self._job
        part, corpus = PartId(number, piece.number), job.plan.inputs[number].corpus
        pairs = corpus in job.plan.paired
        target = TokenPart(job.config, corpus, part, self._tokenizer(), pairs) if with_tokens else TextPart()
        labels: dict[tuple[str, ...], int] = {}
        removals = Removals()
        dropped: Counter[str] = Counter(piece.dropped)
        facts: dict[str, Any] = {"corpus": corpus, "pairs": pairs, "read": 0, "bytes": 0}
        for batch in self._batches(number, piece, labels, removals, dropped, facts):
            target.add(batch)
        if isinstance(target, TokenPart):
            dropped["without a token"] += target.without_tokens
        facts["labels"] = [list(label) for label in labels]
        facts["removals"], facts["dropped"] = removals.to_json(), {k: n for k, n in dropped.items() if n}
        target.write(job.path(part), facts)
        return int(facts["bytes"])

    def tokenize(self, part: PartId) -> int:
        """Make the token part of a text part, copies left out; return the bytes of text."""
        job = self._job
        path = job.path(part)
        drops = dropped_numbers(path)
        with PartFile(path.with_suffix(TEXT)) as source:
            pairs = source.facts.get("pairs", False)
            target = TokenPart(job.config, source.facts["corpus"], part, self._tokenizer(), pairs)
            for batch in read_batches(source, BATCH_BYTES, 2 if pairs else 1):
                target.add(batch.select(~np.isin(batch.numbers, drops)) if len(drops) else batch)
            facts = dict(source.facts)
        if target.without_tokens:
            facts["dropped"] = {**facts["dropped"], "without a token": target.without_tokens}
        target.write(path, facts)
        return int(facts["bytes"])

    def shard(self, shard: Shard) -> dict[str, Any]:
        """Write a shard; return what the manifest says of it and what was counted."""
        return write_shard(self._job.config, self._job.work, self._job.output, self._job.target, shard)

    def _tokenizer(self) -> Encoder:
        if self._encoder is None:
            self._encoder = load_encoder(self._job.output / "tokenizer")
        return self._encoder

    def _cleaner(self, corpus: str) -> Cleaner:
        if corpus not in self._cleaners:
            config = self._job.config
            if config.decontaminate.files and self._decontamination is None:
                from data_prep.dedup.decontaminate import Decontamination

                self._decontamination = Decontamination(config.decontaminate)
            clean = self._job.plan.corpora[corpus].clean
            assert clean is not None
            self._cleaners[corpus] = Cleaner(clean, self._decontamination)
        return self._cleaners[corpus]

    def _batches(
        self,
        number: int,
        piece: Piece,
        labels: dict[tuple[str, ...], int],
        removals: Removals,
        dropped: Counter[str],
        facts: dict[str, Any],
    ) -> Iterator[Batch]:
        source, cleaner = self._job.plan.inputs[number].source, self._cleaner(self._job.plan.inputs[number].corpus)
        texts: list[bytes] = []
        numbers: list[int] = []
        label_numbers: list[int] = []
        size = 0
        sides = 2 if source.pairs else 1
        for count, document in enumerate(source.documents(piece, dropped)):
            facts["read"] = (count + 1) * sides
            if count >= MAX_DOCUMENTS // sides:
                raise DataError(f"{source.name}: more than {MAX_DOCUMENTS} documents in one piece; split the file")
            kept = []
            for original in (document,) if document.translation is None else (document, document.translation):
                cleaned = cleaner.clean(original, removals)
                facts["bytes"] += len(original.text.encode()) if cleaned is not original else 0
                if cleaned is not None:
                    text = cleaned.text.encode()
                    facts["bytes"] += len(text) if cleaned is original else 0
                    kept.append((text, cleaned))
            if len(kept) < sides:
                if kept:
                    dropped["its translation was dropped"] += 1
                continue
            for side, (text, cleaned) in enumerate(kept):
                texts.append(text)
                numbers.append(count * sides + side)
                label_numbers.append(labels.setdefault(_label(cleaned), len(labels)))
                size += len(text)
            if size >= BATCH_BYTES:
                yield self._batch(texts, numbers, label_numbers, source.pairs)
                texts, numbers, label_numbers, size = [], [], [], 0
        if texts:
            yield self._batch(texts, numbers, label_numbers, source.pairs)

    def _batch(self, texts: list[bytes], numbers: list[int], labels: list[int], pairs: bool) -> Batch:
        dedup = self._job.config.dedup
        bands = None
        if dedup.near:
            from data_prep.dedup.minhash import signatures

            compared = [text.decode() for text in texts]
            if pairs:
                compared = [f"{a}\n{b}" for a, b in zip(compared[::2], compared[1::2], strict=True)]
            bands = signatures(compared, dedup)
            if pairs:  # copies are found of whole pairs, and both texts of them; never one text for the other's copy
                bands = np.stack([bands, ~bands], axis=1).reshape(len(texts), -1)
        hashes = pair_hashes(texts) if pairs else content_hashes(texts)
        return Batch(texts, np.array(numbers, "<u4"), np.array(labels, "<u4"), hashes, bands)


def _label(document: Document) -> tuple[str, ...]:
    return document.source, document.language, document.origin
