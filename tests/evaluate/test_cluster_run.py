# SPDX-License-Identifier: GPL-3.0-or-later
"""A sweep over Ray's workers: the same table, whatever dies."""

import pytest
from evaluate.test_run import Lines, a_sweep, contents
from evaluate.toys import build

from diffjscc.evaluate.run import SweepRun


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, with room for two workers, which import the tests' toys."""
    import os
    import sys

    from diffjscc.evaluate.cluster import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        cluster = Cluster("local")
        yield cluster
        cluster.close()


def test_a_cluster_gives_the_same_table_and_replaces_a_worker_that_dies(ray, images, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    sweep = a_sweep(images, systems={"toy": {"system": "toy", "deaths": str(deaths)}}, rates="1/16", snrs_db=[1])
    SweepRun(sweep, tmp_path / "processes", 1, build=build).run()
    (deaths / "2").write_text("1")
    progress = Lines()
    SweepRun(sweep, tmp_path / "cluster", 1, cluster="local", build=build, progress=progress).run()
    assert progress.lines == [] and progress.rows == 6 and not list(deaths.iterdir())
    assert contents(tmp_path / "cluster") == contents(tmp_path / "processes")


def test_more_workers_than_the_cluster_has_room_for_are_refused(ray, images, tmp_path):
    with pytest.raises(ValueError, match="1000 workers: the Ray cluster has room for"):
        SweepRun(a_sweep(images), tmp_path / "out", 1000, cluster="local", build=build)
    assert not (tmp_path / "out").exists()
