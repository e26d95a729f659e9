"""Dumps of wikis and archives of the web: what is text comes out, everything else is counted."""

from __future__ import annotations

import bz2
import gzip
from collections import Counter
from pathlib import Path

import pytest

from data_prep.sources import Document
from data_prep.sources.wikitext import plain_text
from electra_ds.errors import DataError, UserError
from tests.data_prep.reading import keeps_its_promises, opened, read

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo><sitename>Wiki</sitename><namespaces>
    <namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">Datei</namespace>
  </namespaces></siteinfo>
"""


def page(title: str, text: str, ns: int = 0, redirect: str = "", model: str = "wikitext") -> str:
    redirect = redirect and f'<redirect title="{redirect}" />'
    return (
        f"  <page>\n    <title>{title}</title><ns>{ns}</ns><id>1</id>{redirect}\n    <revision><id>2</id>"
        f'<model>{model}</model><text bytes="9" xml:space="preserve">{text}</text></revision>\n  </page>\n'
    )


PAGES = [
    page("Eins &amp; zwei", "'''Eins''' ist [[Zahl|eine Zahl]]. [[Datei:a.jpg|mini|Bild]]\n\n== Belege ==\n{{x}}"),
    page("Diskussion:Eins", "Gerede", ns=1),
    page("Zwei", "#WEITERLEITUNG [[Eins]]", redirect="Eins"),
    page("Modul", "return {}", model="Scribunto"),
    page("Leer", "{{nur Vorlage}}"),
    page("Drei", "Größer als &lt;code&gt;zwei&lt;/code&gt;.\n* erstens"),
]
ARTICLES = ["Eins & zwei\n\nEins ist eine Zahl.", "Drei\n\nGrößer als zwei.\nerstens"]
LEFT_OUT = {"other namespace": 1, "redirect": 1, "not wikitext": 1, "page without text": 1}


def dump(path: Path, pages: list[str] = PAGES, end: str = "</mediawiki>\n") -> Path:
    data = (HEADER + "".join(pages) + end).encode()
    if path.suffix == ".bz2":
        data = bz2.compress(data[:300]) + bz2.compress(data[300:])  # as Wikipedia's multistream dumps
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2", "pages-articles1.xml-p1p99.bz2"])
def test_articles_of_a_dump(name, tmp_path):
    [source] = opened(str(dump(tmp_path / name)), language="en", source="wiki")
    assert keeps_its_promises(source, (1, 300, 1 << 22)) == [Document(text, "wiki", "de", name) for text in ARTICLES]
    dropped: Counter[str] = Counter()
    read(source, 300, dropped)
    assert dropped == LEFT_OUT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER + "".join(PAGES), r"a\.xml: cut short \(no </mediawiki>"),
        ("<rss></rss>", r"a\.xml: no MediaWiki dump"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + HEADER + "</mediawiki>", r"a\.xml: declares a document type"),
        (HEADER + page("A", "&a;") + "</mediawiki>", r"a\.xml:5: a page that is not well-formed XML"),
    ],
)
def test_other_xml_and_damaged_dumps_are_refused(data, message, tmp_path):
    (tmp_path / "a.xml").write_text(data, "utf-8")
    [source] = opened(f"{tmp_path}/a.xml")
    with pytest.raises(DataError, match=message):
        read(source)


def test_a_page_that_is_too_long_is_passed_over(tmp_path):
    pages = [PAGES[0], page("Lang", "x" * 5_000_000), PAGES[-1]]
    [source] = opened(str(dump(tmp_path / "a.xml.bz2", pages)), max_document_bytes=10_000)
    dropped: Counter[str] = Counter()
    for size in (100, 1 << 23):
        assert [document.text for document in read(source, size, dropped)] == ARTICLES
    assert dropped == {"too long": 2}


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("A<ref name=x>note</ref> B<ref name=x/>.", "A B."),
        ("A {{template|[[B]]}} (born {{date}}; {{place}}) and ({{pron}}; noun).", "A (born) and (noun)."),
        ("{| class=x\n|-\n| cell || cell\n|}\nAfter.", "After."),
        ("[[Category:X]][[de:Y]][[Image:a.png|A [[B]]]][[:Category:Z|Z]] [[C#d|e]] [http://a b] [http://c]", "Z e b"),
        ("== A ==\n=== B ===\n== C ==\ntext\n=== D ===\n\n", "C\ntext"),
        ("== A ==\n=== B ===\ntext", "A\nB\ntext"),
        ("a&nbsp;b &lt;c&gt; &eacute;<br>d <nowiki>[[e]]</nowiki> <!-- f -->__NOTOC__", "a b <c> é\nd [[e]]"),
        ("<gallery>\nA.jpg|x\n</gallery><math>x^2</math>\n\n\n\ntext", "text"),
        ("''unclosed [[link {{x", "''unclosed [[link {{x"),
        ("{{" * 2000 + "x" + "}}" * 2000, None),
    ],
)
def test_wikitext_becomes_what_a_reader_sees(wikitext, expected):
    try:
        found = plain_text(wikitext)
    except ValueError as error:
        assert expected is None and "unparsable" in str(error)
    else:
        assert expected is None or found == expected


def record(kind: str, content: bytes, **headers: str) -> bytes:
    lines = [f"WARC-Type: {kind}", f"Content-Length: {len(content)}", "WARC-Record-ID: <urn:uuid:1>"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("WARC/1.0\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode() + content + b"\r\n\r\n"


def response(body: bytes, status: str = "200 OK", kind: str = "text/html; charset=utf-8", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}\r\n".encode()
    return record("response", head + body, Content_Type="application/http; msgtype=response")


PAGE = "<html><head><title>T</title></head><body><nav>Home</nav><main><p>Größe &amp; mehr.</p></main></body></html>"
WET = [
    record("warcinfo", b"software: x\r\n"),
    record("conversion", b"Ein Text.\nZwei Zeilen.", WARC_Identified_Content_Language="deu,eng"),
    record("conversion", b"Another text."),
]
WARC = [
    record("warcinfo", b"software: x\r\n"),
    record("request", b"GET / HTTP/1.1\r\n\r\n"),
    response(PAGE.encode()),
    response(PAGE.encode("latin-1"), kind="text/html; charset=iso-8859-1"),
    response(gzip.compress(PAGE.encode()), extra="Content-Encoding: gzip\r\n"),
    response(b"Plain text.", kind="text/plain"),
    response(b"%PDF", kind="application/pdf"),
    response(b"<p>gone</p>", status="404 Not Found"),
    response(gzip.compress(bytes(50_000_000)), extra="Content-Encoding: gzip\r\n"),
    response(b"not gzip", extra="Content-Encoding: gzip\r\n"),
    response(b"<html><body></body></html>"),
    record("response", b"no HTTP at all"),
    record("metadata", b"fetchTimeMs: 1\r\n"),
]


def archive(path: Path, records: list[bytes]) -> Path:
    # A member for each record, as Common Crawl has it.
    path.write_bytes(b"".join(map(gzip.compress, records)) if path.suffix == ".gz" else b"".join(records))
    return path


@pytest.mark.parametrize("name", ["a.wet", "a.warc.wet.gz"])
def test_texts_of_a_wet_file(name, tmp_path):
    [source] = opened(str(archive(tmp_path / name, WET)), language="en", source="crawl")
    assert keeps_its_promises(source, (1, 200, 1 << 22)) == [
        Document("Ein Text.\nZwei Zeilen.", "crawl", "deu", name),
        Document("Another text.", "crawl", "en", name),
    ]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_pages_of_a_warc_file(name, tmp_path):
    [source] = opened(str(archive(tmp_path / name, WARC)))
    texts = [document.text for document in keeps_its_promises(source, (1, 500, 1 << 22))]
    assert texts == ["Größe & mehr."] * 3 + ["Plain text."]
    dropped: Counter[str] = Counter()
    read(source, 500, dropped)
    assert dropped.pop("unreadable web page") + dropped.pop("web page without text") == 3
    assert dropped == {
        "WARC warcinfo": 1,
        "WARC request": 1,
        "WARC metadata": 1,
        "neither HTML nor text": 1,
        "too long": 1,
        "web page not 200 OK": 1,
    }


def test_a_record_that_is_too_long_is_passed_over(tmp_path):
    records = [WET[1], record("conversion", b"x" * 5_000_000), record("resource", b"x" * 5_000_000), WET[2]]
    [source] = opened(str(archive(tmp_path / "a.wet.gz", records)), max_document_bytes=10_000)
    dropped: Counter[str] = Counter()
    for size in (100, 1 << 24):
        assert len(read(source, size, dropped)) == 2
    assert dropped == {"too long": 2, "WARC resource": 2}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"".join(WET)[:-10], "cut short in the record"),
        (b"".join(WET)[:-140], "a.wet: "),
        (b"no archive at all" * 10, "no WARC record at byte 0"),
        (WET[1] + b"garbage", r"no WARC record at byte 154 "),
        (WET[0] + record("conversion", b"caf\xe9"), r"a\.wet: byte 187 .*not UTF-8"),
    ],
)
def test_damaged_archives_are_refused(data, message, tmp_path):
    (tmp_path / "a.wet").write_bytes(data)
    [source] = opened(f"{tmp_path}/a.wet")
    with pytest.raises(DataError, match=message):
        read(source)


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    archive(tmp_path / "a.wet", WET)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"a\.wet: .*not installed \(fastwarc\); pip install fastwarc, or electra_ds\[web"
    ):
        opened(f"{tmp_path}/a.wet")
