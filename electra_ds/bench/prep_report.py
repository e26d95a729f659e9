"""What `bench prep` says of its figures."""

from __future__ import annotations

import textwrap
from typing import Any

from electra_ds.bench import plots
from electra_ds.bench.prep_sides import DATASETS, PREP, RAW
from electra_ds.bench.report import Report, Section
from electra_ds.bench.statistics import Spread, ratios

LEAD = """\
How fast text becomes shards, beside the tokenizer's library alone and beside the few lines one would write with Hugging
Face `datasets`, on the same text with the same vocabulary. Each side is a process of its own, held to as many cores as
it is said to use; the sides take turns, and each round begins with another one. Figures are medians, with the lowest
and the highest round in brackets. MB are million bytes of UTF-8 text; with a busy machine the processor's time (CPU) is
the figure to trust."""

_SPEED = """\
{documents:,} documents, {megabytes:,.1f} MB of text, {tokens}. `electra-ds prep` is measured from the start of Python
to the last file synced, `datasets.map` likewise; of the library alone ({library}) only its calls are timed, on lines
that lie in memory, and its ids are thrown away. *prep / side*: how many times as fast `electra-ds prep` is, round by
round. *Stage*: the speed of tokenizing (with reading, decompressing and sentences) as `prep` prints it, without
starting and without writing shards. All sides were checked to find the same number of tokens.{without}

![MB of text per CPU second](prep-speed.svg)"""

_WHY = """\
`electra-ds prep` can be faster than the library that it calls because it calls it once per *different* word: no piece
of these vocabularies crosses white space, so a word has the same ids wherever it stands, and words met before are
looked up in a table, a megabyte of text at a time (`data_prep/tokenizer/words.py`). The ids are the library's own: the
tests compare them over texts in hundreds of languages and scripts, and this benchmark their number. The more words a
text repeats, the more it gains: a text of new words alone would run at the library's rate, less what reading, hashing,
sentences and writing take.

`prep` runs with its defaults: it reads the files as they are, drops exact duplicates, finds sentences, tokenizes,
shuffles the documents over the shards, packs blocks with checksums, and writes WebDataset shards, indexes, a manifest
and a report, synced and renamed. `datasets.map` reads plain JSON lines, tokenizes whole documents in batches of a
thousand, and saves Arrow files: no sentences, no shuffle, no checksums."""

_TRAINING = """\
The same corpus by one command, vocabulary and all, on {cores} cores, once. The vocabularies ({entries:,} entries) were
trained on {sample:,.0f} MB of the text at most; all other measurements take them as they are."""

_SCALING = """\
The corpus over and over, {megabytes:,.0f} MB of text with the {kind} vocabulary; each copy's documents begin with the
copy's number, so that none is dropped as a duplicate. Repeated text favours the table of known words, for one process
as for several, so compare these speeds with each other only. *Speed-up*: over one worker, round by round.{without}"""
_NO_MPI = """ Ranks were not measured: `mpi4py` or `mpirun` is missing (`pip install 'electra_ds[mpi]'`)."""
_NO_DATASETS = """ `datasets.map` was not measured: not installed, or left out."""

_MEMORY = """\
Inputs of several sizes made of the corpus in the same way, with the {kind} vocabulary: the largest resident size
(VmHWM) of the command's main process and of its largest worker, looked up ten times a second. With one worker the main
process does the work itself.

![Resident memory by size of the input](prep-memory.svg)"""

_CURVE = """\


The largest of them from beginning to end:

![Resident memory while the largest input is prepared](prep-memory-time.svg)"""

_SIZE = """\
*Payload*: the ids ({width} bytes each), and four bytes for the start of each document and each sentence, as
`electra-ds inspect` counts. *Row a member*: rows of 512 ids, each a member of a tar written by `webdataset`."""

_PROFILE = """\
One preparation of the corpus by one worker under cProfile, in processor time: {seconds:.1f} s, of which the profiler
itself takes a part, above all where small functions are called often. Own time of functions, the first fifteen; below,
the time by source file, with what it calls in libraries."""

_CLOCKS = ("seconds", "cpu_seconds")

LIMIT = 600
"""Resident memory of a process that is asked for at most (MB)."""


def fill(report: Report, kinds: list[str]) -> None:
    """Add sections and drawings for what `report.results` holds."""
    results = report.results
    report.sections.append(_aims(results))
    report.sections += [_speed(results), Section("Why it can be faster than its library", _WHY), _training(results)]
    groups = [(kind, _speeds(results, kind)) for kind in kinds]
    report.figures["prep-speed.svg"] = plots.bars("prep-speed", groups, "MB of text per CPU second, one core")
    if "scaling" in results:
        report.sections.append(_scaling(results["scaling"], kinds[0]))
    if "memory" in results:
        report.sections.append(_memory(report, results["memory"], kinds[0]))
    report.sections.append(_size(results["size"]))
    for kind, found in results["profile"].items():
        report.sections += _profile(kind, found)
    for section in report.sections:
        section.text = _wrapped(section.text)


def _wrapped(text: str) -> str:
    """Paragraphs in lines of 120 columns, after their figures were filled in."""
    return "\n\n".join(
        textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False) for part in text.split("\n\n")
    )


def _rates(results: dict[str, Any], kind: str, side: str, clock: str = "seconds") -> Spread:
    return Spread(tuple(results["bytes"] / 1e6 / measured[clock] for measured in results["kinds"][kind][side]))


def _over(results: dict[str, Any], kind: str, side: str, clock: str) -> Spread:
    """How many times as fast prep is as a side, in the rounds that both have."""
    sides = results["kinds"][kind]
    theirs = [measured[clock] for measured in sides[side]]
    return ratios(theirs, [measured[clock] for measured in sides[PREP]][: len(theirs)])


def _speeds(results: dict[str, Any], kind: str) -> list[tuple[str, float]]:
    return [(_title(side, kind), _rates(results, kind, side, "cpu_seconds").median) for side in results["kinds"][kind]]


def _library(kind: str) -> str:
    return "tokenizers" if kind == "wordpiece" else "sentencepiece"


def _title(side: str, kind: str) -> str:
    return f"{_library(kind)} alone" if side == RAW else side


def _aims(results: dict[str, Any]) -> Section:
    """What was asked for beside what was found."""
    section = Section("In short", "", ["", "asked for", "by the clock", "by CPU time"])
    for kind in results["kinds"]:
        rates = [_rates(results, kind, PREP, clock).show(".1f") + " MB/s" for clock in _CLOCKS]
        aims = {"wordpiece": "above 6 MB/s", "unigram": "at least 20 MB/s"}
        section.rows.append([f"{kind}, one core, end to end", aims.get(kind, ""), *rates])
        shares = [_over(results, kind, RAW, clock).show(".2f") for clock in _CLOCKS]
        asked = "at least 0.85" if kind == "wordpiece" else ""
        section.rows.append([f"{kind}, speed over that of `{_library(kind)}` alone", asked, *shares])
    scaling = results.get("scaling", [])
    for one in scaling:
        if one["processes"] == 2:
            speed_up = ratios(*([m["seconds"] for m in side["rounds"]] for side in (scaling[0], one))).show(".2f")
            section.rows.append([f"two processes ({one['name']}) over one", "at least 1.8", speed_up, ""])
    measured = [point for point in results.get("memory", []) if "skipped" not in point]
    if measured:
        ends = f"{measured[0]['text_bytes'] / 1e6:,.0f} to {measured[-1]['text_bytes'] / 1e6:,.0f} MB"
        peaks = [max(point["memory"], point["worker_memory"]) for point in measured]
        alone = [f"{p / 1e6:,.0f}" for p, one in zip(peaks, measured, strict=True) if one["workers"] == 1]
        most = f"{max(peaks) / 1e6:,.0f} MB" + (f" (one worker, by size: {', '.join(alone)})" if alone else "")
        section.rows.append([f"resident memory of a process, inputs of {ends}", f"under {LIMIT} MB, flat", most, ""])
    for kind, one in results["size"]["sets"].items():
        share = f"{one['tar_bytes'] / one['payload_bytes']:.4f}"
        section.rows.append([f"{kind}, tar over payload", "at most 1.01", share, ""])
    return section


def _speed(results: dict[str, Any]) -> Section:
    counts = [f"{sides[PREP][0]['tokens']:,} {kind} tokens" for kind, sides in results["kinds"].items()]
    libraries = [f"`{_library(kind)}` for {kind}" for kind in results["kinds"]]
    text = _SPEED.format(
        documents=results["documents"],
        megabytes=results["bytes"] / 1e6,
        tokens=", ".join(counts),
        library=", ".join(libraries),
        without="" if all(DATASETS in sides for sides in results["kinds"].values()) else _NO_DATASETS,
    )
    columns = ["", "", "MB/s", "MB per CPU second", "prep / side", "prep / side, CPU", "stage, MB/s", "s", "CPU s"]
    section = Section("Text to tokens on one core", text, [*columns, "tokens/s", "memory"])
    for kind, sides in results["kinds"].items():
        for side, rounds in sides.items():
            seconds, cpu_seconds = (Spread(tuple(m[c] for m in rounds)).median for c in _CLOCKS)
            stages = [m["tokenizing_seconds"] for m in rounds if m.get("tokenizing_seconds")]
            section.rows.append(
                [
                    kind,
                    f"`{side}`" if side != RAW else f"`{_library(kind)}` alone",
                    _rates(results, kind, side).show(".2f"),
                    _rates(results, kind, side, "cpu_seconds").show(".2f"),
                    *("" if side == PREP else _over(results, kind, side, c).show(".2f") for c in _CLOCKS),
                    f"{results['bytes'] / 1e6 / Spread(tuple(stages)).median:.1f}" if stages else "",
                    f"{seconds:.1f}",
                    f"{cpu_seconds:.1f}",
                    f"{rounds[0]['tokens'] / seconds:,.0f}",
                    "" if side == RAW else f"{max(m['memory'] for m in rounds) / 1e6:,.0f} MB",
                ]
            )
    return section


def _training(results: dict[str, Any]) -> Section:
    header = ["", "s", "CPU s", "MB/s", "memory", "largest worker"]
    first = next(iter(results["training"].values()))
    text = _TRAINING.format(
        cores=first["workers"], entries=first["entries"], sample=min(first["sample_bytes"], results["bytes"]) / 1e6
    )
    section = Section("With the training of the vocabulary", text, header)
    for kind, found in results["training"].items():
        section.rows.append(
            [
                kind,
                f"{found['seconds']:.1f}",
                f"{found['cpu_seconds']:.1f}",
                f"{results['bytes'] / 1e6 / found['seconds']:.2f}",
                *_memories(found),
            ]
        )
    return section


def _memories(found: dict[str, Any]) -> list[str]:
    return [f"{found[name] / 1e6:,.0f} MB" if found[name] else "" for name in ("memory", "worker_memory")]


def _scaling(found: list[dict[str, Any]], kind: str) -> Section:
    text_bytes = found[0]["rounds"][0]["text_bytes"]
    without = "" if any("mpirun" in one["name"] for one in found) else _NO_MPI
    header = ["", "MB/s", "speed-up", "s", "CPU s", "largest process"]
    section = Section("More processes", _SCALING.format(megabytes=text_bytes / 1e6, kind=kind, without=without), header)
    for one in found:
        seconds = [measured["seconds"] for measured in one["rounds"]]
        first = [measured["seconds"] for measured in found[0]["rounds"]]
        section.rows.append(
            [
                one["name"],
                Spread(tuple(text_bytes / 1e6 / value for value in seconds)).show(".2f"),
                "" if one is found[0] else ratios(first, seconds).show(".2f"),
                Spread(tuple(seconds)).show(".1f"),
                Spread(tuple(measured["cpu_seconds"] for measured in one["rounds"])).show(".1f"),
                f"{max(max(m['memory'], m['worker_memory']) for m in one['rounds']) / 1e6:,.0f} MB",
            ]
        )
    return section


def _memory(report: Report, points: list[dict[str, Any]], kind: str) -> Section:
    header = ["MB of text", "workers", "main process", "largest worker", "s", "MB/s"]
    measured = [point for point in points if "skipped" not in point]
    skipped = [point for point in points if "skipped" in point]
    text = _MEMORY.format(kind=kind) if measured else ""
    if measured:
        drawn = []
        for workers in dict.fromkeys(point["workers"] for point in measured):
            mine = [point for point in measured if point["workers"] == workers]
            peaks = [max(point["memory"], point["worker_memory"]) / 1e6 for point in mine]
            sizes = [point["text_bytes"] / 1e6 for point in mine]
            drawn.append(plots.Line(f"{workers} worker{'s' * (workers > 1)}", sizes, peaks, dots=True))
        labels = ("MB of text", "MB resident, largest process")
        limit = (float(LIMIT), f"{LIMIT} MB")
        report.figures["prep-memory.svg"] = plots.lines("prep-memory", drawn, labels, limit, logarithmic=True)
        largest = next(point for point in measured if "curve" in point)
        if largest["curve"]:
            text += _CURVE
            label = f"{largest['text_bytes'] / 1e6:,.0f} MB of text, workers: {largest['workers']}"
            seconds, resident = zip(*largest["curve"], strict=True)
            line = plots.Line(label, seconds, [size / 1e6 for size in resident])
            labels = ("seconds since the start", "MB resident, largest process")
            report.figures["prep-memory-time.svg"] = plots.lines("prep-memory-time", [line], labels, limit)
    for point in skipped:
        text += f"\n\n{point['wanted_bytes'] / 1e6:,.0f} MB, workers {point['workers']}: left out, {point['skipped']}."
    section = Section("Memory", text.strip(), header if measured else ())
    for point in measured:
        section.rows.append(
            [
                f"{point['text_bytes'] / 1e6:,.1f}",
                str(point["workers"]),
                *_memories(point),
                f"{point['seconds']:,.1f}",
                f"{point['text_bytes'] / 1e6 / point['seconds']:.1f}",
            ]
        )
    return section


def _size(found: dict[str, Any]) -> Section:
    header = ["", "tokens", "payload", "tars", "tars / payload", "indexes / payload"]
    widths = sorted({one["id_bytes"] for one in found["sets"].values()})
    section = Section("Size", _SIZE.format(width=" or ".join(map(str, widths))), header)
    for kind, one in found["sets"].items():
        section.rows.append(
            [
                f"{kind}, {one['blocks']:,} blocks",
                f"{one['tokens']:,}",
                *(f"{one[name] / 1e6:,.2f} MB" for name in ("payload_bytes", "tar_bytes")),
                *(f"{one[name] / one['payload_bytes']:.4f}" for name in ("tar_bytes", "index_bytes")),
            ]
        )
    if rows := found["row_a_member"]:
        share = rows["tar_bytes"] / rows["payload_bytes"]
        sizes = [f"{rows[name] / 1e6:,.2f} MB" for name in ("payload_bytes", "tar_bytes")]
        section.rows.append(
            [f"row a member, {rows['rows']:,} rows", f"{512 * rows['rows']:,}", *sizes, f"{share:.4f}", ""]
        )
    return section


def _profile(kind: str, found: dict[str, Any]) -> list[Section]:
    whole = found["seconds"]
    text = _PROFILE.format(seconds=whole)
    functions = Section(f"Where the time goes, {kind}", text, ["function", "calls", "s", "share"])
    for one in found["functions"]:
        shown = one["name"].replace("|", "\\|")
        functions.rows.append(
            [f"`{shown}`", f"{one['calls']:,}", f"{one['seconds']:.2f}", f"{one['seconds'] / whole:.1%}"]
        )
    files = Section(f"Where the time goes, {kind}, by file", "", ["file", "s", "share", "what it is"])
    for one in found["files"]:
        if one["seconds"] >= 0.005 * whole:
            row = [one["name"], f"{one['seconds']:.2f}", f"{one['seconds'] / whole:.1%}", one["summary"]]
            files.rows.append(row)
    return [functions, files]
