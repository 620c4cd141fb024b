# SPDX-License-Identifier: GPL-3.0-or-later
"""Image PDUs to a refinement service and back."""

import pmt
from gnuradio import gr

from diffjscc.errors import one_line
from diffjscc.hub import DEFAULT_REFINER

from .arguments import checked
from .counters import Counters
from .delivery import Delivery
from .logs import StatusLog
from .pdus import image_from_pdu, image_to_pdu
from .refinement import ADDRESS
from .remote_refinement import RemoteRefinement
from .worker import DRAIN_TIMEOUT


class refine_client(gr.basic_block):
    """Has images refined by a service (`diffjscc serve`), for flowgraphs with a receiver of their own.

    Input, message port ``images``: {width, height, snr_db and image_id (both optional)} · u8vector RGB.
    Output, message port ``refined``: the same, refined, with stage "refined", in the order in which they are ready. Message port
    ``status``: what is logged, see StatusLog.

    address      of the service
    refiner      by the name that the service has it under
    queue_size   images that may be on their way; a further one stays unrefined or, while the service is away, replaces the oldest
    deadline     seconds after which an image is given up
    server_key   file with the service's public key, and secret_key: file with this client's pair; "" for no encryption

    The service may be away, slow or restarting: images whose deadline passes are counted, one line is logged per outage,
    and refinement resumes by itself. Raises ValueError, one line, for an argument that cannot be.
    """

    @checked()
    def __init__(self, address=ADDRESS, refiner=DEFAULT_REFINER, queue_size=32, deadline=60.0, server_key="", secret_key=""):
        gr.basic_block.__init__(self, name="refine_client", in_sig=None, out_sig=None)
        self._counters, self._log = Counters("bad", "undelivered"), StatusLog(self, self._warn)
        self._delivery = Delivery(self, "refined")
        self.message_port_register_in(pmt.intern("images"))
        self.set_msg_handler(pmt.intern("images"), self._take)
        self._refinement = RemoteRefinement(address, refiner, deadline, server_key, secret_key, queue_size, "drop")
        self._refinement.attach(self._publish, self._warn_unrefined, queue_size, "drop")

    def counters(self):
        """{"refined", "unrefined": images that were not, "bad": messages that were no image, "undelivered": refined images that
        came when the flowgraph had ended, and that no subscriber took}."""
        return self._refinement.counters() | self._counters.snapshot()

    def reasons(self):
        """Why images stayed unrefined: {"unrefined": {reason: images}}."""
        return self._refinement.reasons()

    def start(self):
        self._refinement.start()
        return True

    def stop(self):
        stopped = self._refinement.reasons().get("unrefined", {}).get("stopped", 0)
        self._refinement.stop(DRAIN_TIMEOUT["drop"])
        left = self._refinement.reasons().get("unrefined", {}).get("stopped", 0) - stopped
        undelivered = self._delivery.left()
        self._counters.count("undelivered", undelivered)
        if left or undelivered:
            self._log.say("stopped", f"stopped with {left} images unrefined, and {undelivered} refined that no subscriber took")
        return True

    def _take(self, message):
        # An exception in a message handler would end the flowgraph.
        try:
            pixels, metadata = image_from_pdu(message)
        except Exception as error:
            self._counters.count("bad")
            self._log.note("bad", f"message is no image: {one_line(error)}")
            return
        self._refinement.submit(pixels, metadata, 0.0)

    def _publish(self, pixels, metadata):
        self._delivery.publish("refined", image_to_pdu(pixels, metadata | {"stage": "refined"}))

    def _warn(self, line):
        self.logger.warn(line)

    def _warn_unrefined(self, line):
        self._log.say("unrefined", line)
