"""``electra-ds report``: one self-contained HTML page about a run."""

from __future__ import annotations


def main(arguments: list[str], program: str) -> int:
    """Write the page; see `electra_ds.report.config.ReportConfig` for the options."""
    from electra_ds.command_line import parse
    from electra_ds.report.config import ReportConfig
    from electra_ds.report.page import write_report

    path = write_report(parse(ReportConfig, arguments, program, positional="run"))
    print(f"wrote {path} ({path.stat().st_size / 1e3:,.0f} kB)")
    return 0
