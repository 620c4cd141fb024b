# SPDX-License-Identifier: GPL-3.0-or-later
"""Complex symbols in, images out."""

import collections
import threading
import time

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.air.gatherer import Gatherer
from diffjscc.images import unused_path, write_image
from diffjscc.snr import noise_variance

from .bursts import BurstAssembler
from .pdus import LENGTH_TAG, image_to_pdu, received_metadata
from .receiver import Counters, Dropped, Receiver
from .refinement import ADDRESS, WHERE, LocalRefinement, RemoteRefinement
from .worker import Worker

#: Seconds that `work` waits for the decoder before it gives the scheduler a turn.
PATIENCE = 0.1

#: Seconds that a stopping flowgraph waits for images that are still being decoded.
DRAIN_TIMEOUT = 60.0


class jscc_sink(gr.sync_block):
    """Decodes bursts of JSCC symbols, publishes the images and writes them to files.

    Input: complex symbols, unit mean power, gain 1. A burst's first symbol carries the tag ``image_header`` (the fields
    of ImageHeader), or ``burst_header`` (a fragment of an image off the air), and a length tag; an optional tag
    ``snr_db`` tells its SNR. With ``csi`` a second input, float: the noise variance of each symbol, +inf for an erasure.
    Output, message port ``images``: PDU {image_id, width, height, codec, rate, tx_snr_db, snr_db, truncated,
    stage: "initial"} · u8vector RGB, as soon as an image is decoded; message port ``refined``: the same with
    stage "refined", when it is ready.

    codec        codec that bursts must name, by name or folder; "" for whichever installed codec they name
    snr_db       SNR at the receiver, dB; None: from the tag, else estimated from each burst's power
    folder       where PNG files are written, each whole or not at all (000001.png, 000001_refined.png); "" for none
    on_full      "wait": hold the stream back when the decoder or the refiner is behind (files, simulations); "drop":
                 throw the oldest waiting burst, or image, away and count it (live radios)
    queue_size   bursts that may wait for the decoder, and images for the refiner; eight times as many may be on their way
                 to a service
    length_tag   name of the length tag
    device       where to decode and refine: cpu, cuda, …
    refine       "none"; "local": refine images in this process; "remote": have a refinement service do it
    refiner      refiner, by name or folder; of a service, by the name that it has there
    csi          whether there is a second input
    deadline     seconds without a fragment after which an incomplete image is decoded from what there is; None to wait
                 for the next one, or the stream's end. With on_full "wait" only seconds count in which no symbol came
    address      of the service
    server_key   file with the service's public key, and secret_key: file with this client's pair; "" for no encryption
    refine_deadline  seconds after which the service is given up for an image

    Decoding and refining run in a thread each. A burst that lost its tail is decoded from the rest; a burst that cannot be
    decoded is counted, logged and dropped; an image that cannot be refined stands as it is. A service that is away, slow
    or starting anew costs refined images and nothing else. Raises ValueError for an unknown policy, queue size, SNR,
    refiner, address or key.
    """

    def __init__(
        self,
        codec="lite",
        snr_db=None,
        folder="",
        on_full="wait",
        queue_size=4,
        length_tag=LENGTH_TAG,
        device="cpu",
        refine="none",
        refiner="mini",
        csi=False,
        deadline=2.0,
        address=ADDRESS,
        server_key="",
        secret_key="",
        refine_deadline=60.0,
    ):
        in_sig = [np.complex64, np.float32] if csi else [np.complex64]
        gr.sync_block.__init__(self, name="jscc_sink", in_sig=in_sig, out_sig=None)
        self._images, self._refined = pmt.intern("images"), pmt.intern("refined")
        self.message_port_register_out(self._images)
        self.message_port_register_out(self._refined)
        self._receiver = Receiver(codec, snr_db, device)
        self._counters = Counters()
        self._assembler = BurstAssembler(length_tag, self._receiver.find_codec)
        self._gatherer = Gatherer(deadline)
        self._gathering = threading.Lock()
        self._stopping = threading.Event()
        self._clock = None
        self._deadline, self._starved_since = deadline, None
        self._worker = Worker(self._decode, self._failed, self._thrown_away, queue_size, on_full)
        if refine not in WHERE:
            raise ValueError(f"refine = {refine!r} is not one of {', '.join(WHERE)}")
        self._refinement = None
        if refine == "local":
            self._refinement = LocalRefinement(refiner, device, self._publish_refined, self._warn, queue_size, on_full)
        elif refine == "remote":
            keys = (server_key, secret_key)
            self._refinement = RemoteRefinement(
                address, refiner, self._publish_refined, self._warn, 8 * queue_size, on_full, refine_deadline, *keys
            )
        self._folder = folder
        self._holds_back = on_full == "wait"
        self._ended = collections.deque()
        self._seen = 0

    def set_snr_db(self, snr_db):
        """Changes the SNR, dB, from the next decoded burst on; None estimates it."""
        self._receiver.set_snr_db(snr_db)

    def counters(self):
        """{"received", "decoded", "truncated", "stray": symbols outside any burst, "late": fragments of images that had
        been given up, "dropped": {reason: bursts}}, and with refinement "refined", "unrefined"."""
        refinement = self._refinement.counters() if self._refinement else {}
        return self._counters.snapshot() | {"stray": self._assembler.stray, "late": self._gatherer.late} | refinement

    def start(self):
        if self._refinement:
            self._refinement.start()
        self._worker.start()
        self._stopping.clear()
        self._starved_since = None
        if not self._holds_back:
            self._clock = threading.Thread(target=self._watch_deadline, daemon=True, name="jscc_sink-deadline")
            self._clock.start()
        return True

    def stop(self):
        self._stopping.set()
        if self._clock:
            self._clock.join()
        last = self._assembler.flush()
        if last is not None:
            self._gather([last])
        with self._gathering:
            self._ended.extend(self._gatherer.flush())
        while self._ended and self._worker.submit(self._ended[0], DRAIN_TIMEOUT):
            self._ended.popleft()
        if not self._worker.stop(DRAIN_TIMEOUT):
            self.logger.error(f"stopped with images still undecoded after {DRAIN_TIMEOUT:.0f} s")
        if self._refinement and not self._refinement.stop(DRAIN_TIMEOUT):
            self.logger.error(f"stopped with images still unrefined after {DRAIN_TIMEOUT:.0f} s")
        return True

    def work(self, input_items, output_items):
        # A flowgraph ends, and its messages with it, when the last symbol is consumed. So with "wait" the last one seen
        # stays unconsumed until the decoder has published everything; ``_seen`` symbols of this window are such.
        symbols = input_items[0]
        fresh = symbols[self._seen :]
        if len(fresh) and self._deliver():
            tags = self.get_tags_in_window(0, self._seen, len(symbols))
            noise_var = input_items[1][self._seen :] if len(input_items) > 1 else None
            self._gather(self._assembler.push(fresh, self.nitems_read(0) + self._seen, tags, noise_var))
            self._seen = len(symbols)
            self._deliver()
            self._starved_since = None
        elif not len(fresh):
            self._deliver() and self._wait_idle()
            self._give_up_when_starved()
        idle = not self._ended and self._worker.idle and (self._refinement is None or self._refinement.idle)
        idle = idle and not self._gatherer.waiting
        consumed = self._seen if idle or not self._holds_back else max(0, self._seen - 1)
        self._seen -= consumed
        return consumed

    def _gather(self, bursts):
        """Queues whole images: bursts as they are, and those that fragments make up."""
        for burst in bursts:
            if burst.fragment is None:
                self._ended.append(burst)
                continue
            snr_db = self._receiver.snr_db_of(burst.values, burst.snr_db)
            noise_var = burst.noise_var
            if noise_var is None:
                noise_var = np.full(len(burst.values), noise_variance(snr_db), np.float32)
            with self._gathering:
                self._ended.extend(self._gatherer.push(burst.fragment, burst.values, noise_var, snr_db, time.monotonic()))

    def _watch_deadline(self):
        while not self._stopping.wait(PATIENCE):
            with self._gathering:
                expired = self._gatherer.expire(time.monotonic())
            for image in expired:
                self._worker.submit(image)

    def _give_up_when_starved(self):
        """Where the stream is held back, its own time is what a deadline is measured in."""
        if not self._gatherer.waiting or self._deadline is None:
            return
        self._starved_since = self._starved_since or time.monotonic()
        if time.monotonic() - self._starved_since > self._deadline:
            self._ended.extend(self._gatherer.flush())

    def _deliver(self):
        """Hands ended bursts to the worker; False while it has no room for all of them."""
        while self._ended:
            if not self._worker.submit(self._ended[0], PATIENCE):
                return False
            self._ended.popleft()
        return True

    def _wait_idle(self):
        if self._worker.wait_idle(PATIENCE) and self._refinement:
            self._refinement.wait_idle(PATIENCE)

    def _decode(self, burst):
        self._counters.count("received")
        if isinstance(burst, tuple):
            header, reception = burst
            pixels, snr_db, truncated = self._receiver.decode_reception(reception, header)
        else:
            if burst.problem is not None:
                raise Dropped("header", burst.problem)
            header = burst.header
            pixels, snr_db, truncated = self._receiver.decode(burst.values, header, burst.snr_db)
        self._counters.count("decoded")
        self._counters.count("truncated", int(truncated))
        metadata = received_metadata(header, snr_db, truncated)
        self.message_port_pub(self._images, image_to_pdu(pixels, metadata))
        if self._folder:
            write_image(unused_path(self._folder, f"{header.image_id:06d}"), pixels)
        if self._refinement:
            self._refinement.submit(pixels, metadata, DRAIN_TIMEOUT)

    def _publish_refined(self, pixels, metadata):
        self.message_port_pub(self._refined, image_to_pdu(pixels, metadata | {"stage": "refined"}))
        if self._folder:
            write_image(unused_path(self._folder, f"{metadata['image_id']:06d}_refined"), pixels)

    def _warn(self, line):
        self.logger.warn(line)

    def _failed(self, burst, error):
        self._counters.drop(error.reason if isinstance(error, Dropped) else "error")
        self.logger.warn(f"burst dropped: {error}")

    def _thrown_away(self, burst):
        self._counters.count("received")
        self._counters.drop("queue full")
        self.logger.warn("burst dropped: the decoder is behind and its queue is full")
