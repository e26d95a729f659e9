"""The built-in source: documentation strings, read without importing anything, and the task made from them."""

from __future__ import annotations

import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from data_prep.docstrings import docstrings_of, find_packages, is_held_out
from data_prep.docstrings_task import TaskConfig, collect, draw, main, name_pattern
from electra_ds.errors import UserError
from tests.data_prep.conftest import prep, refusal
from tests.data_prep.reading import keeps_its_promises, opened, read

LONG = "This documentation string has enough words to be a document of the corpus."


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages; importing any of them would raise."""
    (tmp_path / "alpha/sub").mkdir(parents=True)
    (tmp_path / "beta.py").write_text(f'"""{LONG} Of beta."""\nraise SystemExit("imported")\n')
    (tmp_path / "alpha/__init__.py").write_text(
        f'"""{LONG}"""\nraise SystemExit("imported")\n'
        "class A:\n"
        f'    """{LONG}\n\n      Indented.\n    """\n'
        f"    def f(self):\n        '''{LONG} In f.'''\n"
        f"if True:\n    async def g():\n        r'''{LONG} In g.'''\nelse:\n    def h():\n        '''{LONG} In h.'''\n"
        f"try:\n    pass\nexcept E:\n    def i():\n        '''{LONG} In i.'''\n"
        "def short():\n    '''Too short.'''\n"
        f"def again():\n    '''{LONG}'''\n"
        f"def none():\n    x = '''{LONG} An expression.'''\n"
    )
    (tmp_path / "alpha/sub/broken.py").write_text("def (:\n")
    (tmp_path / "alpha/sub/late.py").write_text(f"def z():\n    '''{LONG} In z.'''\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_strings_of_modules_classes_and_functions_in_order(site):
    [package] = find_packages(["alpha"])
    found = [docstring.text.removeprefix(LONG).strip() for docstring in docstrings_of(package)]
    assert found == ["", "Indented.", "In f.", "In g.", "In h.", "In i.", "Too short.", "", "In z."]
    assert "alpha" not in sys.modules
    assert package.cache_path().is_file()
    assert [docstring.text.removeprefix(LONG).strip() for docstring in docstrings_of(package)] == found


def test_a_changed_file_is_read_again(site):
    before = find_packages(["beta"])[0]
    list(docstrings_of(before))
    (site / "beta.py").write_text(f'"""{LONG} Changed it is."""\n')
    after = find_packages(["beta"])[0]
    assert after.cache_path() != before.cache_path()
    assert [docstring.text for docstring in docstrings_of(after)] == [f"{LONG} Changed it is."]


def test_short_and_repeated_strings_are_dropped_and_counted(site):
    [source] = opened("docstrings:alpha,beta")
    dropped: Counter[str] = Counter()
    found = read(source, 100, dropped)
    assert found == keeps_its_promises(source)
    assert [document.source for document in found] == ["alpha"] * 7 + ["beta"]
    assert found[0].origin == "alpha/__init__.py"
    assert dropped == {"docstring too short": 1, "docstring duplicate": 1}


def test_held_out_modules_give_no_text_even_where_another_module_repeats_it():
    [whole] = opened("docstrings:jsonargparse,yaml")
    [kept] = opened("docstrings:jsonargparse,yaml", docstrings_holdout=0.4)
    texts = {document.text for document in read(kept)}
    everything = [docstring for package in whole.packages for docstring in docstrings_of(package)]
    held_out = {docstring.text for docstring in everything if is_held_out(docstring.module, 0.4)}
    assert texts and held_out
    assert not texts & held_out
    assert texts | held_out >= {document.text for document in read(whole)}


def test_the_standard_library_has_no_tests_and_no_other_packages_in_it():
    [package] = find_packages(["python"])
    names = [name for name, _, _ in package.files]
    assert names == sorted(names)
    assert "argparse.py" in names
    assert not [name for name in names if name.startswith("test/") or "site-packages" in name]
    assert package.root == Path(sysconfig.get_paths()["stdlib"])


def test_without_names_everything_installed_is_read():
    names = [package.name for package in find_packages()]
    assert {"numpy", "yaml", "python"} <= set(names)
    assert not {"electra_ds", "data_prep"} & set(names)


def test_a_package_that_is_not_installed_is_named(tmp_path, capfd):
    error = refusal(capfd, lambda: prep("docstrings:numpyy", tmp_path / "set"))
    assert "no Python package 'numpyy' is installed; did you mean 'numpy'?" in error


def test_shards_of_documentation_strings(site, tmp_path, capfd):
    given = {"tokenizer__vocab_size": 70, "validation_fraction": 0, "tokenizer__character_coverage": 0.95}
    assert prep("docstrings:alpha,beta", tmp_path / "set", **given) == 0
    assert "1 docstring duplicate, 1 docstring too short" in capfd.readouterr().out


PACKAGES = "datasets,fsspec,jsonargparse,numpy"


@pytest.fixture(scope="module")
def config() -> TaskConfig:
    return TaskConfig(
        output=Path("unused"),
        packages=PACKAGES,
        per_class=8,
        validation_per_class=2,
        test_per_class=3,
        holdout=0.5,
        min_words=8,
        seed=1,
    )


def test_no_text_of_the_task_occurs_twice_and_no_label_is_spelled_out(config):
    tables = draw(config)
    texts = [text.lower() for rows in tables.values() for text, _ in rows]
    assert len(texts) == len(set(texts))
    assert not [text for text in texts if name_pattern(PACKAGES.split(",")).search(text)]
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 32, "validation": 8, "test": 12}
    for rows in tables.values():
        assert sorted({label for _, label in rows}) == sorted(PACKAGES.split(","))
        assert all(8 <= len(text.split()) <= 80 for text, _ in rows)


def test_the_same_seed_draws_the_same_task(config):
    import dataclasses

    assert draw(config) == draw(config)
    assert draw(config) != draw(dataclasses.replace(config, seed=2))


def test_test_texts_come_from_the_modules_that_prep_leaves_out(config):
    [source] = opened(f"docstrings:{PACKAGES}", docstrings_holdout=0.5)
    seen = {" ".join(document.text.split()[:80]) for document in read(source)}
    pools = collect(config)
    held_out = {text for (_, part), texts in pools.items() if part for text in texts}
    assert held_out and not held_out & seen


def test_names_are_replaced_in_any_case_but_not_inside_words():
    pattern = name_pattern(["numpy", "sklearn"])
    assert pattern.sub("X", "NumPy, np.array, scikit-learn_numpy; input snp") == "X, X.array, X_X; input snp"


def test_the_files_are_plain_tables(config, tmp_path, capsys):
    arguments = [f"--output={tmp_path}", f"--packages={PACKAGES}", "--per_class=8", "--test_per_class=3"]
    assert main([*arguments, "--validation_per_class=2", "--holdout=0.5", "--min_words=8", "--seed=1"], "task") == 0
    for split, rows in draw(config).items():
        lines = (tmp_path / f"{split}.tsv").read_text("utf-8").split("\n")
        assert lines == ["text\tlabel", *(f"{text}\t{label}" for text, label in rows), ""]
    assert "test.tsv: 12 texts, 3 of each of 4 labels" in capsys.readouterr().out


def test_asking_for_more_texts_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"tqdm has [\d,]+ texts for training \(9,999 asked\)"):
        draw(TaskConfig(output=Path("x"), packages="tqdm,yaml", per_class=9999))
