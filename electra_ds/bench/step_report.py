"""The sections and the plot of `bench step`'s report."""

from __future__ import annotations

from typing import Any

from electra_ds.bench import plots
from electra_ds.bench.report import Section
from electra_ds.bench.statistics import Spread
from electra_ds.bench.step_parts import PARTS
from electra_ds.bench.step_sides import OURS

LEAD = """\
How many tokens a second one training step makes, end to end, beside the joint step that a user would write with
`transformers`. All sides live in the same processes, each with an engine of its own under the same DeepSpeed config,
see the same rows, and take turns; each round begins with another side. Figures are medians over rounds, with the lowest
and the highest in brackets; ratios are taken round by round."""

_SPEED = """\
{micro_batch} rows of {length} tokens a rank and step, {ranks}, {precision}, DeepSpeed config `{deepspeed}`, dropout
{dropout:g}. *Ours / theirs*: how many times as many tokens a second `electra_ds` makes. *MFU*: useful FLOPs
([docs/flops.md](../docs/flops.md): {flops:.1f} MFLOP a token here) over {peak}. *Peak*: bytes of live tensors at the
highest moment of a step, of the side alone{pages}."""

_PAGES = """ in processes of its own; *pages*: how far the resident set rose in all, with the libraries' own
buffers and what the compiler keeps"""

_PARTS = """\
One step in milliseconds, forward + backward where a part has both, measured in a run of its own with a clock at the
borders of the networks (which costs a little itself). *Losses, samples, statistics* is what the joint step does between
the networks; in *transformers* the cross-entropy over the vocabulary is there, in `electra_ds` it is within the
*vocabulary head*, whose share of the step is {head}. Compiled networks of the peer cannot be looked into."""

_RECORDS = """\
`electra_ds` writes metrics and the ids of its rows (`data.audit`) at every step here; a recipe asks for less. *Clocked*
adds up the calls that only inform, on the host; *by rounds* compares with a side that records nothing, and has the
noise of whole steps. Data wait is what the training thread waits for rows, in the rounds. Validation was not due in so
few steps."""

_FAIRNESS = """\
- The peer is two stock models (`ElectraForMaskedLM`, `ElectraForPreTraining`) of the same sizes with one set of
  embeddings, in train mode with the same dropout, under an engine of the same DeepSpeed config, with torch's fused
  AdamW, weight decay and clipping. Its attention: {attention}.
- It is fed by this package's loader, which also draws its masks ahead of time, and keeps no records at all.
- It gets no attention mask, which lets its attention run at its fastest. So tokens attend across the segments of a
  row, positions do not restart, and {padding:.2%} of the slots, which are padding, count. Confining attention to
  segments, counting exactly, and metrics are work that `electra_ds` does beyond it.
- *Compiled*: `torch.compile` of each of its two networks. *Head where masked*: the vocabulary head at the selected
  positions alone, which its models do not offer: a user has to take them apart.
- {threads}"""


def title(results: dict[str, Any]) -> str:
    """The page's heading."""
    setting = results["setting"]
    return f"A training step: {setting['recipe']}, rows of {setting['sequence_length']} tokens"


def told(results: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = []
    for name, side in results["sides"].items():
        spread = results["spreads"].get(name)
        parts = [f"{side['title']:<40} {Spread(tuple(side['tokens_per_second'])).median:>12,.0f} tokens/s"]
        parts += [f"MFU {side['mfu']:.1%}"] if side["mfu"] else []
        parts += [f"peak {side['memory']['peak'] / 1e9:.2f} GB"] if side["memory"] else []
        parts += [f"ours / theirs {Spread(tuple(spread)).show('.2f')}"] if spread else []
        lines.append("  ".join(parts))
    lines += [f"{name}: failed, {why}" for name, why in results["failed"].items()]
    own = results["sides"][OURS]["parts"]
    total = _total(own)
    shares = (f"{part} {sum(own[part].values()) / total:.1%}" for part in PARTS if part in own)
    return "\n".join([*lines, "where our step goes: " + ", ".join(shares)])


def sections(results: dict[str, Any], trace: str | None) -> list[Section]:
    """All sections, in order."""
    found = [_speed(results), _parts(results), _records(results)]
    if results["zero"]:
        found.append(_zero(results))
    if results["profile"]:
        found.append(_profile(results, trace))
    if results["failed"]:
        found.append(Section("Failed", "\n".join(f"- {name}: {why}" for name, why in results["failed"].items())))
    if results["missing"]:
        names = ", ".join(results["missing"])
        found.append(Section("Not installed", f"Left out: {names}. Install them to have them measured."))
    found.append(_fairness(results))
    return found


def figures(results: dict[str, Any], name: str) -> dict[str, str]:
    """Where the time of a step goes, as bars."""
    bars = []
    for key, side in results["sides"].items():
        if key.startswith(f"{OURS}_"):
            continue  # ours once more, in another setting
        tokens = Spread(tuple(side["tokens_per_second"])).median
        parts = side["parts"]
        whole = 1e6 / tokens
        if parts:
            total = _total(parts)
            bars.append((side["title"], [(part, whole * sum(parts.get(part, {}).values()) / total) for part in PARTS]))
        else:
            bars.append((side["title"], [("not looked into", whole)]))
    return {f"{name}.svg": stacked(name, bars, "milliseconds for 1,000 tokens")}


def stacked(name: str, bars: list[tuple[str, list[tuple[str, float]]]], label: str) -> str:
    """Draw horizontal bars made of named pieces; an SVG document.

    Args:
        name: of the drawing; makes the file repeatable.
        bars: name of each, and its pieces' names and lengths.
        label: of the lengths, with their unit.
    """
    colours = ("#2f6fb0", "#7fb0dd", "#d1752b", "#4b8f4b", "#9cc59c", "#8a5bb0", "#b5503c", "#c9a227", "#777777")
    figure, (axes,) = plots.figure(7.2, 1.5 + 0.36 * len(bars))
    known = list(dict.fromkeys(piece for _, pieces in bars for piece, _ in pieces))
    shades = {piece: colours[number % len(colours)] for number, piece in enumerate(known)}
    shades["not looked into"] = "#c8c8c8"
    for place, (_, pieces) in enumerate(bars):
        left = 0.0
        for piece, length in pieces:
            axes.barh(place, length, left=left, height=0.7, color=shades[piece])
            left += length
        axes.annotate(f"{left:,.1f}", (left, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(bars)), [title for title, _ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    longest = {piece: max((dict(pieces).get(piece, 0.0)) for _, pieces in bars) for piece in known}
    seen = [piece for piece in known if longest[piece] > 0.005 * max(sum(dict(p).values()) for _, p in bars)]
    handles = [axes.barh(0, 0, color=shades[piece], label=piece) for piece in seen]
    figure.legend(handles=handles, fontsize=8, frameon=False, ncols=4, loc="outside upper center")
    return plots.svg(figure, name)


def _speed(results: dict[str, Any]) -> Section:
    setting, model = results["setting"], results["model"]
    peak = f"{results['peak_flops'] / 1e12:,.2f} TFLOP/s" if results["peak_flops"] else "an unknown peak"
    how = "the best of several products of 2048 x 2048 matrices in this run, all ranks at once"
    text = _SPEED.format(
        micro_batch=setting["micro_batch"],
        length=setting["sequence_length"],
        ranks=f"{setting['ranks']} rank{'s' if setting['ranks'] > 1 else ''}",
        precision=setting["precision"],
        deepspeed=setting["deepspeed"],
        dropout=model["dropout"],
        flops=results["flops_per_token"] / 1e6,
        pages="" if setting["device"] == "cuda" else _PAGES,
        peak=f"{peak} ({how if results['peak_is_measured'] else 'data sheet, dense'})",
    )
    header = ("", "tokens/s", "ours / theirs", "MFU", "data wait", "peak, GB", "pages, GB")
    section = Section("Speed", f"{text}\n\n![Where the time goes]({results['figure']})", header)
    for name, side in results["sides"].items():
        memory = side["memory"] or {}
        spread = results["spreads"].get(name)
        section.rows.append(
            [
                side["title"],
                Spread(tuple(side["tokens_per_second"])).show(",.0f"),
                Spread(tuple(spread)).show(".2f") if spread else "",
                f"{side['mfu']:.1%}" if side["mfu"] else "",
                f"{side['data_wait']:.2%}",
                f"{memory['peak'] / 1e9:.2f}" if "peak" in memory else "",
                f"{memory['pages_peak'] / 1e9:.2f}" if "pages_peak" in memory else "",
            ]
        )
    return section


def _parts(results: dict[str, Any]) -> Section:
    looked_into = [side for side in results["sides"].values() if side["parts"]]
    share = results["head_share"]
    section = Section(
        "Where the time goes",
        _PARTS.format(head=f"{share:.1%}" if share is not None else "unknown"),
        ("", *(side["title"] for side in looked_into)),
    )
    for part in PARTS:
        cells = []
        for side in looked_into:
            ways = side["parts"].get(part, {"forward": 0.0, "backward": 0.0})
            both = f"{1e3 * ways['forward']:,.1f} + {1e3 * ways['backward']:,.1f}"
            cells.append(both if ways["backward"] else f"{1e3 * ways['forward']:,.1f}")
        section.rows.append([part, *cells])
    section.rows.append(["whole step", *(f"{1e3 * _total(side['parts']):,.1f}" for side in looked_into)])
    return section


def _records(results: dict[str, Any]) -> Section:
    by_rounds = results["overhead_by_rounds"]
    rows = [
        ["metrics, audit, progress, clocked", f"{results['overhead']:.2%}"],
        ["the same, by rounds", "" if by_rounds is None else f"{by_rounds:.1%}"],
        ["data wait", f"{results['data_wait']:.2%}"],
    ]
    return Section("What training adds", _RECORDS, ("share of a step", ""), rows)


def _zero(results: dict[str, Any]) -> Section:
    setting = results["setting"]
    batch = setting["micro_batch"] * setting["ranks"] * setting["sequence_length"]
    text = f"Global batch of {batch:,} tokens. Tokens a second over those of the first stage, round by round."
    rows = [[f"ZeRO {stage}", Spread(tuple(values)).show(".3f")] for stage, values in results["zero"].items()]
    return Section("ZeRO stages", text, ("", "of the first"), rows)


def _profile(results: dict[str, Any], trace: str | None) -> Section:
    where = f" The whole is in `{trace}` (chrome://tracing, ui.perfetto.dev)." if trace else ""
    rows = [
        [f"`{row['name'][:60]}`", f"{row['calls']:,}", f"{1e3 * row['seconds']:,.2f}", f"{row['share']:.1%}"]
        for row in results["profile"]
    ]
    text = f"One step of ours under torch's profiler: the operations that took longest by themselves.{where}"
    return Section("Profile", text, ("operation", "calls", "ms", "share"), rows)


def _fairness(results: dict[str, Any]) -> Section:
    chosen = ", ".join(f"{name} when {way}" for way, name in results["attention"].items()) or "not measured"
    if results["setting"]["device"] == "cpu":
        chosen += ", the faster of sdpa and eager, which are tried beforehand unless one is asked for"
    rows, setting = results["rows"], results["setting"]
    cpu = (
        "All sides use the same threads: the usable cores, divided among the ranks. During its visits `electra_ds`\n"
        "  keeps freed memory, as `pretrain` does on a CPU (`training/allocator.py`); a peer has what glibc does."
    )
    gpu = "All sides compute on the same GPU, which waits for its kernels before and after each visit."
    return Section(
        "What is compared",
        _FAIRNESS.format(
            attention=chosen,
            padding=1 - rows["tokens"] / rows["slots"],
            threads=cpu if setting["device"] == "cpu" else gpu,
        ),
    )


def _total(parts: dict[str, dict[str, float]]) -> float:
    return sum(seconds for ways in parts.values() for seconds in ways.values())
