#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the settings in a binding's first comment, for GNU Radio's GR_PYBIND_MAKE_OOT, which needs this name and place.

header_utils.py all FILE    prints automatic;pygccxml;header file;header hash, as a CMake list
"""

import re
import sys
from pathlib import Path


def main():
    text = Path(sys.argv[2]).read_text()

    def field(name, absent):
        found = re.search(rf"{name}\(([^)]+)\)", text)
        return found.group(1) if found else absent

    flags = [str(field(name, "0") == "1") for name in ("BINDTOOL_GEN_AUTOMATIC", "BINDTOOL_USE_PYGCCXML")]
    print(*flags, field("BINDTOOL_HEADER_FILE", "None"), field("BINDTOOL_HEADER_FILE_HASH", "0"), sep=";", end="")


if __name__ == "__main__":
    main()
