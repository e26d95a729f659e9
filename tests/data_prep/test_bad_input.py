"""Each mistake gets one error that says what, which value and what to do; nothing is overwritten or lost."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from electra_ds.cli import main
from tests.data_prep.conftest import contents, options, prep, refusal, write_json_lines

GOOD = b"".join(json.dumps({"text": f"A good line, number {n}."}).encode() + b"\n" for n in range(2000))


def damaged(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", b"", "a.jsonl: is empty (0 bytes)"),
        ("a.txt", b"", "a.txt: is empty (0 bytes)"),
        ("a.parquet", b"", "a.parquet: is empty (0 bytes)"),
        ("a.jsonl.zst", zstandard.compress(GOOD)[:-20], "a.jsonl.zst: corrupt or cut short"),
        ("a.jsonl.zst", zstandard.compress(GOOD)[:3], "a.jsonl.zst: corrupt or cut short"),
        ("a.jsonl.zst", b"no zstandard at all, this", "a.jsonl.zst: corrupt or cut short"),
        ("a.jsonl.gz", gzip.compress(GOOD)[:-20], "a.jsonl.gz: corrupt or cut short"),
        (
            "a.jsonl.gz",
            gzip.compress(GOOD)[:200] + b"x" + gzip.compress(GOOD)[201:],
            "a.jsonl.gz: corrupt or cut short",
        ),
        ("a.jsonl.xz", b"\xfd7zXZ\0 but no more", "a.jsonl.xz: corrupt or cut short"),
        ("a.jsonl.bz2", b"BZh9 but no more", "a.jsonl.bz2: corrupt or cut short"),
        ("a.parquet", b"PAR1 but no more PAR1", "a.parquet: corrupt or cut short"),
        ("a.jsonl", GOOD + b'{"text": "caf\xe9"}\n', "a.jsonl:2001: not UTF-8"),
        ("a.txt", b"fine\ncaf\xe9\n", "a.txt:2: not UTF-8"),
        (
            "a.jsonl",
            b'{"text": "one"}\n{"title": "two", "id": 1}\n',
            "a.jsonl:2: no field 'text' (its fields: title, id)",
        ),
        ("a.jsonl", b'{"text": "one"}\n{"text": ["two"]}\n', "a.jsonl:2: the text field 'text' is a list"),
        ("a.jsonl", b'{"text": "one"}\n{"text": null}\n', "a.jsonl:2: the text field 'text' is missing or null"),
        ("a.jsonl", b'{"text": "one"}\n\n{"text": "tw', "a.jsonl:3: not JSON"),
        ("a.jsonl", b'["one"]\n', "a.jsonl:1: a list; expected one JSON object per line"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON"),
        ("a.jsonl", b"\n\n", "hold no document"),
        ("a.pdf", b"%PDF", "has the ending '.pdf'; known are .txt"),
        ("a.jsonl", GOOD, "tokenizer.vocab_size: 5000 is more than the text supports"),
    ],
)
def test_a_damaged_or_unfit_file_is_named_and_nothing_is_left(name, data, expected, tmp_path, capfd):
    path = damaged(tmp_path, name, data)
    error = refusal(capfd, lambda: prep(path, tmp_path / "set", tokenizer__vocab_size=5000))
    assert expected in error
    # Pieces that were read before the damage are kept for a rerun.
    assert not (tmp_path / "set").exists() or os.listdir(tmp_path / "set") == [".prep"]


def test_inputs_that_match_nothing_are_named(tmp_path, capfd):
    error = refusal(capfd, lambda: prep(f"{tmp_path}/*.jsonl", tmp_path / "set"))
    assert f"'{tmp_path}/*.jsonl' matches no file" in error
    assert f"{tmp_path} is a folder" in refusal(capfd, lambda: prep(tmp_path, tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_a_column_that_a_table_lacks_is_named(tmp_path, capfd):
    import datasets

    datasets.Dataset.from_list([{"body": "one"}]).to_parquet(str(tmp_path / "a.parquet"))
    datasets.Dataset.from_list([{"body": "one"}]).save_to_disk(str(tmp_path / "saved"))
    for name in ("a.parquet", "saved"):
        error = refusal(capfd, lambda name=name: prep(tmp_path / name, tmp_path / "set"))
        assert f"{name}: no column 'text' (its columns: body); name the text's column by --text_field" in error


def test_a_data_set_that_is_not_there_is_named(tmp_path):
    command = [sys.executable, "-m", "electra_ds", *options(inputs="hf:no/such-data-set", output=tmp_path / "set")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "'hf:no/such-data-set' cannot be loaded by `datasets`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--tokenizer.type=wordpeice", "tokenizer.type: 'wordpeice' is not possible; expected one of wordpiece"),
        ("--tokenizer.vocab_size=3", "tokenizer.vocab_size: 3 is not possible; expected 64 to"),
        ("--tokenizer.vocabsize=300", "did you mean 'tokenizer.vocab_size'?"),
        ("--tokenizer.path=x", "tokenizer.path: 'x' is not possible"),
        ("--validation_fraction=1.5", "validation_fraction: 1.5 is not possible"),
        ("--block_tokens=many", "block_tokens"),
        ("--worker=2", "did you mean 'workers'?"),
        ("--workers=-1", "workers: -1 is not possible; expected 0"),
        ("--text_documents=word", "text_documents: 'word' is not possible; expected file, line or paragraph"),
    ],
)
def test_impossible_and_misspelt_options_are_refused(option, expected, corpus, tmp_path, capfd):
    error = refusal(capfd, lambda: main([*options(inputs=corpus, output=tmp_path / "set"), option]))
    assert expected in error
    assert not (tmp_path / "set").exists()


def test_a_folder_that_holds_something_else_is_left_alone(corpus, tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("three years of work")
    (tmp_path / "train-000000.tar").write_text("not ours")
    before = contents(tmp_path)
    error = refusal(capfd, lambda: prep(corpus, tmp_path))
    assert f"{tmp_path} is not empty and holds no manifest.json (thesis.tex, train-000000.tar)" in error
    assert contents(tmp_path) == before
    assert "is a file" in refusal(capfd, lambda: prep(corpus, tmp_path / "thesis.tex"))
    assert contents(tmp_path) == before


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "set"
    assert prep(corpus, output) == 0
    return output


def test_a_set_made_otherwise_is_left_alone(corpus, finished, tmp_path, capfd):
    before = contents(finished)
    error = refusal(capfd, lambda: prep(corpus, finished, seed=7))
    assert "finished shard set made otherwise (seed: 0 there, 7 now); nothing was changed" in error
    error = refusal(capfd, lambda: prep(corpus, finished, tokenizer__vocab_size=500))
    assert "tokenizer.vocab_size: 400 there, 500 now" in error
    write_json_lines(tmp_path / "other.jsonl", [{"text": "another corpus"}])
    error = refusal(capfd, lambda: prep(tmp_path / "other.jsonl", finished))
    assert "inputs[0]" in error
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train-000000.tar", "its size"),
        ("train-000000.idx", "its sha256 differs from the manifest; delete it"),
        ("tokenizer/vocab.txt", "its fingerprint differs from the manifest; delete it"),
        ("manifest.json", "manifest.json: cannot be read"),
    ],
)
def test_a_set_that_was_altered_is_not_overwritten(name, expected, corpus, finished, tmp_path, capfd):
    import shutil

    shutil.copytree(finished, tmp_path / "set")
    with open(tmp_path / "set" / name, "ab") as file:
        file.write(b"more")
    before = contents(tmp_path / "set")
    assert expected in refusal(capfd, lambda: prep(corpus, tmp_path / "set"))
    assert contents(tmp_path / "set") == before


def test_a_preparation_begun_otherwise_is_left_alone(corpus, tmp_path, capfd):
    """The file lacks its end, which only the pass after the tokenizer is copied finds: the folder stays."""
    assert prep(corpus, tmp_path / "first") == 0
    path = damaged(tmp_path, "cut.jsonl.gz", gzip.compress(GOOD)[:-20])
    given = {
        "tokenizer__type": "existing",
        "tokenizer__path": tmp_path / "first/tokenizer",
        "tokenizer__vocab_size": None,
    }
    refusal(capfd, lambda: prep(path, tmp_path / "set", **given))
    assert (tmp_path / "set/tokenizer").exists()
    path.write_bytes(gzip.compress(GOOD))
    error = refusal(capfd, lambda: prep(path, tmp_path / "set", **given))
    assert "holds a preparation that was begun otherwise (inputs[0].bytes" in error
    error = refusal(capfd, lambda: prep(path, tmp_path / "set", seed=3, **given))
    assert "seed: 0 there, 3 now" in error


def test_two_preparations_into_one_folder_do_not_mix(corpus, tmp_path, capfd):
    import fcntl

    (tmp_path / "set/.prep").mkdir(parents=True)
    with open(tmp_path / "set/.prep/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another preparation is writing" in refusal(capfd, lambda: prep(corpus, tmp_path / "set"))
        assert (tmp_path / "set/.prep/lock").exists(), "the one that is refused touched the other's folder"
    assert prep(corpus, tmp_path / "set") == 0


def test_other_evaluation_texts_make_another_set(corpus, tmp_path, capfd):
    tests = damaged(tmp_path, "test.txt", b"five words that stand nowhere\n")
    given = {"decontaminate__files": json.dumps([str(tests)])}
    assert prep(corpus, tmp_path / "set", **given) == 0
    assert prep(corpus, tmp_path / "set", **given) == 0
    tests.write_text("five others that stand nowhere, neither\n", "utf-8")
    error = refusal(capfd, lambda: prep(corpus, tmp_path / "set", **given))
    assert "made otherwise (evaluation_files[0].bytes: 30 there, 40 now)" in error


def test_an_output_below_a_file_is_named(corpus, tmp_path, capfd):
    (tmp_path / "file").write_text("here")
    error = refusal(capfd, lambda: prep(corpus, tmp_path / "file/set"))
    assert "output: " in error and "file/set cannot be made (Not a directory); name a folder" in error


def test_when_cleaning_drops_everything_the_error_says_so(corpus, tmp_path, capfd):
    error = refusal(
        capfd, lambda: prep(corpus, tmp_path / "set", clean__fineweb_quality=True, clean__languages='["yo"]')
    )
    assert "that is kept; give files with text, or clean less" in error


def test_an_existing_tokenizer_that_is_not_there_is_named(corpus, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (f"{tmp_path}/nothing", f"{tmp_path}/nothing.model"):
        given = {"tokenizer__type": "existing", "tokenizer__path": name}
        error = refusal(capfd, lambda given=given: prep(corpus, tmp_path / "set", **given))
        assert "tokenizer.path" in error and "nothing" in error


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kilobytes", [3, 20, 60])
def test_a_disk_that_runs_full_is_one_error_and_a_rerun_goes_on(kilobytes, workers, corpus, tmp_path):
    """The kernel refuses to let any file grow past the limit, at different stages."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom electra_ds.cli import main\nif __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    given = options(inputs=corpus, output=tmp_path / "set", workers=workers, shard_blocks=50)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1000, resource.RLIM_INFINITY))

    command = [sys.executable, str(script), *given]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.count("electra-ds: error: cannot write") == 1
    assert "MB free on that file system" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / "set/manifest.json").exists()
    assert main(given) == 0
    assert main(["inspect", str(tmp_path / "set"), "--verify"]) == 0


def test_a_full_file_system_is_one_error_and_what_was_there_stays(corpus, finished, tmp_path, capfd):
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        (mount / "notes.txt").write_text("keep me")
        error = refusal(capfd, lambda: prep(corpus, mount / "set"))
        assert "No space left on device" in error and "Free some space and run the same command again" in error
        assert (mount / "notes.txt").read_text() == "keep me"
        subprocess.run(["mount", "-o", "remount,size=16m", mount], check=True)
        assert prep(corpus, mount / "set") == 0
        assert contents(mount / "set") == contents(finished)
    finally:
        subprocess.run(["umount", mount], check=True)
