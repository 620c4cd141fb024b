# SPDX-License-Identifier: GPL-3.0-or-later
"""What lowering peaks gives a transmitter that is limited by its peak power: peaks cut at 9 dB, and as clip_db "auto" does.

Bursts go through an amplifier that cuts at its peak power P, white noise and the receiver (burst_rx). P is the power that one in
10⁴ of the signal's samples exceeds, four samples for each of its own; everything is compared at the same P/N, with N the noise
power in the occupied band. The effective SNR is that of the equalised symbols: noise, distortion and the receiver's own errors.

    python tests/bench/peak_power.py [--kodak kodak/] [--bursts 40]
"""

import argparse
import math
from pathlib import Path

import numpy as np
from air_interface_link import RADIO_PRESETS, TAIL, receive, white_noise

from diffjscc.air.gatherer import Gatherer
from diffjscc.air.header import Fragment, pack_image, unpack_image
from diffjscc.air.modulator import Modulator, fragments
from diffjscc.air.peaks import AUTO, cut_for
from diffjscc.air.preset import BANDWIDTH, PREAMBLE_LEN, find_preset
from diffjscc.hub import load_codec
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr
from diffjscc.symbols import ImageHeader

#: Peak SNRs P/N of the table, and SNRs that are encoded for, dB.
PEAK_SNRS = (5.0, 8.0, 11.0, 14.0, 17.0, 20.0, 23.0)
ENCODED = (1.0, 7.0, 13.0)

#: Samples for each of the signal's own where peaks are measured and cut.
OVERSAMPLING = 4

#: Share of samples that may be above the peak power.
SHARE = 1e-4

#: Silence before a burst, samples.
GAP = 500


def oversampled(samples, factor=OVERSAMPLING):
    """Band-limited interpolation, complex (N,) → (N · factor,)."""
    count = len(samples)
    spectrum, wide = np.fft.fft(samples), np.zeros(count * factor, complex)
    half = count // 2
    wide[:half], wide[half - count :] = spectrum[:half], spectrum[half:]
    return np.fft.ifft(wide) * factor


def papr_db(samples):
    """What one sample in 10⁴ exceeds, dB above the mean power."""
    power = np.abs(oversampled(samples)) ** 2
    return 10 * math.log10(np.quantile(power, 1 - SHARE) / power.mean())


def amplified(samples, factor=OVERSAMPLING):
    """Samples behind an amplifier that cuts at its peak power and a filter for their band; and that power."""
    signal = oversampled(samples, factor)
    power = np.abs(signal) ** 2
    peak = np.quantile(power, 1 - SHARE)
    spectrum = np.fft.fft(signal / np.maximum(1, np.sqrt(power / peak))) / factor
    half = len(samples) // 2
    return np.fft.ifft(np.concatenate((spectrum[:half], spectrum[half - len(samples) :]))), peak


def transmitted(bursts, peak_snr_db, rng):
    """Bursts (complex arrays) → samples of all of them behind amplifier and noise, P/N as given."""
    pieces = [piece for burst in bursts for piece in (np.zeros(GAP, np.complex64), burst)]
    samples, peak = amplified(np.concatenate((*pieces, np.zeros(TAIL, np.complex64))))
    variance = peak * 10 ** (-peak_snr_db / 10) / BANDWIDTH
    return (samples + white_noise(len(samples), variance, rng)).astype(np.complex64)


def effective_snr(preset, clip_db, encoded, peak_snr_db, count, seed=0, length=3072):
    """(effective SNR, dB; share of bursts received; mean error of the receiver's own estimate, dB)."""
    rng = np.random.default_rng(seed)
    modulator, sent = Modulator(find_preset(preset), clip_db), {}
    for index in range(count):
        header = ImageHeader(index, 512, 192, "lite", "1/32", encoded)
        packed = pack_image(Fragment(header, 0, 1))
        payload = (rng.standard_normal((length, 2)) @ (1, 1j) / math.sqrt(2)).astype(np.complex64)
        sent[packed] = payload, modulator(payload, packed, encoded)
    received = receive(transmitted([samples for _, samples in sent.values()], peak_snr_db, rng), preset)
    pairs = [(burst, sent[burst.image][0]) for burst in received if burst.image in sent]
    if not pairs:
        return math.nan, 0.0, math.nan
    errors = [np.mean(np.abs(burst.symbols - payload) ** 2) for burst, payload in pairs]
    estimates = [burst.snr_db + 10 * math.log10(error) for (burst, _), error in zip(pairs, errors)]
    return -10 * math.log10(np.mean(errors)), len(pairs) / count, float(np.mean(estimates))


def skirts(preset, clip_db, encoded):
    """Highest power density from 0.42, 0.44 and 0.46 of the sample rate on, dB over that within the band."""
    rng = np.random.default_rng(1)
    modulator = Modulator(find_preset(preset), clip_db)
    payloads = (rng.standard_normal((16, 6144, 2)) @ (1, 1j) / math.sqrt(2)).astype(np.complex64)
    samples = np.concatenate([modulator(payload, bytes(11), encoded)[PREAMBLE_LEN:] for payload in payloads])
    pieces = samples[: len(samples) // 512 * 512].reshape(-1, 512) * np.blackman(512)
    density, frequency = np.mean(np.abs(np.fft.fft(pieces)) ** 2, 0), np.abs(np.fft.fftfreq(512))
    inside = density[(frequency > 0.02) & (frequency < 0.39)].mean()
    return [10 * math.log10(density[frequency >= edge].max() / inside) for edge in (0.42, 0.44, 0.46)]


def crossing(preset, clip_db, encoded, wanted, count):
    """The peak SNR at which the effective SNR is ``wanted``, dB, by bisection."""
    low, high = wanted, wanted + 15
    for _ in range(7):
        middle = (low + high) / 2
        if not effective_snr(preset, clip_db, encoded, middle, count)[0] > wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def image_psnr(codec, path, clip_db, encoded, rate, peak_snr_db, seed):
    """PSNR, dB, of an image in bursts of preset ofdm256 at a peak SNR."""
    image = to_tensor(read_image(path))
    symbols = codec.encode(image, encoded, rate)
    modulator = Modulator(find_preset("ofdm256"), clip_db)
    bursts = [modulator.fragment(fragment, payload) for fragment, payload in fragments(symbols, 6144)]
    gatherer, ended = Gatherer(), []
    for burst in receive(transmitted(bursts, peak_snr_db, np.random.default_rng(seed)), "ofdm256"):
        fragment = unpack_image(burst.image, lambda number: "lite")
        ended += gatherer.push(fragment, burst.symbols, burst.noise_var, burst.snr_db)
    ((header, reception),) = ended + gatherer.flush()
    return psnr(codec.decode(reception, header), image)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bursts", type=int, default=40, help="of 3072 symbols for each point (default: %(default)s)")
    parser.add_argument("--kodak", type=Path, help="images, for their PSNR at equal peak power")
    arguments = parser.parse_args()
    ways = [("9 dB", 9.0, 1.0), *((f"auto, {encoded:g} dB", AUTO, encoded) for encoded in ENCODED)]
    for preset in RADIO_PRESETS:
        print(f"\n{preset}: effective SNR, dB, at P/N")
        print("| peaks cut, encoded for | cut, dB | PAPR, dB | " + " | ".join(f"{snr:g}" for snr in PEAK_SNRS) + " |")
        print("|" + "---|" * (3 + len(PEAK_SNRS)))
        for name, clip_db, encoded in ways:
            rng = np.random.default_rng(2)
            payload = (rng.standard_normal((8191, 2)) @ (1, 1j) / math.sqrt(2)).astype(np.complex64)
            papr = papr_db(Modulator(find_preset(preset), clip_db)(payload, bytes(11), encoded)[PREAMBLE_LEN:])
            row = [effective_snr(preset, clip_db, encoded, snr, arguments.bursts) for snr in PEAK_SNRS]
            cut = cut_for(encoded) if clip_db == AUTO else clip_db
            print(f"| {name} | {cut:.1f} | {papr:.1f} | " + " | ".join(f"{snr:.1f}" for snr, _, _ in row) + " |", flush=True)
            print(f"    headers {min(share for _, share, _ in row):.1%}; SNR estimates off by up to", end=" ")
            print(
                f"{max(abs(error) for _, _, error in row):.2f} dB; skirts",
                [round(level, 1) for level in skirts(preset, clip_db, encoded)],
            )
        for encoded in ENCODED:
            peak = crossing(preset, 9.0, encoded, encoded, arguments.bursts)
            now = effective_snr(preset, AUTO, encoded, peak, arguments.bursts)[0]
            print(f"at P/N {peak:.1f} dB, where cuts at 9 dB give {encoded:g} dB: {now:.2f} dB, {now - encoded:+.2f}", flush=True)
            if preset == "ofdm256" and arguments.kodak:
                codec, rate = load_codec("lite"), {1.0: "1/128", 7.0: "1/32", 13.0: "1/16"}[encoded]
                paths = find_images(arguments.kodak)[::4]
                before, after = (
                    np.mean([image_psnr(codec, path, clip_db, encoded, rate, peak, 5) for path in paths]) for clip_db in (9.0, AUTO)
                )
                print(f"    {len(paths)} images, R = {rate}: {before:.2f} dB → {after:.2f} dB", flush=True)


if __name__ == "__main__":
    main()
