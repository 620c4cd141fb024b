# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of `diffjscc evaluate` that make no sense: one line, exit 2."""

import pytest

from diffjscc.cli import main


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "the following arguments are required: IMAGE"),
        ("absent/", "absent/: no such file"),
        ("{images} --rates 1/3", "argument --rates: rate 1/3 is not a whole number of symbols"),
        ("{images} --rates 1/256", "rate 1/256 is not one that codec 'lite' has"),
        ("{images} --snrs loud", "argument --snrs: snr_db = loud is not an SNR"),
        ("{images} --snrs 1 nan", "argument --snrs: snr_db = nan is not an SNR"),
        ("{images} --passes 0", "argument --passes: '0': expected a whole number from 1"),
        ("{images} --passes -3", "argument --passes: '-3': expected a whole number from 1"),
        ("{images} --passes 1.5", "argument --passes: '1.5': expected a whole number from 1"),
        ("{images} --channel fog", "argument --channel: invalid choice: 'fog'"),
        ("{images} --erasures -0.1", "argument --erasures: '-0.1': expected a number from 0 to 1"),
        ("{images} --erasures 2", "argument --erasures: '2': expected a number from 0 to 1"),
        ("{images} --seed -1", "argument --seed: '-1': expected a whole number from 0"),
        ("{images} --codec absent", "model 'absent' is neither a known name"),
        ("{images} --device gpu", "device 'gpu' is unknown to torch"),
        ("{images} --refiner absent", "model 'absent' is neither a known name"),
        ("{images} --refiner mini --snrs 1 4", "--refiner measures at one SNR: give --snrs 1 alone"),
        ("{images} --refiner mini --passes 2", "--refiner measures one pass over AWGN"),
        ("{images} --refiner mini --channel rayleigh", "--refiner measures one pass over AWGN"),
        ("{images} --refiner mini --steps 0", "argument --steps: '0': expected a whole number from 1"),
        ("{images} --refiner mini --strength 0", "argument --strength: '0': expected a number above 0"),
        ("{images} --steps 4", "--steps is an option of refining: give --refiner too"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line_and_exit_2(arguments, message, images, capsys):
    try:
        status = main(["evaluate", *arguments.format(images=images).split()])
    except SystemExit as exit:
        status = exit.code
    errors = capsys.readouterr().err.splitlines()
    assert status == 2 and len(errors) == 1
    assert message in errors[0]
