# SPDX-License-Identifier: GPL-3.0-or-later
"""Over-the-air experiments: a plan, the schedule of samples that it stands for, and the table and report of what was received.

Nothing here knows of GNU Radio: `diffjscc-tx --experiment` and `diffjscc-rx --experiment` move the samples.
"""
