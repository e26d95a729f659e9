"""Fetching what will be needed soon in background threads, bounded in number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice

LONGEST_PLAN = 4096
"""Keys that are remembered of an announcement."""
STALE_AFTER = 8
"""A result gives way when nobody came for it while so many times the number of slots were asked for."""


class ReadAhead:
    """Keeps some results of ``fetch(key)`` ready, and lets threads that want the same one wait for it together.

    The threads are daemons: one that waits for a server does not hold up the end of the program.
    """

    def __init__(self, fetch: Callable[[int], bytes], ahead: int) -> None:
        """Args: fetch: called in any thread; ahead: results fetched or kept at a time, and threads that fetch."""
        self._fetch, self._ahead = fetch, ahead
        self._plan: OrderedDict[int, None] = OrderedDict()
        self._slots: OrderedDict[int, _Slot] = OrderedDict()
        self._changed = threading.Condition()
        self._asked = self._threads = 0
        self._closed = False

    def will_need(self, keys: Iterable[int]) -> None:
        """Fetch these in the background, in this order, as results before them are taken; replaces what was told."""
        with self._changed:
            self._plan = OrderedDict.fromkeys(key for key in islice(keys, LONGEST_PLAN) if key not in self._slots)
            while self._threads < min(self._ahead, len(self._plan)) and not self._closed:
                self._threads += 1
                threading.Thread(target=self._work, name="read-ahead", daemon=True).start()
            self._changed.notify_all()

    def get(self, key: int) -> bytes:
        """Return the result: ready, or when it is, or fetched by the caller.

        Raises:
            Exception: what `fetch` raised; the next call tries again.
        """
        with self._changed:
            self._asked += 1
            self._plan.pop(key, None)
            slot = self._slots.get(key)
            mine = slot is None
            if slot is None:
                self._make_room()
                slot = self._slots[key] = _Slot(self._asked)
        if mine:
            self._run(key, slot)
        with self._changed:
            self._changed.wait_for(lambda: slot.done)
            slot.used = True
            self._changed.notify_all()
            if slot.error is not None:
                if self._slots.get(key) is slot:
                    del self._slots[key]
                raise slot.error
            assert slot.data is not None
            return slot.data

    def forget(self, key: int) -> None:
        """Fetch anew when asked again."""
        with self._changed:
            if key in self._slots and self._slots[key].done:
                del self._slots[key]

    def close(self) -> None:
        """Let the threads end when they are done with what they fetch."""
        with self._changed:
            self._closed = True
            self._slots.clear()
            self._changed.notify_all()

    def _make_room(self) -> bool:
        """If all slots are taken, drop a result that was used or that nobody came for; False if there is none."""
        if len(self._slots) < self._ahead:
            return True
        done = [(key, slot) for key, slot in self._slots.items() if slot.done]
        used = [key for key, slot in done if slot.used]
        stale = [key for key, slot in done if self._asked - slot.since > STALE_AFTER * self._ahead]
        if not used + stale:
            return False
        del self._slots[(used + stale)[0]]
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._plan and self._make_room()))
                if self._closed:
                    return
                key, _ = self._plan.popitem(last=False)
                slot = self._slots[key] = _Slot(self._asked)
            self._run(key, slot)

    def _run(self, key: int, slot: _Slot) -> None:
        try:
            slot.data = self._fetch(key)
        except BaseException as error:  # raised again where the result is asked for
            slot.error = error
        with self._changed:
            slot.done = True
            self._changed.notify_all()


class _Slot:
    """One result, made when `since` others had been asked for; `used` once it was given out."""

    __slots__ = ("data", "done", "error", "since", "used")

    def __init__(self, since: int) -> None:
        self.since, self.done, self.used = since, False, False
        self.data: bytes | None = None
        self.error: BaseException | None = None
