# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics and the sweeps that make the tables of docs/results.md."""
