"""The loaders that `bench loader` compares: this package's and others', each reading the same tokens its own way.

The others are given finished rows, cut and packed by this package's loader, and return nothing but the ids. Each is
written as its documentation shows the fastest way for rows of one length.

Shape legend: N rows of an epoch, R rows of a batch, L tokens of a row.
"""

from __future__ import annotations

import abc
import importlib
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.data.config import DataConfig
from electra_ds.data.loader import Portion, RowSource, StepRows, open_shards
from electra_ds.data.prefetch import Job, LoaderProcess, Prefetcher


@dataclass(frozen=True)
class Spec:
    """What a side is to read."""

    shards: str
    """Shard set of this package."""
    rows: str
    """npy file of the rows of an epoch, uint16 or uint32 [N, L], in the order of the shards; N is a multiple of R."""
    folder: str
    """Where the side may write its own form of them."""
    length: int
    """L."""
    batch: int
    """R."""


class Side(abc.ABC):
    """One loader."""

    title: str
    """As the report calls it."""
    package: str | None = None
    """Package it needs; None for those that are always there."""
    uncounted = ""
    """Why its reads cannot be counted: ``mapped`` into memory, or done by ``another`` process."""

    def __init__(self, spec: Spec) -> None:
        """Import what is needed; nothing is opened."""
        self.spec = spec
        self.folder = Path(spec.folder)

    @abc.abstractmethod
    def prepare(self) -> Iterable[Path]:
        """Write the rows in this side's form, if it has one; return the files that an epoch reads."""

    @abc.abstractmethod
    def epoch(self) -> Iterator[np.ndarray]:
        """Open everything anew and yield the ids of every row once, [R, L] integers."""

    def stored_rows(self) -> np.ndarray:
        """The rows to store, mapped, [N, L]."""
        return np.load(self.spec.rows, mmap_mode="r")


class ElectraDS(Side):
    """This package's loader, called as the trainer calls it."""

    title = "electra_ds"

    def prepare(self) -> Iterable[Path]:
        """Return the shards: they are there."""
        return [path for path in Path(self.spec.shards).iterdir() if path.suffix in (".tar", ".idx", ".json")]

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield the first rows of the canonical order, as many as are stored for the others."""
        rows_of = self.open()
        try:
            for step in range(self.steps):
                yield rows_of(step).ids
        finally:
            rows_of.close()

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.stored_rows()) // self.spec.batch

    @property
    def portion(self) -> Portion:
        """The rows of a run on one rank."""
        return Portion(first_step=0, first_row=0, global_batch=self.spec.batch, rank=0, world_size=1)

    def open(self) -> Any:
        """A function from the number of a step to its rows, which can be closed."""
        config = DataConfig(path=self.spec.shards)
        return StepRows(RowSource(open_shards(config), config, self.spec.length, seed=0), self.portion)


class ElectraDSThread(ElectraDS):
    """The same behind the trainer's prefetching thread."""

    title = "electra_ds, in a thread"

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows made ahead."""
        rows_of = self.open()
        # It has no end of its own, and would read on into the next epoch.
        steps, nothing = self.steps, np.empty((0, self.spec.length))
        batches = Prefetcher(lambda step: rows_of(step).ids if step < steps else nothing, 0, ahead=2)
        try:
            for _ in range(steps):
                yield next(batches)
        finally:
            rows_of.close()
            batches.close()


class ElectraDSProcess(ElectraDSThread):
    """The same with reading and packing in a process beside the trainer's."""

    title = "electra_ds, in a process"
    uncounted = "another"

    def open(self) -> Any:
        """The loader process."""
        config = DataConfig(path=self.spec.shards)
        job = Job(config=config, split="train", length=self.spec.length, seed=0, portion=self.portion, begin=0)
        manifest = open_shards(config).manifest
        return LoaderProcess(job, manifest.dtype, manifest.has_pairs)


class Memmap(Side):
    """numpy's mapped array, rows at random: what no loader that copies rows can beat."""

    title = "numpy memmap, random rows"
    uncounted = "mapped"

    def prepare(self) -> Iterable[Path]:
        """Return the file of rows: it is there."""
        return [Path(self.spec.rows)]

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows in a random order."""
        rows = self.stored_rows()
        order = np.random.default_rng(0).permutation(len(rows))
        for begin in range(0, len(rows), self.spec.batch):
            yield rows[order[begin : begin + self.spec.batch]]


class WebDatasetBytes(Side):
    """WebDataset, a member of raw bytes per row."""

    title = "webdataset, row a member, bytes"
    package = "webdataset"
    ending = "bin"

    def __init__(self, spec: Spec) -> None:
        """Import it."""
        super().__init__(spec)
        import webdataset

        self.webdataset = webdataset
        self.tar = self.folder / f"rows-{self.ending}.tar"
        self.dtype = self.stored_rows().dtype

    def prepare(self) -> Iterable[Path]:
        """Write a tar with TarWriter."""
        with self.webdataset.TarWriter(str(self.tar)) as writer:
            for number, row in enumerate(self.stored_rows()):
                writer.write({"__key__": f"{number:09d}", self.ending: self.stored(np.asarray(row))})
        return [self.tar]

    def stored(self, row: np.ndarray) -> Any:
        """What a member holds."""
        return row.tobytes()

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows in the order of the tar."""
        samples = self.webdataset.WebDataset(str(self.tar), shardshuffle=False)
        return _stacked((np.frombuffer(sample[self.ending], self.dtype) for sample in samples), self.spec.batch)


class WebDatasetArray(WebDatasetBytes):
    """WebDataset, an npy member per row, decoded by it."""

    title = "webdataset, row a member, .npy"
    ending = "ids.npy"

    def stored(self, row: np.ndarray) -> Any:
        """What a member holds."""
        return row

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows in the order of the tar."""
        samples = self.webdataset.WebDataset(str(self.tar), shardshuffle=False).decode()
        return _stacked((sample[self.ending] for sample in samples), self.spec.batch)


class MosaicIndexed(Side):
    """MosaicML streaming, rows by index from its local reader."""

    title = "mosaicml-streaming, LocalDataset"
    package = "streaming"

    def __init__(self, spec: Spec) -> None:
        """Import it without its image parts, which need torchvision."""
        super().__init__(spec)
        for name in ("streaming.vision", "streaming.multimodal"):
            sys.modules.setdefault(name, types.ModuleType(name))
        self.streaming: Any = importlib.import_module("streaming")
        self.shards = self.folder / "mds"

    def prepare(self) -> Iterable[Path]:
        """Write shards with MDSWriter, the arrays' shape and dtype in the header."""
        rows = self.stored_rows()
        columns = {"ids": f"ndarray:{rows.dtype.name}:{rows.shape[1]}"}
        if not self.shards.exists():
            with self.streaming.MDSWriter(columns=columns, out=str(self.shards)) as writer:
                for row in rows:
                    writer.write({"ids": np.asarray(row)})
        return sorted(self.shards.iterdir())

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows in order."""
        dataset = self.streaming.LocalDataset(local=str(self.shards))
        return _stacked((dataset[number]["ids"] for number in range(len(dataset))), self.spec.batch)


class MosaicStreaming(MosaicIndexed):
    """MosaicML streaming, iterated, everything looked up ahead."""

    title = "mosaicml-streaming, StreamingDataset"

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows in order."""
        dataset = self.streaming.StreamingDataset(
            local=str(self.shards), batch_size=self.spec.batch, shuffle=False, predownload=len(self.stored_rows())
        )
        return _stacked((sample["ids"] for sample in dataset), self.spec.batch)


class DatasetsSlices(Side):
    """Hugging Face datasets, map-style, consecutive slices."""

    title = "datasets, map-style, slices"
    package = "datasets"
    uncounted = "mapped"

    def __init__(self, spec: Spec) -> None:
        """Import it."""
        super().__init__(spec)
        import datasets

        datasets.disable_progress_bars()
        self.datasets = datasets
        self.stored_folder = self.folder / "arrow"

    def prepare(self) -> Iterable[Path]:
        """Write Arrow files of lists of a fixed length."""
        import pyarrow

        if not self.stored_folder.exists():
            rows = np.asarray(self.stored_rows())
            column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows.shape[1])
            table = self.datasets.table.InMemoryTable(pyarrow.table({"ids": column}))
            self.datasets.Dataset(table).save_to_disk(str(self.stored_folder))
        return sorted(self.stored_folder.glob("*.arrow"))

    def open(self) -> Any:
        """The set with numpy columns in the stored dtype, not in int64."""
        stored = self.datasets.load_from_disk(str(self.stored_folder))
        return stored.with_format("numpy", dtype=self.stored_rows().dtype)

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows in order."""
        stored = self.open()
        for begin in range(0, len(stored), self.spec.batch):
            yield stored[begin : begin + self.spec.batch]["ids"]


class DatasetsRandom(DatasetsSlices):
    """Hugging Face datasets, map-style, rows at random."""

    title = "datasets, map-style, random rows"

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows in a random order."""
        stored = self.open()
        order = np.random.default_rng(0).permutation(len(stored))
        for begin in range(0, len(stored), self.spec.batch):
            yield stored[order[begin : begin + self.spec.batch]]["ids"]


class DatasetsStreaming(DatasetsSlices):
    """Hugging Face datasets, iterable, batches of rows."""

    title = "datasets, iterable"

    def epoch(self) -> Iterator[np.ndarray]:
        """Yield rows in order."""
        stored = self.datasets.load_from_disk(str(self.stored_folder)).to_iterable_dataset().with_format("numpy")
        for batch in stored.iter(batch_size=self.spec.batch):
            yield batch["ids"]  # int64: its numpy format takes no dtype here


SIDES: dict[str, type[Side]] = {
    "electra_ds": ElectraDS,
    "electra_ds_thread": ElectraDSThread,
    "electra_ds_process": ElectraDSProcess,
    "memmap": Memmap,
    "webdataset_bytes": WebDatasetBytes,
    "webdataset_npy": WebDatasetArray,
    "mosaic_indexed": MosaicIndexed,
    "mosaic_streaming": MosaicStreaming,
    "datasets_slices": DatasetsSlices,
    "datasets_random": DatasetsRandom,
    "datasets_iterable": DatasetsStreaming,
}
"""Name: loader, this package's first."""


def _stacked(rows: Iterable[np.ndarray], batch: int) -> Iterator[np.ndarray]:
    """Collate single rows, as a data loader would."""
    waiting: list[np.ndarray] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == batch:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)
