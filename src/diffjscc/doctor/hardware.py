# SPDX-License-Identifier: GPL-3.0-or-later
"""GPUs, radios and sound cards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import one_line
from . import programs
from .finding import Finding, absent, good, wrong
from .gnuradio import companion_python
from .package import REINSTALL


def check_compute() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield wrong(f"torch cannot be imported: {one_line(error)}", REINSTALL)
        return
    yield good(f"{torch.get_num_threads()} threads of a CPU")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _try_gpu(index)
    elif programs.find("nvidia-smi"):
        yield wrong(
            f"an NVIDIA driver is installed, but torch {torch.__version__} cannot use a GPU",
            "nvidia-smi (does it list one?), then a torch built for its CUDA version: https://pytorch.org/get-started",
        )
    else:
        yield absent(
            "no GPU: the bundled models do not need one; Stable Diffusion does, here or on another machine (diffjscc serve)"
        )


def _try_gpu(index: int) -> Finding:
    """Computes on a GPU: one that is listed may still be too old for this torch, or full."""
    import torch

    try:
        properties = torch.cuda.get_device_properties(index)
        torch.ones(8, device=f"cuda:{index}").sum().item()
    except Exception as error:
        return wrong(
            f"cuda:{index} is there but cannot compute: {one_line(error)}",
            "nvidia-smi (is its memory full?), then a torch built for it: https://pytorch.org/get-started",
        )
    return good(f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")


@dataclass(frozen=True)
class Driver:
    """A family of radios.

    option   of diffjscc-tx and diffjscc-rx
    module   Python module of GNU Radio's blocks for it
    command  lists devices; each of its lines that holds ``mark`` is one
    package  Debian's, of the driver and of the command
    """

    option: str
    module: str
    command: tuple[str, ...]
    mark: str
    package: str


DRIVERS = (
    Driver("uhd", "gnuradio.uhd", ("uhd_find_devices",), "serial:", "uhd-host"),
    Driver("soapy", "gnuradio.soapy", ("SoapySDRUtil", "--find"), "driver = ", "soapysdr-tools soapysdr-module-all"),
    Driver("pluto", "gnuradio.iio", ("iio_info", "--scan"), "[", "libiio-utils"),
)

#: What drivers write when a device is there and cannot be used, and what to type then.
TROUBLES = {
    "could not find path for image": "sudo uhd_images_downloader",
    "permission": "sudo usermod -aG plugdev $USER, and log in again; or install the driver's udev rules",
    "libusb_error_access": "sudo usermod -aG plugdev $USER, and log in again; or install the driver's udev rules",
    "libusb_error_busy": "end the other program that uses the radio",
}


def check_radios() -> Iterator[Finding]:
    python = companion_python(programs.find("gnuradio-companion"))
    for driver in DRIVERS:
        asked = programs.run([python, "-c", f"import {driver.module}"])
        if asked.fault:
            yield absent(
                f"--radio {driver.option}: {driver.module} cannot be imported: {asked.fault}",
                f"sudo apt-get install gnuradio {driver.package}",
            )
            continue
        if programs.find(driver.command[0]) is None:
            yield absent(
                f"--radio {driver.option}: driver there; {driver.command[0]}, which lists devices, is not",
                f"sudo apt-get install {driver.package}",
            )
            continue
        listed = programs.run(driver.command)
        devices = [line.strip() for line in listed.output.splitlines() if driver.mark in line]
        trouble = [mark for mark in TROUBLES if mark in f"{listed.output}\n{listed.errors}".lower()]
        if trouble:
            lines = f"{listed.output}\n{listed.errors}".splitlines()
            said = next(line.strip() for line in lines if trouble[0] in line.lower())
            yield wrong(f"--radio {driver.option}: {' '.join(driver.command)}: {said}", TROUBLES[trouble[0]])
        elif devices:
            yield good(f"--radio {driver.option}: {'; '.join(devices)}")
        elif "answer" in listed.fault or "ended by" in listed.fault:
            yield wrong(
                f"--radio {driver.option}: {' '.join(driver.command)} {listed.fault}", "unplug the radio, and plug it in again"
            )
        else:
            yield absent(f"--radio {driver.option}: driver there, no device found", f"{' '.join(driver.command)} says more")


def check_audio() -> Iterator[Finding]:
    found = False
    for command, what in ((("aplay", "-l"), "loudspeakers"), (("arecord", "-l"), "microphones")):
        if programs.find(command[0]) is None:
            yield absent(f"{command[0]}, which lists {what}, is not installed", "sudo apt-get install alsa-utils")
            return
        cards = [line.split(":", 1)[1].strip() for line in programs.run(command).output.splitlines() if line.startswith("card ")]
        found |= bool(cards)
        yield good(f"{what}: {'; '.join(cards)}") if cards else absent(f"no {what}")
    if programs.find("pactl"):
        server = programs.run(("pactl", "info"))
        name = [line.split(":", 1)[1].strip() for line in server.output.splitlines() if line.startswith("Server Name:")]
        yield good(f"sound server: {name[0]}") if name else absent("no sound server runs for this user")
