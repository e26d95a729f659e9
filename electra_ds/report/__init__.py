"""``electra-ds report``: one self-contained HTML page about a run, or about several side by side."""

from __future__ import annotations


def main(arguments: list[str], program: str) -> int:
    """Write the page; see `electra_ds.report.config.ReportConfig` for the options."""
    import json

    from electra_ds.command_line import parse, several
    from electra_ds.report.config import ReportConfig
    from electra_ds.report.page import write_report

    rest = list(arguments)
    runs = []
    while rest and not rest[0].startswith("-"):
        runs.append(rest.pop(0))
    rest = [
        "--finetune" + word.removeprefix("--finetuning") if word.startswith("--finetuning") else word for word in rest
    ]
    for flag in ("--others", "--finetune", "--evaluation"):
        rest = several(rest, flag)
    if runs:
        rest = [f"--run={runs[0]}", *([f"--others={json.dumps(runs[1:])}"] if runs[1:] else []), *rest]
    path = write_report(parse(ReportConfig, rest, program))
    print(f"wrote {path} ({path.stat().st_size / 1e3:,.0f} kB)")
    return 0
