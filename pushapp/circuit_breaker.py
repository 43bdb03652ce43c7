"""Circuit breaker: no calls to a service that fails."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class CallRejectedError(Exception):
    """The call was rejected without an attempt; `retry_after` is in seconds, 0 if unknown."""

    def __init__(self, retry_after: float = 0.0):
        super().__init__(f"the service is unavailable, retry after {retry_after:.1f} s")
        self.retry_after = retry_after


class CircuitBreaker:
    """Rejects calls after `failure_threshold` consecutive failures, for `reset_timeout` seconds.

    Closed: all calls pass. Open: none. Half-open, after the time-out: one trial call at a time. Each failed
    trial doubles the time-out, up to `max_reset_timeout` seconds; the first success closes the circuit.
    Threads and coroutines may share it.
    """

    def __init__(self, failure_threshold: int, *, reset_timeout: float = 0.0, max_reset_timeout: float = 0.0):
        self._failure_threshold = failure_threshold
        self._initial_reset_timeout = self._reset_timeout = reset_timeout
        self._max_reset_timeout = max_reset_timeout
        self._failures = 0  # consecutive
        self._open_until = 0.0  # on the monotonic clock
        self._trial = threading.Lock()
        self.last_success = 0.0  # on the monotonic clock

    @contextmanager
    def call(self) -> Iterator[None]:
        """Guard one call; the caller reports it with `record_success` or `record_failure`.

        Raises CallRejectedError while the circuit is open, or half-open with a trial in flight.
        """
        is_trial = self.begin()
        try:
            yield
        finally:
            self.end(is_trial)

    def begin(self) -> bool:
        """Begin one call, as `call` does; return whether it is a trial, for `end`."""
        if self._failures < self._failure_threshold:
            return False
        retry_after = self._open_until - time.monotonic()
        if retry_after > 0 or not self._trial.acquire(blocking=False):
            raise CallRejectedError(max(retry_after, 0.0))
        return True

    def end(self, is_trial: bool) -> None:
        """End a call, whatever became of it."""
        if is_trial:
            self._trial.release()

    def record_success(self) -> None:
        """Close the circuit."""
        self._failures, self._reset_timeout = 0, self._initial_reset_timeout
        self.last_success = time.monotonic()

    def record_failure(self, retry_after: float = 0.0, *, weight: int = 1) -> None:
        """Count a failure as `weight` failures; `retry_after` is the shortest time-out, in seconds."""
        self._failures += weight
        now = time.monotonic()
        # A failure of a call that started before the circuit opened does not extend the time-out.
        if self._failures >= self._failure_threshold and now >= self._open_until:
            self._open_until = now + min(max(self._reset_timeout, retry_after), self._max_reset_timeout)
            self._reset_timeout = min(2 * self._reset_timeout, self._max_reset_timeout)
