# SPDX-License-Identifier: GPL-3.0-or-later
"""The air interface's receiver and what could stop or silence it: unreadable bursts, foreign tags, broken samples, restarts."""

import re

import numpy as np
import pmt
import pytest
from air.signals import gaussian
from blocks.flowgraphs import wait_until
from blocks.test_air_interface import TAIL, bursts, loss_db, noisy, receive
from gnuradio import blocks, diffjscc, filter, gr

CFO, METRIC = pmt.intern("cfo"), pmt.intern("metric")


def warnings(capfd):
    """Lines about preambles without a readable header."""
    return [line for line in capfd.readouterr().out.splitlines() if "no readable header" in line]


@pytest.mark.parametrize("sent, listening", [("ofdm64", "ofdm256"), ("ofdm256", "ofdm64")])
def test_bursts_of_another_preset_are_one_warning_that_names_the_own_one(sent, listening, capfd):
    samples, _ = bursts(20, sent)
    received, counters, _ = receive(noisy(samples, 15.0), listening)
    assert received == [] and counters["rejected"] == 20
    (line,) = warnings(capfd)
    assert re.search(r"behind (\d+) of \1 preambles: the transmitter has another preset", line)
    assert f"fft_len {listening.removeprefix('ofdm')}, cp_len 16" in line


@pytest.mark.parametrize("offset", [-0.05, -0.01, 0.003, 0.01, 0.05])
@pytest.mark.parametrize("preset", ["ofdm64", "ofdm256"])
def test_a_wrong_sample_rate_is_a_warning(preset, offset, capfd):
    samples, _ = bursts(10, preset)
    received, counters, _ = receive(noisy(samples, 15.0), preset, through=[filter.mmse_resampler_cc(0, 1 + offset)])
    assert received == [] and counters["rejected"] >= 9
    (line,) = warnings(capfd)
    assert "a sample rate more than 0.1 % off" in line


def unknown(capfd):
    """Lines about bursts without a preamble."""
    return [line for line in capfd.readouterr().out.splitlines() if "has no preamble" in line]


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9, 1.1, 1.25, 2.0])
@pytest.mark.parametrize("preset", ["ofdm64", "ofdm256"])
def test_a_sample_rate_so_wrong_that_nothing_is_detected_is_a_warning(preset, ratio, capfd):
    samples, _ = bursts(6, preset, length=1500, gap=2304)
    resampled = np.interp(np.arange(0, len(samples) - 1, 1 / ratio), np.arange(len(samples)), samples)
    for noise in (noisy(resampled, 15.0), resampled):
        _, counters, _ = receive(noise, preset)
        assert counters["detected"] == 0
        (line,) = unknown(capfd)
        assert "sample rate is more than 5 % off" in line and "more than 0.05 of the sample rate away" in line


@pytest.mark.parametrize("cfo", [0.06, 0.1, -0.13, 0.2, 0.4])
def test_a_carrier_further_away_than_is_looked_for_is_a_warning(cfo, capfd):
    samples, _ = bursts(6, length=1500, gap=2304, cfo=cfo)
    received, _, _ = receive(noisy(samples, 15.0))
    assert received == []
    lines = [line for line in capfd.readouterr().out.splitlines() if "max_offset" in line]
    assert 1 <= len(lines) <= 2 and all(" further away than max_offset" in line or "(max_offset)" in line for line in lines)


def test_bursts_that_are_read_are_no_unknown_signal(capfd):
    samples, sent = bursts(12, length=3000, gap=2304)
    received, _, _ = receive(noisy(samples, 15.0))
    assert len(received) == len(sent) and unknown(capfd) == []


def test_a_clock_offset_of_a_thousandth_is_no_reason_to_warn(capfd):
    samples, sent = bursts(10)
    received, _, _ = receive(noisy(samples, 15.0), through=[filter.mmse_resampler_cc(0, 1.0005)])
    assert len(received) == len(sent)
    assert warnings(capfd) == []


def test_false_alarms_of_noise_are_counted_and_not_logged(capfd):
    """A user may choose any false-alarm rate; here one in ten thousand samples."""
    _, counters, _ = receive(gaussian(500_000, seed=6), false_alarm_rate=1e-4)
    assert counters["rejected"] > 10 and counters["received"] == 0
    assert warnings(capfd) == []


def test_an_unreadable_burst_among_others_is_told_with_their_number(capfd):
    """The header of the third of five is drowned in noise, its preamble is not."""
    samples, sent = bursts(5)
    samples = noisy(samples, 15.0)
    begin = sent[2][2] + 256
    samples[begin : begin + 1360] = gaussian(1360, 1.0, 3)
    received, counters, _ = receive(samples)
    assert len(received) == 4 and counters["rejected"] == 1
    (line,) = warnings(capfd)
    assert re.search("behind 1 of [345] preambles", line)


# Tags, to the demodulator alone.


def demodulate(samples, tags):
    """(headers, symbols, noise variances, received, rejected) of burst_demodulator."""
    flowgraph, demodulator = gr.top_block(), diffjscc.burst_demodulator()
    symbols, noise_var = blocks.vector_sink_c(), blocks.vector_sink_f()
    flowgraph.connect(blocks.vector_source_c(samples.astype(np.complex64), False, 1, tags), demodulator, symbols)
    flowgraph.connect((demodulator, 1), noise_var)
    flowgraph.run()
    headers = [bytes(pmt.u8vector_elements(tag.value)) for tag in symbols.tags() if pmt.symbol_to_string(tag.key) == "burst_header"]
    return headers, np.array(symbols.data()), np.array(noise_var.data()), demodulator.received(), demodulator.rejected()


def burst_tag(offset, value):
    tag = gr.tag_t()
    tag.offset, tag.key, tag.value = offset, pmt.intern("burst"), value
    return tag


def dictionary(**fields):
    value = pmt.make_dict()
    for key, field in fields.items():
        value = pmt.dict_add(value, pmt.intern(key), field)
    return value


def detection(offset, cfo=0.0, metric=50.0):
    return burst_tag(offset, dictionary(cfo=pmt.from_double(cfo), metric=pmt.from_double(metric)))


@pytest.fixture(scope="module")
def one():
    """A burst in noise that begins at sample 1000: (samples, header, payload)."""
    samples, ((header, payload, begin),) = bursts(1, gap=1000)
    assert begin == 1000
    return noisy(samples, 15.0), header, payload


NUMBERLESS = {
    "symbol": pmt.intern("x"),
    "nil": pmt.PMT_NIL,
    "true": pmt.PMT_T,
    "complex": pmt.from_complex(1, 2),
    "uint64": pmt.from_uint64(2**63),
    "dictionary": pmt.make_dict(),
    "vector": pmt.init_f64vector(1, [0.0]),
    "NaN": pmt.from_double(np.nan),
    "infinity": pmt.from_double(-np.inf),
    "huge": pmt.from_double(1e300),
}

FOREIGN = {
    **{f"{name} as value": value for name, value in NUMBERLESS.items()},
    **{f"{name} as cfo": dictionary(cfo=value) for name, value in NUMBERLESS.items()},
    "pair": pmt.cons(CFO, pmt.from_double(0)),
    "association list": pmt.list1(pmt.cons(CFO, pmt.intern("x"))),
    "improper list": pmt.cons(pmt.cons(CFO, pmt.PMT_T), pmt.intern("z")),
    "PDU": pmt.cons(pmt.make_dict(), pmt.init_u8vector(1, [1])),
    "other keys": pmt.dict_add(pmt.make_dict(), pmt.from_long(3), pmt.from_long(4)),
}


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN)
def test_tags_of_other_blocks_are_ignored(value, one):
    """Before the burst and within it, by the same name."""
    samples, header, payload = one
    headers, symbols, _, received, rejected = demodulate(samples, [burst_tag(10, value), detection(1000), burst_tag(1300, value)])
    assert headers == [header] and (received, rejected) == (1, 0)
    assert loss_db(symbols, payload, 15.0) < 1.2


@pytest.mark.parametrize("value", NUMBERLESS.values(), ids=NUMBERLESS)
def test_a_metric_that_is_no_number_does_not_matter(value, one):
    samples, header, _ = one
    headers, *_ = demodulate(samples, [burst_tag(1000, dictionary(cfo=pmt.from_double(0), metric=value))])
    assert headers == [header]


@pytest.mark.parametrize(
    "offsets",
    [
        [1000] * 5,
        range(990, 1012),
        range(1000, 1400, 10),
        [1000, 1300, 2000],
        [1004, 1000, 2],
        [0, 1000, 1001],
        range(600, 1800, 7),
    ],
    ids=["same", "around", "within the header", "later", "reversed", "first", "dense"],
)
def test_many_tags_give_one_burst_once(offsets, one):
    samples, header, payload = one
    headers, symbols, _, received, _ = demodulate(samples, [detection(offset) for offset in offsets])
    assert headers == [header] and received == 1
    assert loss_db(symbols, payload, 15.0) < 1.5


@pytest.mark.parametrize("cfo", [0.5, -0.5, 0.3, 1e-2])
def test_a_wrong_carrier_offset_gives_no_burst(cfo, one):
    headers, _, _, received, rejected = demodulate(one[0], [detection(1000, cfo)])
    assert headers == [] and (received, rejected) == (0, 1)


@pytest.mark.parametrize("cfo", [1e-3, -1e-3])
def test_a_carrier_offset_that_the_detector_misjudged_is_found_by_the_header(cfo, one):
    samples, header, payload = one
    headers, symbols, *_ = demodulate(samples, [detection(1000, cfo)])
    assert headers == [header]
    assert loss_db(symbols, payload, 15.0) < 1.5


def test_tags_at_the_ends_of_the_stream_do_no_harm(one):
    samples, header, _ = one
    last = len(samples) - 1
    assert demodulate(samples, [detection(0), detection(1000), detection(last)])[0] == [header]
    for count in (0, 1, 7, 300):
        headers, symbols, *_ = demodulate(samples[:count], [detection(0)] if count else [])
        assert headers == [] and len(symbols) == 0


# Samples.


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, np.nan), 1e30, -1e38])
def test_single_samples_that_are_broken_cost_no_burst(value, one):
    """Ten of 3000 samples: in preamble, header and payload. Without the detector, which replaces them."""
    samples, header, payload = one
    samples = samples.copy()
    samples[[990, 1100, 1101, 1500, 2000, 2700, 3000, 3001, 3500, 3900]] = value
    headers, symbols, noise_var, *_ = demodulate(samples, [detection(1000)])
    assert headers == [header]
    assert np.isfinite(symbols).all() and np.isfinite(noise_var).all()
    assert loss_db(symbols, payload, 15.0) < 1.5


def test_nothing_but_broken_samples_gives_no_burst():
    for value in (np.nan, np.inf, 0, 1e-40, 1e38):
        headers, symbols, *_ = demodulate(np.full(6000, value), [detection(offset) for offset in range(0, 6000, 500)])
        assert headers == [] and len(symbols) == 0


@pytest.mark.parametrize("preset", ["ofdm64", "ofdm256"])
def test_mutilated_streams_give_finite_numbers(preset):
    """Pieces that are missing, doubled, silent, not finite, or at another level, at random."""
    random = np.random.default_rng(0)
    found = 0
    for seed in range(20):
        samples, _ = bursts(4, preset, length=int(random.integers(1, 2000)), gap=int(random.integers(0, 300)), seed=seed)
        samples = noisy(samples, random.uniform(-8, 20))
        for _ in range(random.integers(0, 6)):
            begin, count = random.integers(0, len(samples)), random.integers(1, 3000)
            piece, level = samples[begin : begin + count], 10 ** random.uniform(-20, 18)
            with np.errstate(invalid="ignore"):
                others = ([], np.append(piece, piece), 0 * piece, np.nan * piece, (level * piece).astype(np.complex64))
            samples = np.concatenate((samples[:begin], others[random.integers(5)], samples[begin + count :]))
        received, *_ = receive(samples, preset)
        found += len(received)
        for _, symbols, noise_var, tags in received:
            assert np.isfinite(symbols).all() and np.isfinite(list(tags.values())).all()
            assert (noise_var >= 0).all()
    assert found > 30


@pytest.mark.parametrize("level", [1e-12, 1e-9, 1e9, 1e11])
def test_extreme_levels_are_received(level, one):
    samples, header, payload = one
    ((got, symbols, noise_var, tags),), _, channel = receive(samples * level)
    assert got == header and loss_db(symbols, payload, 15.0) < 1.2
    assert np.mean(noise_var) == pytest.approx(10**-1.5, rel=0.25)
    assert np.abs(channel[0, 24:128]) == pytest.approx(level, rel=0.2)


@pytest.mark.parametrize("delay", [60, 120, 300, 1000])
@pytest.mark.parametrize("gains", [(1.0, 0.7), (0.7, 1.0)])
def test_of_an_echo_beyond_the_prefix_and_the_burst_itself_the_stronger_is_received_once(gains, delay):
    """3 dB apart, so that the header of either can be read."""
    samples, sent = bursts(6, length=1500)
    taps = np.zeros(delay + 1)
    taps[[0, -1]] = gains
    received, counters, _ = receive(noisy(np.convolve(samples, taps)[: len(samples)], 25.0))
    assert [header for header, *_ in received] == [header for header, *_ in sent]
    assert counters["detected"] == 12 and counters["received"] == 6 and counters["rejected"] == 0
    # The echo is all the noise that there is; received for the burst, it would be the noise of -3 dB.
    for (_, symbols, _, _), (_, payload, _) in zip(received, sent):
        assert np.mean(np.abs(symbols - payload) ** 2) < 0.7


# Flowgraphs.


def test_a_flowgraph_may_be_stopped_and_started_again():
    """Stopped in the middle of a burst; what was held back of it must not disturb the next run."""
    samples, sent = bursts(4, length=2000)
    samples = noisy(samples, 15.0)
    cut = (sent[2][2] + sent[3][2]) // 2
    flowgraph, source = gr.top_block(), blocks.vector_source_c(samples[:cut])
    receiver, symbols = diffjscc.burst_rx(), blocks.vector_sink_c()
    flowgraph.connect(source, receiver, symbols)
    flowgraph.connect((receiver, 1), blocks.null_sink(gr.sizeof_float))
    flowgraph.connect((receiver, 2), blocks.null_sink(gr.sizeof_gr_complex))
    for run, (data, whole) in enumerate([(samples[:cut], 2), (samples, 4), (samples[cut:], 1), (samples, 4)]):
        source.rewind()
        source.set_data(data)
        symbols.reset()
        flowgraph.run()
        headers = [bytes(pmt.u8vector_elements(t.value)) for t in symbols.tags() if pmt.symbol_to_string(t.key) == "burst_header"]
        assert headers == [header for header, *_ in sent][-whole if run == 2 else 0 : None if run == 2 else whole], run
        assert len(symbols.data()) == 2000 * whole
    assert receiver.counters()["received"] == 11


def test_a_live_flowgraph_is_stopped_and_started_between_samples():
    samples, sent = bursts(3, length=1500)
    flowgraph, receiver = gr.top_block(), diffjscc.burst_rx()
    source = blocks.vector_source_c(noisy(np.append(samples, TAIL), 15.0), True)
    flowgraph.connect(source, blocks.throttle(8, 3e6), receiver)
    for port, size in enumerate((gr.sizeof_gr_complex, gr.sizeof_float, gr.sizeof_gr_complex)):
        flowgraph.connect((receiver, port), blocks.null_sink(size))
    for _ in range(4):
        before = receiver.counters()["received"]
        flowgraph.start()
        wait_until(lambda before=before: receiver.counters()["received"] > before + 5)
        flowgraph.stop()
        flowgraph.wait()
    counters = receiver.counters()
    assert counters["rejected"] <= 4 and counters["detected"] >= counters["received"]
