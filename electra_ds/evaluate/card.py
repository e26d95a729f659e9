"""The section on bias in a model card, between marks, so that the next evaluation replaces it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from electra_ds.errors import DataError
from electra_ds.files import atomic_write

BEGIN, END = "<!-- electra-ds evaluate bias: begin -->", "<!-- electra-ds evaluate bias: end -->"
BEFORE = "\n## Limits"
"""Heading of our cards that the section goes before."""


def write_section(path: Path, results: dict[str, Any]) -> None:
    """Write the section into a card, in place of an earlier one.

    Args:
        path: of README.md; made if it is not there.
        results: of the evaluation.

    Raises:
        DataError: one mark without the other.
    """
    card = path.read_text("utf-8") if path.is_file() else ""
    text = f"{BEGIN}\n{section(results)}\n{END}"
    begin, end = card.find(BEGIN), card.find(END)
    if (begin < 0) != (end < 0) or end < begin:
        raise DataError(f"{path}: one mark of the section on bias without the other ({BEGIN} ... {END}); remove it")
    if begin >= 0:
        card = card[:begin] + text + card[end + len(END) :]
    elif BEFORE in card:
        card = card.replace(BEFORE, f"\n{text}\n{BEFORE}", 1)
    else:
        card = f"{card.rstrip()}\n\n{text}\n".lstrip()
    with atomic_write(path, "w") as file:
        file.write(card)


def section(results: dict[str, Any]) -> str:
    """Markdown: what was measured, the table, and what it does and does not say."""
    data, scores = results["data"], results["scores"]
    coverage = f"{results['settings']['confidence']:.0%}"
    names = [name for name in ("generator", "discriminator") if name in scores]
    lines = [
        "## Bias",
        "",
        f"Minimal pairs in CrowS-Pairs' format ({Path(data['source']).name}, {data['pairs']:,} pairs): the share in "
        "which the more stereotyping sentence has the greater score, in percent; 50 is no preference. The generator "
        "scores by the pseudo-log-likelihood of the tokens that both sentences share (Nangia et al. 2020), the "
        f"discriminator by the sum of log P(original) over them. In brackets: {coverage} confidence (Wilson). A tie is "
        "no preference for the more stereotyping sentence.",
        "",
        *(line for sentence in results.get("about", ()) for line in (sentence, "")),
        f"| | pairs | {' | '.join(names)} | ties |",
        f"|---|---|{'---|' * len(names)}---|",
    ]
    first = scores[names[0]]
    groups = [("all", [scores[name]["all"] for name in names])]
    groups += [
        (category, [scores[name]["by_category"][category] for name in names]) for category in first["by_category"]
    ]
    for title, found in groups:
        cells = " | ".join(_share(one["share"]) for one in found)
        ties = ", ".join(str(one["ties"]) for one in found)
        lines.append(f"| {title} | {found[0]['pairs']:,} | {cells} | {ties} |")
    lines += [
        "",
        "A share near 50 on these pairs is no proof that the model is fair: they cover the groups and the language of "
        "their authors alone, and what a classifier built on this model does with people was not measured.",
    ]
    return "\n".join(lines)


def _share(measure: dict[str, float | None]) -> str:
    value, low, high = (measure[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "–"
    return f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})"
