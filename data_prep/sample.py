"""The tokenizer's sample: whole documents in the order of a keyed hash of their content, until enough bytes are there.

The draw depends neither on the order of the input nor on the number of ranks, and copies count once. Memory holds the
sample and one table of 65,536 sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data_prep.build import TEXT, dropped_numbers, read_batches
from data_prep.documents import sample_keys
from data_prep.part import PartFile
from data_prep.plan import PartId

if TYPE_CHECKING:
    from data_prep.work import Job

BUCKETS = 1 << 16
_SHIFT = np.uint64(48)


def longest(limit: int) -> int:
    """Bytes of one document that are taken at most: a book must not crowd out the rest of a small sample."""
    return max(limit // 20, 1000)


def bytes_by_bucket(job: Job, part: PartId, limit: int) -> np.ndarray:
    """Bytes of a text part's documents that are no copies, by the upper bits of their sample keys, int64 [BUCKETS]."""
    path = job.path(part)
    with PartFile(path.with_suffix(TEXT)) as file:
        sizes = np.diff(file.array("ends").astype(np.int64), prepend=0)
        kept = ~np.isin(file.array("numbers"), dropped_numbers(path))
        bucket = (sample_keys(file.array("hashes"), job.config.seed) >> _SHIFT).astype(np.int64)
    sums = np.bincount(bucket[kept], weights=np.minimum(sizes[kept], longest(limit)), minlength=BUCKETS)
    return sums.astype(np.int64)


def last_bucket(sums: np.ndarray, limit: int) -> int:
    """Bucket in which the sample becomes full."""
    return min(int(np.searchsorted(np.cumsum(sums), limit)), BUCKETS - 1)


def sample_of_part(job: Job, part: PartId, limit: int, bucket: int) -> list[tuple[int, int, bytes]]:
    """Sample key, number and text of a part's documents up to a bucket."""
    from data_prep.work import BATCH_BYTES

    path = job.path(part)
    drops = dropped_numbers(path)
    found: list[tuple[int, int, bytes]] = []
    with PartFile(path.with_suffix(TEXT)) as file:
        keys = sample_keys(file.array("hashes"), job.config.seed)
        if not np.any((keys >> _SHIFT) <= bucket):
            return []
        for batch in read_batches(file, BATCH_BYTES):
            keys = sample_keys(batch.hashes, job.config.seed)
            wanted = ((keys >> _SHIFT) <= bucket) & ~np.isin(batch.numbers, drops)
            for row in np.flatnonzero(wanted).tolist():
                text = batch.texts[row][: longest(limit)].decode("utf-8", "ignore")
                found.append((int(keys[row]), part.first_document + int(batch.numbers[row]), text.encode()))
    return found


def choose(found: list[tuple[int, int, bytes]], limit: int) -> list[str]:
    """The sample in the order of the input: by key until `limit` bytes are passed; never empty if `found` is not."""
    taken: list[tuple[int, int, bytes]] = []
    total = 0
    for entry in sorted(found):
        if taken and total + len(entry[2]) > limit:
            break
        taken.append(entry)
        total += len(entry[2])
    return [text.decode() for _, _, text in sorted(taken, key=lambda entry: entry[1])]
