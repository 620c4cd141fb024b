# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a single image is not used."""

from __future__ import annotations


class Rejected(Exception):
    """One image cannot be used; the next candidate takes its place.

    reason  gone          the server does not have it (HTTP 4xx)
            unreachable   the server has errors, or the connection breaks, for this image only
            checksum      its bytes are not those that the list or the server announces
            damaged       it does not decode completely
            too small     its shorter side is below the limit
            too large     more bytes or pixels than this package accepts
    detail  a few words that are the same in every run
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
