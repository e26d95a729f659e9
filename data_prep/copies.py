"""The stage that drops copies: reads the keys in the parts, and leaves beside each part which documents to drop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_prep.build import DROPS, TEXT, TOKENS, read_batches
from data_prep.config import PrepConfig
from data_prep.dedup.decide import Copies, Keys, find_copies
from data_prep.mpi import Team
from data_prep.part import PartFile, write_part
from data_prep.plan import DOCUMENT_BITS, PartId, Shares, part_id, part_of
from data_prep.work import BATCH_BYTES, Job
from electra_ds.data.mixing import hash_words

MAX_PAIRS = 2_000_000
"""Copies up to which clusters are counted."""
SHOWN_CLUSTERS = 8
EXCERPT = 300
"""Characters of a cluster's text that are shown."""


@dataclass
class Duplicates:
    """What was dropped.

    Attributes:
        exact, near: documents. clusters: size (the original included): how many; None where there are too many copies
            to tell. largest: the largest clusters: size, excerpt and file of the original.
        parameters: of the search.
    """

    exact: int = 0
    near: int = 0
    clusters: dict[int, int] | None = field(default_factory=dict)
    largest: list[dict[str, Any]] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        clusters = None if self.clusters is None else {str(size): n for size, n in sorted(self.clusters.items())}
        return {
            "exact": self.exact,
            "near": self.near,
            "clusters": clusters,
            "largest": self.largest,
            "parameters": self.parameters,
        }


def drop_copies(team: Team, job: Job, mine: list[PartId], ending: str, shares: Shares) -> Duplicates:
    """Find the copies among all documents; write a drop file beside each of this rank's parts that has any.

    Args:
        team: the ranks.
        job: of the preparation.
        mine: this rank's parts.
        ending: of the part files that hold the keys.
        shares: who made which part.
    """
    dedup = job.config.dedup
    if not (dedup.exact or dedup.near):
        return Duplicates()

    def made_by(documents: np.ndarray) -> np.ndarray:
        numbers, where = np.unique(part_of(documents), return_inverse=True)
        owners = [shares.owner(*part_id(number)) for number in numbers.tolist()]
        return np.array(owners, np.int64)[where]

    exact = find_copies(team, _content_keys(job, mine, ending), made_by) if dedup.exact else Copies()
    near = find_copies(team, _band_keys(job, mine, ending, exact), made_by) if dedup.near else Copies()
    for part in mine:
        _write_drops(job, part, exact, near)
    exact_count, near_count = (
        sum(column) for column in zip(*team.gather_all((len(exact.documents), len(near.documents))), strict=True)
    )
    result = Duplicates(exact_count, near_count, parameters=_parameters(job.config))
    if exact_count + near_count > MAX_PAIRS:
        result.clusters = None
        return result
    pairs = np.column_stack(
        [
            np.concatenate([exact.documents, near.documents]),
            np.concatenate([exact.originals, near.originals]),
        ]
    )
    gathered = np.concatenate(team.gather_all(pairs))
    sizes = _clusters(gathered)
    result.clusters = dict(Counter(sizes.values()))
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_CLUSTERS]
    result.largest = team.agree(lambda: [_describe(job, root, size, ending) for root, size in largest])
    return result


def _parameters(config: PrepConfig) -> dict[str, Any]:
    dedup = config.dedup
    near = {"ngram": dedup.ngram, "bands": dedup.bands, "rows": dedup.rows}
    half = (1 - 0.5 ** (1 / dedup.bands)) ** (1 / dedup.rows)
    return {"exact": dedup.exact, "near": {**near, "similarity_found_by_half": round(half, 3)} if dedup.near else None}


def _content_keys(job: Job, parts: list[PartId], ending: str) -> Keys:
    def keys() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part in parts:
            with PartFile(job.path(part).with_suffix(ending)) as file:
                yield file.array("hashes"), _documents(part, file)

    return keys


def _band_keys(job: Job, parts: list[PartId], ending: str, exact: Copies) -> Keys:
    def keys() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part in parts:
            with PartFile(job.path(part).with_suffix(ending)) as file:
                if "bands" not in file:
                    continue
                documents = _documents(part, file)
                kept = ~exact.of(documents)
                for number, band in enumerate(file.array("bands")[kept].T):
                    yield np.column_stack([band, hash_words(number, band)]), documents[kept]

    return keys


def _documents(part: PartId, file: PartFile) -> np.ndarray:
    return file.array("numbers").astype(np.uint64) + np.uint64(part.first_document)


def _write_drops(job: Job, part: PartId, exact: Copies, near: Copies) -> None:
    path = job.path(part).with_suffix(DROPS)
    begin, end = (np.uint64(part.first_document + offset) for offset in (0, 1 << DOCUMENT_BITS))
    numbers = []
    for copies in (exact, near):
        low, high = np.searchsorted(copies.documents, [begin, end])
        numbers.append((copies.documents[low:high] - begin).astype("<u4"))
    if sum(map(len, numbers)):
        write_part(path, {"exact": len(numbers[0]), "near": len(numbers[1])}, {"numbers": np.concatenate(numbers)})
    else:
        path.unlink(missing_ok=True)


def _clusters(pairs: np.ndarray) -> dict[int, int]:
    """Number of the first document: documents of each cluster, from pairs (copy, earlier document) [N, 2]."""
    original = dict(zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True))
    sizes: Counter[int] = Counter()
    for copy in original:
        root = copy
        while root in original:
            root = original[root]
        sizes[root] += 1
    return {root: size + 1 for root, size in sizes.items()}


def _describe(job: Job, document: int, size: int, ending: str) -> dict[str, Any]:
    part, number = part_id(document >> DOCUMENT_BITS), document & ((1 << DOCUMENT_BITS) - 1)
    path = job.path(part)
    text, label = "", 0
    with PartFile(path.with_suffix(ending)) as file:
        row = int(np.flatnonzero(file.array("numbers") == number)[0])
        label = int(file.array("labels")[row])
        labels = file.facts["labels"]
        if ending == TEXT:
            seen = 0
            for batch in read_batches(file, BATCH_BYTES):
                if row < seen + len(batch.texts):
                    text = batch.texts[row - seen][: 4 * EXCERPT].decode("utf-8", "ignore")
                    break
                seen += len(batch.texts)
        elif ending == TOKENS:
            from tokenizers import Tokenizer

            counts = file.array("token_counts").astype(np.int64)
            begin = int(counts[:row].sum())
            tokens = file.slice("tokens", begin, begin + min(int(counts[row]), EXCERPT))
            text = Tokenizer.from_file(str(job.output / "tokenizer/tokenizer.json")).decode(tokens.tolist())
    return {"documents": size, "excerpt": text[:EXCERPT], "source": labels[label][0], "file": labels[label][2]}
