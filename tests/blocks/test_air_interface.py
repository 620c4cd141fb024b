# SPDX-License-Identifier: GPL-3.0-or-later
"""The receiver of the air interface: bursts through noise, offsets, multipath, and everything that is no burst."""

import math

import numpy as np
import pmt
import pytest
from air.signals import gaussian
from blocks.flowgraphs import MessageSink, SymbolSource, burst_tags, wait_until
from conftest import photograph
from gnuradio import blocks, channels, diffjscc, filter, gr
from gnuradio.diffjscc.burst_stages import DETECTOR_DELAY

from diffjscc.air.modulator import Modulator
from diffjscc.air.preset import BANDWIDTH, PRESETS, find_preset
from diffjscc.air.vectors import WAVEFORMS
from diffjscc.images import to_tensor
from diffjscc.metrics import psnr

#: Samples that flush the detector.
TAIL = np.zeros(4096, np.complex64)


def bursts(count, preset="ofdm256", length=600, gap=500, cfo=0.0, seed=0):
    """Bursts behind each other: (samples, [(header's 11 bytes, payload, first sample), …])."""
    random = np.random.default_rng(seed)
    modulator = Modulator(find_preset(preset))
    parts, sent, begin = [], [], 0
    for index in range(count):
        payload, image = gaussian(length, seed=seed + 100 + index), random.bytes(11)
        samples = np.append(np.zeros(gap, np.complex64), modulator(payload, image))
        sent.append((image, payload, begin + gap))
        parts.append(samples)
        begin += len(samples)
    samples = np.concatenate([*parts, TAIL])
    return samples * np.exp(2j * np.pi * cfo * np.arange(len(samples))), sent


def noisy(samples, snr_db, seed=1):
    """With white noise, the SNR in the occupied bandwidth."""
    return (samples + gaussian(len(samples), 10 ** (-snr_db / 10) / BANDWIDTH, seed)).astype(np.complex64)


def receive(samples, preset="ofdm256", through=(), **options):
    """[(header's 11 bytes, symbols, noise variances, {tag: value}), …] and the receiver's counters."""
    flowgraph = gr.top_block()
    receiver = diffjscc.burst_rx(preset, **options)
    symbols, noise_var, channel = blocks.vector_sink_c(), blocks.vector_sink_f(), blocks.vector_sink_c()
    flowgraph.connect(blocks.vector_source_c(samples.astype(np.complex64)), *through, receiver, symbols)
    flowgraph.connect((receiver, 1), noise_var)
    flowgraph.connect((receiver, 2), channel)
    flowgraph.run()
    values, noise = np.array(symbols.data(), np.complex64), np.array(noise_var.data(), np.float32)
    assert len(values) == len(noise)
    tags = {}
    for tag in symbols.tags():
        tags.setdefault(tag.offset, {})[pmt.symbol_to_string(tag.key)] = tag.value
    received = []
    for offset, found in sorted(tags.items()):
        window = slice(offset, offset + pmt.to_long(found.pop("packet_len")))
        header = bytes(pmt.u8vector_elements(found.pop("burst_header")))
        received.append((header, values[window], noise[window], {k: pmt.to_double(v) for k, v in found.items()}))
    assert sum(len(symbols) for _, symbols, _, _ in received) == len(values)
    fft_len = PRESETS[preset].fft_len
    assert len(channel.data()) == fft_len * len(received)
    return received, receiver.counters(), np.array(channel.data()).reshape(-1, fft_len)


def loss_db(received, payload, snr_db):
    """What the receiver adds to the channel's noise, dB."""
    return snr_db + 10 * math.log10(np.mean(np.abs(received - payload) ** 2))


@pytest.mark.parametrize("cfo", [-0.2, 0.12, 0.2])
def test_bursts_whose_edge_lies_beyond_the_sample_rate_lose_nothing(cfo):
    samples, sent = bursts(4, cfo=cfo)
    received, counters, _ = receive(noisy(samples, 15.0), max_offset=0.2)
    assert [header for header, _, _, _ in received] == [header for header, _, _ in sent] and counters["rejected"] == 0
    for (_, symbols, _, tags), (_, payload, _) in zip(received, sent):
        assert loss_db(symbols, payload, 15.0) < 1.0 and tags["cfo"] == pytest.approx(cfo, abs=2e-5)


@pytest.mark.parametrize("preset", WAVEFORMS)
@pytest.mark.parametrize("cfo", [-0.05, 0.0, 0.0137, 0.05])
def test_bursts_cross_noise_and_any_carrier_offset(preset, cfo):
    samples, sent = bursts(12, preset, cfo=cfo)
    received, counters, _ = receive(noisy(samples, 10.0), preset)
    assert [header for header, *_ in received] == [header for header, *_ in sent]
    assert counters["received"] == 12
    for (_, symbols, noise_var, tags), (_, payload, begin) in zip(received, sent):
        assert tags["burst_start"] - DETECTOR_DELAY == pytest.approx(begin, abs=2)
        assert loss_db(symbols, payload, 10.0) < 1.2
        assert np.mean(noise_var) == pytest.approx(np.mean(np.abs(symbols - payload) ** 2), rel=0.25)
        assert tags["snr_db"] == pytest.approx(10.0, abs=0.7)
        assert tags["cfo"] == pytest.approx(cfo, abs=2e-5)


def test_headers_survive_where_stock_framing_does_not():
    """At -3 dB, every burst; at -5 dB, most."""
    samples, sent = bursts(60, length=1500, cfo=0.031)
    for snr_db, least in ((-3.0, 60), (-5.0, 54)):
        received, _, _ = receive(noisy(samples, snr_db))
        assert len({header for header, *_ in received} & {header for header, *_ in sent}) >= least
        rms = np.sqrt(np.mean([(tags["snr_db"] - snr_db) ** 2 for *_, tags in received]))
        assert rms < 0.7


@pytest.mark.parametrize("ppm", [-40, 40])
def test_a_clock_offset_is_measured_and_undone(ppm):
    samples, sent = bursts(8, length=6144)
    received, _, _ = receive(noisy(samples, 14.0), through=[filter.mmse_resampler_cc(0, 1 + ppm * 1e-6)])
    assert len(received) == 8
    for (_, symbols, _, tags), (_, payload, _) in zip(received, sent):
        assert loss_db(symbols, payload, 14.0) < 1.5
        assert tags["clock_offset"] == pytest.approx(-ppm * 1e-6, abs=8e-6)


def test_echoes_within_the_prefix_are_equalised_and_shown():
    samples, sent = bursts(10, length=3000)
    taps = np.zeros(9, np.complex64)
    taps[[0, 3, 8]] = [0.8, 0.5j, -0.33]
    received, _, channel = receive(noisy(np.convolve(samples, taps)[: len(samples)], 20.0))
    assert len(received) == 10
    carriers = np.arange(-104, 105)
    expected = np.abs(np.exp(-2j * np.pi * np.outer(carriers, np.arange(9)) / 256) @ taps)
    for (_, symbols, noise_var, _), (_, payload, _), response in zip(received, sent, channel):
        assert np.abs(response)[24:128] == pytest.approx(expected[:104], abs=0.06)
        # Deep in a fade the noise is large, and the receiver knows it.
        error = np.abs(symbols - payload) ** 2
        assert np.mean(error / noise_var) == pytest.approx(1, abs=0.15)
        assert np.max(noise_var) > 3 * np.min(noise_var)


def test_a_channel_that_turns_within_a_burst_is_followed():
    """10 Hz Doppler at 1 Msps over bursts of 10 ms."""
    samples, sent = bursts(10, length=6144)
    fading = channels.selective_fading_model(8, 10 / 1e6, False, 4.0, 7, [0.0, 1.7, 4.2], [0.8, 0.5, 0.33], 12)
    received, _, _ = receive(noisy(samples, 30.0), through=[fading])
    assert len(received) == 10
    for (_, symbols, noise_var, _), (_, payload, _) in zip(received, sent):
        error = np.abs(symbols - payload) ** 2
        assert np.mean(error) < 0.02
        assert np.median(error / noise_var) < 3


def test_level_does_not_matter():
    samples, sent = bursts(3)
    for level in (1e-4, 1.0, 3e3):
        received, _, _ = receive(noisy(samples, 10.0) * level)
        assert [header for header, *_ in received] == [header for header, *_ in sent]


def test_samples_in_small_pieces_give_the_same():
    samples, sent = bursts(3, length=2000)
    samples = noisy(samples, 10.0)
    whole, _, _ = receive(samples)
    pieces, _, _ = receive(samples, through=[blocks.stream_to_tagged_stream(8, 1, 97, "x"), blocks.copy(8)])
    for (header, symbols, _, _), (same_header, same, _, _) in zip(whole, pieces):
        assert header == same_header and np.array_equal(symbols, same)


def test_noise_alone_gives_no_burst():
    noise = gaussian(3_000_000, seed=5)
    _, counters, _ = receive(noise)
    assert counters == {"detected": 0, "received": 0, "rejected": 0, "interrupted": 0}


@pytest.mark.parametrize(
    "nuisance",
    [
        lambda n: np.exp(2j * np.pi * 0.0371 * np.arange(n)),
        lambda n: np.ones(n),
        lambda n: np.zeros(n),
        lambda n: np.full(n, 1e30),
        lambda n: np.exp(1j * np.pi * (1e-4 * np.arange(n) ** 2 % 2)),
        lambda n: np.where(np.arange(n) % 1000, 0, 50),
        lambda n: np.full(n, np.nan),
        lambda n: np.full(n, np.inf * 1j),
    ],
    ids=["tone", "DC", "silence", "overload", "sweep", "impulses", "NaN", "infinity"],
)
def test_what_is_no_burst_does_no_harm_to_the_next(nuisance):
    samples, sent = bursts(2, gap=3000)
    with np.errstate(invalid="ignore"):
        before = nuisance(40_000).astype(np.complex64)
    received, counters, _ = receive(np.concatenate((before, noisy(samples, 15.0))))
    assert [header for header, *_ in received] == [header for header, *_ in sent]
    assert counters["rejected"] <= 2


@pytest.mark.parametrize("kept", [100, 256, 700, 1500, 2000, 4000])
def test_a_burst_cut_anywhere_does_not_cost_the_next(kept):
    """The rest of a cut burst is an erasure where another begins; what is only silence reads as noise."""
    first, _ = bursts(1, length=3000, gap=0)
    second, sent = bursts(1, seed=9)
    received, _, _ = receive(noisy(np.concatenate((first[:kept], second)), 15.0))
    assert received[-1][0] == sent[0][0]
    if len(received) == 2:
        _, symbols, noise_var, _ = received[0]
        assert np.isinf(noise_var[kept:]).all() and not symbols[np.isinf(noise_var)].any()


def test_of_two_overlapping_bursts_the_next_is_received():
    first, _ = bursts(1, length=3000, gap=0, seed=3)
    second, _ = bursts(1, length=3000, gap=0, seed=4)
    third, sent = bursts(1, seed=5)
    mixed = np.zeros(len(first) + 2500, np.complex128)
    mixed[: len(first)] += first
    mixed[2500 : 2500 + len(second)] += second
    received, _, _ = receive(noisy(np.concatenate((mixed, third)), 15.0))
    assert received[-1][0] == sent[0][0]


def test_random_garbage_between_bursts_never_crashes():
    random = np.random.default_rng(8)
    for seed in range(20):
        samples, sent = bursts(3, gap=100, seed=seed)
        samples = noisy(samples, 12.0)
        begin, count = sent[1][2], random.integers(1, 2400)
        samples[begin : begin + count] = gaussian(count, 10.0 ** random.uniform(-3, 3), seed)
        received, _, _ = receive(samples)
        assert {sent[0][0], sent[2][0]} <= {header for header, *_ in received}


def test_samples_missing_inside_a_burst_are_counted_and_cost_little_more():
    samples, sent = bursts(3, length=3000)
    samples = noisy(samples, 15.0)
    hole = sent[1][2] + 2500
    received, counters, _ = receive(np.delete(samples, slice(hole, hole + 150)))
    assert counters["received"] == 3 and counters["interrupted"] == 1
    tags = [tags for _, _, _, tags in received]
    assert tags[1]["lost_samples"] == 150 and not any("lost_samples" in tags[k] for k in (0, 2))
    (_, payload, _), (_, symbols, noise_var, _) = sent[1], received[1]
    came = np.isfinite(noise_var)
    assert np.mean(came) > 0.85 and loss_db(symbols[came], payload[came], 15.0) < 1.5


def test_a_burst_of_another_version_is_rejected(monkeypatch):
    monkeypatch.setattr("diffjscc.air.header.VERSION", 3)
    samples, _ = bursts(2)
    received, counters, _ = receive(noisy(samples, 20.0))
    assert received == [] and counters["rejected"] == 2


def test_wrong_parameters_are_refused():
    for make, message in [
        (lambda: diffjscc.burst_rx("ofdm128"), "preset = 'ofdm128': must be one of ofdm64, ofdm256, hf, fm, room"),
        (lambda: diffjscc.burst_detector(0.0), "false_alarm_rate"),
        (lambda: diffjscc.burst_detector(1e-9, 0.21), "max_offset"),
        (lambda: diffjscc.burst_demodulator(128), "fft_len = 128: must be one of 64, 256"),
        (lambda: diffjscc.burst_demodulator(64, 32), "cp_len must be between 8 and a quarter of fft_len"),
        (lambda: diffjscc.burst_tx(burst_symbols=0), "burst_symbols = 0"),
        (lambda: diffjscc.burst_tx(gap=-1), "gap = -1"),
        (lambda: diffjscc.burst_tx(clip_db=-3.0), "clip_db = -3.0"),
        (lambda: diffjscc.jscc_rx(deadline=-1.0, on_full="drop"), "deadline = -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# Whole images.


@pytest.fixture(scope="module")
def symbols(lite):
    """Two images' symbols."""
    return [lite.encode(photograph(256, 384), 7.0, "1/32", image_id=index) for index in range(2)]


def transmit(images, **options):
    """Samples, and the tags [(offset, key, value), …], of images through burst_tx."""
    values, tags = [], []
    for image in images:
        tags += burst_tags(image, offset=sum(map(len, values)))
        values.append(image.values)
    flowgraph = gr.top_block()
    source = SymbolSource(np.concatenate(values), tags, chunk=333)
    transmitter, sink = diffjscc.burst_tx(**options), blocks.vector_sink_c()
    flowgraph.connect(source, transmitter, sink)
    flowgraph.run()
    found = sorted((tag.offset, pmt.symbol_to_string(tag.key), pmt.to_python(tag.value)) for tag in sink.tags())
    return np.array(sink.data(), np.complex64), found, transmitter.counters()


def decode(samples, **options):
    """(images, counters) of jscc_rx."""
    flowgraph = gr.top_block()
    receiver, sink = diffjscc.jscc_rx(**options), MessageSink()
    flowgraph.connect(blocks.vector_source_c(samples), receiver)
    flowgraph.msg_connect((receiver, "images"), (sink, "in"))
    flowgraph.run()
    return sink.images(), receiver.counters()


def test_bursts_are_tagged_for_radios(symbols):
    samples, tags, counters = transmit(symbols, burst_symbols=1000, gap=30, guard=500)
    lengths = [value for _, key, value in tags if key == "packet_len"]
    begins = [offset for offset, key, _ in tags if key == "tx_sob"]
    assert counters == {"sent": 8, "dropped": {}} and len(lengths) == 8
    assert begins == [sum(lengths[:index]) for index in range(8)] and len(samples) == sum(lengths)
    assert [offset for offset, key, _ in tags if key == "tx_eob"] == [b + n - 1 for b, n in zip(begins, lengths)]
    preset = PRESETS["ofdm256"]
    assert lengths[:4] == [preset.burst_len(768) + 30] * 3 + [preset.burst_len(768) + 500]


def test_an_image_crosses_the_air_as_well_as_an_ideal_channel(lite, symbols):
    from diffjscc.channel import transmit as ideal

    samples, _, _ = transmit(symbols)
    images, counters = decode(noisy(samples * np.exp(0.1j * np.arange(len(samples))), 7.0))
    assert counters["decoded"] == 2 and counters["truncated"] == 0 and counters["stray"] == 0
    expected = psnr(lite.decode(ideal(symbols[0], 7.0, seed=1), symbols[0].header), photograph(256, 384))
    for index, (pixels, metadata) in enumerate(images):
        assert metadata["image_id"] == index and metadata["snr_db"] == pytest.approx(7.0, abs=0.7)
        assert psnr(to_tensor(pixels), photograph(256, 384)) > expected - 0.4


def test_a_lost_burst_costs_little(symbols):
    samples, tags, _ = transmit(symbols[:1], burst_symbols=400)
    begins = [offset for offset, key, _ in tags if key == "packet_len"]
    assert len(begins) == 8
    whole = decode(noisy(samples, 7.0))[0][0][0]
    samples[begins[3] : begins[4]] = 0
    ((holed, metadata),), counters = decode(noisy(samples, 7.0))
    assert metadata["truncated"] and counters["truncated"] == 1
    original = photograph(256, 384)
    assert psnr(to_tensor(whole), original) - psnr(to_tensor(holed), original) < 1.5


def test_a_live_receiver_decodes_what_came_when_the_rest_does_not(symbols):
    samples, tags, _ = transmit(symbols[:1], burst_symbols=400)
    begins = [offset for offset, key, _ in tags if key == "packet_len"]
    flowgraph = gr.top_block()
    receiver, sink = diffjscc.jscc_rx(on_full="drop", deadline=0.3), MessageSink()
    cut = np.append(samples[: begins[5]], TAIL)
    # A source that goes on: nothing else would end the wait.
    source = blocks.vector_source_c(np.append(cut, np.zeros(1 << 20)).astype(np.complex64), True)
    flowgraph.connect(source, blocks.throttle(8, 1e6), receiver)
    flowgraph.msg_connect((receiver, "images"), (sink, "in"))
    flowgraph.start()
    wait_until(lambda: sink.messages)
    flowgraph.stop()
    flowgraph.wait()
    assert sink.images()[0][1]["truncated"]


def test_a_header_that_lies_about_the_image_is_dropped_and_counted(symbols):
    good, _, _ = transmit(symbols[:1])
    bad, _ = bursts(3, gap=50)
    images, counters = decode(noisy(np.concatenate((bad[:-4096], good)), 15.0))
    assert len(images) == 1
    assert sum(counters["dropped"].values()) == 3 and counters["bursts"]["received"] == 4


def test_bursts_that_cannot_be_sent_are_counted(symbols):
    flowgraph = gr.top_block()
    transmitter, source = diffjscc.burst_tx(burst_symbols=40), SymbolSource(symbols[0].values, burst_tags(symbols[0]))
    flowgraph.connect(source, transmitter, blocks.null_sink(8))
    flowgraph.run()
    assert transmitter.counters() == {"sent": 0, "dropped": {"air interface": 1}}


def test_hierarchical_blocks_carry_files_and_pdus(images, tmp_path):
    flowgraph = gr.top_block()
    transmitter = diffjscc.jscc_tx(str(images), rate="1/32", snr_db=10.0, preset="ofdm64", amplitude=0.2)
    channel = channels.channel_model(noise_voltage=0.2 * 10**-0.5, frequency_offset=0.02)
    receiver = diffjscc.jscc_rx("ofdm64", folder=str(tmp_path))
    constellation = blocks.vector_sink_c()
    flowgraph.connect(transmitter, channel, receiver, constellation)
    flowgraph.run()
    assert transmitter.counters() == {"bursts": {"sent": 3, "dropped": {}}, "sent": 3, "skipped": 0, "waiting": 0}
    assert receiver.counters()["decoded"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert np.mean(np.abs(constellation.data()) ** 2) == pytest.approx(1.1, abs=0.15)
