"""Where `electra-ds prep` spends its processor time, function by function.

Run by `bench prep`: ``python -m electra_ds.bench.prep_profile OPTIONS...`` prepares with these options under cProfile,
in processor time, and prints one JSON object as its last line. The profiler slows code down that calls many small
functions: shares are to be read, not seconds.
"""

from __future__ import annotations

import ast
import cProfile
import json
import pstats
import runpy
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

FUNCTIONS = 15
"""Functions reported, those with the most time of their own."""
IMPORTS = "importing"
_OWN = ("electra_ds", "data_prep")
_PASSES = 60

_Function = tuple[str, int, str]


def main(options: list[str]) -> dict[str, Any]:
    """Prepare under the profiler.

    Returns:
        ``seconds`` in all; ``functions``, the first by own time: name, calls, seconds; ``files``: seconds of each
        source file, what it calls in libraries included, and its first line.
    """
    profile = cProfile.Profile(time.process_time)
    sys.argv = ["electra-ds", "prep", *options]
    profile.enable()
    try:
        runpy.run_module("electra_ds", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        profile.disable()
    return summarize(pstats.Stats(profile).stats)  # type: ignore[attr-defined]


def summarize(
    stats: dict[_Function, tuple[int, int, float, float, dict[_Function, tuple[Any, ...]]]],
) -> dict[str, Any]:
    """Put the profiler's table into the form that `main` returns."""
    first = sorted(stats.items(), key=lambda entry: -entry[1][2])[:FUNCTIONS]
    functions = [
        {"name": _name(function), "calls": found[1], "seconds": found[2]} for function, found in first if found[2]
    ]
    by_file: defaultdict[str, float] = defaultdict(float)
    waiting = {function: found[2] for function, found in stats.items()}
    # A library's time goes to the function of ours that called it, over however many functions between them.
    for _ in range(_PASSES):
        passed: defaultdict[_Function, float] = defaultdict(float)
        for function, seconds in waiting.items():
            owner = _owner(function)
            callers = stats[function][4]
            weights = {caller: float(entry[3]) for caller, entry in callers.items() if caller != function}
            total = sum(weights.values())
            if owner or not total:
                by_file[owner or "elsewhere"] += seconds
                continue
            for caller, weight in weights.items():
                passed[caller] += seconds * weight / total
        waiting = passed
    by_file["elsewhere"] += sum(waiting.values())
    paths = {_owner(function): function[0] for function in stats if _owner(function) not in ("", IMPORTS)}
    files = [
        {"name": name, "seconds": seconds, "summary": _summary(paths[name]) if name in paths else ""}
        for name, seconds in sorted(by_file.items(), key=lambda entry: -entry[1])
        if seconds > 0
    ]
    return {"seconds": sum(found[2] for found in stats.values()), "functions": functions, "files": files}


def _owner(function: _Function) -> str:
    """Source file of this project that a function stands in, `IMPORTS`, or empty for a library's."""
    file, _, name = function
    if name == "<module>" or "importlib" in file:
        return IMPORTS
    parts = Path(file).parts
    inside = [place for place, part in enumerate(parts[:-1]) if part in _OWN]
    if not inside or "site-packages" in parts[inside[-1] :]:
        return ""
    return "/".join(parts[inside[0] if parts[inside[0]] != parts[inside[-1]] else inside[-1] :])


def _name(function: _Function) -> str:
    file, line, name = function
    if file == "~":
        return name
    return f"{_owner(function) or '/'.join(Path(file).parts[-2:])}:{line} {name}"


def _summary(file: str) -> str:
    try:
        text = ast.get_docstring(ast.parse(Path(file).read_text("utf-8"))) or ""
    except (OSError, ValueError, SyntaxError):
        return ""
    return text.split("\n")[0]


if __name__ == "__main__":
    found = main(sys.argv[1:])
    print(json.dumps(found))
