"""What a cleaning step is: a callable that gives a document back, changed or not, or says why it is dropped."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from electra_ds.errors import UserError

if TYPE_CHECKING:
    from data_prep.sources.base import Document


class Rejection(NamedTuple):
    """A step's decision to drop a document."""

    reason: str = ""
    """Which rule; empty for a step that has one. Few different ones: it becomes a key of the counts."""
    detail: str = ""
    """What was found, such as ``en 0.41``; for the samples."""


Step = Callable[["Document"], "Document | Rejection"]
"""Sees one document and keeps no memory of others: its answer depends on the document and the configuration alone.
It returns the very same document if it changes nothing, and takes time linear in the text whatever the text is."""


def on_text(change: Callable[[str], str]) -> Step:
    """Make a step of a function from text to text."""

    def step(document: Document) -> Document:
        text = change(document.text)
        return document if text == document.text else document._replace(text=text)

    return step


def library(module: str, asked_by: str) -> ModuleType:
    """Import a library that a cleaning step needs.

    Raises:
        UserError: it is not installed; names the option that asked for it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"clean.{asked_by}: the package of module '{error.name or module}' is not installed; "
            "install it with: pip install 'electra_ds[clean]'"
        ) from error
