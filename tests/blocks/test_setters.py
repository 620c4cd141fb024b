# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that change while a flowgraph runs: a bad one is one line in the log, and the old one stays."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from gnuradio import diffjscc

ROOT = Path(__file__).parents[2]


class Unfriendly:
    """A value that raises whatever is asked of it."""

    def __float__(self):
        raise RuntimeError("not a number\nat all")

    __str__ = __repr__ = __eq__ = __float__
    __hash__ = None


#: No number, in many ways.
NONSENSE = ["", "much", "1/0", None, float("nan"), float("inf"), -np.inf, "nan", [], [1.0], {}, 1j, object(), b"\xff", Unfriendly()]


def of_transmitter(name):
    return lambda block: getattr(block._transmitter, name)


SETTERS = [
    (diffjscc.jscc_source, "set_rate", of_transmitter("rate"), "1/64", Fraction(1, 64), ["1/100", "1/3", "1/256", -1, 0, 2.5]),
    (diffjscc.jscc_source, "set_snr_db", of_transmitter("snr_db"), "7", 7.0, []),
    (diffjscc.jscc_source, "set_effort", of_transmitter("effort"), "40", 40, [-1, 2.5, True, "4.5", 10_001]),
    (diffjscc.jscc_encoder, "set_rate", of_transmitter("rate"), 1 / 32, Fraction(1, 32), ["1/100", "1/3", "1/256", -1, 0, 2.5]),
    (diffjscc.jscc_encoder, "set_snr_db", of_transmitter("snr_db"), 7, 7.0, []),
    (diffjscc.jscc_encoder, "set_effort", of_transmitter("effort"), 40.0, 40, [-1, 2.5, True, 10_001]),
    (diffjscc.jscc_tx, "set_rate", lambda block: block._source._transmitter.rate, "1/64", Fraction(1, 64), ["1/100", -1]),
    (diffjscc.jscc_tx, "set_snr_db", lambda block: block._source._transmitter.snr_db, -3.5, -3.5, []),
    (diffjscc.jscc_tx, "set_effort", lambda block: block._source._transmitter.effort, 7, 7, [-1, 2.5]),
    (diffjscc.jscc_tx, "set_amplitude", lambda block: block._scale.k(), "0.25", 0.25, [0, -1.0, "-1"]),
    (diffjscc.separate_source, "set_rate", lambda block: block._source._transmitter.rate, "1/64", Fraction(1, 64), ["1/100", 2.5]),
    (diffjscc.separate_sink, "set_snr_db", lambda block: block._sink._receiver.snr_db, 4, 4.0, []),
    (diffjscc.jscc_sink, "set_snr_db", lambda block: block._receiver.snr_db, 4, 4.0, []),
    (diffjscc.jscc_decoder, "set_snr_db", lambda block: block._receiver.snr_db, "4", 4.0, []),
]


@pytest.mark.parametrize("make, setter, value_of, good, kept, bad", SETTERS, ids=[f"{s[0].__name__}.{s[1]}" for s in SETTERS])
def test_a_bad_value_is_one_line_and_the_old_one_stays(make, setter, value_of, good, kept, bad, capfd):
    block = make()
    receives = make in (diffjscc.jscc_sink, diffjscc.jscc_decoder, diffjscc.separate_sink)
    getattr(block, setter)(good)
    assert value_of(block) == kept and not capfd.readouterr().out
    for value in [*NONSENSE, *bad]:
        if receives and value is None:
            continue
        getattr(block, setter)(value)
        assert value_of(block) == kept
        lines = capfd.readouterr().out.splitlines()
        assert len(lines) == 1 and f"{setter}: " in lines[0] and lines[0].endswith("the old value stays"), lines
    if receives:
        # None is a value here: estimate it.
        getattr(block, setter)(None)
        assert value_of(block) is None and not capfd.readouterr().out


def test_setters_of_every_block_are_tested():
    blocks = [getattr(diffjscc, name) for name in diffjscc.__all__]
    found = {(block, name) for block in blocks for name in vars(block) if name.startswith("set_")}
    assert found == {(make, setter) for make, setter, *_ in SETTERS}


def test_a_bad_value_typed_into_a_running_flowgraph_does_not_end_it(tmp_path):
    """QT GUI Entry → variable's callback → set_rate, in what GNU Radio's compiler makes of it."""
    flowgraph = yaml.safe_load((ROOT / "examples/symbol_loopback.grc").read_text())
    flowgraph["options"]["parameters"] |= {"id": "entry", "generate_options": "qt_gui"}
    placed = {
        "bus_sink": False,
        "bus_source": False,
        "bus_structure": None,
        "coordinate": [8, 8],
        "rotation": 0,
        "state": "enabled",
    }
    entry = {"type": "string", "value": "1/128", "label": "Rate", "entry_signal": "returnPressed", "gui_hint": "", "comment": ""}
    flowgraph["blocks"] = [block for block in flowgraph["blocks"] if block["name"] != "rate"]
    flowgraph["blocks"].append({"name": "rate", "id": "variable_qtgui_entry", "parameters": entry, "states": placed})
    for block in flowgraph["blocks"]:
        if block["id"] == "diffjscc_jscc_source":
            block["parameters"] |= {"rate": "rate", "repeat": "True", "source": repr(str(ROOT / "examples/coffee.jpg"))}
        if block["id"] == "diffjscc_jscc_sink":
            block["parameters"]["folder"] = "''"
    (tmp_path / "entry.grc").write_text(yaml.safe_dump(flowgraph))
    environment = os.environ | {"GRC_BLOCKS_PATH": str(ROOT / "grc"), "HOME": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"}
    subprocess.run(["grcc", "-o", tmp_path, tmp_path / "entry.grc"], check=True, capture_output=True, env=environment, timeout=60)
    (tmp_path / "type.py").write_text("""
import signal, sys
from PyQt5 import Qt
import entry

class Typed(entry.entry):
    def start(self):
        super().start()
        # Once images flow: what someone types, then the window is closed as by Ctrl-C.
        self.look = Qt.QTimer()
        self.look.timeout.connect(self.type)
        self.look.start(50)
        self.texts = ["1/100", "", "fast", "1/64"]

    def type(self):
        sent = self.diffjscc_jscc_source_0.counters()["sent"]
        if sent and self.texts:
            self._rate_line_edit.setText(self.texts.pop(0))
            self._rate_line_edit.returnPressed.emit()
        elif sent:
            print("rate", self.diffjscc_jscc_source_0._transmitter.rate, flush=True)
            signal.raise_signal(signal.SIGTERM)

entry.main(top_block_cls=Typed)
""")
    done = subprocess.run([sys.executable, tmp_path / "type.py"], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "rate 1/64" in done.stdout and "Traceback" not in done.stderr
    refused = [line for line in done.stdout.splitlines() if "the old value stays" in line]
    assert len(refused) == 3 and "rate 1/100" in refused[0]
