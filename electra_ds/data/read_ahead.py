"""Fetching what will be needed soon in background threads, bounded in number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

STALE_AFTER = 8
"""A result gives way when nobody came for it while so many times the number of slots were asked for."""


class ReadAhead:
    """Keeps some results of ``fetch(key)`` ready, and lets threads that want the same one wait for it together.

    The threads are daemons: one that waits for a server does not hold up the end of the program.
    """

    def __init__(self, fetch: Callable[[int], bytes], ahead: int) -> None:
        """Args: fetch: called in any thread; ahead: results fetched or kept at a time, and threads that fetch."""
        self._fetch, self._ahead = fetch, max(1, ahead)
        self._asked = 0
        self._slots: OrderedDict[int, _Slot] = OrderedDict()
        self._changed = threading.Condition()
        self._threads = 0
        self._closed = False

    def will_need(self, keys: Iterable[int]) -> None:
        """Fetch these in the background, in this order; those that do not fit are left to be fetched when asked for."""
        with self._changed:
            for key in keys:
                if key in self._slots:
                    continue
                if not self._make_room():
                    break
                self._slots[key] = _Slot("waiting", self._asked)
                if self._threads < self._ahead and not self._closed:
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
            slot = self._slots.get(key)
            if slot is None or slot.state == "waiting":
                self._slots.pop(key, None)
                self._make_room()
                slot = self._slots[key] = _Slot("running", self._asked)
                mine = True
            else:
                mine = False
        if mine:
            self._run(key, slot)
        with self._changed:
            self._changed.wait_for(lambda: slot.state == "done")
            slot.used = True
            if slot.error is not None:
                if self._slots.get(key) is slot:
                    del self._slots[key]
                raise slot.error
            assert slot.data is not None
            return slot.data

    def forget(self, key: int) -> None:
        """Fetch anew when asked again."""
        with self._changed:
            if key in self._slots and self._slots[key].state == "done":
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
        done = [(key, slot) for key, slot in self._slots.items() if slot.state == "done"]
        used = [key for key, slot in done if slot.used]
        stale = [key for key, slot in done if self._asked - slot.since > STALE_AFTER * self._ahead]
        if not used + stale:
            return False
        del self._slots[(used + stale)[0]]
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                key = self._next()
                if key is None:
                    return
                slot = self._slots[key]
                slot.state = "running"
            self._run(key, slot)

    def _next(self) -> int | None:
        return next((key for key, slot in self._slots.items() if slot.state == "waiting"), None)

    def _run(self, key: int, slot: _Slot) -> None:
        try:
            slot.data = self._fetch(key)
        except BaseException as error:  # raised again where the result is asked for
            slot.error = error
        with self._changed:
            slot.state = "done"
            self._changed.notify_all()


class _Slot:
    """One result: ``waiting`` for a thread, ``running`` or ``done``; `used` once given out; `since` which request."""

    __slots__ = ("data", "error", "since", "state", "used")

    def __init__(self, state: str, since: int) -> None:
        self.state, self.since, self.used = state, since, False
        self.data: bytes | None = None
        self.error: BaseException | None = None
