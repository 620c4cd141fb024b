#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns the bindings' docstring templates into headers; GNU Radio's GR_PYBIND_MAKE_OOT calls it by this name and place.

update_pydoc.py copy --bindings_dir DIR --output_dir DIR
"""

import argparse
import shutil
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("function", choices=["copy"])
    parser.add_argument("--bindings_dir", type=Path, required=True, help="folder of *_pydoc_template.h")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for *_pydoc.h")
    arguments = parser.parse_args()
    for template in arguments.bindings_dir.glob("*_pydoc_template.h"):
        shutil.copyfile(template, arguments.output_dir / template.name.replace("_pydoc_template.h", "_pydoc.h"))
    (arguments.output_dir / "docstring_status").write_text("DONE")


if __name__ == "__main__":
    main()
