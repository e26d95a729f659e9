"""Putting the page together: one HTML file without scripts and without any outside reference."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from data_prep.report import amounts, process, removed
from electra_ds import __version__
from electra_ds import files as electra_files
from electra_ds.data.format import Manifest

REPORT_NAME = "report.html"
TEMPLATE = "report.html.j2"

_TEMPLATES = (
    Path(__file__).resolve().parents[1] / "templates",
    Path(electra_files.__file__).resolve().parent / "templates",
)
"""The page's own, and the one with the style sheet of all pages."""

_INVISIBLE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls, marks that are not seen or turn the direction of what follows, and what UTF-8 cannot encode."""
_JOINERS_AND_SPACES = re.compile("[\xa0\u2000-\u200a\u200c\u200d\u202f\u205f\u3000]")
"""What text may well contain, but cannot be told from nothing, or from a space."""


def write_report(folder: Path, manifest: Manifest, measured: dict[str, Any] | None) -> Path:
    """Render the page and write it atomically into the shard set's folder.

    Args:
        folder: where the manifest lies.
        manifest: of the set; all but the times comes from it.
        measured: ``ranks``, ``workers`` and ``stages`` of the run that made the set; None if that is over.

    Returns:
        The page's path.
    """
    html = render(folder.resolve().name, manifest, measured)
    path = folder / REPORT_NAME
    with electra_files.atomic_write(path, "w") as file:
        file.write(html)
    return path


def render(name: str, manifest: Manifest, measured: dict[str, Any] | None) -> str:
    """Return the page as text; `name` is the set's in the title."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )
    environment.filters.update(svg=Markup, count=count, megabytes=megabytes, percent=percent, exposed=exposed)
    return environment.get_template(TEMPLATE).render(
        title=f"Shard set: {name}",
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        manifest=manifest,
        statistics=manifest.statistics,
        facts=_facts(manifest, measured),
        corpora=amounts.corpora(manifest),
        sources=amounts.sources(manifest),
        mixing=amounts.mixing(manifest),
        lengths=amounts.lengths(manifest),
        unknown=amounts.unknown_by_language(manifest),
        splits=amounts.splits(manifest),
        shards=amounts.shards(manifest),
        removal=removed.removal(manifest),
        changes=removed.changes(manifest),
        duplicates=removed.duplicates(manifest),
        run=process.run(measured),
        versions=process.versions(),
        inputs=process.inputs(manifest),
        config=process.config_text(manifest),
    )


def visible(text: str) -> str:
    """Show characters that cannot be seen, or that would upset the page around them, by their code points."""
    return _INVISIBLE.sub(_code_point, text)


def exposed(text: str) -> str:
    """Show joiners and unusual spaces, too: where they are what differs."""
    return _JOINERS_AND_SPACES.sub(_code_point, visible(text))


def _code_point(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def megabytes(value: float) -> str:
    """Bytes as a number of megabytes."""
    return f"{value / 1e6:,.1f}" if value >= 1e7 else f"{value / 1e6:.2f}" if value >= 1e4 or not value else "<0.01"


def size(value: float) -> str:
    """Bytes with the unit that fits them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= factor:
            return f"{value / factor:,.1f} {unit}"
    return f"{value / 1e3:,.1f} kB"


def percent(value: float) -> str:
    """A share as percent, with more digits where it is small."""
    if 0 < value < 1e-5:
        return "<0.001\N{NO-BREAK SPACE}%"
    if 0.9995 <= value < 1:
        return ">99.9\N{NO-BREAK SPACE}%"
    digits = 1 if value >= 0.0995 else 2 if value >= 0.00995 else 3
    return f"{100 * value:.{digits if 0 < value < 1 else 0}f}\N{NO-BREAK SPACE}%"


def _facts(manifest: Manifest, measured: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """Label, value and note of the headline figures."""
    statistics, splits, tokenizer = manifest.statistics, manifest.splits, manifest.tokenizer
    kept = sum(statistics["documents_kept"].values())
    tokens = statistics["tokens"]
    text = sum(corpus["bytes"] for corpus in statistics["corpora"].values())
    shards = [shard for found in splits.values() for shard in found]
    vocabulary = statistics["vocabulary"]
    held_out = manifest.total("validation", "tokens")
    facts = [
        ("Documents", count(kept), f"of {count(statistics['documents_read'])} read"),
        ("Text", size(text), f"of {size(statistics['text_bytes'])} read"),
        ("Tokens", count(tokens), f"{count(held_out)} of them for validation"),
        ("Bytes per token", f"{text / max(tokens, 1):.2f}", "of UTF-8 text"),
        (
            "Vocabulary",
            count(vocabulary["size"]),
            f"{tokenizer.type}; {percent(vocabulary['used'] / max(vocabulary['size'], 1))} occur",
        ),
        ("Unknown tokens", percent(statistics["unknown_tokens"] / max(tokens, 1)), "of all tokens"),
        (
            "Shards",
            count(len(shards)),
            f"{count(sum(shard.blocks for shard in shards))} blocks, {size(sum(shard.bytes for shard in shards))}",
        ),
    ]
    run = process.run(measured)
    if run:
        facts.append(("Time", process.duration(run.seconds), f"worker processes: {run.ranks * run.workers:,}"))
    return facts
