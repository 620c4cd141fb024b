# SPDX-License-Identifier: GPL-3.0-or-later
"""Image PDUs to a refinement service and back."""

import pmt
from gnuradio import gr

from .pdus import image_from_pdu, image_to_pdu
from .refinement import ADDRESS, RemoteRefinement


class refine_client(gr.basic_block):
    """Has images refined by a service (`diffjscc serve`), for those who have their own receiver.

    Input, message port ``images``: {width, height, snr_db and image_id (both optional)} · u8vector RGB.
    Output, message port ``refined``: the same, refined, with stage "refined", in the order in which they are ready.

    address      of the service
    refiner      by the name that the service has it under
    queue_size   images that may be on their way; one more is not refined or, while the service is away, gives the oldest up
    deadline     seconds after which an image is given up
    server_key   file with the service's public key, and secret_key: file with this client's pair; "" for no encryption

    The service may be away, slow or starting anew: images whose deadline passes are counted, one line is logged an
    outage, and refinement resumes by itself. Raises ValueError for an address, a deadline or a key that cannot be.
    """

    def __init__(self, address=ADDRESS, refiner="mini", queue_size=32, deadline=60.0, server_key="", secret_key=""):
        gr.basic_block.__init__(self, name="refine_client", in_sig=None, out_sig=None)
        if queue_size < 1:
            raise ValueError(f"queue size {queue_size}: must be at least 1")
        self._refined = pmt.intern("refined")
        self._bad = 0
        self.message_port_register_in(pmt.intern("images"))
        self.message_port_register_out(self._refined)
        self.set_msg_handler(pmt.intern("images"), self._take)
        self._refinement = RemoteRefinement(
            address, refiner, self._publish, self._warn, queue_size, "drop", deadline, server_key, secret_key
        )

    def counters(self):
        """{"refined", "unrefined": images that were not, "bad": messages that were no image}."""
        return self._refinement.counters() | {"bad": self._bad}

    def start(self):
        self._refinement.start()
        return True

    def stop(self):
        self._refinement.stop(0.0)
        return True

    def _take(self, message):
        # An exception in a message handler would end the flowgraph.
        try:
            pixels, metadata = image_from_pdu(message)
            self._refinement.submit(pixels, metadata, 0.0)
        except Exception as error:
            self._bad += 1
            self.logger.warn(f"image not refined: {error}")

    def _publish(self, pixels, metadata):
        self.message_port_pub(self._refined, image_to_pdu(pixels, metadata | {"stage": "refined"}))

    def _warn(self, line):
        self.logger.warn(line)
