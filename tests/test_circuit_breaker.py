"""The circuit breaker opens after consecutive failures."""

import time

import pytest

from pushapp.circuit_breaker import CallRejectedError, CircuitBreaker


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with breaker.call():
            breaker.record_failure()


def rejection(breaker: CircuitBreaker) -> CallRejectedError:
    with pytest.raises(CallRejectedError) as rejection, breaker.call():
        pass
    return rejection.value


class TestCircuitBreaker:
    def test_opens_after_consecutive_failures(self) -> None:
        breaker = CircuitBreaker(3, reset_timeout=60, max_reset_timeout=60)
        for _ in range(5):
            fail(breaker, 2)
            with breaker.call():
                breaker.record_success()
        fail(breaker, 3)
        assert 59 < rejection(breaker).retry_after <= 60

    def test_opens_at_once_after_a_failure_with_the_weight_of_several(self) -> None:
        breaker = CircuitBreaker(3, reset_timeout=60, max_reset_timeout=60)
        breaker.record_failure(weight=3)
        assert rejection(breaker).retry_after > 59

    def test_half_open_allows_one_trial_call_whose_success_closes_it(self) -> None:
        breaker = CircuitBreaker(1)
        fail(breaker, 1)
        with breaker.call():
            assert rejection(breaker).retry_after == 0
            breaker.record_success()
            with breaker.call(), breaker.call():
                pass
        with breaker.call():
            pass

    def test_half_open_allows_another_trial_call_after_an_exception(self) -> None:
        breaker = CircuitBreaker(1)
        fail(breaker, 1)
        with pytest.raises(RuntimeError), breaker.call():
            raise RuntimeError
        with breaker.call():
            pass

    def test_each_failed_trial_doubles_the_reset_timeout_up_to_its_maximum(self) -> None:
        breaker = CircuitBreaker(1, reset_timeout=0.05, max_reset_timeout=0.15)
        timeouts = []
        for _ in range(3):
            fail(breaker, 1)
            timeouts.append(rejection(breaker).retry_after)
            time.sleep(timeouts[-1])
        assert timeouts == [pytest.approx(seconds, abs=0.02) for seconds in (0.05, 0.1, 0.15)]

    def test_a_success_restores_the_initial_reset_timeout(self) -> None:
        breaker = CircuitBreaker(1, reset_timeout=10, max_reset_timeout=300)
        breaker.record_failure()
        assert breaker.last_success == 0
        breaker.record_success()
        assert 0 < breaker.last_success <= time.monotonic()
        breaker.record_failure()
        assert 9 < rejection(breaker).retry_after <= 10

    def test_failures_of_calls_in_flight_do_not_extend_the_timeout(self) -> None:
        breaker = CircuitBreaker(2, reset_timeout=10, max_reset_timeout=300)
        for _ in range(50):
            breaker.record_failure()
        assert rejection(breaker).retry_after <= 10

    @pytest.mark.parametrize(("retry_after", "timeout"), [(120, 120), (0.5, 1), (10**6, 300)])
    def test_retry_after_lengthens_the_timeout_up_to_its_maximum(
        self, retry_after: float, timeout: float
    ) -> None:
        breaker = CircuitBreaker(1, reset_timeout=1, max_reset_timeout=300)
        breaker.record_failure(retry_after=retry_after)
        assert timeout - 0.5 < rejection(breaker).retry_after <= timeout
