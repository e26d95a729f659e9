"""Putting the page together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from electra_ds import __version__
from electra_ds.data.format import Manifest
from electra_ds.errors import UserError
from electra_ds.files import atomic_write
from electra_ds.report import finetuning, progress, tokens
from electra_ds.report.config import ReportConfig
from electra_ds.report.reading import Inputs, read_inputs

TEMPLATE = "report.html.j2"
GENERATOR = '<meta name="generator" content="electra_ds'
"""How a page of ours is told from a file that must not be replaced."""


def write_report(config: ReportConfig) -> Path:
    """Read, render and write; return the page's path.

    Raises:
        UserError: no run there, or the output is a file that is not one of our pages.
    """
    inputs = read_inputs(config)
    path = Path(config.output) if config.output else inputs.folder / "report.html"
    if path.is_dir():
        raise UserError(f"output: {path} is a folder, expected the name of an HTML file")
    if path.exists() and GENERATOR not in path.read_text("utf-8", errors="replace")[:2000]:
        raise UserError(f"output: {path} exists and is not a report of ours; choose another --output")
    if not path.parent.is_dir():
        raise UserError(f"output: no folder {path.parent}; make it first")
    html = render(inputs, config)
    with atomic_write(path, "w") as file:
        file.write(html)
    return path


def render(inputs: Inputs, config: ReportConfig) -> str:
    """Return the page as one HTML text without any outside reference."""
    import jinja2
    from markupsafe import Markup

    left_out = list(inputs.left_out)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent.parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["svg"] = Markup
    begun = progress.lives(inputs)
    return environment.get_template(TEMPLATE).render(
        title=config.title or f"ELECTRA run: {inputs.folder.resolve().name}",
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        facts=progress.facts(inputs),
        sections=progress.sections(inputs),
        examples=_examples(inputs, config.examples, left_out),
        finetuning=finetuning.build(inputs.finetune) if inputs.finetune else None,
        dataset=_dataset(inputs.manifest) if inputs.manifest else None,
        recipe=inputs.recipe_text,
        versions=_versions(begun),
        left_out=left_out,
    )


def _examples(inputs: Inputs, limit: int, left_out: list[str]) -> dict[str, Any] | None:
    if inputs.samples is None or limit == 0:
        return None
    examples, unusable = tokens.read_examples(inputs.samples, limit)
    if unusable:
        left_out.append(f"{unusable} of the examples in samples.json, whose lists do not fit together.")
    if not examples:
        return None
    replaced, found = sum(one.replaced for one in examples), sum(one.found for one in examples)
    return {
        "rows": examples,
        "step": inputs.samples.get("step"),
        "replaced": replaced,
        "found": found,
        "false_alarms": sum(one.false_alarms for one in examples),
        "originals": sum(len(one.tokens) for one in examples) - replaced,
        "kept": len(inputs.samples["examples"]),
    }


def _dataset(manifest: Manifest) -> dict[str, Any]:
    counts = ("documents", "sentences", "tokens", "bytes")
    splits = [
        {"name": name, "shards": len(shards), **{count: manifest.total(name, count) for count in counts}}
        for name, shards in manifest.splits.items()
    ]
    return {
        "splits": splits,
        "tokenizer": manifest.tokenizer,
        "fingerprint": manifest.fingerprint,
        "dtype": manifest.dtype,
    }


def _versions(begun: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Library and its version, or versions if the lives of the run differ."""
    found: dict[str, dict[str, None]] = {}
    for event in begun:
        for name, version in (event.get("versions") or {}).items():
            found.setdefault(name, {})[str(version)] = None
    return [(name, " → ".join(versions)) for name, versions in found.items()]
