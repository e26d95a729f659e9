"""The preparation from beginning to end.

    inputs -> pieces -> read, clean -> text parts --------------------> tokenize -> token parts -> cells -> shards
                                          |   |                             |
                                          |   +-> copies (global) ----------+
                                          +-> sample -> tokenizer ----------+

With a tokenizer at hand the text parts are skipped: pieces become token parts at once. Every stage leaves whole files
or none and passes over what is whole already, so a rerun goes on where a killed run ended, to the same bytes. Any
process can do any piece or shard; MPI ranks share them and meet between the stages. The manifest is written last.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np

from data_prep import sample
from data_prep.build import TEXT, TOKENS
from data_prep.config import PrepConfig
from data_prep.copies import Duplicates, drop_copies
from data_prep.dedup.decontaminate import evaluation_files
from data_prep.mpi import SharedError, Team, find_team
from data_prep.plan import MAX_PIECES, Input, PartId, Plan, Shares, make_plan
from data_prep.progress import Progress, say
from data_prep.tally import Tally, occupied, plan_cells
from data_prep.tokenizer import make_tokenizer, needs_sample, tokenizer_info
from data_prep.work import Job
from data_prep.workers import Task, Workers
from data_prep.workspace import Workspace, claim
from electra_ds.data.format import Manifest, ShardInfo, token_dtype
from electra_ds.errors import DataError, UserError
from electra_ds.files import write_json

Value = TypeVar("Value")

TWO_PASSES = "two-passes"
"""File in the work folder: this preparation makes text parts first."""


def run(config: PrepConfig) -> tuple[Manifest, dict[str, Any] | None, int]:
    """Prepare the corpora into `config.output`; under MPI every rank calls this.

    Returns:
        The manifest; what was measured on the way (None if there was nothing to do); this process's rank.

    Raises:
        UserError: bad input, a folder that holds something else, a full disk.
    """
    team = find_team()
    try:
        plan = team.agree(lambda: make_plan(config))
        with ExitStack() as stack:
            evaluation = team.agree(lambda: evaluation_files(config.decontaminate))
            identity = {"config": config.recorded(), "inputs": plan.identity(), "evaluation_files": evaluation}
            workspace = team.agree(lambda: stack.enter_context(claim(config.output, identity, plan.versions())))
            if workspace.finished and workspace.manifest:
                return workspace.manifest, None, team.rank
            with Preparation(config, plan, workspace, team) as preparation:
                manifest = preparation.run(plan.identity(), evaluation)
            team.agree(lambda: _publish(config, workspace, manifest))
        team.check(None)  # while rank 0 removes the part files, the others sleep; MPI's own end would let them spin
        return manifest, preparation.measured, team.rank
    except UserError as error:
        if team.rank != 0:
            raise SystemExit(2) from error  # rank 0 tells it
        raise
    except KeyboardInterrupt:
        raise
    except BaseException:
        if team.size > 1:
            import traceback

            traceback.print_exc()
            team.abort()
        raise


def _publish(config: PrepConfig, workspace: Workspace, manifest: Manifest) -> None:
    if workspace.manifest is None:
        manifest.write(config.output)
    elif workspace.manifest.fingerprint == manifest.fingerprint:
        workspace.publish_rebuilt()
    else:
        raise DataError(
            f"{config.output}: what was rebuilt differs from the manifest, so the inputs or a library changed "
            "since; prepare into a new folder"
        )


class Preparation:
    """The stages of one life of a preparation, on one rank. A context manager."""

    def __init__(self, config: PrepConfig, plan: Plan, workspace: Workspace, team: Team) -> None:
        """`workspace`: claimed by rank 0."""
        self.measured: dict[str, Any] = {"ranks": team.size, "stages": {}}
        self._config, self._plan, self._workspace, self._team = config, plan, workspace, team
        self._shares = Shares(plan, team.size)
        target = team.agree(workspace.shard_target)
        self._job = Job(config, plan, config.output, workspace.work, target)
        count = config.workers or team.cores()
        self.measured["workers"] = count
        self._workers = Workers(self._job, count)

    def __enter__(self) -> Preparation:
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.__exit__(*error)

    def run(self, inputs: list[dict[str, Any]], evaluation: list[dict[str, Any]]) -> Manifest:
        """Run all stages; return the manifest, which is not yet written."""
        config, team, workspace = self._config, self._team, self._workspace
        if workspace.missing and team.rank == 0:
            say(f"rebuilding what {config.output} lacks: {', '.join(workspace.missing)}")
        if not needs_sample(config.tokenizer):
            self._stage("tokenizer", lambda: team.agree(lambda: self._make_tokenizer([])))
        two_passes = team.agree(self._two_passes)
        counts = self._stage("reading" if two_passes else "tokenizing", lambda: self._read(two_passes))
        parts = [PartId(one.number, piece) for one in self._plan.inputs for piece in range(counts[one.number])]
        mine = [part for part in parts if self._owner(part) == team.rank]
        ending = TEXT if two_passes else TOKENS
        duplicates = self._stage("deduplicating", lambda: drop_copies(team, self._job, mine, ending, self._shares))
        if two_passes:
            if not team.agree(workspace.tokenizer.exists):
                self._stage("vocabulary", lambda: self._train(mine))
            self._stage("tokenizing", lambda: self._tokenize(mine))
        tokenizer = team.agree(lambda: tokenizer_info(workspace.tokenizer, config.tokenizer.type))
        if workspace.manifest and tokenizer != workspace.manifest.tokenizer:
            raise DataError(
                f"{workspace.tokenizer}: what was rebuilt differs from the manifest, so the inputs or a library "
                "changed since; prepare into a new folder"
            )
        tally = self._stage("counting", lambda: self._count(mine))
        splits, written = self._stage("writing", lambda: self._write(tally, set(mine), tokenizer.vocab_size))
        statistics = self._statistics(tally, duplicates, written, inputs, tokenizer.vocab_size)
        statistics["evaluation_files"] = evaluation
        weights = self._weights(splits["train"], statistics)
        dtype = str(token_dtype(tokenizer.vocab_size))
        return Manifest(dtype, tokenizer, splits, weights, config.recorded(), statistics)

    def _stage(self, name: str, action: Callable[[], Value]) -> Value:
        """Do a stage on every rank; an error on any of them ends all."""
        begun = time.monotonic()
        try:
            result = action()
        except SharedError:
            raise
        except UserError as error:
            self._team.check(error)
            raise
        self._team.check(None)
        entry = self.measured["stages"].setdefault(name, {"seconds": 0.0})
        entry["seconds"] += time.monotonic() - begun
        return result

    def _owner(self, part: PartId) -> int:
        return self._shares.owner(part.input, part.piece)

    def _two_passes(self) -> bool:
        marker = self._workspace.work / TWO_PASSES
        if not marker.exists() and not self._workspace.tokenizer.exists():
            marker.touch()
        return marker.exists()

    def _read(self, two_passes: bool) -> dict[int, int]:
        """Make the first part of every piece; return the number of pieces of each input."""
        counts: dict[int, int] = {}
        made: Counter[str] = Counter()
        sources = [one.source for one in self._plan.inputs if self._shares.reads(one.number, self._team.rank)]
        progress = Progress("reading" if two_passes else "tokenizing", sources if self._team.rank == 0 else ())
        for size in self._workers.run(self._read_tasks(counts, made, two_passes)):
            made["bytes"] += size
            progress.done(size)
        progress.close()
        everywhere: dict[int, int] = {}
        for theirs in self._team.gather_all(counts):
            everywhere.update(theirs)
        total = sum((Counter(theirs) for theirs in self._team.gather_all(dict(made))), Counter[str]())
        verb = "read" if two_passes else "tokenized"
        self._say_rate(verb, total["bytes"], progress.seconds, total["made"], sum(everywhere.values()))
        return everywhere

    def _read_tasks(self, counts: dict[int, int], made: Counter[str], two_passes: bool) -> Iterator[Task]:
        for one in self._plan.inputs:
            if not self._shares.reads(one.number, self._team.rank):
                continue
            one.source.position = 0
            for piece in self._missing_pieces(one, counts, TEXT if two_passes else TOKENS):
                made["made"] += 1
                yield Task("read", (one.number, piece, not two_passes))
            one.source.position = one.source.size

    def _missing_pieces(self, one: Input, counts: dict[int, int], ending: str) -> Iterator[Any]:
        """Pieces of an input that this rank has to read; tells how many there are in `counts`."""
        folder = (self._job.work / PartId(one.number, 0).stem).parent

        def wanted(piece: int) -> bool:
            part = PartId(one.number, piece)
            return self._owner(part) == self._team.rank and not self._job.path(part).with_suffix(ending).exists()

        end = folder / "end.json"
        if end.exists():
            counts[one.number] = int(json.loads(end.read_text("utf-8"))["pieces"])
            if not any(wanted(piece) for piece in range(counts[one.number])):
                return
        count = 0
        for piece in one.source.pieces(self._plan.piece_bytes, wanted):
            count = piece.number + 1
            if count > MAX_PIECES:
                raise DataError(f"{one.source.name}: more than {MAX_PIECES} pieces; split it into several files")
            if wanted(piece.number):
                yield piece
        counts[one.number] = count
        if self._shares.owner(one.number, 0) == self._team.rank:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(end, {"pieces": count})

    def _train(self, mine: list[PartId]) -> None:
        limit = self._config.tokenizer.sample_bytes
        sums = np.zeros(sample.BUCKETS, np.int64)
        for part in mine:
            sums += sample.bytes_by_bucket(self._job, part, limit)
        bucket = sample.last_bucket(np.sum(self._team.gather_all(sums), axis=0), limit)
        found = [entry for part in mine for entry in sample.sample_of_part(self._job, part, limit, bucket)]
        gathered = self._team.gather(found)
        del found
        texts = sample.choose([entry for entries in gathered or [] for entry in entries], limit)
        self._team.agree(lambda: self._make_tokenizer(texts))

    def _make_tokenizer(self, texts: list[str]) -> None:
        config, workspace = self._config, self._workspace
        if workspace.tokenizer.exists():
            return
        if needs_sample(config.tokenizer):
            if not texts:
                raise UserError(
                    f"inputs: {self._input_names()} hold no document that is kept; give files with text, or clean less"
                )
            size = sum(len(text.encode()) for text in texts)
            kind, count = config.tokenizer.type, config.tokenizer.vocab_size
            say(f"training a {kind} vocabulary of {count} on {size / 1e6:.1f} MB")
        folder = workspace.work / "tokenizer"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make_tokenizer(texts, config.tokenizer, folder)
        workspace.publish_tokenizer(folder)

    def _tokenize(self, mine: list[PartId]) -> None:
        missing = [part for part in mine if not self._job.path(part).with_suffix(TOKENS).exists()]
        progress = Progress("tokenizing")
        done = 0
        for size in self._workers.run(Task("tokenize", (part,)) for part in missing):
            done += size
            progress.done(size)
        progress.close()
        total = self._team.gather_all((done, len(missing), len(mine)))
        size, made, parts = (sum(column) for column in zip(*total, strict=True))
        self._say_rate("tokenized", size, progress.seconds, made, parts)

    def _count(self, mine: list[PartId]) -> Tally:
        tally = Tally()
        for part in mine:
            tally.add_part(self._job, part)
        whole = Tally()
        for theirs in self._team.gather_all(tally):
            whole.merge(theirs)
        if not whole.documents("train"):
            dropped = sum(whole.dropped.values(), Counter())
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common(3)) or "none"
            raise UserError(
                f"inputs: {self._input_names()} hold no token for training (dropped: {reasons}); "
                "give files with text, or clean less"
            )
        return whole

    def _write(
        self, tally: Tally, mine: set[PartId], vocab_size: int
    ) -> tuple[dict[str, tuple[ShardInfo, ...]], dict[str, Any]]:
        """Write the shards of all splits and groups; return them and what was counted."""
        names = sorted({group for group, _ in tally.parts})
        groups = list(self._plan.corpora) if self._config.group_by == "corpus" else names
        cells = plan_cells(self._config, tally, vocab_size, groups)
        full = set().union(*self._team.gather_all(occupied(self._job, cells, mine)))
        shards = [
            dataclasses.replace(shard, name=name)
            for shard, name in _numbered([shard for shard in cells if shard.name in full])
        ]
        progress = Progress("writing shards")
        results = list(
            self._workers.run(Task("shard", (shard,)) for shard in shards[self._team.rank :: self._team.size])
        )
        progress.close()
        by_name = {result["info"].name: result for theirs in self._team.gather_all(results) for result in theirs}
        splits: dict[str, tuple[ShardInfo, ...]] = {"train": (), "validation": ()}
        for shard in shards:
            splits[shard.split] += (by_name[shard.name]["info"],)
        used = np.zeros(vocab_size, bool)
        for result in by_name.values():
            used[result["used"]] = True
        cut = sum(result["cut"] for result in by_name.values())
        return splits, {"cut": cut, "used": int(used.sum())}

    def _statistics(
        self,
        tally: Tally,
        duplicates: Duplicates,
        written: dict[str, Any],
        inputs: list[dict[str, Any]],
        vocab_size: int,
    ) -> dict[str, Any]:
        removals = tally.removals.to_json()
        counts = tally.statistics()
        for name in self._plan.paired:
            counts["corpora"][name]["translation_pairs"] = counts["corpora"][name]["documents"] // 2
        return {
            **counts,
            "documents_changed": removals["changed"],
            "removed_samples": removals["samples"],
            "documents_cut": written["cut"],
            "duplicates": duplicates.to_json(),
            "vocabulary": {"size": vocab_size, "used": written["used"]},
            "piece_bytes": self._plan.piece_bytes,
            "inputs": inputs,
        }

    def _weights(self, shards: Sequence[ShardInfo], statistics: dict[str, Any]) -> dict[str, float]:
        """Weights of the corpora that have something for training; the others are told."""
        there = {shard.corpus for shard in shards}
        empty = [name for name in self._config.corpora if statistics["corpora"][name]["documents"] == 0]
        for name in empty if self._team.rank == 0 else ():
            dropped = statistics["corpora"][name]["documents_dropped"]
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
            say(f"corpora.{name}: no document is left of it (dropped: {reasons or 'none'})")
        corpora = self._config.corpora.items()
        return {name: corpus.weight for name, corpus in corpora if corpus.weight is not None and name in there}

    def _input_names(self) -> str:
        names = [one.source.name for one in self._plan.inputs]
        return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

    def _say_rate(self, verb: str, size: int, seconds: float, made: int, parts: int) -> None:
        if self._team.rank == 0:
            kept = f", {parts - made} of {parts} parts kept from before" if made < parts else ""
            say(f"{verb} {size / 1e6:.1f} MB in {seconds:.1f} s ({size / seconds / 1e6:.1f} MB/s){kept}")
        entry = self.measured["stages"].setdefault("tokenizing" if verb == "tokenized" else "reading", {"seconds": 0.0})
        entry.update(bytes=size, made=made, parts=parts)


def _numbered(shards: list[Any]) -> Iterator[tuple[Any, str]]:
    """Shards with names that count without gaps."""
    from data_prep.pack import shard_name

    numbers: Counter[tuple[str, str]] = Counter()
    for shard in shards:
        section = (shard.split, shard.group)
        yield shard, shard_name(shard.split, shard.group, numbers[section])
        numbers[section] += 1
