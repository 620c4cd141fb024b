#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
"$PYTHON" -m pip install . --no-deps --no-build-isolation -vv
# CMAKE_ARGS comes from conda's compilers; some of it is meant to be split.
cmake -S . -B conda-build -G Ninja ${CMAKE_ARGS:-} -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$PREFIX" \
    -DPYTHON_EXECUTABLE="$PYTHON" -DGR_PYTHON_DIR="${SP_DIR#"$PREFIX"/}"
cmake --build conda-build
cmake --install conda-build
