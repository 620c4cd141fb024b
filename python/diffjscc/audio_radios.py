# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound cards and WAV files as radios: the source and sink blocks of `--radio audio` and `--radio wav`."""

import contextlib
import os
import struct
import sys
import tempfile
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gnuradio import blocks, gr

from diffjscc.errors import one_line

from .audio_demodulator import audio_demodulator
from .audio_modulator import audio_modulator
from .sound import HIGHEST_RATE, LOWEST_RATE

#: The sound card's name where none is given: what the desktop's settings choose. GNU Radio's own default leaves them aside.
DEFAULT_DEVICE = "default" if sys.platform == "linux" else ""

#: Periods of ALSA's, of 10 ms as a rule, that wait to be read from a sound card.
_PERIODS = 100

#: Seconds of silence after a file: receivers need samples after a burst.
_SILENCE = 2.0


def audio_source(device, audio_rate):
    """A block with one output: complex baseband from a sound card. Raises ValueError, one line, where it cannot be opened."""
    return _chain(_opened("source", device, audio_rate), audio_demodulator(audio_rate))


def audio_sink(device, audio_rate):
    """A block with one input: complex baseband, of magnitude 1 at most, to a sound card. Raises ValueError as above."""
    return _chain(audio_modulator(audio_rate, peak=1.0), _opened("sink", device, audio_rate))


def wav_source(path):
    """A block with one output: complex baseband from a WAV file of any rate. Raises ValueError, one line, where it is none.

    Where the file has several channels their mean is read, after a line that says so.
    """
    form = wav_form(path)
    with _quiet() as said:
        try:
            file = blocks.wavfile_source(str(path), False)
        except Exception as error:
            raise ValueError(f"{path}: cannot be read as a WAV file: {_reason(error, said)}") from None
    if form.channels > 1:
        print(f"{path}: has {form.channels} channels, their mean is read", file=sys.stderr, flush=True)
    return _file_chain(file, form)


def wav_sink(path, audio_rate):
    """A block with one input: complex baseband, of magnitude 1 at most, to a WAV file, 16 bits. Raises ValueError, one line."""
    path = Path(path)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: cannot be written: expected the name of a file in a folder that exists")
    return _chain(audio_modulator(audio_rate, peak=1.0), wav_writer(path, audio_rate))


class WavForm(NamedTuple):
    """What the head of a WAV file says: channels, samples/s and samples of each channel."""

    channels: int
    rate: int
    length: int


def wav_form(path):
    """The WavForm of a file. Raises ValueError, one line, where it is no WAV file, has no samples, or a rate that cannot be."""
    try:
        with open(path, "rb") as file:
            channels, rate, size, length = _read_head(file)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror.lower()}") from None
    except struct.error:
        raise ValueError(f"{path}: is no WAV file, or ends within its head") from None
    if not (channels and size and length >= size):
        raise ValueError(f"{path}: holds no samples, or its recording was interrupted: sox and ffmpeg repair such files")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"{path}: has {rate} samples/s: expected {LOWEST_RATE} to {HIGHEST_RATE}, convert it first")
    return WavForm(channels, rate, length // size)


def _read_head(file):
    """(channels, samples/s, bytes of a sample of all channels, bytes of samples). Raises struct.error where it is no WAV file."""
    kind, _, form = struct.unpack("<4sI4s", file.read(12))
    if (kind, form) != (b"RIFF", b"WAVE"):
        raise struct.error
    channels = rate = size = 0
    while True:
        name, length = struct.unpack("<4sI", file.read(8))
        begin = file.tell()
        if name == b"fmt ":
            _, channels, rate, _, size = struct.unpack("<HHIIH", file.read(14))
        elif name == b"data":
            # What writes to a pipe does not know the length, and says too much.
            return channels, rate, size, min(length, os.fstat(file.fileno()).st_size - begin)
        # Chunks have an even number of bytes.
        file.seek(begin + length + length % 2)


class _chain(gr.hier_block2):
    """Blocks one behind another, as one block."""

    def __init__(self, *stages):
        inputs, outputs = stages[0].input_signature(), stages[-1].output_signature()
        gr.hier_block2.__init__(self, "sound", inputs, outputs)
        # A flowgraph does not keep blocks written in Python alive.
        self._stages = stages
        #: Of what writes to a file: why it ended early.
        self.problem = lambda: getattr(stages[-1], "problem", None)
        self.connect(*[self] * bool(inputs.max_streams()), *stages, *[self] * bool(outputs.max_streams()))


class _file_chain(gr.hier_block2):
    """A WAV file's channels, their mean, silence, baseband."""

    def __init__(self, file, form):
        gr.hier_block2.__init__(self, "wav", gr.io_signature(0, 0, 0), gr.io_signature(1, 1, gr.sizeof_gr_complex))
        mean = blocks.multiply_const_ff(1 / form.channels)
        self._stages = silence_after(form.length, round(_SILENCE * form.rate)), audio_demodulator(form.rate)
        if form.channels == 1:
            self.connect(file, mean)
        else:
            added = blocks.add_ff()
            for channel in range(form.channels):
                self.connect((file, channel), (added, channel))
            self.connect(added, mean)
        self.connect(mean, *self._stages, self)


class wav_writer(gr.sync_block):
    """Writes float samples to a WAV file, 16 bits. A full disk ends the flowgraph: GNU Radio's own block tries again for ever.

    problem   why writing ended early, one line; None where it did not
    """

    def __init__(self, path, audio_rate):
        gr.sync_block.__init__(self, name="wav_writer", in_sig=[np.float32], out_sig=None)
        self._path, self.problem = path, None
        self._file = self._wave = None
        try:
            self._file = open(path, "wb")  # noqa: SIM115
            self._wave = wave.open(self._file, "wb")  # noqa: SIM115
            self._wave.setnchannels(1)
            self._wave.setsampwidth(2)
            self._wave.setframerate(audio_rate)
            self._wave.writeframes(b"")
            self._file.flush()
        except OSError as error:
            self.stop()
            raise ValueError(f"{path}: cannot be written: {one_line(error.strerror or error).lower()}") from None

    def work(self, input_items, output_items):
        samples = np.clip(np.round(input_items[0] * 32767), -32768, 32767).astype("<i2")
        try:
            # Writes the head anew: the file is whole whenever the program ends.
            self._wave.writeframes(samples.tobytes())
            self._file.flush()
        except OSError as error:
            return self._give_up(error)
        return len(samples)

    def stop(self):
        for file in (self._wave, self._file):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        return True

    def _give_up(self, error):
        self.problem = f"{self._path}: {one_line(error.strerror or error).lower()}: the rest was not written"
        return -1


class silence_after(gr.basic_block):
    """Passes ``length`` float samples on, then adds ``silence`` zeros."""

    def __init__(self, length, silence):
        gr.basic_block.__init__(self, name="silence_after", in_sig=[np.float32], out_sig=[np.float32])
        self._length, self._silence = length, silence

    def forecast(self, noutput_items, ninputs):
        return [int(self._length > 0)] * ninputs

    def general_work(self, input_items, output_items):
        samples, out = input_items[0], output_items[0]
        if self._length:
            count = min(len(samples), len(out), self._length)
            out[:count] = samples[:count]
            self.consume(0, count)
            self._length -= count
            return count
        count = min(len(out), self._silence)
        out[:count] = 0
        self._silence -= count
        return count or -1


def _opened(role, device, audio_rate):
    try:
        from gnuradio import audio
    except ImportError as error:
        raise ValueError(f"this GNU Radio comes without gr-audio, which --radio audio needs ({error})") from None
    name = device or DEFAULT_DEVICE
    with _quiet() as said:
        try:
            with _long_buffer(role):
                return getattr(audio, role)(audio_rate, name, True)
        except Exception as error:
            reason = _reason(error, said)
    hint = "`aplay -L` and `arecord -L` list what there is, --args chooses, such as --args plughw:1"
    raise ValueError(f"radio audio, device '{name}' at {audio_rate} samples/s: {reason}; {hint}")


@contextlib.contextmanager
def _long_buffer(role):
    """A second for what is recorded: GNU Radio's 0.3 s are lost samples when the computer is busy for longer.

    What is played keeps the short one, because the key is released when the buffer has been played.
    """
    preferences = gr.prefs()
    before = preferences.get_long("audio_alsa", "nperiods", 32)
    if role == "source":
        preferences.set_long("audio_alsa", "nperiods", max(before, _PERIODS))
    try:
        yield
    finally:
        preferences.set_long("audio_alsa", "nperiods", before)


@contextlib.contextmanager
def _quiet():
    """Keeps what libraries write to standard error, in the file that is yielded: they explain one error in many lines."""
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _reason(error, said):
    """Why a library failed: the last line that it wrote, else the exception's."""
    said.seek(0)
    lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return one_line((lines or [error])[-1].rpartition("error: ")[2] if lines else error, 160)
