"""Which bytes tensors hold, operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """While entered, knows every storage that an operation returned and that something still holds.

    A storage is counted once, however many tensors view it, from the operation that made it until the last holder lets
    go, in whichever thread; autograd's saved tensors hold theirs. It works on real tensors and on those without memory
    (``meta``, or under FakeTensorMode) alike. What a kernel takes and gives back within one operation is not seen.
    """

    def __init__(
        self, known: Iterable[Tensor] = (), after: Callable[[str], None] | None = None, only: str | None = None
    ) -> None:
        """Args: known: tensors that are not counted. after: called with each operation's name. only: device type."""
        super().__init__()
        self.held = 0
        """Bytes now."""
        self.high = 0
        """Most bytes since this was last set."""
        self.part = ""
        """What newly made storages are put down to."""
        self._after, self._only = after, only
        self._alive: dict[int, tuple[weakref.ref[Any], int, str, str]] = {}
        for tensor in known:
            self._add(tensor, "known", count=False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it returned."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and self._only in (None, leaf.device.type):
                self._add(leaf, func._opname)
        if self._after:
            self._after(func._opname)
        return result

    def _add(self, tensor: Tensor, name: str, count: bool = True) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes() if count else 0

        def gone(_: Any) -> None:
            self.held -= size
            self._alive.pop(key, None)

        self._alive[key] = (weakref.ref(storage, gone), size, name, self.part)
        self.held += size
        self.high = max(self.high, self.held)

    def largest(self, count: int = 20) -> list[tuple[int, str]]:
        """Bytes and the operation that made them, of the largest storages that are held."""
        return sorted(((size, name) for _, size, name, _ in self._alive.values()), reverse=True)[:count]

    def by_part(self) -> dict[str, int]:
        """Bytes held now, by the `part` they were made in."""
        sums: dict[str, int] = {}
        for _, size, _, part in self._alive.values():
            sums[part] = sums.get(part, 0) + size
        return sums


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind tensors."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
