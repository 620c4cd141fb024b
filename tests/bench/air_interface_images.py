# SPDX-License-Identifier: GPL-3.0-or-later
"""Kodak's images over the air interface and over the ideal symbol channel, for air_interface.py and channel_tuning.py."""

from functools import lru_cache

import numpy as np
import torch
from air_interface_link import CLIP_DB, Channel, receive

from diffjscc.air.gatherer import Gatherer
from diffjscc.air.header import unpack_image
from diffjscc.air.modulator import Modulator, fragments
from diffjscc.air.preset import find_preset
from diffjscc.channel import transmit
from diffjscc.hub import DEFAULT_CODEC, load_codec
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr
from diffjscc.symbols import Reception

#: burst_tx's own.
BURST_SYMBOLS = 6144


class Images:
    """The images of a folder, sent in a row; PSNRs come as arrays (images,), dB."""

    def __init__(self, folder, preset, codec=DEFAULT_CODEC):
        self._images = [to_tensor(read_image(path)) for path in find_images(folder)]
        self._preset = preset
        self._codec = load_codec(codec)

    def ideal(self, rate, snr_db):
        """Over diffjscc.channel.transmit."""
        sent = self._encoded(rate, snr_db)
        receptions = [transmit(symbols, snr_db, seed=index) for index, symbols in enumerate(sent)]
        return self._psnr(sent, receptions)

    def air(self, rate, channel: Channel, rng, burst_symbols=BURST_SYMBOLS, lost_every=None, lose_one=False, clip_db=CLIP_DB):
        """Over bursts; also which images lost any of theirs: bool (images,).

        lost_every  one in so many bursts is lost
        lose_one    one burst of each image, drawn at random, is lost
        """
        sent = self._encoded(rate, channel.snr_db)
        modulator = Modulator(find_preset(self._preset), clip_db)
        bursts, owners = [], []
        for index, symbols in enumerate(sent):
            for fragment, payload in fragments(symbols, burst_symbols):
                bursts.append(modulator.fragment(fragment, payload))
                owners.append(index)
        # The fifth of ten, say: not always an image's first.
        lost = set(range(lost_every // 2, len(bursts), lost_every)) if lost_every else set()
        if lose_one:
            lost = {int(rng.choice(np.flatnonzero(np.equal(owners, index)))) for index in range(len(sent))}
        receptions = self._gather(receive(channel(bursts, rng, lost), self._preset))
        touched = np.isin(np.arange(len(sent)), [owners[index] for index in lost])
        return self._psnr(sent, [receptions.get(index) for index in range(len(sent))]), touched

    @lru_cache(maxsize=8)  # noqa: B019 (one object a run)
    def _encoded(self, rate, snr_db):
        return [self._codec.encode(image, snr_db, rate, image_id=index) for index, image in enumerate(self._images)]

    def _gather(self, bursts):
        gatherer, ended = Gatherer(), []
        for burst in bursts:
            fragment = unpack_image(burst.image, lambda number: self._codec.name)
            ended += gatherer.push(fragment, burst.symbols, burst.noise_var, burst.snr_db)
        return {header.image_id: reception for header, reception in ended + gatherer.flush()}

    def _psnr(self, sent, receptions):
        values = []
        for image, symbols, reception in zip(self._images, sent, receptions):
            if reception is None:
                # Nothing of it came: what the codec makes of nothing but erasures.
                count = len(symbols.values)
                reception = Reception(np.zeros(count, np.complex64), np.full(count, np.inf, np.float32), symbols.header.tx_snr_db)
            with torch.inference_mode():
                values.append(psnr(self._codec.decode(reception, symbols.header), image))
        return np.array(values)
