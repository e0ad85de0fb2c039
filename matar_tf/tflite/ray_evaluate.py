"""Measuring policies on the workers of a Ray cluster. The only module that knows Ray.

Policies are plain Ray tasks: Ray places them, moves the samples to where they are
needed once, and runs a task again elsewhere if its worker or its machine dies.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from matar_tf.errors import MatarError
from matar_tf.policy import Policy

__all__ = ["RayEvaluator"]

# A policy whose measurement kills worker after worker must not kill all of them.
_MAX_RETRIES: Final = 4
# What Ray reads from the environment when it is imported.
_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else every worker warns that a later version leaves these variables alone.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray would else try for minutes to reach a cluster that is not there.
_ENVIRONMENT_TO_ATTACH: Final = {
    "RAY_py_gcs_connect_timeout_s": "4",
    "RAY_gcs_server_port_wait_time_s": "1",
}
_NOT_THERE: Final = "The remote function failed to import on the worker"

# Of this process, where it is a worker: what measures, by the object it was made from.
_EVALUATORS: dict[str, Callable[[Policy], Mapping[str, float]]] = {}


class RayEvaluator:
    """Measures policies on a Ray cluster; close it, or use it in a ``with``.

    Every machine of the cluster needs this package, and modules of metrics of the
    user's own. A program that has called
    ``ray.init`` itself keeps its cluster; `address` then goes unused.

    Args:
      make_evaluator: Makes what measures one policy, once in each worker; it must
        pickle.
      num_jobs: Number of policies that are measured at once; each takes one core of
        the cluster, and waits while there is none.
      address: Address of a running cluster, such as ``10.0.0.1:6379``; None for that
        of the variable ``RAY_ADDRESS``, else the one that ``ray start`` has started on
        this machine, else one of this process alone.

    Raises:
      MatarError: If `num_jobs` is below 1, Ray is not installed, or the cluster cannot
        be reached.
    """

    def __init__(
        self,
        make_evaluator: Callable[[], Callable[[Policy], Mapping[str, float]]],
        num_jobs: int = 1,
        address: str | None = None,
    ) -> None:
        if num_jobs < 1:
            raise MatarError(f"Expected at least one process, got num_jobs={num_jobs}.")
        address = address or os.environ.get("RAY_ADDRESS")
        self._ray = ray = _import_ray(is_attaching=bool(address))
        self._num_jobs = num_jobs
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect(ray, address)
        # In the object store once, not in every task.
        self._made = ray.put(make_evaluator)
        self._measure = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_measure)

    def __call__(
        self, policies: Iterable[Policy]
    ) -> Iterator[tuple[Policy, Mapping[str, float]]]:
        """Yields each policy with its metrics, in the order in which they arrive.

        Raises:
          MatarError: If measuring a policy kills worker after worker, or the cluster
            is lost.
        """
        ray = self._ray
        waiting = iter(list(policies))
        running: dict[Any, Policy] = {}
        try:
            while True:
                while len(running) < self._num_jobs:
                    policy = next(waiting, None)
                    if policy is None:
                        break
                    # In a list: Ray would else fetch the object for every task.
                    running[self._measure.remote([self._made], policy)] = policy
                if not running:
                    return
                (done, *_), _ = ray.wait(list(running), num_returns=1)
                metrics = ray.get(done)
                yield running.pop(done), metrics
        except ray.exceptions.RayTaskError as error:
            reason = str(error.cause).partition("\n")[0]
            if isinstance(error.cause, ray.exceptions.RayError) or (
                reason.startswith(_NOT_THERE)
            ):
                raise MatarError(
                    "Expected workers of the Ray cluster that have this version of "
                    "matar_tf, and the modules of your own metrics, installed, got: "
                    f"{reason}"
                ) from error
            # What the evaluator raised, as without a cluster.
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise MatarError(
                f"Expected the Ray cluster to measure the policies, got "
                f"{type(error).__name__} {_MAX_RETRIES + 1} times; look whether its "
                "workers run out of memory, and whether it is still there."
            ) from error
        # Tasks that still run then are left alone: cancelling one that ends at the same
        # time makes Ray 2.60 abort this process.

    def close(self) -> None:
        """Leaves the cluster, and ends it if it was started here."""
        if self._is_ours:
            self._ray.shutdown()

    def __enter__(self) -> RayEvaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _import_ray(*, is_attaching: bool) -> Any:
    settings = {**_ENVIRONMENT, **(_ENVIRONMENT_TO_ATTACH if is_attaching else {})}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MatarError(
            "Expected Ray for measuring on a cluster, but it is not installed; run "
            "pip install 'ray>=2.60,<2.61', or measure locally."
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise MatarError(
            f"Expected a Ray cluster at {address or 'this machine'}, but it cannot be "
            "reached "
            f"({str(error).splitlines()[0]}); check the address, and that the cluster "
            "runs the same versions of Ray and Python."
        ) from error


def _measure(made: list[Any], policy: Policy) -> Mapping[str, float]:
    """Measures a policy in a worker, which keeps what it made for the next one."""
    import ray

    key = made[0].hex()
    if key not in _EVALUATORS:
        make_evaluator: Any = ray.get(made[0])
        _EVALUATORS.clear()  # of earlier searches
        _EVALUATORS[key] = make_evaluator()
    return _EVALUATORS[key](policy)
