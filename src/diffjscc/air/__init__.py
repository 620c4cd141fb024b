# SPDX-License-Identifier: GPL-3.0-or-later
"""The air interface: analog symbols on OFDM bursts. Specified in docs/air-interface.md; this is the transmitter."""
