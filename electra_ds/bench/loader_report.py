"""The sections of `bench loader`'s report."""

from __future__ import annotations

from typing import Any

from electra_ds.bench.report import Section
from electra_ds.bench.sides import SIDES
from electra_ds.bench.statistics import Spread, ratios

OURS = "electra_ds"

LEAD = """\
How fast one core turns shards into rows, beside other loaders on the same tokens in the same run. Each side has a
process of its own, held to one core, with one thread for numerical libraries. The sides take turns, and each round
begins with another one. Figures are medians, with the lowest and the highest round in brackets."""

_TABLE = """\
{rows} rows an epoch, opening (and starting the loader process, where there is one) included. *Ours / theirs*: how many
times as many rows a second `electra_ds` gives, round by round. *Rows per CPU second* counts the time the process was
running, whatever else the machine did meanwhile; with a loader process it is that of the process that trains. *Cold
start*: from opening to the first batch, the files dropped from the page
cache before, imports not counted; all else is with a warm page cache. *Stored* and *bytes read* are shares of the rows'
ids as plain numbers ({length} to a row, in the shards' dtype); *reads* are the read system calls of an epoch. *Memory*:
how far the process's peak grew since its imports."""

_FAIRNESS = """\
`electra_ds` reads blocks of text from the shards, checks their CRC-32 and what they hold, packs them into rows of the
length asked for at that moment, and delivers them in the canonical shuffled order, with segments, positions and token
types beside the ids. The others are given rows that were packed before, of one length (another length means writing
them again). They deliver ids alone, check no checksum, and where their name does not say *random* keep to the order in
which the rows are stored. Batches are numpy arrays, in the stored dtype where the side can. Every side is checked to
deliver the same number of rows with the same sum of ids."""

_INSTALL = """\
Left out: {packages}. Install them to have them measured. `mosaicml-streaming` asks for older numpy and transformers
than this package but runs with these: `pip install 'electra_ds[bench]'`, then
`pip install --no-deps mosaicml-streaming==0.13.0`."""

_RANKS = """\
One epoch at {length} tokens as the ranks of each world size read it, with the default cache: what they fetch together,
as a share of the blocks in the shards, of which there are {blocks}. A size that divides the 64 canonical streams gives
each rank streams of its own, and so each byte to one rank. With any other size every rank comes by every stream."""


_HUGE = """\
{blocks:,} blocks in {shards:,} shards: manifest and indexes as `prep` writes them, tars of the right size that hold
nothing. One process, page cache warm, measured once."""


def comparison(result: dict[str, Any], length: int) -> Section:
    """The table of one row length."""
    columns = ["", "rows/s", "tokens/s", "ours / theirs", "rows per CPU second", "cold start", "stored", "bytes read"]
    section = Section(
        f"Rows of {length} tokens",
        _TABLE.format(rows=f"{result['rows']:,}", length=length),
        [*columns, "reads", "mean read", "memory"],
    )
    for name, side in result["sides"].items():
        if "failed" in side:
            section.rows.append([side["title"], f"failed: {side['failed']}", *[""] * (len(columns) + 1)])
            continue
        rate = Spread(tuple(side["rows"] / seconds for seconds in side["seconds"]))
        section.rows.append(
            [
                side["title"],
                rate.show(),
                f"{rate.median * length / 1e6:,.1f} M",
                "" if name == OURS else ratios(side["seconds"], result["sides"][OURS]["seconds"]).show(".2f"),
                f"{Spread(tuple(side['rows'] / seconds for seconds in side['cpu_seconds'])).median:,.0f}",
                f"{1e3 * side['cold_seconds']:,.0f} ms" if side["cold_dropped"] else "unknown",
                f"{side['stored_bytes'] / result['row_bytes']:.3f}",
                *_reads(name, side, result["row_bytes"]),
                f"{(side['memory'] - side['start_memory']) / 2**20:,.0f} MiB",
            ]
        )
    return section


def _reads(name: str, side: dict[str, Any], row_bytes: int) -> list[str]:
    """Bytes, calls and mean size, where they can be counted."""
    if SIDES[name].uncounted or side["reads"] is None:
        return [SIDES[name].uncounted or "unknown"] * 3
    mean = side["bytes_read"] / max(1, side["reads"])
    return [f"{side['bytes_read'] / row_bytes:.3f}", f"{side['reads']:,}", f"{mean / 1024:,.0f} KiB"]


def missing(packages: list[str]) -> Section:
    """The loaders that were not there."""
    return Section("Not installed", _INSTALL.format(packages=", ".join(packages)))


def ranks(counts: list[dict[str, Any]], length: int) -> Section:
    """Who reads how much."""
    header = ["ranks", "bytes of all ranks", "reads of all ranks", "mean read", "fewest bytes of a rank", "most bytes"]
    rows = [
        [
            f"{count['ranks']}",
            f"{count['bytes'] / count['stored_bytes']:.3f}",
            f"{count['reads']:,}",
            f"{count['bytes'] / max(1, count['reads']) / 1024:,.0f} KiB",
            f"{count['fewest_bytes'] / 1e6:,.2f} MB",
            f"{count['most_bytes'] / 1e6:,.2f} MB",
        ]
        for count in counts
    ]
    return Section(
        "Who reads what", _RANKS.format(length=length, blocks=f"{counts[0]['stored_blocks']:,}"), header, rows
    )


def huge(measured: dict[str, Any], length: int) -> Section:
    """What a set of any size costs before its first row."""
    rows = [
        ["open: read and check manifest and every index", f"{measured['open_seconds']:.2f} s"],
        [f"count the rows of {length} tokens in every block", f"{measured['describe_seconds']:.2f} s"],
        ["lay out an epoch: permute the blocks", f"{measured['layout_seconds']:.2f} s"],
        [f"find row {measured['row']:,} of {measured['rows']:,}", f"{1e3 * measured['find_seconds']:.2f} ms"],
        ["manifest and indexes on disk", f"{measured['index_bytes'] / 1e6:,.0f} MB"],
        ["bytes of tars read", f"{measured['bytes_read']:,}"],
        ["largest size of the process, of which before opening", _mebibytes(measured)],
    ]
    text = _HUGE.format(blocks=measured["blocks"], shards=measured["shards"])
    return Section(f"Opening {measured['tokens']:,} tokens and finding a row", text, ["", ""], rows)


def _mebibytes(measured: dict[str, Any]) -> str:
    return f"{measured['memory'] / 2**20:,.0f} MiB, {measured['memory_before'] / 2**20:,.0f} MiB"


def fairness() -> Section:
    """What the sides do and do not do."""
    return Section("What is compared", _FAIRNESS)
