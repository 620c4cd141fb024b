# SPDX-License-Identifier: GPL-3.0-or-later
"""Complex symbols in, images out."""

import math
import threading
import time

import numpy as np
from gnuradio import gr

from diffjscc.errors import one_line

from .arguments import RECEIVES, checked
from .bursts import Dropped
from .counters import Counters
from .delivery import Delivery
from .diffjscc_python import input_ended
from .incoming import Incoming
from .logs import StatusLog
from .pdus import LENGTH_TAG, image_to_pdu, received_metadata
from .receiver import Receiver
from .refinement import check_refinement
from .setters import refuses_bad_values
from .worker import DRAIN_TIMEOUT, Worker
from .writer import ImageWriter

#: Seconds that `work` waits for the decoder before it gives the scheduler a turn; and with "drop", where symbols may come.
PATIENCE = {"wait": 0.1, "drop": 0.005}

#: Seconds that `work` leaves the processor to others while it has nothing to do but to wait for symbols.
PAUSE = 0.005

#: Seconds between two looks at the deadline of an image whose fragments come from a live radio.
LOOK = 0.1

#: Seconds more in which images that are decoded and refined may still be written.
WRITE_TIMEOUT = 0.4

#: Seconds after which stopping is worth a line in the log; and after which a flowgraph is that goes on without a stream, and
#: without anything being done.
QUIET_STOP, QUIET_END = 0.5, 5.0

#: Images that may wait to be written, as a multiple of the bursts that may wait for the decoder: writing a PNG file takes longer
#: than decoding.
WRITES_PER_BURST = 4


class jscc_sink(gr.sync_block):
    """Decodes bursts of JSCC symbols, publishes the images, writes them to files, and has them refined.

    Input: complex symbols, unit mean power, gain 1. A burst's first symbol carries the tag ``image_header`` (the fields
    of ImageHeader), or ``burst_header`` (a fragment of an image off the air), and a length tag; an optional tag
    ``snr_db`` tells its SNR. With ``csi`` a second input, float: the noise variance of each symbol, +inf for an erasure.
    Output, message port ``images``: PDU {image_id, width, height, codec, rate, tx_snr_db, snr_db, truncated,
    stage: "initial"; callsign, where bursts carry one} · u8vector RGB, as soon as an image is decoded; message port
    ``refined``: the same with stage "refined", when it is ready; message port ``status``: what is logged, see StatusLog.

    codec        codec that bursts must name, by name or folder; "" for whichever codec they name of those that are installed
                 when the flowgraph is built; or the codec itself, such as `load_codec` gives it
    snr_db       SNR at the receiver, dB; None: from the tag, else estimated from each burst's power
    folder       where PNG files are written, each whole or not at all (000001.png, 000001_refined.png); "" for none
    on_full      "wait": hold the stream back when a later step is behind (files, simulations); "drop": throw the oldest
                 waiting burst away and count it (live radios)
    queue_size   bursts that may wait for the decoder; four times as many images may wait to be written
    length_tag   name of the length tag
    device       where to decode: cpu, cuda, …
    refinement   LocalRefinement(…) or RemoteRefinement(…), one object for each sink; None: images stay as they are received
    csi          whether there is a second input
    deadline     seconds without a fragment after which an incomplete image is decoded from what has come; None to wait for
                 the next image, or the stream's end. With on_full "wait" only time counts in which no symbol comes

    Decoding, writing and refining have a thread each, and a failure in one is no failure of another: an image that cannot be
    written is published and refined all the same, one that cannot be refined stands as it was received. A burst that lost its
    tail is decoded from the rest; one that cannot be decoded is counted, logged and dropped.

    When the stream ends, the flowgraph goes on until what has been received is finished and the subscribers have taken it. When
    the flowgraph is stopped, it is finished too, but the other blocks have stopped already: PDUs that they do not take any more
    are counted as undelivered. Both last at most 60 s with "wait" and about 1 s with "drop"; what is left then is counted as
    dropped, unwritten or unrefined, with the reason "stopped".

    The input must have gain 1, no phase turn, and each symbol in its place. With jscc_source at the other end this is checked by
    the reference behind each burst; what is wrong is logged, counted as distorted, and not undone.

    Raises ValueError, one line, for an argument that cannot be: an unknown codec or device, a folder that cannot be written to, an
    object that is no refinement, a value of another type or out of range.
    """

    @checked(**RECEIVES)
    def __init__(
        self,
        codec="lite",
        snr_db=None,
        folder="",
        on_full="wait",
        queue_size=4,
        length_tag=LENGTH_TAG,
        device="cpu",
        refinement=None,
        csi=False,
        deadline=2.0,
    ):
        in_sig = [np.complex64, np.float32] if csi else [np.complex64]
        gr.sync_block.__init__(self, name="jscc_sink", in_sig=in_sig, out_sig=None)
        self._delivery = Delivery(self, "images", "refined")
        self._receiver = Receiver(codec, snr_db, device)
        names = ("received", "decoded", "truncated", "dropped", "published", "undelivered", "written", "unwritten")
        self._counters = Counters(*names, by_reason=("dropped",))
        self._log = StatusLog(self, self._warn)
        self._incoming = Incoming(length_tag, self._receiver, deadline, self._log)
        self._decoder = Worker(self._decode, self._decoded, self._failed, self._dropped, queue_size, on_full)
        self._writer = None
        if folder:
            self._writer = ImageWriter(folder, self._counters, self._warn_unwritten, WRITES_PER_BURST * queue_size, on_full)
        check_refinement(refinement)
        self._refinement = refinement
        if refinement is not None:
            refinement.attach(self._publish_refined, self._warn_unrefined, queue_size, on_full)
        self._holds_back, self._drain_timeout, self._patience = on_full == "wait", DRAIN_TIMEOUT[on_full], PATIENCE[on_full]
        self._clock, self._stopping = None, threading.Event()
        # Whether the block before this one has ended.
        self._over = False
        # When the last waiting began, for subscribers or with "drop" for anything; None before.
        self._ended = None
        # What is left to do behind a stream that has ended, and since when it is the same.
        self._left_at_end = "", 0.0
        # Absolute index of the first symbol that was not seen yet.
        self._next = 0
        # {counter: number} of what earlier stops gave up, for the log to tell only what is new.
        self._given_up = {}

    @refuses_bad_values
    def set_snr_db(self, snr_db):
        """Changes the SNR, dB, from the next decoded burst on; None estimates it. A bad value is logged and changes nothing."""
        self._receiver.set_snr_db(snr_db)

    def load(self):
        """Loads the codec now, not with the first burst."""
        self._receiver.load()

    def counters(self):
        """What happened to bursts and images so far.

        {"received": images, whole or not, "decoded", "truncated": of these, from a part of their symbols, "dropped": {reason:
        bursts that could not be decoded}, "published": PDUs on both ports, "written": files, "unwritten": images whose file
        could not be written, "stray": symbols outside any burst, "late": fragments of images that had been given up, "distorted":
        references behind bursts that did not arrive as jscc_source sent them, "undelivered": PDUs that a flowgraph which has ended
        left in the queues of subscribers}, and with a refinement "refined" and "unrefined".
        """
        refinement = self._refinement.counters() if self._refinement else {}
        incoming = {name: getattr(self._incoming, name) for name in ("stray", "late", "distorted")}
        return self._counters.snapshot() | incoming | refinement

    def reasons(self):
        """Why bursts were dropped and images stayed unwritten or unrefined: {"dropped": {reason: number}, …}."""
        return self._counters.reasons() | (self._refinement.reasons() if self._refinement else {})

    def start(self):
        for step in self._steps():
            step.start()
        self._stopping.clear()
        self._over = False
        self._ended = None
        # A flowgraph that starts anew counts symbols from 0; one that was only locked goes on.
        self._next = max(self._next, self.nitems_read(0)) if self.nitems_read(0) else 0
        if not self._holds_back:
            self._clock = threading.Thread(target=self._watch_deadline, daemon=True, name="jscc_sink-deadline")
            self._clock.start()
        return True

    def stop(self):
        # With "drop", what a stream's end has waited already counts.
        waited = 0.0 if self._holds_back or self._ended is None else time.monotonic() - self._ended
        end = time.monotonic() + self._drain_timeout - waited
        self._stopping.set()
        if self._clock:
            self._clock.join()
        self._incoming.flush()
        drain = threading.Timer(QUIET_STOP, self._tell_drain)
        drain.start()
        ended = self._incoming.ended
        while ended:
            burst = ended.popleft()
            if not self._decoder.submit(burst, max(0.0, end - time.monotonic())):
                self._dropped(burst, "stopped")
        for step in self._steps():
            step.stop(max(WRITE_TIMEOUT if step is self._writer else 0.0, end - time.monotonic()))
        # What the subscribers have not taken by now, they will not: their threads have ended.
        undelivered = self._delivery.left()
        if undelivered:
            self._counters.count("undelivered", undelivered, "stopped")
        drain.cancel()
        self._tell_left()
        return True

    def work(self, input_items, output_items):
        # A flowgraph ends, and its messages with it, when the last symbol is consumed. So the last one seen stays unconsumed
        # until every image has been published and the subscribers have taken it.
        first, symbols = self.nitems_read(0), input_items[0]
        seen = self._next - first
        fresh = symbols[seen:]
        if len(fresh) and self._deliver():
            tags = self.get_tags_in_window(0, seen, len(symbols))
            noise_var = input_items[1][seen:] if len(input_items) > 1 else None
            self._incoming.push(fresh, self._next, tags, noise_var)
            self._next = first + len(symbols)
            self._deliver()
        elif not len(fresh):
            if self._over:
                self._incoming.flush()
            if self._deliver():
                self._wait_idle()
            self._incoming.starve()
        # What this call has not seen may have come before the end did; the next call sees it.
        self._over = input_ended(self.gateway)
        seen = self._next - first
        return seen if self._may_end() else max(0, seen - 1)

    def _steps(self):
        """The workers behind `work`, in the order in which images pass them."""
        return [step for step in (self._decoder, self._refinement, self._writer) if step is not None]

    def _may_end(self):
        """Whether the stream may end with what has come: nothing is left to do, or it took too long.

        Subscribers that are slow get as long as an image that is decoded does; with "drop" all together gets that long.
        """
        busy = [step for step in (self._incoming, self._decoder, self._refinement) if step is not None and not step.idle]
        if not busy and not self._delivery.waiting() and not self._log.delivery.waiting():
            self._ended = None
            return True
        now = time.monotonic()
        self._tell_end(now)
        if self._holds_back and busy:
            return False
        self._ended = self._ended or (now if self._holds_back or self._over else None)
        return self._ended is not None and now - self._ended > self._drain_timeout

    def _deliver(self):
        """Hands what has ended to the decoder; False while it has no room for all of it."""
        ended = self._incoming.ended
        while ended:
            if not self._decoder.submit(ended[0], self._patience):
                return False
            ended.popleft()
        return True

    def _wait_idle(self):
        if self._decoder.wait_idle(self._patience) and (self._refinement is None or self._refinement.wait_idle(self._patience)):
            done = self._delivery.wait(self._patience) and self._log.delivery.wait(self._patience)
            if done and not self._incoming.idle:
                # Symbols are missing that may still come.
                time.sleep(PAUSE)

    def _watch_deadline(self):
        while not self._stopping.wait(LOOK):
            for image in self._incoming.expire():
                self._decoder.submit(image)

    # The steps, each in the thread of the worker that calls it.

    def _decode(self, burst):
        """A Burst, or the (ImageHeader, Reception) of an image in fragments → (pixels, metadata). Raises Dropped."""
        if isinstance(burst, tuple):
            header, reception = burst
            callsign = reception.callsign
            pixels, snr_db, truncated = self._receiver.decode_reception(reception, header)
        else:
            if burst.problem is not None:
                raise burst.problem
            header, callsign = burst.header, burst.callsign
            pixels, snr_db, truncated = self._receiver.decode(burst.values, header, burst.snr_db)
        return pixels, received_metadata(header, snr_db, truncated, callsign)

    def _decoded(self, burst, image):
        pixels, metadata = image
        self._counters.count("received")
        self._counters.count("decoded")
        self._counters.count("truncated", int(metadata["truncated"]))
        self._publish("images", pixels, metadata)
        self._write(f"{metadata['image_id']:06d}", pixels)
        if self._refinement:
            self._refinement.submit(pixels, metadata, self._drain_timeout)

    def _publish_refined(self, pixels, metadata):
        self._publish("refined", pixels, metadata | {"stage": "refined"})
        self._write(f"{metadata['image_id']:06d}_refined", pixels)

    def _publish(self, port, pixels, metadata):
        try:
            self._delivery.publish(port, image_to_pdu(pixels, metadata))
        except Exception as error:
            self._log.note("publish", f"image {metadata['image_id']} not published: {one_line(error)}")
        else:
            self._counters.count("published")

    def _write(self, name, pixels):
        if self._writer:
            self._writer.submit(name, pixels, self._drain_timeout)

    def _failed(self, burst, error):
        reason = error.reason if isinstance(error, Dropped) else "error"
        self._counters.count("received")
        self._counters.count("dropped", reason=reason)
        self._log.note("dropped", f"burst dropped: {one_line(error)}", kind=f"dropped: {reason}")

    def _dropped(self, burst, reason):
        self._counters.count("received")
        self._counters.count("dropped", reason=reason)
        if reason != "stopped":
            self._log.note("dropped", "burst dropped: the decoder is behind and its queue is full", kind=f"dropped: {reason}")

    # Log lines.

    def _warn(self, line):
        self.logger.warn(line)

    def _warn_unwritten(self, line):
        self._log.say("unwritten", line)

    def _warn_unrefined(self, line):
        self._log.say("unrefined", line)

    def _tell_end(self, now):
        """Says once why the flowgraph goes on although the stream has ended, all is decoded, and nothing gets done any more."""
        left = self._left()
        # Decoding may have to load the codec first, which on a busy machine takes as long.
        if not self._over or not self._decoder.idle or left != self._left_at_end[0]:
            self._left_at_end = left, now
        elif left and now - self._left_at_end[1] > QUIET_END:
            self._log.say("ending", f"the stream has ended; the flowgraph ends after {left}")
            # Until that changes.
            self._left_at_end = left, math.inf

    def _tell_drain(self):
        left = self._left()
        if left:
            self._log.say("stopping", f"stopping: {left}; waiting for at most {self._drain_timeout:g} s")

    def _left(self):
        names = ("bursts to decode", "images to refine", "images to write")
        steps = (self._decoder, self._refinement, self._writer)
        return ", ".join(f"{step.unfinished} {name}" for step, name in zip(steps, names) if step is not None and step.unfinished)

    def _tell_left(self):
        """Says what stop gave up."""
        names = {
            "dropped": "bursts undecoded",
            "unrefined": "images unrefined",
            "unwritten": "images unwritten",
            "undelivered": "images that no subscriber took",
        }
        given_up = {name: reasons.get("stopped", 0) for name, reasons in self.reasons().items()}
        fresh = {name: number - self._given_up.get(name, 0) for name, number in given_up.items()}
        self._given_up = given_up
        left = [f"{fresh[name]} {what}" for name, what in names.items() if fresh.get(name)]
        if left:
            self._log.say("stopped", f"stopped with {', '.join(left)}")
