# SPDX-License-Identifier: GPL-3.0-or-later
"""Images by sound: through a sound server, through WAV files, and the key of a transmitter that never stays on."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave

import numpy as np
import pytest
from apps.sound_server import PLAYS, RECORDS, SoundServer
from apps.test_radios import call, finish, quality, start
from blocks.flowgraphs import wait_until
from conftest import photograph
from gnuradio.diffjscc.ptt import Key

from diffjscc.images import find_images, read_image, to_pixels, to_tensor, write_image
from diffjscc.metrics import psnr

#: Options for an image that is on the air for less than a second.
SHORT = ("--rate", "1/128", "--snr", "10")


@pytest.fixture(scope="module")
def server():
    with SoundServer() as running:
        yield running


@pytest.fixture
def photo(tmp_path):
    """A folder with one small image."""
    write_image(tmp_path / "photos" / "a.png", to_pixels(photograph(160, 224)))
    return tmp_path / "photos"


@pytest.fixture
def key_log(tmp_path):
    """(command, lines()): what a key's command was called with."""
    path = tmp_path / "key.log"
    return f"echo >> '{path}'", lambda: path.read_text().split() if path.exists() else []


def test_images_cross_a_sound_server(server, photo, tmp_path, key_log, capfd):
    """In real time: a machine that is busy elsewhere may lose one of three."""
    command, keyed = key_log
    for name in ("b.png", "c.png"):
        shutil.copy(photo / "a.png", photo / name)
    receiver = start("rx", "--radio", "audio", "--args", RECORDS, "--images", 2, "--seconds", 60, "--out", tmp_path / "out")
    server.wait_for_listener()
    begun = time.monotonic()
    assert call("tx", photo, "--radio", "audio", "--args", PLAYS, *SHORT, "--ptt", command, "--tail", 0.2) == 0
    # Lead, burst, silence and tail: the key is released when the sound was played.
    assert time.monotonic() - begun > 0.3 + 3 * 0.74 + 0.25 + 0.2
    assert keyed() == ["1", "0"]
    assert finish(receiver).count(": 224×160, SNR ") == 2
    original = to_tensor(read_image(photo / "a.png"))
    received = find_images(str(tmp_path / "out"))
    assert len(received) == 2 and all(psnr(to_tensor(read_image(path)), original) > 24 for path in received)


def test_an_interrupt_releases_the_key(server, photo, key_log, capsys):
    command, keyed = key_log

    def interrupt():
        wait_until(lambda: keyed() == ["1"])
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert call("tx", photo, "--radio", "audio", "--args", PLAYS, "--rate", "1/16", "--repeat", "--ptt", command) == 0
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, handler)
    assert keyed() == ["1", "0"]


def test_a_key_that_fails_is_one_line_and_nothing_is_sent(server, photo, capsys, monkeypatch):
    monkeypatch.setattr("gnuradio.diffjscc.ptt.ATTEMPTS", 1)
    options = ("--radio", "audio", "--args", PLAYS, *SHORT, "--ptt", "echo no such rig >&2; false")
    assert call("tx", photo, *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == "diffjscc-tx: ptt: 'echo no such rig >&2; false 1' failed (no such rig); nothing was sent"


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), 9)", "raise SystemExit", "1 / 0"])
def test_whatever_ends_the_program_releases_the_key(end, key_log):
    command, keyed = key_log
    program = f"import os; from gnuradio.diffjscc.ptt import Key; key = Key({command!r}, 60); assert key.press(); {end}"
    subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    wait_until(lambda: keyed() == ["1", "0"])


def test_the_key_is_held_as_long_as_samples_are_played(key_log):
    command, keyed = key_log
    with Key(command, 0.1) as key:
        begun = time.monotonic()
        for _ in range(3):
            assert key.press()
            key.add(0.2)
        assert keyed() == ["1"]
        key.wait()
        assert 0.6 < time.monotonic() - begun < 5
        assert keyed() == ["1", "0"]
        assert key.press() and keyed() == ["1", "0", "1"]
    assert keyed() == ["1", "0", "1", "0"] and not key.press()


def test_a_key_that_cannot_be_released_is_told(capsys, monkeypatch):
    monkeypatch.setattr("gnuradio.diffjscc.ptt.ATTEMPTS", 1)
    with Key("test {} = 1", 60) as key:
        assert key.press()
    assert capsys.readouterr().err == "ptt: 'test 0 = 1' failed: THE TRANSMITTER MAY STILL BE ON, switch it off by hand\n"
    assert "failed" in str(key.error)
    with pytest.raises(ValueError, match="the command is empty"):
        Key(" ", 1)


def test_hamlib_keys_a_rig(monkeypatch):
    """Its daemon with a rig that is none: the command of the manual."""
    monkeypatch.setattr("gnuradio.diffjscc.ptt.ATTEMPTS", 1)
    port = 45321
    daemon = ["rigctld", "-m", "1", "-P", "RIG", "-T", "127.0.0.1", "-t", str(port)]
    rig = subprocess.Popen(daemon, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rigctl = f"rigctl -m 2 -r 127.0.0.1:{port}"

    def state():
        return subprocess.run([*rigctl.split(), "t"], capture_output=True, text=True).stdout.strip()

    try:
        wait_until(lambda: state() == "0")
        with Key(f"{rigctl} T", 60) as key:
            assert key.press() and state() == "1"
        assert state() == "0"
    finally:
        rig.kill()
        rig.wait()
    # rigctl says so, and exits with 0.
    with Key(f"{rigctl} T", 60) as key:
        assert not key.press() and "failed" in str(key.error)


def write_wav(path, samples, rate, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


@pytest.mark.parametrize("rate", [8000, 44100])
def test_images_cross_a_wav_file_of_any_rate(rate, photo, tmp_path, capsys):
    path = tmp_path / "a.wav"
    assert call("tx", photo, "--radio", "wav", "--file", path, "--audio-rate", rate, *SHORT, "--vox", "--preset", "fm") == 0
    with wave.open(str(path)) as file:
        form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert form == (1, 2, rate) and np.abs(samples).max() < 0.9 * 32767
    assert call("rx", "--radio", "wav", "--file", path, "--out", tmp_path / "out", "--images", 1, "--preset", "fm") == 0
    assert quality(tmp_path / "out", photo)[0] > 24


def test_of_stereo_the_mean_is_read_and_a_length_that_is_too_much_does_not_matter(photo, tmp_path, capsys):
    path = tmp_path / "a.wav"
    assert call("tx", photo, "--radio", "wav", "--file", path, *SHORT) == 0
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    write_wav(path, np.stack((samples, np.zeros_like(samples)), 1), 48000, 2)
    capsys.readouterr()
    assert call("rx", "--radio", "wav", "--file", path, "--out", tmp_path / "stereo", "--images", 1) == 0
    assert capsys.readouterr().err == f"{path}: has 2 channels, their mean is read\n"
    # As programs leave it that write to a pipe.
    write_wav(path, samples, 48000)
    head = bytearray(path.read_bytes())
    head[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(head)
    assert call("rx", "--radio", "wav", "--file", path, "--out", tmp_path / "cut", "--images", 1) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file or directory"),
        (b"", "is no WAV file, or ends within its head"),
        (b"RIFF\0\0\0\0AVI LIST", "is no WAV file, or ends within its head"),
        (b"x" * 1000, "is no WAV file, or ends within its head"),
        ("empty", "holds no samples"),
        ("slow", "has 4000 samples/s: expected 6000 to 192000, convert it first"),
        ("odd", "cannot be read as a WAV file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(content, said, tmp_path, capsys):
    path = tmp_path / "a.wav"
    if content == "empty":
        write_wav(path, np.zeros(0, "<i2"), 48000)
    elif content == "slow":
        write_wav(path, np.zeros(100, "<i2"), 4000)
    elif content == "odd":
        write_wav(path, np.zeros(100, "<i2"), 48000)
        head = bytearray(path.read_bytes())
        head[20:22] = b"\xaa\xaa"
        path.write_bytes(head)
    elif content is not None:
        path.write_bytes(content)
    assert call("rx", "--radio", "wav", "--file", path, "--out", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"diffjscc-rx: {path}: ") and said in line


@pytest.mark.parametrize("app", ["tx", "rx"])
def test_a_sound_card_that_is_not_there_is_one_line(app, photo, capfd):
    images = [photo] if app == "tx" else []
    assert call(app, *images, "--radio", "audio", "--args", "hw:7,0") == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith(f"diffjscc-{app}: radio audio, device 'hw:7,0' at 48000 samples/s: ") and "`aplay -L`" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--radio", "wav", "--file", "a.wav", "--preset", "ofdm64"), "preset ofdm64: expected one of hf, fm, room"),
        (("--radio", "wav", "--file", "a.wav", "--sample-rate", "1M"), "has 2880, and a sound card its --audio-rate"),
        (("--radio", "wav", "--file", "a.wav", "--ptt", "true"), "--ptt needs --radio audio"),
        (("--radio", "wav", "--file", "absent/a.wav"), "expected the name of a file in a folder that exists"),
        (("--radio", "file", "--file", "a", "--vox"), "--vox also works with wav; this is file"),
        (("--radio", "wav", "--file", "a.wav", "--lead", "1"), "--lead and --tail need --ptt or --vox"),
        (("--radio", "wav"), "needs the name of a file"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, said, photo, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("tx", photo, *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_a_key_that_takes_too_long_is_released(key_log, monkeypatch, capsys):
    monkeypatch.setattr("gnuradio.diffjscc.ptt.DEADLINE", 0.3)
    command, keyed = key_log
    with Key(f"{command.split('>>')[0]} {{}} >> {command.split('>>')[1]}; test {{}} = 0 || sleep 5", 60) as key:
        assert not key.press() and "took more than 0.3 s; nothing was sent" in str(key.error)
        assert keyed() == ["1", "0"]
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_one_line(photo, capsys, tmp_path):
    """Writing fails from the first sample on, or after some."""
    assert call("tx", photo, "--radio", "wav", "--file", "/dev/full", *SHORT) == 2
    assert capsys.readouterr().err == "diffjscc-tx: /dev/full: cannot be written: no space left on device\n"
    path, limits = tmp_path / "a.wav", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        assert call("tx", photo, "--radio", "wav", "--file", path, *SHORT) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert capsys.readouterr().err == f"diffjscc-tx: {path}: file too large: the rest was not written\n"


def test_a_sound_card_that_is_unplugged_while_sending_is_one_line_and_the_key_is_released(photo, key_log, capsys):
    command, keyed = key_log
    with SoundServer() as server:

        def unplug():
            wait_until(lambda: keyed() == ["1"])
            server.kill()

        thread = threading.Thread(target=unplug)
        thread.start()
        assert call("tx", photo, "--radio", "audio", "--args", PLAYS, "--rate", "1/16", "--repeat", "--ptt", command) == 2
        thread.join()
    assert "radio audio, device 'pulse:air': takes no more sound; was it unplugged?" in capsys.readouterr().err
    assert keyed() == ["1", "0"]
