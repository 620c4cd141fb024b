# SPDX-License-Identifier: GPL-3.0-or-later
"""Radios' real driver stacks, gr-soapy with SoapySDR and gr-iio with libiio and libad9361, in front of devices without hardware.

The devices are beside this file. SoapySDR loads its modules once in a process: each test has processes of its own. They take more
than a minute, and are run by `make drivers`, not by `make test`.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from apps.test_radios import APPS, finish, quality
from blocks.flowgraphs import wait_until

from diffjscc.images import find_images
from drivers.iiod import Server

DRIVERS = Path(__file__).parent

#: Seconds that a program gets in which nothing of it may hang.
LIMIT = 60


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """Folder of the SoapySDR module with the loopback device."""
    folder = tmp_path_factory.mktemp("soapy")
    command = ["g++", "-std=c++17", "-O2", "-shared", "-fPIC", DRIVERS / "soapy_loopback.cc", "-o", folder / "libloopback.so"]
    subprocess.run([*command, "-lSoapySDR"], check=True)
    return folder


@pytest.fixture
def run(module):
    """Starts an app with the loopback device; whatever still runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def started(app, *arguments):
            line = [sys.executable, APPS[app], "--frequency", "1G", "--patience", "1", *arguments]
            process = subprocess.Popen(
                [*map(str, line)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"SOAPY_SDR_PLUGIN_PATH": str(module), "OMP_NUM_THREADS": "1"},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield started


def loopback(path, **arguments):
    """Options of an app for a loopback device."""
    words = {"driver": "loopback", "medium": path / "medium"} | arguments
    return "--radio", "soapy", "--args", ",".join(f"{key}={value}" for key, value in words.items())


def told(process, status):
    """The app's own lines on standard error; it must have ended with a status, and without a driver's crash."""
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == status, err
    assert "Traceback" not in err and "terminate called" not in err, err
    return out, [line for line in err.splitlines() if line.startswith("diffjscc-")]


def test_every_image_crosses_soapysdr(run, images, tmp_path):
    """The first one too, which gr-soapy's sink loses where it is given a length tag."""
    device = loopback(tmp_path)
    transmitter = run("tx", images, *device, "--amplitude", "1")
    receiver = run("rx", *device, "--out", tmp_path / "out", "--images", 3, "--seconds", LIMIT)
    out, (line,) = told(transmitter, 0)
    assert "images: sent 3," in out and line.startswith("diffjscc-tx: amplitude 1 clips: peaks are at ")
    finish(receiver)
    assert min(quality(tmp_path / "out", images)) > 25


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_images_cross_soapyremote(run, module, images, tmp_path):
    """All but the last, which is lost now and then when the transmitter ends; why is not known."""
    port, stub = free_port(), tmp_path / "no_avahi.so"
    subprocess.run(["gcc", "-shared", "-fPIC", DRIVERS / "no_avahi.c", "-o", stub], check=True)
    environment = os.environ | {"SOAPY_SDR_PLUGIN_PATH": str(module), "LD_PRELOAD": str(stub)}
    with subprocess.Popen(
        ["SoapySDRServer", f"--bind=127.0.0.1:{port}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(lambda: listens(port), 20)
            remote = {"driver": "remote", "remote": f"tcp://127.0.0.1:{port}", "remote:driver": "loopback", "remote:prot": "tcp"}
            device = loopback(tmp_path, **remote)
            transmitter = run("tx", images, *device)
            receiver = run("rx", *device, "--out", tmp_path / "out", "--images", 2, "--seconds", LIMIT)
            finish(transmitter)
            finish(receiver)
        finally:
            server.kill()
    assert len(find_images(tmp_path / "out")) >= 2


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True


def test_soapysdr_s_faults_are_one_line_and_nothing_hangs(run, images, tmp_path):
    """Two at a time: most of their time is loading."""

    def both(*faults, **arguments):
        processes = {}
        for app, fault in faults:
            options = [images] if app == "tx" else ["--out", tmp_path / "out", "--seconds", LIMIT]
            folder = tmp_path / f"{app}-{fault}"
            folder.mkdir()
            processes[app, fault] = run(app, *options, *loopback(folder, fault=fault, **arguments))
        return processes.items()

    for (app, _), process in both(("rx", "busy"), ("tx", "rate")):
        out, (line,) = told(process, 3)
        assert line.startswith(f"diffjscc-{app}: radio soapy, device 'driver=loopback") and "it does not answer" in line and not out
    for (app, _), process in both(("rx", "error"), ("tx", "hang"), after=8000):
        out, (line,) = told(process, 3)
        assert line.startswith(f"diffjscc-{app}: ") and line.endswith("lost: no sample for 1 s")
        # What the device did not take is not told to be sent.
        assert app == "rx" or "images: sent 2," in out or "images: sent 1," in out
    for (app, _), process in both(("tx", "error"), ("rx", "throw"), after=8000):
        _, (line,) = told(process, 3)
        assert line.startswith(f"diffjscc-{app}: ") and line.endswith("lost: no sample for 1 s")


def test_a_radio_that_comes_back_is_used_again(run, images, tmp_path):
    """It is unplugged after 200 ms, and plugged in again; what was received before stays, and what was not sent is sent."""
    plug = tmp_path / "plug"
    plug.touch()
    device = loopback(tmp_path, fault="error", after=8000, plug=plug)
    receiver = run("rx", *loopback(tmp_path), "--out", tmp_path / "out", "--images", 3, "--seconds", LIMIT)
    transmitter = run("tx", images, *device, "--reconnect", "--preset", "ofdm256")
    replugged = []

    def all_sent():
        if not plug.exists():
            replugged.append(True)
            plug.touch()
        return transmitter.poll() is not None

    wait_until(all_sent, 2 * LIMIT)
    _, err = transmitter.communicate()
    assert replugged and transmitter.returncode == 0 and "lost: no sample" in err and "tries again in 1 s" in err
    finish(receiver)
    assert len(find_images(tmp_path / "out")) >= 3


def test_a_program_that_tries_again_ends_when_it_is_told_to(run, tmp_path):
    receiver = run("rx", *loopback(tmp_path, fault="error"), "--reconnect", "--out", tmp_path / "out")
    lines = []
    wait_until(lambda: lines.append(receiver.stderr.readline()) or "tries again in 1 s" in lines[-1], LIMIT)
    receiver.send_signal(signal.SIGTERM)
    receiver.communicate(timeout=LIMIT)
    assert receiver.returncode == 3


def test_every_image_crosses_a_pluto_that_is_set_up_as_asked(run, images, tmp_path):
    with Server() as server:
        device = ("--radio", "pluto", "--args", server.uri, "--bandwidth", "700k")
        transmitter = run("tx", images, *device)
        receiver = run("rx", *device, "--out", tmp_path / "out", "--images", 3, "--seconds", LIMIT)
        finish(transmitter)
        finish(receiver)
        values = server.pluto.values
    assert min(quality(tmp_path / "out", images)) > 25
    # Without --gain it has its own control, which gr-iio 3.10.5 does not switch on when it is asked once.
    assert values["in voltage0 gain_control_mode"] == "slow_attack"
    assert values["in voltage0 rf_bandwidth"] == values["out voltage0 rf_bandwidth"] == "700000"
    assert values["out voltage0 sampling_frequency"] == "1000000"
    assert values["out altvoltage0 frequency"] == values["out altvoltage1 frequency"] == "1000000000"


def test_a_pluto_s_faults_are_one_line_and_nothing_hangs(run, images, tmp_path):
    receive = ("--out", tmp_path / "out", "--seconds", LIMIT)
    with Server("rate") as refusing, Server("gone=400000") as here, Server("gone=400000") as there:
        processes = [
            run("rx", "--radio", "pluto", "--args", refusing.uri, *receive),
            run("rx", "--radio", "pluto", "--args", here.uri, *receive),
            run("tx", images, "--repeat", "--radio", "pluto", "--args", there.uri),
        ]
        out, (line,) = told(processes[0], 2)
        assert "Unable to set BB rate" in line
        for process in processes[1:]:
            _, (line,) = told(process, 3)
            assert "radio pluto, device 'ip:127.0.0.1:" in line and ": lost: " in line
