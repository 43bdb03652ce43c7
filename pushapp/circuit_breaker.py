"""What keeps failing is left alone for a while, and then asked by one at a time."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ENOUGH_TO_BE_SILENT = 3  # attempts that wait together for an answer


class CircuitOpenError(Exception):
    """It fails others, or lets them wait, so this one must not ask, for `seconds` more if that is known."""

    def __init__(self, seconds: float = 0.0):
        super().__init__(f"it does not serve others and is left alone, for {seconds:.1f} s at least")
        self.seconds = seconds


class CircuitBreaker:
    """Opens after so many failures in a row, for `pause` seconds, then lets one at a time try.

    Each further failure doubles the pause, up to `max_pause` seconds; the first success lets everybody
    ask again. While several wait for an answer and none has come for `silence` seconds, nobody joins
    them. Threads and coroutines may share it.
    """

    def __init__(
        self,
        failures_to_open: int,
        *,
        pause: float = 0.0,
        max_pause: float = 0.0,
        silence: float = math.inf,
    ):
        self._failures_to_open = failures_to_open
        self._first_pause, self._max_pause = pause, max_pause
        self._silence = silence
        self._counting = threading.Lock()
        self._waiting = 0  # attempts under way
        self._silent_since = 0.0  # on the monotonic clock
        self._failures = 0  # in a row
        self._pause = pause
        self._open_until = 0.0  # on the monotonic clock
        self._trial = threading.Lock()
        self.last_success = 0.0  # on the monotonic clock

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Let the caller ask, who says with `succeeded` or `failed` what came of it.

        Raises CircuitOpenError when it must not ask now.
        """
        with self._unless_it_fails(), self._unless_it_is_silent():
            yield

    @contextmanager
    def _unless_it_fails(self) -> Iterator[None]:
        if self._failures < self._failures_to_open:
            yield
            return
        left = self._open_until - time.monotonic()
        if left > 0 or not self._trial.acquire(blocking=False):
            raise CircuitOpenError(max(left, 0.0))
        try:
            yield
        finally:
            self._trial.release()

    @contextmanager
    def _unless_it_is_silent(self) -> Iterator[None]:
        with self._counting:
            now = time.monotonic()
            if self._waiting >= ENOUGH_TO_BE_SILENT and now - self._silent_since >= self._silence:
                raise CircuitOpenError
            if not self._waiting:
                self._silent_since = now
            self._waiting += 1
        try:
            yield
        finally:
            with self._counting:
                self._waiting -= 1
                self._silent_since = time.monotonic()

    def succeeded(self) -> None:
        """Let everybody ask again."""
        self._failures, self._pause, self.last_success = 0, self._first_pause, time.monotonic()

    def failed(self, at_least: float = 0.0, *, weight: int = 1) -> None:
        """Note a failure that counts as `weight`; `at_least` is a pause that was asked for, in seconds."""
        self._failures += weight
        now = time.monotonic()
        # Those that were under way when it opened say nothing new.
        if self._failures >= self._failures_to_open and now >= self._open_until:
            self._open_until = now + min(max(self._pause, at_least), self._max_pause)
            self._pause = min(2 * self._pause, self._max_pause)
