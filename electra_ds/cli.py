"""The command line: one thin door to each command.

A command is a module with `main(arguments, program)`; it is imported only when it is asked for, so that
``electra-ds --help`` needs no torch and ``electra-ds prep`` no deepspeed.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from electra_ds.command_line import DEBUG_VARIABLE, print_error
from electra_ds.errors import UserError, did_you_mean

COMMANDS = {
    "prep": ("data_prep.command", "turn corpora into a tokenizer and WebDataset shards"),
    "inspect": ("electra_ds.data.inspect", "show what a shard set holds; verify every checksum"),
    "pretrain": ("electra_ds.training.command", "train generator and discriminator on shards"),
    "convert": ("electra_ds.export.command", "ZeRO checkpoint to Hugging Face folders, and back"),
    "finetune": ("electra_ds.finetune.command", "train a task head on a Hugging Face folder; scores"),
    "evaluate": ("electra_ds.evaluate.command", "held-out quality, zero-shot, bias, robustness of a model"),
    "doctor": ("electra_ds.doctor.command", "is this machine or allocation fit to train"),
    "submit": ("electra_ds.submit.command", "render, show and submit the Slurm jobs of a run, or of a whole chain"),
    "plan": ("electra_ds.plan.command", "will it fit, what will it cost: memory, traffic and time of a run beforehand"),
    "report": ("electra_ds.report", "one HTML page with plots of a run, or of several"),
    "bench": ("electra_ds.bench.command", "benchmarks beside others in one run, with reports to repeat"),
}
"""Name: (module with `main`, one line for the overview)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``electra-ds COMMAND ...``; return the exit status (0 well, 1 unexpected, 2 a user's error)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
        os.environ[DEBUG_VARIABLE] = "1"
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        from electra_ds import __version__

        print(f"electra_ds {__version__}")
        return 0
    name = arguments.pop(0)
    try:
        if name not in COMMANDS:
            raise UserError(f"no command '{name}'{did_you_mean(name, COMMANDS)}. 'electra-ds --help' lists them")
        module = importlib.import_module(COMMANDS[name][0])
        return int(module.main(arguments, f"electra-ds {name}") or 0)
    except UserError as error:
        if debug:
            traceback.print_exc()
        print_error(error)
        return 2
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print_error(UserError("interrupted; the same command begins again or goes on from what is whole"))
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {help_}" for name, (_, help_) in COMMANDS.items()]
    return "\n".join(
        ["usage: electra-ds COMMAND [options]", "", "commands:", *lines, "", "'electra-ds COMMAND --help' shows every"
         " field. --debug (anywhere) shows tracebacks; --version the release."]
    )  # fmt: skip


def entry() -> None:
    """Console script ``electra-ds``."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
