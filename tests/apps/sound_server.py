# SPDX-License-Identifier: GPL-3.0-or-later
"""A sound server of a test's own, with a sound card that is none: what is played there can be recorded."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from blocks.flowgraphs import wait_until

#: ALSA's names of the card's two ends.
PLAYS, RECORDS = "pulse:air", "pulse:air.monitor"


class SoundServer:
    """PulseAudio as a process of this user, whose variables are set in this process's environment until it is closed."""

    def __init__(self):
        for program in ("pulseaudio", "pactl"):
            assert shutil.which(program), f"{program} is not installed: see tools/system-packages.sh"
        # Addresses of sockets are short.
        self._folder = Path(tempfile.mkdtemp(prefix="sound-", dir="/tmp"))
        self._before = {name: os.environ.get(name) for name in ("PULSE_SERVER", "PULSE_COOKIE")}
        os.environ["PULSE_SERVER"] = f"unix:{self._folder}/native"
        os.environ["PULSE_COOKIE"] = f"{self._folder}/cookie"
        environment = os.environ | {"HOME": str(self._folder), "XDG_RUNTIME_DIR": str(self._folder)}
        modules = (
            f"module-native-protocol-unix socket={self._folder}/native auth-anonymous=1",
            "module-null-sink sink_name=air rate=48000 channels=1",
        )
        load = [word for module in modules for word in ("-L", module)]
        self._process = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disable-shm=yes", "--use-pid-file=no", *load],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        wait_until(lambda: "air.monitor" in self._list("sources"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        with contextlib.suppress(OSError):
            shutil.rmtree(self._folder)

    def wait_for_listener(self):
        """Returns when somebody records."""
        wait_until(lambda: self._list("source-outputs").strip())

    def kill(self):
        """What it is to a program when a sound card is unplugged."""
        self._process.kill()
        self._process.wait(10)

    def _list(self, what):
        done = subprocess.run(["pactl", "list", "short", what], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.stdout
