# SPDX-License-Identifier: GPL-3.0-or-later
"""A sweep's workers as actors of a Ray cluster. Ray is imported on first use.

Other machines need the same version of this package, and the models that the sweep names under the same names or paths. Images
are sent to them, and rows are sent back. Whoever can reach a Ray cluster can run programs on it: keep it in a private network,
or use Ray's tokens.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..errors import one_line
from ..ray_cluster import LOCAL, import_ray
from .plan import Cell
from .pool import ONE_THREAD, CellFailed, WorkerDied
from .worker import Done, Worker, WorkerSettings


class Cluster:
    """A connection to a Ray cluster.

    address  "local": Ray on this machine; "auto": the cluster that this machine belongs to; "ray://host:10001": another one

    Raises ValueError where it cannot be reached, and MissingExtra where Ray is not installed.
    """

    def __init__(self, address: str):
        self.ray = import_ray(address, "--cluster")
        self._connected = False
        if not self.ray.is_initialized():
            options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
            try:
                self.ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **options)
            # Ray raises exceptions of many kinds.
            except Exception as error:
                what = "cannot start Ray" if address == LOCAL else f"cannot reach a Ray cluster at {address}"
                raise ValueError(f"{what}: {one_line(error)}") from None
            self._connected = True

    def room(self) -> int:
        """CPUs of the cluster's machines: as many workers have room."""
        return sum(int(node["Resources"].get("CPU", 0)) for node in self.ray.nodes() if node["Alive"])

    def slot(self, settings: WorkerSettings) -> RaySlot:
        return RaySlot(self.ray, settings)

    def close(self) -> None:
        if self._connected:
            self._connected = False
            self.ray.shutdown()


class RaySlot:
    """A `pool.Slot` with an actor of a Ray cluster."""

    def __init__(self, ray: Any, settings: WorkerSettings):
        self._ray, self._settings = ray, settings
        self._actors = ray.remote(num_cpus=1, max_restarts=0, runtime_env={"env_vars": ONE_THREAD})(Worker)
        self._actor: Any = None

    def start(self) -> None:
        self._actor = self._actors.remote(self._settings)
        try:
            self._call("ready")
        except CellFailed as error:
            raise ValueError(one_line(error)) from None

    def begin(self, pixels: np.ndarray) -> None:
        self._call("begin", pixels)

    def run(self, cell: Cell, budget: int, show: bool) -> Done:
        return self._call("run", cell, budget, show)

    def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        if self._actor is not None:
            self._ray.kill(self._actor)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return self._ray.get(getattr(self._actor, method).remote(*arguments))
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.RaySystemError) as error:
            # A worker that cannot be made dies of its own error, which is the news.
            cause = getattr(error, "cause", None)
            if cause is not None and method == "ready":
                raise CellFailed(one_line(cause)) from None
            raise WorkerDied("its process or machine is gone") from None
        except self._ray.exceptions.RayTaskError as error:
            raise CellFailed(one_line(error.cause or error)) from None
