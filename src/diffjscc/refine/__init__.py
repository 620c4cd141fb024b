# SPDX-License-Identifier: GPL-3.0-or-later
"""The refiner: what repaints an initial reconstruction."""
