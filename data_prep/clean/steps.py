"""The steps of cleaning in their order, and the `Cleaner` that sends documents through those that are on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from data_prep.clean import language, markup, privacy, quality, unicode
from data_prep.clean.base import Rejection, Step, on_text
from data_prep.clean.config import CleanConfig
from data_prep.clean.removals import Removals
from data_prep.sources.base import Document

if TYPE_CHECKING:
    from data_prep.dedup.decontaminate import Decontamination


class Entry(NamedTuple):
    """One step of the table."""

    name: str
    """Under which documents are counted."""
    wanted: Callable[[CleanConfig], Any]
    build: Callable[[CleanConfig], Step]
    """Called once per process, and only if the step is wanted: here is where libraries are imported."""


STEPS: tuple[Entry, ...] = (
    Entry("repair", lambda c: c.repair, lambda c: on_text(unicode.repair())),
    Entry("markup", lambda c: c.markup, lambda c: on_text(markup.remove_markup)),
    Entry("control", lambda c: c.control, lambda c: on_text(unicode.remove_control)),
    Entry("normalize", lambda c: c.normalize, lambda c: on_text(unicode.normalize(c.normalize))),
    Entry("language", lambda c: c.languages or c.identify_language, language.language),
    Entry("gopher_repetition", lambda c: c.gopher_repetition, lambda c: quality.gopher_repetition()),
    Entry("gopher_quality", lambda c: c.gopher_quality, lambda c: quality.gopher_quality()),
    Entry("c4_quality", lambda c: c.c4_quality, lambda c: quality.c4_quality()),
    Entry("fineweb_quality", lambda c: c.fineweb_quality, lambda c: quality.fineweb_quality()),
    Entry("mask_emails", lambda c: c.mask_emails, lambda c: on_text(privacy.mask_emails)),
    Entry("mask_ips", lambda c: c.mask_ips, lambda c: on_text(privacy.mask_ips)),
)
"""In the order in which they are applied, which is that of the fields of `CleanConfig`."""


class Cleaner:
    """The steps of one corpus, built once per worker process.

    Before the first step, and after every step that changed the text, a document of nothing but white space is dropped
    as ``empty`` or ``empty: after STEP``. Decontamination comes last.
    """

    def __init__(self, config: CleanConfig, decontamination: Decontamination | None) -> None:
        self._steps = [(entry.name, entry.build(config)) for entry in STEPS if entry.wanted(config)]
        if decontamination is not None:
            self._steps.append(("decontamination", decontamination.step))
        self.steps: tuple[str, ...] = ("empty", *(name for name, _ in self._steps))
        """Names in the order applied: those that are on, and ``empty`` always."""

    def clean(self, document: Document, removed: Removals) -> Document | None:
        """Return the cleaned document, or None if a step drops it; both are counted in `removed`."""
        if not document.text or document.text.isspace():
            removed.drop("empty", document)
            return None
        for name, step in self._steps:
            result = step(document)
            if isinstance(result, Rejection):
                removed.drop(f"{name}: {result.reason}" if result.reason else name, document, result.detail)
                return None
            if result.text is not document.text:
                removed.change(name, document, result.text)
                if not result.text or result.text.isspace():
                    removed.drop(f"empty: after {name}", document)
                    return None
            document = result
        return document
