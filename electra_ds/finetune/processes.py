"""One process or several: who speaks and writes, and how the others wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from electra_ds.distributed import Place, find_place
from electra_ds.errors import UserError
from electra_ds.finetune.config import FinetuneConfig


def check_place(config: FinetuneConfig) -> Place:
    """Find this process among the others, and refuse a batch that does not split over them.

    Raises:
        UserError: the batch does not split, or the launcher's variables contradict each other.
    """
    place = find_place()
    share, left = divmod(config.batch_size, place.world_size)
    if left:
        raise UserError(
            f"batch_size: {config.batch_size} does not split over {place.world_size} processes; choose a multiple"
        )
    if config.micro_batch_size is not None and share % config.micro_batch_size:
        raise UserError(
            f"micro_batch_size: {config.micro_batch_size} on {place.world_size} processes does not divide batch_size "
            f"{config.batch_size}; each process has {share} texts of a batch"
        )
    return place


def begin(place: Place) -> None:
    """Join the group of processes, if there are several; the variables are set where torch and accelerate look."""
    if place.world_size == 1:
        return
    import torch

    place.export()
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def micro_batch_size(config: FinetuneConfig, world_size: int) -> int:
    """Texts per forward pass of one process."""
    return config.micro_batch_size or config.batch_size // world_size


def world() -> tuple[int, int]:
    """Return rank and number of processes."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this process speaks and writes."""
    return world()[0] == 0


def share(value: Any) -> Any:
    """Give every process what the first one has."""
    if world()[1] == 1:
        return value
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def first_only() -> Iterator[bool]:
    """Run a block whose body asks whether to act; the others wait until the first is done, and fail where it failed.

    Raises:
        UserError: on every process, what was raised on the first.
    """
    problem: Exception | None = None
    try:
        yield is_first()
    except Exception as error:
        problem = error
    told = share(None if problem is None else str(problem))
    if problem is not None:
        raise problem
    if told is not None:
        raise UserError(told)


def end(place: Place) -> None:
    """Leave the group."""
    if place.world_size > 1:
        import torch

        torch.distributed.destroy_process_group()
