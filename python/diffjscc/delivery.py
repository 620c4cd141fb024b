# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that reach their subscribers, or are known not to have."""

import time

import pmt

from .diffjscc_python import messages_waiting

#: Seconds between two looks at the subscribers' queues.
LOOK = 0.005

#: Seconds that a block which stops gives its subscribers to take the last messages.
LAST_LOOK = 0.1


class Delivery:
    """Publishes a block's messages and tells which of them its subscribers have not taken.

    A flowgraph that is stopped ends the threads of all blocks at once: messages that a block publishes afterwards, while it
    finishes what it has, stay in its subscribers' queues. They are handled if the flowgraph is started again.

    block   the GNU Radio block
    ports   names of its message ports, which this registers
    """

    def __init__(self, block, *ports):
        self._block, self._ports = block, {name: pmt.intern(name) for name in ports}
        self._published = 0
        for port in self._ports.values():
            block.message_port_register_out(port)

    def publish(self, port, message):
        """Sends a message to the subscribers of a port."""
        self._block.message_port_pub(self._ports[port], message)
        self._published += 1

    def waiting(self):
        """Published messages that lie in the queues of subscribers with a handler."""
        subscribers = set()
        for port in self._ports.values():
            targets = self._block.message_subscribers(port)
            while pmt.is_pair(targets):
                target = pmt.car(targets)
                subscribers.add((pmt.symbol_to_string(pmt.car(target)), pmt.symbol_to_string(pmt.cdr(target))))
                targets = pmt.cdr(targets)
        return min(self._published, sum(_waiting(*subscriber) for subscriber in subscribers))

    def left(self):
        """What the subscribers have not taken, for a block that stops: their threads end at the same time."""
        return 0 if self.wait(LAST_LOOK) else self.waiting()

    def wait(self, timeout):
        """True once subscribers have taken everything; False if ``timeout`` seconds pass first."""
        end = time.monotonic() + timeout
        while self.waiting():
            if time.monotonic() >= end:
                return False
            time.sleep(LOOK)
        return True


def _waiting(block, port):
    try:
        return messages_waiting(block, port)
    except RuntimeError:
        # The subscriber is gone.
        return 0
