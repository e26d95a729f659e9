"""From what the ranks of `bench step` wrote to its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from electra_ds.bench.statistics import Spread, ratios
from electra_ds.bench.step_sides import OURS, VARIANT, Side
from electra_ds.errors import UserError
from electra_ds.model.flops import peak_flops

RATIOS = {
    "ratio": "transformers",
    "ratio_compiled": "transformers_compiled",
    "ratio_masked_head": "transformers_masked_head",
    "ratio_masked_head_compiled": "transformers_masked_head_compiled",
}
"""Key of each ratio, and the side it is against."""


@dataclass(frozen=True)
class Devices:
    """What computes."""

    kind: str
    """``cpu`` or ``cuda``."""
    peak: float | None
    """Of all ranks together (FLOP/s), from the data sheet; None: to be measured."""
    described: dict[str, str]
    """For the report."""

    @classmethod
    def find(cls, asked: str, ranks: int) -> Devices:
        """Look at this machine.

        Raises:
            UserError: a GPU was asked for, and there are not as many as ranks.
        """
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if asked == "cpu" or (asked == "auto" and not count):
            return cls("cpu", None, {})
        if count < ranks:
            raise UserError(f"device={asked}, ranks={ranks}: torch finds {count} GPU(s) here; lower ranks or take cpu")
        name = torch.cuda.get_device_name(0)
        peak = peak_flops(name)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        described = {"GPU": f"{ranks} x {name}, {memory:.0f} GiB", "CUDA": str(torch.version.cuda)}
        return cls("cuda", peak * ranks if peak else None, described)


def summarise(
    ranks: Sequence[dict[str, Any]], memory: dict[str, dict[str, Any]], sides: Sequence[Side], devices: Devices
) -> dict[str, Any]:
    """The figures of all sides.

    Args:
        ranks: what `step_worker.compare` found on each rank.
        memory: what `step_worker.measure_memory` found, by side; on a GPU the comparison itself finds it.
        sides: what was to be measured.
        devices: what computed.

    Returns:
        ``ratio`` and its kin (medians over rounds, how many times as many tokens a second ours makes; None where a
        side is missing) with the ``spreads`` behind them, ``tokens_per_second`` and ``mfu`` of ours, ``peak_bytes``,
        ``memory_ratio`` (ours over the plain peer's), ``head_share``, ``data_wait``, ``overhead``, ``zero`` (by stage:
        how many times as fast as stage 0), ``variants`` (by setting: the figures of ours with it, as far as they are
        measured), ``sides`` and what else the report shows.
    """
    first = ranks[0]
    flops, peak = first["flops_per_token"], devices.peak or first["peak_flops"]
    memory = memory or {
        name: max((rank["sides"][name]["memory"] for rank in ranks), key=lambda held: held["peak"])
        for name, side in first["sides"].items()
        if "memory" in side
    }
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        if side.name not in first["sides"]:
            continue
        measured = [rank["sides"][side.name] for rank in ranks]
        visits = [one["visits"] for one in measured]
        seconds = [max(visit["seconds"] for visit in visit_of_ranks) for visit_of_ranks in zip(*visits, strict=True)]
        rates = [visit["tokens"] / took for visit, took in zip(visits[0], seconds, strict=True)]
        waits = [visit["waited"] / visit["seconds"] for visit in visits[0]]
        found[side.name] = {
            "title": side.title,
            "settings": dict(side.settings),
            "tokens_per_second": rates,
            "mfu": Spread(tuple(rates)).median * flops / peak if peak else None,
            "data_wait": Spread(tuple(waits)).median,
            "memory": memory.get(side.name),
            "parts": measured[0].get("parts"),
        }
    spreads = {
        name: ratios(found[OURS]["tokens_per_second"], side["tokens_per_second"])
        for name, side in found.items()
        if name != OURS
    }
    return {
        **{key: spreads[name].median if name in spreads else None for key, name in RATIOS.items()},
        "tokens_per_second": Spread(tuple(found[OURS]["tokens_per_second"])).median,
        "mfu": found[OURS]["mfu"],
        "peak_bytes": (memory.get(OURS) or {}).get("peak"),
        "memory_ratio": _memory_ratio(memory, "peak"),
        "memory_ratio_pages": _memory_ratio(memory, "pages_peak"),
        "head_share": _share(found[OURS]["parts"], "vocabulary head"),
        "data_wait": found[OURS]["data_wait"],
        "overhead": first["records"]["seconds"] / first["records"]["step_seconds"],
        "overhead_by_rounds": 1 - spreads["electra_ds_bare"].median if "electra_ds_bare" in spreads else None,
        "zero": _zero(found),
        "variants": _variants(found, memory),
        "peak_flops": peak,
        "peak_is_measured": devices.peak is None,
        "flops_per_token": flops,
        "rows": first["rows"],
        "model": first["model"],
        "spreads": {name: list(spread.values) for name, spread in spreads.items()},
        "sides": found,
        "failed": first["failed"],
        "records": first["records"],
        "profile": first.get("profile"),
    }


def _memory_ratio(memory: dict[str, dict[str, Any]], key: str, name: str = OURS) -> float | None:
    own, plain = (memory.get(side, {}).get(key) for side in (name, RATIOS["ratio"]))
    return own / plain if own and plain else None


def _share(parts: dict[str, dict[str, float]] | None, part: str) -> float | None:
    if not parts:
        return None
    total = sum(seconds for ways in parts.values() for seconds in ways.values())
    return sum(parts.get(part, {}).values()) / total


def _zero(found: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Tokens a second of each stage over those of the lowest stage measured, round by round."""
    stages = sorted(name for name in found if name.startswith("electra_ds_zero"))
    if len(stages) < 2:
        return {}
    lowest = found[stages[0]]["tokens_per_second"]
    return {name[-1]: list(ratios(found[name]["tokens_per_second"], lowest).values) for name in stages}


def _variants(found: dict[str, dict[str, Any]], memory: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures of ours with other settings, by setting."""
    variants = {}
    for name, side in found.items():
        if not name.startswith(VARIANT):
            continue
        rates = side["tokens_per_second"]
        figures = {
            key: ratios(rates, found[peer]["tokens_per_second"]).median if peer in found else None
            for key, peer in RATIOS.items()
        }
        variants[side["title"].removeprefix(f"{OURS}, ")] = {
            **figures,
            "tokens_per_second": Spread(tuple(rates)).median,
            "mfu": side["mfu"],
            "peak_bytes": (side["memory"] or {}).get("peak"),
            "memory_ratio": _memory_ratio(memory, "peak", name),
            "data_wait": side["data_wait"],
        }
    return variants
