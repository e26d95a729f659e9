"""``electra-ds plan``."""

from __future__ import annotations

from electra_ds import resources
from electra_ds.command_line import parse
from electra_ds.files import write_json
from electra_ds.plan.config import NO_SHARDS, PlanConfig


def main(arguments: list[str], program: str) -> int:
    """Print a plan; return 0, or 1 if the recipe's own micro-batch and stage do not fit."""
    config = parse_plan(arguments, program)
    from electra_ds.plan.build import make_plan
    from electra_ds.plan.text import render

    plan = make_plan(config)
    print(render(plan))
    if config.json:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.json, plan)
    return 0 if all(part["stages"][config.deepspeed]["fits"] for part in plan["phases"]) else 1


def parse_plan(arguments: list[str], program: str) -> PlanConfig:
    """Read recipe and machine; ``data.path`` may be left out."""
    return parse(
        PlanConfig,
        [f"--data.path={NO_SHARDS}", *arguments],
        program,
        find_config=lambda name: resources.find("recipes", name, ".yaml"),
    )
