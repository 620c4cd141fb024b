# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc-tx --experiment` and `diffjscc-rx --experiment`: a plan's samples on their way to a radio, and back.

What a plan is, and what becomes of bursts, is in the package `diffjscc.experiment`.
"""

import collections
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.errors import extra, one_line

from .burst_rx import burst_rx
from .burst_stages import DETECTOR_DELAY
from .logs import StatusLog
from .pdus import LENGTH_TAG, tags_by_offset
from .radio_apps import radio_of, run
from .radios import LINGER, radio_sink, radio_source, replayed
from .recordings import SampleFile
from .sigmf_writer import recorder
from .status_page import Status
from .threads import start_thread

#: Samples that may wait ahead of the radio.
AHEAD = 1 << 20

#: Seconds that `work` waits for samples before it gives the scheduler a turn, and that `stop` waits for an image being encoded.
PATIENCE, STOP_TIMEOUT = 0.05, 2.0

#: Seconds between two looks at how far reception has come.
LOOK = 0.05

_BEGIN, _END = pmt.intern("tx_sob"), pmt.intern("tx_eob")


class schedule_source(gr.sync_block):
    """The samples of an experiment, once.

    Output: complex samples. A burst's or chirp's first sample carries ``packet_len`` (its length with the silence behind it) and
    ``tx_sob``, the last one ``tx_eob``, as burst_tx has them.

    waveform  diffjscc.experiment.waveform.Waveform
    flush     silent samples at the end, which push the last burst through a radio's buffers

    ``sent`` counts the transmissions that went out whole.
    """

    def __init__(self, waveform, flush):
        gr.sync_block.__init__(self, name="schedule_source", in_sig=None, out_sig=[np.complex64])
        self._waveform, self._flush = waveform, flush
        self._log = StatusLog(self, self.logger.error)
        self._ready, self._waiting = collections.deque(), 0
        self._changed = threading.Condition()
        self._stopping = self._ended = False
        self._thread = None
        self.sent, self._sending, self.error = 0, None, None

    def start(self):
        self._stopping = False
        if self._thread is None:
            self._thread = start_thread(self._make, self.stop, "schedule_source")
        return True

    def stop(self):
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT)
        return True

    def work(self, input_items, output_items):
        out = output_items[0]
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended or self._stopping, PATIENCE)
            if not self._ready:
                return -1 if self._ended or self._stopping else 0
            samples, entry, last, begins = self._ready.popleft()
            count = min(len(samples), len(out))
            if count < len(samples):
                self._ready.appendleft((samples[count:], entry, last, 0))
            self._waiting -= count
            self._changed.notify_all()
        out[:count] = samples[:count]
        offset = self.nitems_written(0)
        if begins:
            self.add_item_tag(0, offset, pmt.intern(LENGTH_TAG), pmt.from_long(begins))
            self.add_item_tag(0, offset, _BEGIN, pmt.PMT_T)
        if count == len(samples):
            self.add_item_tag(0, offset + count - 1, _END, pmt.PMT_T)
            self.sent += last
        return count

    def _make(self):
        try:
            pieces = self._waveform.pieces()
            following = next(pieces, None)
            while following is not None:
                samples, entry = following
                following = next(pieces, None)
                is_image = entry is not None and hasattr(entry, "cell")
                self._put(samples, entry, is_image and (following is None or following[1] is not entry))
                if self._stopping:
                    return
            if self._flush:
                self._put(np.zeros(self._flush, np.complex64), None, False)
        except Exception as error:
            self.error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, samples, entry, last):
        with self._changed:
            self._changed.wait_for(lambda: self._waiting < AHEAD or self._stopping)
            self._ready.append((samples, entry, int(last), len(samples)))
            self._waiting += len(samples)
            self._changed.notify_all()


class burst_log(gr.basic_block):
    """Hands the bursts of a burst_rx, whole, to a function.

    Inputs: burst_rx's three outputs.

    take      called with a diffjscc.experiment.bursts.ReceivedBurst
    fft_len   values of a channel
    has_room  called before symbols are taken; while it says False they wait (files), None for radios that do not wait
    """

    def __init__(self, take, fft_len, has_room=None):
        gr.basic_block.__init__(self, name="burst_log", in_sig=[np.complex64, np.float32, np.complex64], out_sig=None)
        self._take, self._fft_len, self._has_room = take, fft_len, has_room
        self._open, self._left = None, 0
        self._channels = collections.deque(maxlen=64)
        self._channel = np.zeros(0, np.complex64)

    def forecast(self, noutput_items, ninputs):
        # The channel comes a burst at a time, and symbols without one must not wait for it.
        return [1, 1, 0]

    def general_work(self, input_items, output_items):
        symbols, noise_var, channel = input_items
        if len(channel):
            self._channel = np.append(self._channel, channel)
            while len(self._channel) >= self._fft_len:
                self._channels.append(self._channel[: self._fft_len])
                self._channel = self._channel[self._fft_len :]
            self.consume(2, len(channel))
        count = min(len(symbols), len(noise_var))
        if self._has_room is not None and count and not self._has_room(PATIENCE):
            return 0
        self._push(symbols[:count], noise_var[:count], self.get_tags_in_window(0, 0, count), self.nitems_read(0))
        self.consume(0, count)
        self.consume(1, count)
        return 0

    def _push(self, symbols, noise_var, tags, offset):
        found = tags_by_offset(tags).items()
        starts = {place - offset: values for place, values in found if "burst_header" in values and LENGTH_TAG in values}
        place = 0
        while place < len(symbols):
            if place in starts:
                found = starts.pop(place)
                self._open, self._left = (found, [], []), pmt.to_long(found[LENGTH_TAG])
            end = min(min(starts, default=len(symbols)), place + (self._left if self._open else len(symbols)))
            if self._open:
                self._open[1].append(np.array(symbols[place:end]))
                self._open[2].append(np.array(noise_var[place:end]))
                self._left -= end - place
                if not self._left:
                    self._close()
            place = end

    def _close(self):
        from diffjscc.experiment.bursts import ReceivedBurst

        tags, values, noise_var = self._open
        self._open = None
        self._take(
            ReceivedBurst(
                bytes(pmt.u8vector_elements(tags["burst_header"])),
                pmt.to_long(tags["burst_start"]) - DETECTOR_DELAY,
                np.concatenate(values),
                np.concatenate(noise_var),
                *(pmt.to_double(tags[name]) for name in ("snr_db", "cfo", "clock_offset")),
                self._channels.popleft() if self._channels else None,
            )
        )


def add_experiment(parser, receives):
    """Adds the options of an experiment to diffjscc-tx, or to diffjscc-rx."""
    add = parser.add_argument_group("experiment over the air").add_argument
    does = "receive it, and write a table and a report" if receives else "send it, in the place of images"
    add("--experiment", metavar="PLAN.yaml", help=f"a plan, see docs/guides/experiments.md: {does}")
    add("--originals", metavar="DIR", help="folder of the plan's images (default: where the plan says)")
    if receives:
        add("--replay", metavar="NAME", help="receive the experiment again from its recording, such as OUT/received")


def is_experiment(arguments):
    """Whether a plan is given. Raises ValueError for options that need one where there is none."""
    for name in ("originals", "replay"):
        if getattr(arguments, name, None) is not None and arguments.experiment is None:
            raise ValueError(f"--{name} belongs to --experiment: give a plan, too")
    return arguments.experiment is not None


def _package():
    """The modules of diffjscc.experiment, or MissingExtra where what they need is not installed."""
    with extra("evaluate", "--experiment"):
        import pyarrow  # noqa: F401

        from diffjscc.experiment import collector, plan, results, schedule, waveform

    return plan, schedule, waveform, collector, results


def send_experiment(arguments):
    """Sends a plan. Returns 0, or 2 where a transmission could not be made."""
    plans, schedules, waveforms, _, _ = _package()
    if arguments.images is not None or arguments.camera is not None:
        raise ValueError("--experiment sends its plan's images: leave out others")
    if arguments.ptt is not None or arguments.vox or arguments.lead is not None or arguments.tail is not None:
        raise ValueError("--ptt, --vox, --lead and --tail do not go with --experiment: key the transceiver by hand, for all of it")
    plan = plans.load_plan(arguments.experiment)
    arguments.preset = plan.preset
    schedule = schedules.Schedule(plan, plans.find_sources(plan, arguments.originals))
    waveform = waveforms.Waveform(schedule, arguments.device, lambda line: print(f"diffjscc-tx: {line}", file=sys.stderr))
    radio = radio_of(arguments)
    source = schedule_source(waveform, radio.silence)
    print(
        f"{len(schedule.cells)} transmissions, session {schedule.session}, {schedule.seconds(radio.sample_rate):.1f} s"
        f" at {radio.sample_rate:g} samples/s",
        flush=True,
    )
    flowgraph = gr.top_block("diffjscc-tx")
    flowgraph.connect(source, radio_sink(radio))
    run(flowgraph)
    if radio.live:
        time.sleep(LINGER)
    if source.error is not None:
        raise ValueError(one_line(source.error)) from source.error
    print(f"sent {source.sent - waveform.unsent} of {len(schedule.cells)} transmissions, {waveform.unsent} not possible")
    return 2 if waveform.unsent else 0


def receive_experiment(arguments):
    """Receives a plan, and writes table and report. Returns 0, or 1 where nothing was received."""
    plans, schedules, _, collectors, results = _package()
    from diffjscc.air.preset import find_preset
    from diffjscc.evaluate.table import markdown_summary
    from diffjscc.hub import DEFAULT_CODEC

    for name in ("show", "images"):
        if getattr(arguments, name):
            raise ValueError(f"--{name} and --experiment do not go together")
    if arguments.keep is not None:
        raise ValueError("--keep and --experiment do not go together: an experiment records everything")
    if arguments.refine != "none":
        raise ValueError("--refine and --experiment do not go together: the table is of what the codec decodes")
    if arguments.replay is not None:
        if arguments.kind is not None:
            raise ValueError("--replay is a radio itself: leave out --radio")
        arguments.kind, arguments.file = "sigmf", arguments.replay
    plan = plans.load_plan(arguments.experiment)
    arguments.preset = plan.preset
    schedule = schedules.Schedule(plan, plans.find_sources(plan, arguments.originals))
    radio = replayed(radio_of(arguments))
    source = radio_source(radio)
    out = Path(arguments.out or Path(arguments.experiment).stem)
    codec = "" if arguments.codec == DEFAULT_CODEC else arguments.codec
    status = Status(arguments, radio)

    def say(line):
        status.clear()
        print(line, flush=True)

    collector = collectors.Collector(schedule, out, radio.sample_rate, arguments.device, codec, say, status.image)
    recording = None
    samples = arguments.file
    if radio.kind not in ("file", "sigmf"):
        samples = arguments.record or str(out / "received")
        what = f"experiment {arguments.experiment}, session {schedule.session}"
        recording = recorder(samples, radio.sample_rate, radio.frequency, description=what)
    count = len(schedule.cells)

    def take(burst):
        status.burst(burst.snr_db, burst.cfo, burst.values, burst.channel)
        described = collector.push(burst)
        if recording is not None and described is not None:
            recording.annotate(burst.start, described.pop("samples"), **described)

    receiver = burst_rx(plan.preset)
    log = burst_log(take, find_preset(plan.preset).fft_len, None if radio.live else collector.wait_for_room)
    flowgraph = gr.top_block("diffjscc-rx")
    flowgraph.connect(source, receiver)
    for port in range(3):
        flowgraph.connect((receiver, port), (log, port))
    if recording is not None:
        flowgraph.connect(source, recording)
    status.look_at(flowgraph, source)
    deadline = time.monotonic() + arguments.seconds

    def finished():
        foreign = collector.matcher.foreign.copy()
        status.update({"bursts": receiver.counters(), "images": len(collector.journal.rows), "not of the plan": foreign}, {})
        return len(collector.journal.rows) >= count or time.monotonic() >= deadline

    run(flowgraph, finished)
    collector.close()
    status.close()
    if recording is not None:
        recording.finish()
    found = results.write_results(collector, _reader(radio, samples))
    print(markdown_summary(found.summary, "received"))
    for line in found.missing:
        print(f"\n{line}")
    counters = receiver.counters()
    print(f"\nbursts: {', '.join(f'{name} {number}' for name, number in counters.items())}; report: {out / results.REPORT}")
    if recording is not None and (recording.failed or recording.lost):
        lost = f"{recording.lost} samples are not recorded: the disk is too slow"
        print(f"diffjscc-rx: {recording.failed or lost}", file=sys.stderr)
        return 1
    return 0 if any(row["sent"] for row in found.rows) else 1


def _reader(radio, samples):
    """What reads a receiver's samples, by their place in its stream."""
    from .radios import SILENCE

    if radio.kind == "file":
        data = np.memmap(samples, np.complex64, "r")
        return lambda start, count: np.array(data[start : start + count])
    try:
        return SampleFile(samples, SILENCE).read
    except ValueError as error:
        # The disk was full at once: there are rows, and no C/N₀.
        reason = str(error)
        print(f"diffjscc-rx: no C/N₀: {reason}", file=sys.stderr)
        return lambda start, count: np.full(count, np.nan, np.complex64)
