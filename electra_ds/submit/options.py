"""The words of ``electra-ds submit``, sorted by whom they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from electra_ds.command_line import field_paths
from electra_ds.errors import UserError, did_you_mean
from electra_ds.recipe import Recipe
from electra_ds.submit.config import SubmitConfig

COMMAND_STAGES = ("prep", "convert", "finetune")
"""Stages with options of their own: --prep.FIELD and so on."""
SWITCHES = ("--dry_run", "--preflight")
"""Options of submit that may stand without true or false."""


@dataclass(frozen=True)
class Words:
    """A command line, sorted."""

    submit: list[str] = field(default_factory=list)
    recipe: list[str] = field(default_factory=list)
    stages: dict[str, list[str]] = field(default_factory=lambda: {stage: [] for stage in COMMAND_STAGES})


def sort_words(arguments: Sequence[str]) -> Words:
    """Give submit its own options, a stage those with its name before the dot, and the recipe all others.

    A name may be written with - or _ between its words; deeper names, such as those of corpora, are left as they are.

    Raises:
        UserError: an unknown name, a word without an option before it, or several kinds of nodes (``4+4``, ``:``).
    """
    own, others = set(field_paths(SubmitConfig)), {"config", *Recipe.__dataclass_fields__}
    words = Words()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in (":", "+"):
            raise UserError(f"'{word}': heterogeneous jobs are not supported; ask for one kind of node")
        if not word.startswith("--"):
            raise UserError(f"'{word}': expected an option such as --nodes 8; 'electra-ds submit --help' lists them")
        name, equals, value = word[2:].partition("=")
        name = ".".join([part.replace("-", "_") for part in name.split(".")[:2]] + name.split(".")[2:])
        given = [f"--{name}{equals}{value}"]
        if not equals and rest and not rest[0].startswith("--") and rest[0] not in (":", "+"):
            given.append(rest.pop(0))
        stage, _, below = name.partition(".")
        if name in own:
            if name in ("nodes", "prep_nodes") and any(sign in given[-1] for sign in "+:"):
                raise UserError(
                    f"--{name} {given[-1]}: heterogeneous jobs are not supported; ask for one kind of node, as in "
                    "--nodes 8"
                )
            words.submit.extend(given)
        elif stage in COMMAND_STAGES and below:
            words.stages[stage].extend([f"--{below}{equals}{value}", *given[1:]])
        elif stage in others:
            words.recipe.extend(given)
        else:
            hint = did_you_mean(name, [*own, *field_paths(Recipe)])
            raise UserError(
                f"unknown option '--{name}'{hint}; 'electra-ds submit --help' lists its own, "
                "'electra-ds pretrain --help' those of the recipe"
            )
    return words
