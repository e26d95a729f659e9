"""Quality rules of Gopher, C4 and FineWeb: datatrove's own filters, with words found by patterns instead of spaCy.

datatrove asks for spaCy to find words, which is heavy and takes most of the time. Its filters also take a tokenizer of
the caller's: these patterns find what the rules need. Gopher's quality rules get words as the paper means them, parted
by white space; with punctuation marks as words, as spaCy has them, one in six passages of good prose fails the rule
that 80 % of the words have a letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from data_prep.clean.base import Rejection, Step, library
from data_prep.sources.base import Document

_FILTERS = "datatrove.pipeline.filters"
_TOKENS = re.compile(r"\w++(?:(?:['’.]|::)\w++)*+|\.{2,}+|[^\w\s]")
"""Words and punctuation marks, as near to spaCy's as one pattern comes."""
_TOKENS_UNSPACED = re.compile(r"[A-Za-z0-9]+|\w")
_SENTENCE_END = re.compile(r"""(?<!\.)[.!?…]["'”’)\]]*(?=\s|$)|[。！？]""")
_LONG = 1_000_000
"""Characters of a text whose words are forgotten at once: datatrove remembers those of the last five texts."""

_REASONS = {
    "dup_line_frac": "duplicate lines",
    "dup_para_frac": "duplicate paragraphs",
    "dup_line_char_frac": "characters in duplicate lines",
    "dup_para_char_frac": "characters in duplicate paragraphs",
    "gopher_short_doc": "short document",
    "gopher_long_doc": "long document",
    "gopher_below_avg_threshold": "short words",
    "gopher_above_avg_threshold": "long words",
    "gopher_too_many_hashes": "hash signs",
    "gopher_too_many_ellipsis": "ellipses",
    "gopher_too_many_bullets": "bullet lines",
    "gopher_too_many_end_ellipsis": "lines that end in an ellipsis",
    "gopher_below_alpha_threshold": "words without letters",
    "gopher_enough_stop_words": "few stop words",
    "lorem_ipsum": "lorem ipsum",
    "curly_bracket": "curly bracket",
    "too_few_sentences": "few sentences",
    "line_punct_ratio": "lines without final punctuation",
    "short_line_ratio": "short lines",
    "char_dup_ratio": "characters in duplicate lines",
    "list_ratio": "many lines for its words",
}
"""What datatrove calls its reasons, and what the report does; others are shown as they are."""

ENGLISH = frozenset(("", "en", "eng"))
"""Languages (unknown is one) whose documents need two of Gopher's stop words, which are English."""
UNSPACED = frozenset(
    (
        "zh",
        "zho",
        "cmn",
        "yue",
        "wuu",
        "ja",
        "jpn",
        "th",
        "tha",
        "lo",
        "lao",
        "km",
        "khm",
        "my",
        "mya",
        "bo",
        "bod",
        "dz",
    )
)
"""Languages without spaces between words: the length of what is between spaces says nothing about them."""


def gopher_repetition() -> Step:
    """Return the step of the repetition rules (Rae et al. 2021, table A1).

    Share of duplicate lines or paragraphs at most 0.30, of characters in them 0.20, of characters in the commonest
    2-, 3- and 4-gram 0.20, 0.18, 0.16, of characters in duplicate 5- to 10-grams 0.15 down to 0.10.
    """
    filters = library(_FILTERS, "gopher_repetition")
    return _step(lambda _: filters.GopherRepetitionFilter(language=_tokenizer(_TOKENS.findall)))


def gopher_quality() -> Step:
    """Return the step of the quality rules (Rae et al. 2021, section A1.1).

    50 to 100,000 words of 3 to 10 characters on average, hash signs and ellipses at most a tenth of the words, at most
    90 % of lines with a bullet and 30 % that end in an ellipsis, 80 % of the words with a letter, and two of "the be to
    of and that have with". The stop words are asked for in English and if the language is unknown, the length of words
    not in languages that write no spaces.
    """
    filters = library(_FILTERS, "gopher_quality")

    def of_language(language: str) -> Any:
        settings: dict[str, Any] = {"language": _tokenizer(str.split)}
        if language not in ENGLISH:
            settings["min_stop_words"] = None
        if language in UNSPACED:
            settings |= {
                "language": _tokenizer(_TOKENS_UNSPACED.findall),
                "min_avg_word_length": None,
                "max_avg_word_length": None,
            }
        return filters.GopherQualityFilter(**settings)

    return _step(lru_cache(maxsize=None)(of_language))


def c4_quality() -> Step:
    """Return the step of the rules of C4 (Raffel et al. 2020, section 2.2).

    Lines must end in a terminal mark (. ? ! or a closing quotation mark) and have three words, none longer than 1,000
    characters, and may not mention JavaScript, cookies or terms of use; other lines are removed, citation marks such as
    [12] too. Documents with a curly bracket, with "lorem ipsum" or with fewer than five sentences left are dropped. The
    list of bad words is not applied. Made for English: lines that end in a mark of another script go.
    """
    filters = library(f"{_FILTERS}.c4_filters", "c4_quality")
    marks = (*filters.END_PUNCTUATION, "”", "’", "»")

    def ends_well(line: str) -> bool:
        line = filters.CITATION_REGEX.sub("", line.strip())
        return line.endswith(marks) and not line.endswith(filters.ELLIPSIS)

    class WithAnyQuotes(filters.C4QualityFilter):  # type: ignore[name-defined]
        """With the "end quotation mark" of the paper in any shape: straight ones alone cut a quarter out of novels."""

        def filter(self, document: Any) -> bool | tuple[bool, str]:
            document.text = "\n".join(filter(ends_well, document.text.splitlines()))
            return super().filter(document)

        def stat_update(self, *labels: str, **_: Any) -> None:
            """Do without datatrove's statistics of every line, which take as long as the rules."""

    return _step(lambda _: WithAnyQuotes(language=_tokenizer(_TOKENS.findall), filter_no_terminal_punct=False))


def fineweb_quality() -> Step:
    """Return the step of FineWeb's own rules (Penedo et al. 2024, section 3.6 and appendix).

    At least 12 % of the lines end in a terminal mark, at most 67 % have 30 characters or less, at most 1 % of the
    characters are in duplicate lines, and there are at most 0.3 line ends a word.
    """
    filters = library(_FILTERS, "fineweb_quality")
    return _step(lambda _: filters.FineWebQualityFilter(language=_tokenizer(_TOKENS.findall)))


def _step(filter_of: Callable[[str], Any]) -> Step:
    """Make a step of datatrove's filters; `filter_of` gives the one for a language."""
    data = library("datatrove.data", "quality")
    forget = library("datatrove.utils.text", "quality").split_into_parts.cache_clear
    filters: dict[str, Any] = {}

    def step(document: Document) -> Document | Rejection:
        if document.language not in filters:
            filters[document.language] = filter_of(document.language)
        sample = data.Document(text=document.text, id="")
        verdict = filters[document.language].filter(sample)
        if len(document.text) > _LONG:
            forget()
        if verdict is not True:
            return Rejection(_reason(verdict[1]))
        return document if sample.text == document.text else document._replace(text=sample.text)

    return step


def _reason(code: str) -> str:
    if code.startswith("top_"):
        return f"commonest {code[4]}-gram"
    if code.startswith("duplicated_"):
        return f"duplicate {code.split('_')[1]}-grams"
    return _REASONS.get(code, code)


def _tokenizer(words: Callable[[str], list[str]]) -> Any:
    """Return a tokenizer for datatrove that finds words by `words` and sentences by their final marks."""
    tokenizers = library("datatrove.utils.word_tokenizers", "quality")

    class Tokenizer(tokenizers.WordTokenizer):  # type: ignore[name-defined]
        def word_tokenize(self, text: str) -> list[str]:
            return words(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text[start:end] for start, end in self.span_tokenize(text)]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return list(_sentences(text))

    return Tokenizer()


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield start, end.end()
        start = end.end()
    if text[start:].strip():
        yield start, len(text)
