# SPDX-License-Identifier: GPL-3.0-or-later
"""What no model may be called."""

BAD_NAMES = ["", ".", "..", "../x", "/tmp/x", "a/b", "a\\b", ".hidden", "-x", "_x", "x" * 65, "a b", "ä", "a\n", "a\0"]
