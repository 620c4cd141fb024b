# SPDX-License-Identifier: GPL-3.0-or-later
"""Images to symbols: what jscc_source and jscc_encoder share."""

from diffjscc.hub import find_model
from diffjscc.symbols import check_rate

from . import arguments


class Transmitter:
    """Encodes images with settings that may change between them; loads the codec at the first image.

    codec    by name or folder, or an object with `name`, `rates` (None: every rate) and `encode` as a Codec has them

    Raises ValueError at once for a codec that does not exist, a rate that it lacks, an SNR that is not finite or an effort that is
    no number of steps.
    """

    def __init__(self, codec, rate, snr_db, device, effort=0):
        named = not arguments.is_codec(codec)
        entry = find_model(codec) if named else codec
        self._codec_name, self._name, self._rates, self._device = codec, entry.name, entry.rates, device
        self._codec = None if named else codec
        self._next_id = 0
        self.set_rate(rate)
        self.set_snr_db(snr_db)
        self.set_effort(effort)

    def set_rate(self, rate):
        self.rate = check_rate(self._name, self._rates, arguments.rate("rate", rate))

    def set_snr_db(self, snr_db):
        self.snr_db = arguments.snr_db("snr_db", snr_db)

    def set_effort(self, effort):
        self.effort = arguments.effort("effort", effort)

    def encode(self, pixels, enough=None):
        """uint8 (H, W, 3) → Symbols; image ids count up from 0. Raises ValueError for an image too small or too large.

        ``enough()`` is asked between steps of the encoder's effort; with True the search for better symbols ends.
        """
        from diffjscc.hub import load_codec
        from diffjscc.images import to_tensor

        if self._codec is None:
            self._codec = load_codec(self._codec_name, self._device)
        image = to_tensor(pixels)
        symbols = self._codec.encode(image, self.snr_db, self.rate, image_id=self._next_id, effort=self.effort, enough=enough)
        self._next_id = (self._next_id + 1) % (1 << 32)
        return symbols
