# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool of Ray workers behind a real server: work is spread, workers are killed, and every request is answered all the same."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serve.peers import Peer
from serve.processes import ServerProcess, image, wait_until

from diffjscc.serve import RefineClient, RefineError
from diffjscc.serve.cluster import RayBackend

STUB = (sys.executable, Path(__file__).with_name("ray_stub_server.py"))


class RayServer(ServerProcess):
    """The Ray stub's server; ``folder``: where its workers write notes."""

    def __init__(self, folder, count, address="local"):
        self.folder = folder
        super().__init__("--folder", folder, "--count", count, "--ray", address, command=STUB, timeout=180)

    def workers_of(self, seed):
        """Processes that have begun the image of a seed, in order."""
        return [process for process, _ in self.notes("begun", seed)]

    def notes(self, name, seed):
        """(process, time in s) of each worker that has "begun" or "completed" the image of a seed, in order."""
        file = self.folder / name
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(int(process), float(moment)) for number, process, moment in lines if number == str(seed)]

    def said(self, words):
        """How often its log has these words."""
        return sum(words in line for line in self.log)

    def descendants(self):
        """Its processes, and theirs, and so on, by their numbers."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        found = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return found


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RayServer(tmp_path_factory.mktemp("ray"), 2) as server:
        yield server
        assert server.terminate() == 0


@pytest.fixture
def client(server):
    with RefineClient(server.address) as client:
        yield client


def test_requests_are_answered_right_and_by_both_workers(server, client):
    jobs = [client.submit(image(600, 800, seed=n), 1.0, "stub", seed=20 + n, encoding="raw") for n in range(4)]
    for number, job in enumerate(jobs):
        assert np.array_equal(job.result(20), 255 - image(600, 800, seed=number))
    begun, completed = ([server.notes(name, seed)[0] for seed in range(20, 24)] for name in ("begun", "completed"))
    assert len({process for process, _ in begun}) == 2
    # At the same time: the second was begun before any was completed.
    assert sorted(moment for _, moment in begun)[1] < min(moment for _, moment in completed)
    text = server.get("metrics")
    assert all(f'device="worker {n} on ' in text for n in (1, 2))


def test_progress_and_previews_come_back_in_order(client):
    told = []
    client.refine(image(400, 300), refiner="stub", seed=27, on_progress=lambda *step: told.append(step), preview=True)
    assert [step[:2] for step in told] == [(k, 10) for k in range(1, 11)]
    assert told[0][2].shape == (400, 300, 3)


def test_a_failure_costs_no_worker(server, client):
    with pytest.raises(RefineError, match="this seed is not to be refined") as caught:
        client.refine(image(), 1.0, "stub", seed=3)
    assert caught.value.code == "failed" and server.said("is lost") == 0


def test_what_nobody_waits_for_is_stopped_in_the_worker(server, client):
    steps = []
    job = client.submit(image(), 1.0, "stub", seed=49, on_progress=lambda *step: steps.append(step))
    wait_until(lambda: len(steps) >= 2)
    job.cancel()
    # To the end it would take a minute.
    wait_until(lambda: client.ping().running == 0, 30)
    assert server.workers_of(49) and not server.notes("completed", 49)


def test_a_worker_killed_while_busy_is_replaced_and_its_request_answered_by_another(server, client):
    ready = server.said("ready in")
    job = client.submit(image(), 1.0, "stub", seed=28)
    wait_until(lambda: server.workers_of(28))
    os.kill(server.workers_of(28)[0], signal.SIGKILL)
    assert np.array_equal(job.result(20), 255 - image())
    first, second = server.workers_of(28)
    assert first != second
    wait_until(lambda: server.said("ready in") == ready + 1, 20)


def test_an_image_that_kills_its_workers_fails_after_the_second_and_is_not_tried_again(server, client):
    ready = server.said("ready in")
    with pytest.raises(RefineError, match="2 workers in a row were lost while they computed this") as caught:
        client.refine(image(), 1.0, "stub", seed=30)
    assert caught.value.code == "lost" and caught.value.retryable
    assert len(server.workers_of(30)) == 2
    wait_until(lambda: server.said("ready in") == ready + 2, 20)


def test_a_worker_that_cannot_get_ready_is_tried_less_and_less_often(server, client):
    client.refine(image(), 1.0, "stub", seed=100)
    ready, (process,) = server.said("ready in"), server.workers_of(100)
    (server.folder / "broken").touch()
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: server.said("another comes in 1 s: the refiner is broken"), 20)
    assert np.array_equal(client.refine(image(), 1.0, "stub", seed=101), 255 - image())
    (server.folder / "broken").unlink()
    wait_until(lambda: server.said("ready in") == ready + 1, 20)


def test_sigterm_finishes_what_runs_and_leaves_no_process_of_rays(tmp_path):
    with RayServer(tmp_path, 1) as server, Peer(server.address) as peer:
        peer.ask("running", seed=20)
        wait_until(lambda: server.workers_of(20))
        processes = server.descendants()
        assert len(processes) > 3
        server.process.send_signal(signal.SIGTERM)
        assert [reply.type for reply in peer.receive_all(2)] == ["accepted", "result"]
        assert server.finish(20) == 0
        wait_until(lambda: not any(map(is_alive, processes)))


def test_a_server_whose_cluster_has_died_says_so_and_ends(tmp_path):
    with RayServer(tmp_path, 1) as server, Peer(server.address) as peer:
        peer.ask("running", seed=45)
        assert peer.receive().type == "accepted"
        wait_until(lambda: server.workers_of(45))
        raylets = [process for process in server.descendants() if b"raylet/raylet" in Path(f"/proc/{process}/cmdline").read_bytes()]
        os.kill(raylets[0], signal.SIGKILL)
        error = peer.receive(20)
        assert (error.code, error.retryable) == (
            "lost",
            True,
        ) and "the Ray cluster is lost: its process raylet has ended" in error.message
        assert server.finish(20) == 1


def test_more_workers_than_there_is_room_for_are_refused_in_one_line():
    command = [sys.executable, "-m", "diffjscc.cli", "serve", "--bind", "tcp://127.0.0.1:*", "--status", "none", "--workers", "ray"]
    done = subprocess.run([*command, "--count", "1000"], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("diffjscc: workers of 1 CPU each: the Ray cluster has room for")


def test_without_ray_the_command_says_what_to_install():
    code = "import sys; sys.modules['ray'] = None; from diffjscc.cli import main; sys.exit(main(['serve', '--workers', 'ray']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("pip install 'diffjscc[cluster]'\n")


@pytest.mark.parametrize("count, options", [(0, {}), (1, {"threads": 0}), (1, {"device": "cuda:1"})])
def test_workers_that_make_no_sense_are_refused(count, options):
    with pytest.raises(ValueError, match="expected at least 1|choose cpu, or cuda"):
        RayBackend(lambda: None, count, **options)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Addresses of a running Ray cluster: for a program on one of its machines, and for one elsewhere. It asks for a token."""
    ports = {"--port": free_port(), "--ray-client-server-port": free_port()}
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    # The server for ray:// forks while gRPC's threads run, which gRPC does not always survive.
    environment["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    environment["PYTHONPATH"] = os.pathsep.join([str(STUB[1].parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = "-m ray.scripts.scripts start --head --block --num-cpus 2 --include-dashboard 0 --node-ip-address 127.0.0.1"
    command = [sys.executable, *words.split(), *(str(word) for option in ports.items() for word in option)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{ports['--port']}")
        ray = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: answers(ports["--ray-client-server-port"]), 60)
            yield {"auto": "auto", "ray://": f"ray://127.0.0.1:{ports['--ray-client-server-port']}"}
        finally:
            ray.terminate()
            ray.wait(20)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("kind", ["auto", "ray://"])
def test_workers_of_a_cluster_that_is_there_already(cluster, tmp_path, kind):
    with RayServer(tmp_path, 2, cluster[kind]) as server, RefineClient(server.address) as client:
        told = []
        slow = client.submit(image(), 1.0, "stub", seed=20, on_progress=lambda *step: told.append(step[:2]))
        assert np.array_equal(client.refine(image(seed=1), 1.0, "stub", seed=100), 255 - image(seed=1))
        assert np.array_equal(slow.result(20), 255 - image()) and told[-1] == (10, 10)
        job = client.submit(image(), 1.0, "stub", seed=28)
        wait_until(lambda: server.workers_of(28))
        os.kill(server.workers_of(28)[0], signal.SIGKILL)
        assert np.array_equal(job.result(20), 255 - image())
        assert server.terminate() == 0
