"""How large shards are for what they hold, beside a tar with a row in each member."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.bench.sides import SIDES, Spec
from electra_ds.bench.worker import is_installed
from electra_ds.data.config import DataConfig
from electra_ds.data.format import read_manifest
from electra_ds.data.loader import RowSource, open_shards

LENGTH, ROWS = 512, 4096
"""Tokens of a row, and rows at most, in the tar of others: the share does not depend on their number."""
ROW_A_MEMBER = "webdataset_bytes"


def measure_sizes(sets: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Compare bytes on disk and what is stored.

    Args:
        sets: shard sets by kind of vocabulary.
        folder: for the tar of rows.

    Returns:
        ``sets``: of each kind the splits' tokens, payload (ids, and four bytes for each document's and each sentence's
        start), tar and index bytes. ``row_a_member``: rows, payload and tar bytes; None without `webdataset`.
    """
    found: dict[str, Any] = {"sets": {kind: _shards(path) for kind, path in sets.items()}, "row_a_member": None}
    if is_installed(SIDES[ROW_A_MEMBER].package):
        found["row_a_member"] = _rows(next(iter(sets.values())), folder / "rows")
    return found


def _shards(folder: Path) -> dict[str, int]:
    manifest = read_manifest(folder)
    total = {
        name: sum(manifest.total(split, name) for split in manifest.splits)
        for name in ("tokens", "documents", "sentences", "blocks", "bytes")
    }
    width = np.dtype(manifest.dtype).itemsize
    return {
        "tokens": total["tokens"],
        "blocks": total["blocks"],
        "id_bytes": width,
        "payload_bytes": width * total["tokens"] + 4 * (total["documents"] + total["sentences"]),
        "tar_bytes": total["bytes"],
        "index_bytes": sum(path.stat().st_size for path in folder.glob("*.idx")),
    }


def _rows(shards: Path, folder: Path) -> dict[str, int]:
    """Rows of one length, packed and padded, each a member of a tar: as others prepare them."""
    folder.mkdir()
    config = DataConfig(path=str(shards))
    source = RowSource(open_shards(config), config, LENGTH, seed=0)
    rows = source.unshuffled(np.arange(min(ROWS, source.total))).ids
    np.save(folder / "rows.npy", rows)
    side = SIDES[ROW_A_MEMBER](Spec(str(shards), str(folder / "rows.npy"), str(folder), LENGTH, 1))
    size = sum(path.stat().st_size for path in side.prepare())
    return {"rows": len(rows), "payload_bytes": rows.nbytes, "tar_bytes": size}
