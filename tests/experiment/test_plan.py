# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans and schedules: what a person may write, and that both ends make the same of it."""

import numpy as np
import pytest

from diffjscc.experiment.bursts import Matcher
from diffjscc.experiment.plan import build_plan, find_sources, load_plan, make_cells, session_of
from diffjscc.experiment.schedule import Chirp, Schedule
from diffjscc.experiment.waveform import Waveform
from diffjscc.images import write_image


def plan_of(folder, **changes):
    values = {
        "systems": "deepjscc",
        "rates": "1/32",
        "snrs_db": [1, 10],
        "images": folder if isinstance(folder, list) else str(folder),
        "chirp": 1024,
        "chirp_every": 4,
    }
    return build_plan(values | changes)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"amplitude": 1}, "no key is called 'amplitude' (did you mean 'amplitudes'?)"),
        ({"amplitudes": [2]}, "amplitudes = [2.0]: must be above 0, at most 1"),
        ({"amplitudes": "loud"}, "amplitudes = ['loud']: expected a list of numbers"),
        ({"systems": "deepjsc"}, "no system is called 'deepjsc' (did you mean 'deepjscc'?)"),
        (
            {"systems": {"a": {"system": "deepjscc", "codek": "lite"}}},
            "systems.a: no key is called 'codek' (did you mean 'codec'?)",
        ),
        ({"systems": {"a": 3}}, "systems.a: 3: expected a name"),
        ({"systems": []}, "systems = {}: must be a list with at least one entry"),
        ({"systems": {"a": {"system": "deepjscc", "codec": "absent"}}}, "absent"),
        ({"systems": {"a": {"system": "separate", "code": "wifi-1/9"}}}, "code = 'wifi-1/9': must be one of"),
        ({"rates": "1/3"}, "rate 1/3 is not a whole number of symbols"),
        ({"rates": "5/256"}, "systems.deepjscc: no rate 5/256"),
        ({"rates": ["1/32", "1/32"]}, "rates = ['1/32', '1/32']: must be without repetition"),
        ({"snrs_db": [0.3]}, "snrs_db = [0.3]: must be half decibels"),
        ({"snrs_db": [40]}, "snrs_db = [40.0]: must be half decibels"),
        ({"preset": "ofdm265"}, "no 'ofdm265' (did you mean 'ofdm256'?)"),
        ({"repeats": 0}, "repeats = 0: must be at least 1"),
        ({"repeats": 40000}, "240000 transmissions: a plan may have 65536"),
        ({"burst_symbols": 9000}, "burst_symbols = 9000: must be from 1 to 8191"),
        ({"burst_symbols": 2}, "takes 560 bursts of 2 symbols, at most 64"),
        ({"callsign": "ä"}, "callsign 'ä': expected 3 to 13 characters"),
        ({"clip": "nan"}, "clip = 'nan': must be 'auto'"),
        ({"chirp": 10}, "chirp = 10: must be 0, or 1024"),
        ({"images": "absent/"}, "absent/: no such file"),
    ],
)
def test_what_cannot_be_planned_is_one_line(changes, said, images):
    with pytest.raises(ValueError) as caught:
        plan = plan_of(images, **changes)
        plan.built()
        Schedule(plan, find_sources(plan))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_plan_is_one_line(tmp_path):
    for name, text, said in [
        ("absent.yaml", None, "is no file: write one as examples/experiment.yaml is"),
        ("list.yaml", "[1, 2]", "expected keys and values"),
        ("broken.yaml", "a: [", "no YAML file"),
        ("key.yaml", "imagse: x", "key.yaml: no key is called 'imagse' (did you mean 'images'?)"),
    ]:
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ValueError) as caught:
            load_plan(tmp_path / name)
        assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("callsign", ["", "N0CALL"])
def test_the_same_plan_gives_the_same_samples_and_the_schedule_knows_their_places(images, callsign):
    plan = plan_of(images, snrs_db=[10], amplitudes=[0.7, 0.2], burst_symbols=500, callsign=callsign)
    schedule = Schedule(plan, find_sources(plan))
    made = [list(Waveform(schedule).pieces()) for _ in range(2)]
    samples = [np.concatenate([piece for piece, _ in pieces]) for pieces in made]
    assert np.array_equal(samples[0], samples[1])
    assert len(samples[0]) == schedule.length
    assert len(schedule.by_number) == 6 and len(schedule.chirps) == 2
    for entry in schedule.entries:
        if isinstance(entry, Chirp):
            assert np.abs(samples[0][entry.begin : entry.begin + entry.length]) == pytest.approx(0.7, rel=1e-3)
            assert not samples[0][entry.begin + entry.length : entry.begin + entry.total].any()
            continue
        for begin, length in entry.bursts:
            burst = samples[0][begin : begin + length]
            peak = entry.cell.point.amplitude
            assert 0.8 * peak < np.abs(burst).max() < 1.001 * peak and burst[0] and burst[-1]
            assert not samples[0][begin - 1] and not samples[0][begin + length : begin + length + 64].any()


def test_another_seed_is_another_order_of_the_same_transmissions(images):
    orders = []
    for seed in (0, 1):
        plan = plan_of(images, repeats=2, seed=seed)
        schedule = Schedule(plan, find_sources(plan))
        orders.append([entry.cell.number for entry in schedule.entries if not isinstance(entry, Chirp)])
        # Each image once before any comes again.
        assert {schedule.cells[number].repeat for number in orders[-1][:6]} == {0}
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(12))


def test_originals_elsewhere_are_the_same_plan_and_other_images_another(images, tmp_path):
    plan = plan_of(images)
    sent = find_sources(plan)
    for given in (str(images), f"{images}/*.png", [str(source.path) for source in sent]):
        elsewhere = plan_of("/nowhere/images" if given == str(images) else given)
        there = find_sources(elsewhere, images)
        assert [source.sha256 for source in there] == [source.sha256 for source in sent]
    sessions = set()
    for shade in range(12):
        write_image(tmp_path / "a.png", np.full((64, 64, 3), shade, np.uint8))
        sessions.add(session_of(plan, find_sources(plan, tmp_path)))
    assert len(sessions) > 4
    with pytest.raises(ValueError, match="no such folder of originals"):
        find_sources(plan, tmp_path / "absent")


def test_a_burst_of_another_plan_is_counted_and_not_taken(images):
    plan = plan_of(images)
    schedule = Schedule(plan, find_sources(plan))
    matcher = Matcher(schedule)
    from diffjscc.air.header import Fragment, pack_image
    from diffjscc.symbols import ImageHeader

    header = ImageHeader(3, 224, 160, "lite", "1/32", 10.0)
    cell = schedule.cells[3]
    assert cell.point.snr_db == 10.0
    assert matcher.find(pack_image(Fragment(header, 0, 1, schedule.session))) is not None
    others = [
        Fragment(header, 0, 1, (schedule.session + 1) % 32),
        Fragment(ImageHeader(3, 224, 160, "lite", "1/32", 1.0), 0, 1, schedule.session),
        Fragment(ImageHeader(3, 224, 160, "lite", "1/16", 10.0), 0, 1, schedule.session),
        Fragment(ImageHeader(3, 160, 224, "lite", "1/32", 10.0), 0, 1, schedule.session),
        Fragment(ImageHeader(99, 224, 160, "lite", "1/32", 10.0), 0, 1, schedule.session),
        Fragment(header, 1, 2, schedule.session),
        Fragment(ImageHeader(3, 224, 160, "other", "1/32", 10.0), 0, 1, schedule.session),
    ]
    assert all(matcher.find(pack_image(fragment)) is None for fragment in others)
    assert sum(matcher.foreign.values()) == len(others)
    assert matcher.foreign["not in the plan"] == 5 and matcher.foreign["another codec"] == 1


def test_cells_are_in_the_order_of_the_table(images):
    cells = make_cells(plan_of(images, repeats=2), 3)
    assert [(cell.point.snr_db, cell.image, cell.repeat) for cell in cells[:3]] == [(1, 0, 0), (1, 0, 1), (1, 1, 0)]
    assert [cell.number for cell in cells] == list(range(12))
