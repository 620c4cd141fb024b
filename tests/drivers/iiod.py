#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Pluto without hardware: the server iiod, as far as libiio, libad9361 and gr-iio need it.

What is transmitted is received. As a program, `iiod.py PORT [FAULT …]` serves until it is ended.

Faults: "rate" refuses sample rates; "gone=N" ends the connections, and refuses new ones, after N bytes of samples; "silence=N"
leaves all further requests for samples unanswered after N bytes.
"""

import contextlib
import re
import socket
import socketserver
import sys
import threading
import time
from collections import deque

#: Of the description: libiio complains about one without.
GRAMMAR = """<!ELEMENT context (device)*><!ELEMENT device (channel | attribute | debug-attribute)*>
<!ELEMENT channel (scan-element?, attribute*)><!ELEMENT attribute EMPTY><!ELEMENT scan-element EMPTY>
<!ELEMENT debug-attribute EMPTY><!ATTLIST context name CDATA #REQUIRED description CDATA #IMPLIED>
<!ATTLIST device id CDATA #REQUIRED name CDATA #IMPLIED>
<!ATTLIST channel id CDATA #REQUIRED type (input|output) #REQUIRED name CDATA #IMPLIED>
<!ATTLIST scan-element index CDATA #REQUIRED format CDATA #REQUIRED>
<!ATTLIST attribute name CDATA #REQUIRED filename CDATA #IMPLIED>
<!ATTLIST debug-attribute name CDATA #REQUIRED>"""

#: {device: (name, [(channel, direction, name, scan element or None, {attribute: file})], attributes)}
PHY = "iio:device0"
DEVICES = {
    PHY: (
        "ad9361-phy",
        [
            (
                "voltage0",
                "input",
                "",
                None,
                {
                    "hardwaregain": "in_voltage0_hardwaregain",
                    "gain_control_mode": "in_voltage0_gain_control_mode",
                    "rf_port_select": "in_voltage0_rf_port_select",
                    "rf_bandwidth": "in_voltage_rf_bandwidth",
                    "sampling_frequency": "in_voltage_sampling_frequency",
                    "filter_fir_en": "in_voltage_filter_fir_en",
                    "quadrature_tracking_en": "in_voltage_quadrature_tracking_en",
                    "rf_dc_offset_tracking_en": "in_voltage_rf_dc_offset_tracking_en",
                    "bb_dc_offset_tracking_en": "in_voltage_bb_dc_offset_tracking_en",
                },
            ),
            (
                "voltage0",
                "output",
                "",
                None,
                {
                    "hardwaregain": "out_voltage0_hardwaregain",
                    "rf_port_select": "out_voltage0_rf_port_select",
                    "rf_bandwidth": "out_voltage_rf_bandwidth",
                    "sampling_frequency": "out_voltage_sampling_frequency",
                    "filter_fir_en": "out_voltage_filter_fir_en",
                },
            ),
            ("altvoltage0", "output", "RX_LO", None, {"frequency": "out_altvoltage0_RX_LO_frequency"}),
            ("altvoltage1", "output", "TX_LO", None, {"frequency": "out_altvoltage1_TX_LO_frequency"}),
            ("out", "input", "", None, {"voltage_filter_fir_en": "in_out_voltage_filter_fir_en"}),
        ],
        ["filter_fir_config", "tx_path_rates", "rx_path_rates"],
    ),
    "iio:device1": ("cf-ad9361-lpc", [(f"voltage{n}", "input", "", (n, "le:S12/16&gt;&gt;0"), {}) for n in (0, 1)], []),
    "iio:device2": (
        "cf-ad9361-dds-core-lpc",
        [(f"voltage{n}", "output", "", (n, "le:S16/16&gt;&gt;0"), {}) for n in (0, 1)],
        [],
    ),
}


def context():
    """The description of a Pluto, XML."""
    parts = [f'<?xml version="1.0" encoding="utf-8"?><!DOCTYPE context [{GRAMMAR}]>']
    parts.append('<context name="network" description="a Pluto without hardware">')
    for device, (name, channels, attributes) in DEVICES.items():
        parts.append(f'<device id="{device}" name="{name}">')
        for channel, direction, label, scan, files in channels:
            named = f' name="{label}"' if label else ""
            parts.append(f'<channel id="{channel}"{named} type="{direction}">')
            if scan:
                parts.append(f'<scan-element index="{scan[0]}" format="{scan[1]}" />')
            parts += [f'<attribute name="{attribute}" filename="{file}" />' for attribute, file in files.items()]
            parts.append("</channel>")
        parts += [f'<attribute name="{attribute}" />' for attribute in attributes]
        parts.append('<debug-attribute name="direct_reg_access" /></device>')
    return "".join([*parts, "</context>"])


class Pluto:
    """The device's state: attributes, and the samples on their way from the transmitter to the receiver."""

    def __init__(self, *faults):
        self.values = {
            "out voltage0 sampling_frequency": "30720000",
            "in voltage0 gain_control_mode": "manual",
            "tx_path_rates": "BBPLL:983040000 DAC:122880000 T2:122880000 T1:61440000 TF:30720000 TXSAMP:30720000",
        }
        #: Every attribute that was written, with its value.
        self.written = []
        self._faults = dict(fault.partition("=")[::2] for fault in faults)
        self._air, self._lock = deque(), threading.Lock()
        self._moved = 0

    def read(self, key):
        return self.values.get(key, "0")

    def write(self, key, value):
        """Returns the negative code of an error, or None."""
        rate = key.endswith("sampling_frequency")
        if rate and "rate" in self._faults:
            return -22
        self.written.append((key, value))
        self.values[key] = value
        if key == "out voltage0 sampling_frequency":
            self.values["in voltage0 sampling_frequency"] = value
        return None

    def after(self, fault):
        return fault in self._faults and self._moved >= int(self._faults[fault] or 0)

    def transmit(self, data):
        self._moved += len(data)
        time.sleep(len(data) / 4 / self._rate())
        with self._lock:
            self._air.append(data)

    def receive(self, size):
        self._moved += size
        with self._lock:
            if self._air:
                # The converter that receives has 12 bits, the one that transmits 16.
                data = self._air.popleft()
                shorts = memoryview(bytearray(data)).cast("h")
                return b"".join((value >> 4).to_bytes(2, "little", signed=True) for value in shorts)[:size].ljust(size, b"\0")
        time.sleep(size / 4 / self._rate())
        return bytes(size)

    def _rate(self):
        return float(self.values["out voltage0 sampling_frequency"])


class Session(socketserver.StreamRequestHandler):
    """One connection: requests of a line each, some with data behind."""

    def handle(self):
        pluto = self.server.pluto
        self.server.connections.append(self.connection)
        with contextlib.suppress(OSError):
            while line := self.rfile.readline():
                words = line.decode().split()
                if not words:
                    continue
                if pluto.after("gone"):
                    return self.server.vanish()
                if self._answer(pluto, words) is False:
                    return None
        return None

    def _say(self, data):
        self.wfile.write(data if isinstance(data, bytes) else f"{data}\n".encode())
        self.wfile.flush()

    def _answer(self, pluto, words):
        match words:
            case ["VERSION"]:
                self._say("0.24.v0.24  ")
            case ["PRINT"]:
                self._say(f"{len(context())}\n{context()}")
            case ["TIMEOUT" | "SET" | "OPEN" | "CLOSE", *_]:
                self._say("0")
            case ["GETTRIG", _]:
                self._say("0")
            case ["READ", device, *where]:
                value = pluto.read(self._key(device, where)) + "\0"
                self._say(f"{len(value)}\n{value}")
            case ["WRITE", device, *where, size]:
                data = self.rfile.read(int(size)).rstrip(b"\0").decode()
                code = pluto.write(self._key(device, where), data)
                self._say(code or size)
            case ["READBUF", _, size]:
                if pluto.after("silence"):
                    self.server.over.wait()
                data = pluto.receive(int(size))
                self._say(f"{size}\n00000003\n".encode() + data)
            case ["WRITEBUF", _, size]:
                if pluto.after("silence"):
                    self.server.over.wait()
                self._say("0")
                pluto.transmit(self.rfile.read(int(size)))
                self._say(size)
            case ["EXIT"]:
                return False
            case _:
                # ZPRINT, among others: the client asks in another way.
                self._say("-22")
        return True

    @staticmethod
    def _key(device, where):
        """Of an attribute: what libiio writes before its name."""
        kinds = {"INPUT": "in", "OUTPUT": "out", "DEBUG": "debug", "BUFFER": "buffer"}
        words = [kinds.get(word, word) for word in where]
        return " ".join(words if device == PHY else [device, *words])


class Server(socketserver.ThreadingTCPServer):
    """iiod on 127.0.0.1. ``port`` 0 takes a free one; `uri` is its address."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, *faults, port=0):
        super().__init__(("127.0.0.1", port), Session)
        self.pluto, self.connections, self.over = Pluto(*faults), [], threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def uri(self):
        return f"ip:127.0.0.1:{self.server_address[1]}"

    def vanish(self):
        """The device is unplugged."""
        self.socket.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.vanish()
        self.server_close()


if __name__ == "__main__":
    if len(sys.argv) < 2 or not re.fullmatch(r"\d+", sys.argv[1]):
        sys.exit("usage: iiod.py PORT [FAULT …]")
    with Server(*sys.argv[2:], port=int(sys.argv[1])) as server:
        print(server.uri, flush=True)
        threading.Event().wait()
