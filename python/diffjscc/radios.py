# SPDX-License-Identifier: GPL-3.0-or-later
"""Radios, and stand-ins without hardware: the source and sink blocks of diffjscc-rx and diffjscc-tx.

Drivers are imported on first use: a missing driver only affects the radio that needs it.
"""

import contextlib
import importlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

from gnuradio import blocks, gr

from diffjscc.serve.addresses import check_port

from . import audio_radios
from .pdus import LENGTH_TAG
from .recordings import DATATYPES, Part, read_recording, replay, written
from .sigmf_writer import recorder
from .watchdog import PATIENCE, hold, opening

#: Radios with an antenna, sound cards and their files, and stand-ins without either.
DEVICES, SOUND, STAND_INS = ("uhd", "soapy", "pluto"), ("audio", "wav"), ("zmq", "file", "sigmf")
KINDS = DEVICES + SOUND + STAND_INS

#: Sample rates by name, samples/s.
SAMPLE_RATES = {"narrow": 250e3, "medium": 1e6, "wide": 10e6}

#: Address at which a transmitter of kind `zmq` waits for its listener.
ADDRESS = "tcp://127.0.0.1:5500"

#: Messages that wait on either side of zmq: few, so that a slow listener slows the transmitter down and nothing piles up.
ZMQ_MESSAGES = 4

#: Samples in a Pluto's buffer: it sends and receives whole buffers only.
PLUTO_BUFFER = 32768

#: Silent samples after a replayed file and after each image: a receiver needs samples after a burst to decode it.
SILENCE = 4096

#: The same after each image that is sent as sound, where it takes time: a sound card at the other end always has samples.
SOUND_SILENCE = 720

#: Seconds that a transmitter waits before it exits: samples may still be in the radio's buffers, or on their way to a listener.
LINGER = 1.0

#: Largest relative error of a radio's sample rate that is accepted. A receiver follows 40 ppm, most of which oscillators need.
RATE_TOLERANCE = 5e-6

#: Highest peaks that a transmitter sends to a device, relative to its full scale: interpolation in the device raises them.
HEADROOM = 0.7


@dataclass(frozen=True)
class Radio:
    """Which radio, and how it is tuned.

    kind       one of KINDS
    args       which device, as its driver writes it: UHD's device address, SoapySDR's arguments, a Pluto's URI, ALSA's name of a
               sound card; "" for any
    address    for zmq
    file       for file, sigmf and wav
    audio_rate   of a sound card, or of a WAV file that is written, samples/s
    frequency  of the carrier, Hz
    sample_rate  samples/s
    bandwidth  of the analog filters, Hz; None for the sample rate
    gain       dB; None for the middle of the device's range, or for its own control where a Pluto receives
    antenna    the device's name of the connector; "" for its default
    patience   seconds without a sample after which the device is given up

    Raises ValueError where these do not fit together.
    """

    kind: str
    args: str = ""
    address: str = ADDRESS
    file: str = ""
    audio_rate: int = 48000
    frequency: float | None = None
    sample_rate: float = SAMPLE_RATES["medium"]
    bandwidth: float | None = None
    gain: float | None = None
    antenna: str = ""
    patience: float = PATIENCE

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"radio {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.kind in DEVICES and self.frequency is None:
            raise ValueError(f"radio {self.kind} needs a frequency, such as --frequency 2.45G")
        if self.kind in ("file", "sigmf", "wav") and not self.file:
            raise ValueError(f"radio {self.kind} needs the name of a file: --file")
        if self.kind == "zmq":
            check_port(self.address)
        for name in ("frequency", "sample_rate", "bandwidth"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name.replace('_', ' ')} {value:g}: must be above 0")
        if self.gain is not None and not math.isfinite(self.gain):
            raise ValueError(f"gain {self.gain:g}: must be a number of decibels")

    @property
    def live(self):
        """Whether samples come or go in real time, and cannot be held back."""
        return self.kind in (*DEVICES, "audio", "zmq")

    @property
    def peak_limited(self):
        """Whether samples have a full scale: that of a converter, of an amplifier, or of a WAV file."""
        return self.kind in DEVICES + SOUND

    @property
    def silence(self):
        """Silent samples that push an image's last burst through every buffer after it."""
        if self.kind in SOUND:
            return SOUND_SILENCE
        return PLUTO_BUFFER if self.kind == "pluto" else SILENCE

    def amplitude(self, clip_db):
        """RMS amplitude of bursts whose peaks are ``clip_db`` above the mean: below the full scale; 1 where there is none."""
        return HEADROOM * 10 ** (-clip_db / 20) if self.peak_limited else 1.0


def radio_source(radio):
    """A block with one output: the complex samples that ``radio`` receives. Raises ValueError where it cannot be opened.

    Ends the process, after one line, where the driver of a device does not return.
    """
    return _opened(_SOURCES, "diffjscc-rx", radio)


def radio_sink(radio):
    """A block with one input: complex samples to be sent, bursts tagged as burst_tx does. Raises ValueError as above."""
    return _opened(_SINKS, "diffjscc-tx", radio)


def _opened(makers, program, radio):
    if radio.kind not in DEVICES:
        return makers[radio.kind](radio)
    with opening(program, device_name(radio), radio.patience):
        return makers[radio.kind](radio)


def device_name(radio):
    """What messages call a device."""
    return f"radio {radio.kind}, device '{radio.args or 'any'}'"


# --- devices ---------------------------------------------------------------------------------------------------------------


def _driver(name):
    try:
        return importlib.import_module(f"gnuradio.{name}")
    except ImportError as error:
        raise ValueError(f"this GNU Radio comes without gr-{name}, which the radio needs ({error})") from None


@contextlib.contextmanager
def _opening(what, hint):
    """Turns any exception of a driver into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{what}: {reason}; {hint}") from None


def _opening_device(radio, finder):
    return _opening(device_name(radio), f"`{finder}` lists what is connected")


def _check_rate(actual, radio):
    if not abs(actual / radio.sample_rate - 1) < RATE_TOLERANCE:
        raise ValueError(
            f"the device makes {actual:.1f} samples/s instead of {radio.sample_rate:g}: choose a rate that divides its clock"
        )


def _tune_uhd(block, radio):
    block.set_samp_rate(radio.sample_rate)
    _check_rate(block.get_samp_rate(), radio)
    block.set_center_freq(radio.frequency)
    block.set_bandwidth(radio.bandwidth or radio.sample_rate)
    if radio.gain is None:
        block.set_normalized_gain(0.5)
    else:
        block.set_gain(radio.gain)
    if radio.antenna:
        block.set_antenna(radio.antenna)
    return block


def _uhd_source(radio):
    uhd = _driver("uhd")
    with _opening_device(radio, "uhd_find_devices"):
        return _tune_uhd(uhd.usrp_source(radio.args, uhd.stream_args(cpu_format="fc32", channels=[0])), radio)


def _uhd_sink(radio):
    uhd = _driver("uhd")
    with _opening_device(radio, "uhd_find_devices"):
        stream = uhd.stream_args(cpu_format="fc32", channels=[0])
        # With a length tag the device knows where a burst ends, and reports no underrun for silence.
        return _tune_uhd(uhd.usrp_sink(radio.args, stream, LENGTH_TAG), radio)


def _tune_soapy(block, radio):
    block.set_sample_rate(0, radio.sample_rate)
    _check_rate(block.get_sample_rate(0), radio)
    block.set_frequency(0, radio.frequency)
    block.set_bandwidth(0, radio.bandwidth or radio.sample_rate)
    gains = block.get_gain_range(0)
    block.set_gain(0, (gains.minimum() + gains.maximum()) / 2 if radio.gain is None else radio.gain)
    if radio.antenna:
        block.set_antenna(0, radio.antenna)
    # A device that is gone is an error thousands of times a second; the watchdog tells it once.
    block.set_log_level("off")
    return block


def _soapy_source(radio):
    soapy = _driver("soapy")
    with _opening_device(radio, "SoapySDRUtil --find"):
        return _tune_soapy(soapy.source(radio.args, "fc32", 1, "", "", [""], [""]), radio)


def _soapy_sink(radio):
    soapy = _driver("soapy")
    with _opening_device(radio, "SoapySDRUtil --find"):
        # Without a length tag: gr-soapy's sink, from 3.10.1 on, begins with an uninitialised count of a burst's samples, and then
        # throws samples away. So devices may report underruns between bursts.
        return _tune_soapy(soapy.sink(radio.args, "fc32", 1, "", "", [""], [""]), radio)


def _tune_pluto(block, radio):
    block.set_frequency(int(radio.frequency))
    block.set_samplerate(int(radio.sample_rate))
    # The digital filter that makes rates below 2.1 Msps possible, designed for the rate.
    block.set_filter_params("Auto", "", 0, 0)
    return block


def _pluto_source(radio):
    iio = _driver("iio")
    with _opening_device(radio, "iio_info -s"):
        uri = radio.args or iio.get_pluto_uri()
        block = hold(iio.fmcomms2_source_fc32(uri, [True, True], PLUTO_BUFFER))
        # Twice: up to GNU Radio 3.10.6 the first call writes the mode that was set before.
        for _ in range(2):
            block.set_gain_mode(0, "slow_attack" if radio.gain is None else "manual")
        if radio.gain is not None:
            block.set_gain(0, radio.gain)
        block.set_quadrature(True)
        block.set_rfdc(True)
        block.set_bbdc(True)
        _tune_pluto(block, radio)
        # The block has no setter for the analog filter. Another one shares its connection, and writes parameters when it is made.
        bandwidth = f"in_voltage_rf_bandwidth={int(radio.bandwidth or radio.sample_rate)}"
        iio.device_source(uri, "cf-ad9361-lpc", ["voltage0", "voltage1"], "ad9361-phy", [bandwidth], PLUTO_BUFFER, 0)
        return block


def _pluto_sink(radio):
    iio = _driver("iio")
    with _opening_device(radio, "iio_info -s"):
        block = hold(iio.fmcomms2_sink_fc32(radio.args or iio.get_pluto_uri(), [True, True], PLUTO_BUFFER, False))
        # Its gain is an attenuation, 0 to 89.75 dB.
        block.set_attenuation(0, 45.0 if radio.gain is None else -radio.gain)
        _tune_pluto(block, radio)
        block.set_bandwidth(int(radio.bandwidth or radio.sample_rate))
        return block


# --- stand-ins -------------------------------------------------------------------------------------------------------------


class chain(gr.hier_block2):
    """Blocks one behind another, as one block."""

    def __init__(self, *stages):
        inputs, outputs = stages[0].input_signature(), stages[-1].output_signature()
        gr.hier_block2.__init__(self, "chain", inputs, outputs)
        # A flowgraph does not keep blocks written in Python alive.
        self._stages = stages
        self.connect(*[self] * bool(inputs.max_streams()), *stages, *[self] * bool(outputs.max_streams()))


def _opening_zmq(radio):
    return _opening(f"radio zmq, address '{radio.address}'", f"give a free one, such as {ADDRESS}")


def _zmq_source(radio):
    zeromq = _driver("zeromq")
    with _opening_zmq(radio):
        return zeromq.pull_source(gr.sizeof_gr_complex, 1, radio.address, hwm=ZMQ_MESSAGES)


def _zmq_sink(radio):
    """PUSH, not PUB: it waits for its one listener, so that the beginning is not lost."""
    zeromq = _driver("zeromq")
    with _opening_zmq(radio):
        push = zeromq.push_sink(gr.sizeof_gr_complex, 1, radio.address, hwm=ZMQ_MESSAGES)
    return chain(blocks.throttle(gr.sizeof_gr_complex, radio.sample_rate), push)


def _replay(path, datatype, parts=()):
    """All samples of a file, or those of its ``parts``."""
    try:
        size = Path(path).stat().st_size
        if size < DATATYPES[datatype] or Path(path).is_dir():
            raise ValueError(f"{path}: holds no samples of type {datatype}")
        return replay(path, datatype, parts or [Part(0, size // DATATYPES[datatype])], SILENCE)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror.lower()}") from None


def _file_source(radio):
    return _replay(radio.file, "cf32_le")


def _file_sink(radio):
    return written(radio.file)


def _sigmf_source(radio):
    recording = read_recording(radio.file)
    return _replay(recording.data, recording.datatype, recording.parts)


def _sigmf_sink(radio):
    return recorder(radio.file, radio.sample_rate, radio.frequency, hold_back=True)


def _audio_source(radio):
    return audio_radios.audio_source(radio.args, radio.audio_rate)


def _audio_sink(radio):
    return audio_radios.audio_sink(radio.args, radio.audio_rate)


def _wav_source(radio):
    return audio_radios.wav_source(radio.file)


def _wav_sink(radio):
    return audio_radios.wav_sink(radio.file, radio.audio_rate)


_SOURCES = {
    "audio": _audio_source,
    "wav": _wav_source,
    "uhd": _uhd_source,
    "soapy": _soapy_source,
    "pluto": _pluto_source,
    "zmq": _zmq_source,
    "file": _file_source,
    "sigmf": _sigmf_source,
}
_SINKS = {
    "audio": _audio_sink,
    "wav": _wav_sink,
    "uhd": _uhd_sink,
    "soapy": _soapy_sink,
    "pluto": _pluto_sink,
    "zmq": _zmq_sink,
    "file": _file_sink,
    "sigmf": _sigmf_sink,
}


def replayed(radio):
    """``radio`` with the sample rate and frequency of the recording that it replays; unchanged for other kinds."""
    if radio.kind != "sigmf":
        return radio
    recording = read_recording(radio.file)
    return replace(radio, sample_rate=recording.sample_rate or radio.sample_rate, frequency=recording.frequency)
