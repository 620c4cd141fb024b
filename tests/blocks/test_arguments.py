# SPDX-License-Identifier: GPL-3.0-or-later
"""Every argument of every block and refinement, with values of wrong types and out of range: one line each when it is built."""

import inspect
from fractions import Fraction

import numpy as np
import pytest
from gnuradio import blocks as blocks_of_gnu_radio
from gnuradio import diffjscc, gr
from gnuradio.diffjscc.arguments import CHECKS, checked


class Unfriendly:
    """A value that raises whatever is asked of it."""

    def __float__(self):
        raise RuntimeError("not a number\nat all")

    __str__ = __repr__ = __int__ = __index__ = __len__ = __bool__ = __fspath__ = __float__
    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("not to be compared\nat all")


#: What no argument takes.
ODD = [object(), {}, [], [1], b"\xff", 1j, Unfriendly(), np.zeros(3)]

NUMBERS = [3, 1.5, True, float("nan")]
TEXTS = ["", "a", "\0", "two\nlines"]
NO_COUNT = [None, -1, 1.5, True, float("nan"), float("inf"), 2**70, *TEXTS, "3"]
NO_AMOUNT = [None, 0, -1.0, True, float("nan"), -float("inf"), *TEXTS]

#: {argument: values that every block with this argument refuses}
WRONG = {
    "source": [None, *NUMBERS, "\0", "absent.png", "absent/*.png"],
    "repeat": [None, 2, 1.5, "no", ""],
    "codec": [None, *NUMBERS, "\0", "absent", "mini", "/proc/absent"],
    "refiner": [None, *NUMBERS, "", "\0"],
    "rate": [None, 0, -1, 1.5, True, float("nan"), float("inf"), "", "fast", "1/0", "1/3", "-1/128", "1e999999999", 1 / 3, 2**70],
    "snr_db": [True, float("nan"), float("inf"), 101, -101.0, 2**70, 10**400, "", "loud", "nan"],
    "effort": [None, -1, 1.5, True, float("nan"), float("inf"), 10_001, 2**70, "", "much", "1.5"],
    "guard": NO_COUNT,
    "gap": NO_COUNT,
    "length_tag": [None, *NUMBERS, "", "\0"],
    "device": [None, *NUMBERS, "", "toaster", "cuda:99", "meta", "\0", "cpu;"],
    "preset": [None, *NUMBERS, "", "ofdm128"],
    "burst_symbols": [*NO_COUNT, 0, 8192],
    "clip_db": NO_AMOUNT,
    "callsign": [None, *NUMBERS, "A1", "N0CALL-PORTABLE", "N0 CALL", "N0CALLÄ", "N0CALL_1", "\0"],
    "amplitude": [*NO_AMOUNT, float("inf"), "-1", "nan"],
    "folder": [None, *NUMBERS, "\0", "/proc/absent", "/dev/null/folder", "FILE", "FILE/folder"],
    "suffix": [None, *NUMBERS, "", ".txt", "png"],
    "keep": NO_COUNT,
    "on_full": [*NUMBERS, "", "panic"],
    "queue_size": [0, -1, 1.5, True, float("nan"), 2**70, *TEXTS],
    "csi": [None, 2, 1.5, "no", ""],
    "status": [None, 2, 1.5, "no", ""],
    "existing": [None, 2, 1.5, "no", ""],
    "deadline": [0, -1.0, True, float("nan"), float("inf"), 1e9, *TEXTS],
    "refinement": [*NUMBERS, "local", diffjscc.LocalRefinement],
    "address": [None, *NUMBERS, "", "a", "\0", "tcp://gpu.local", "tcp://gpu.local:70000", "http://gpu.local"],
    "server_key": [None, *NUMBERS, "absent.key", "\0"],
    "secret_key": [None, *NUMBERS, "absent.key_secret", "\0"],
    "fft_len": [None, 128, 64.5, True, 2**70, *TEXTS],
    "cp_len": [None, 0, 65, 16.5, True, 2**70, *TEXTS],
    "false_alarm_rate": [*NO_AMOUNT, 0.5, float("inf")],
    "max_offset": [*NO_AMOUNT, 0.21, float("inf")],
    "title": [None, *NUMBERS],
    "length": [None, 0, 201, 1.5, True, *TEXTS],
    "compact": [None, 2, 1.5, "no"],
    "code": [None, *NUMBERS, "", "wifi-7/8"],
    "constellation": [None, *NUMBERS, "", "qam16"],
    "on_failure": [None, *NUMBERS, "", "cry"],
    "width": [*NO_COUNT, 0, 31],
    "height": [*NO_COUNT, 0, 31],
    "fps": [*NO_AMOUNT, 1e9],
    "audio_rate": [*NO_COUNT, 0, 5999, 192001],
    "peak": [*NO_AMOUNT, float("inf"), "-1", "nan"],
    "vox": [None, -0.1, 10.5, True, float("nan"), float("inf"), *TEXTS, "1"],
}

#: {argument: values that every block with this argument takes}
RIGHT = {
    "rate": ["1/128", 1 / 128, Fraction(1, 64), 0.0625],
    "snr_db": [0, -5.5, "7", np.float32(3)],
    "effort": [0, 40.0, "40", np.int64(3)],
    "guard": [0, 32.0, np.int32(7)],
    "gap": [0, 100.0],
    "clip_db": [6, 12.5, float("inf"), "auto"],
    "callsign": ["", "K1A", "n0call", "DL/N0CALL-9"],
    "amplitude": [1, 0.25, "0.25"],
    "queue_size": [1, 8.0],
    "deadline": [1, 0.5, 86_400],
    "length": [1, 200],
    "repeat": [True, False, 1, 0],
    "device": ["cpu"],
    "audio_rate": [8000, 44100.0, np.int64(48000), 47999],
    "peak": [1, 0.25, "0.25"],
    "vox": [0, 0.5, 10],
}


def blocks():
    return [getattr(diffjscc, name) for name in diffjscc.__all__]


def arguments_of(block):
    return list(inspect.signature(block.__init__).parameters)[1:]


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.__name__)
def test_a_wrong_argument_is_one_line_that_tells_what_is_expected(block, application, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("in the way")
    needed = {"folder": "received"} if block is diffjscc.image_file_sink else {}
    for name in arguments_of(block):
        for value in [*WRONG[name], *ODD]:
            shown = type(value).__name__ if isinstance(value, Unfriendly) else repr(value)
            with pytest.raises(ValueError) as caught:
                block(**(needed | {name: value}))
                pytest.fail(f"{name} = {shown} was taken")
            said = str(caught.value)
            assert "\n" not in said and 20 < len(said) < 400, f"{name} = {shown}: {said!r}"
            # It names the argument, or the value that is not there.
            assert name in said or str(value) in said or name.replace("_", " ") in said, f"{name} = {shown}: {said}"


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.__name__)
def test_the_values_that_a_flowgraph_gives_are_taken(block, application, tmp_path):
    if block.__name__ == "camera_source":
        # Only where there is a camera.
        with pytest.raises(ValueError, match="/dev/video99"):
            block("/dev/video99", width=np.int64(320), height=240.0, fps=15)
        return
    needed = {"folder": str(tmp_path)} if block is diffjscc.image_file_sink else {}
    for name in arguments_of(block):
        for value in RIGHT.get(name, []):
            block(**(needed | {name: value}))


def test_receivers_take_none_for_what_they_may_estimate_or_wait_for():
    diffjscc.jscc_sink(codec="", snr_db=None, deadline=None)
    diffjscc.jscc_decoder(codec="", snr_db=None)
    diffjscc.jscc_rx(codec="", deadline=None)
    diffjscc.LocalRefinement(queue_size=None, on_full=None)
    for block in (diffjscc.jscc_source, diffjscc.jscc_encoder, diffjscc.jscc_tx):
        for wrong in ({"snr_db": None}, {"codec": ""}):
            with pytest.raises(ValueError):
                block(**wrong)


def test_a_folder_is_made_and_found_writable_when_the_block_is_built(tmp_path):
    diffjscc.jscc_sink(folder=tmp_path / "new" / "received")
    assert (tmp_path / "new" / "received").is_dir()


def test_an_argument_without_a_check_is_a_fault_of_the_class():
    with pytest.raises(KeyError, match="colour"):

        @checked()
        def __init__(self, colour="red"):
            pass

    assert CHECKS.keys() <= WRONG.keys()


def test_a_source_without_files_says_what_it_waits_for(capfd):
    """Run was pressed before an image was chosen: nothing happens, and the console says why."""
    flowgraph = gr.top_block()
    flowgraph.connect(diffjscc.jscc_tx(), blocks_of_gnu_radio.null_sink(gr.sizeof_gr_complex))
    flowgraph.start()
    flowgraph.stop()
    flowgraph.wait()
    assert "no file or folder of images is named" in capfd.readouterr().out
