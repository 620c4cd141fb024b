# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of diffjscc-tx and diffjscc-rx, as their parsers know it, with values that cannot be: one line, exit code 2."""

import importlib.machinery
import importlib.util
import signal
from pathlib import Path

import pytest
from gnuradio.diffjscc.radio_apps import command

ROOT = Path(__file__).parents[2]

NO_NUMBER = ["", "much", "nan", "0x10", "--", "\x00"]
NO_AMOUNT = [*NO_NUMBER, "0", "-1", "inf"]

#: {option: values that both refuse}
WRONG = {
    "--radio": ["", "sdr", "--"],
    "--camera": ["", "absent.mp4", "FOLDER"],
    "--size": ["", "big", "320", "0x0", "-1x240", "99999x240", "nan"],
    "--fps": [*NO_AMOUNT, "1000"],
    "--address": ["", "here", "tcp://127.0.0.1", "tcp://127.0.0.1:99999"],
    "--file": ["", "absent/file", "FOLDER"],
    "--frequency": NO_AMOUNT,
    "--sample-rate": NO_AMOUNT,
    "--bandwidth": NO_AMOUNT,
    "--audio-rate": ["", "fast", "0", "5999", "192001", "8000.5", "--"],
    "--ptt": ["", " "],
    "--lead": [*NO_NUMBER, "-1", "11"],
    "--tail": [*NO_NUMBER, "-1", "11"],
    "--gain": [*NO_NUMBER, "inf"],
    "--preset": ["", "ofdm128", "--"],
    "--codec": ["", "absent", "mini", "\x01"],
    "--device": ["", "toaster", "cuda:99", "meta"],
    "--rate": ["", "fast", "1/0", "1/3", "1/256", "nan", "--"],
    "--snr": [*NO_NUMBER, "inf", "1000"],
    "--effort": ["", "much", "-1", "1.5", "10001", "--"],
    "--burst-symbols": ["", "many", "0", "8192", "1.5", "--"],
    "--clip": [*NO_NUMBER, "0", "-3"],
    "--callsign": ["A1", "N0CALL-PORTABLE", "N0 CALL", "N0CALL_1"],
    "--amplitude": NO_AMOUNT,
    "--out": ["/dev/null/folder", "/proc/absent"],
    "--refine": ["", "elsewhere"],
    "--refiner": ["", "absent", "lite"],
    "--service": ["", "here", "tcp://gpu.local", "tcp://gpu.local:99999"],
    "--server-key": ["absent.key"],
    "--secret-key": ["absent.key_secret"],
    "--refine-deadline": NO_AMOUNT,
    "--experiment": ["", "absent.yaml", "FOLDER", "\x00"],
    "--originals": ["", "absent"],
    "--replay": ["", "absent"],
    "--status": ["", "web", "-1", "70000", "1.5"],
    "--status-line": ["", "maybe"],
    "--keep": [*NO_AMOUNT, "100000"],
    "--record": ["absent/file"],
    "--max-offset": [*NO_NUMBER, "0", "-3", "1e9"],
    "--patience": NO_AMOUNT,
    "--skip": ["", "many", "-1", "1.5", "--"],
    "--seconds": [*NO_NUMBER, "0", "-1"],
    "--images": ["", "many", "0", "-1", "1.5", "--"],
}

#: Options of which only a device can tell what they mean.
DEVICE_S_OWN = {"--args", "--antenna"}

#: {option: arguments with which an app comes as far as looking at it}
WITH = {
    "--address": "--radio zmq",
    "--frequency": "--radio uhd",
    "--ptt": "--radio audio",
    "--refiner": "--radio zmq --refine local",
    "--service": "--radio zmq --refine remote",
    "--refine-deadline": "--radio zmq --refine remote",
    "--server-key": "--radio zmq --refine remote",
    "--secret-key": "--radio zmq --refine remote",
}


def load(app):
    loader = importlib.machinery.SourceFileLoader(f"diffjscc_{app}", str(ROOT / "apps" / f"diffjscc-{app}"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def options_of(app):
    """Options that take a value."""
    return [action.option_strings[-1] for action in load(app).make_parser()._actions if action.option_strings and action.nargs != 0]


@pytest.mark.parametrize("app", ["tx", "rx"])
def test_a_wrong_value_of_any_option_is_one_line(app, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    module = load(app)
    run = module.send if app == "tx" else module.receive

    def give_up(number, frame):
        raise AssertionError(f"{arguments}: the app runs")

    # A flowgraph that is built is not to run.
    monkeypatch.setattr(module, "run", lambda *_: give_up(0, None))
    signal.signal(signal.SIGALRM, give_up)
    # Where a value was taken, the app ends because there is no such file, or nobody listens.
    others = [str(images), "--radio", "file", "--file", "absent/x"] if app == "tx" else ["--radio", "file", "--file", "absent"]
    for option in options_of(app):
        if option in DEVICE_S_OWN:
            continue
        for value in WRONG[option]:
            arguments = [*others, *WITH.get(option, "").split(), f"{option}={value}"]
            signal.alarm(20)
            try:
                code = command(f"diffjscc-{app}", run, module.make_parser().parse_args(arguments))
            except SystemExit as ended:
                code = ended.code
            finally:
                signal.alarm(0)
            said = capsys.readouterr()
            assert code == 2, f"{arguments}: {code}"
            assert said.err.count("\n") == 1 and said.err.startswith(f"diffjscc-{app}: ") and not said.out, f"{arguments}: {said}"
            assert "absent/x" not in said.err or option == "--file", f"{arguments}: {said.err}"
