#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs gnuradio-companion, or another program of the system's GNU Radio, with the blocks of a build tree and the packages of a
# virtual environment.
#
# usage: with-blocks.sh PYTHON BUILD COMMAND [ARGUMENT ...]
#
#   PYTHON   the virtual environment's
#   BUILD    the build tree, an absolute path
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
packages=$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
build=$2
shift 2

# The environment's packages come before the system's, GNU Radio's NumPy among them, which some of them find too old.
export PYTHONPATH="$build/test_modules:$root/src:$packages${PYTHONPATH:+:$PYTHONPATH}"
export GRC_BLOCKS_PATH="$build/grc"

# Flowgraphs without a window run in a terminal. The one that Debian chooses may be missing, or need a desktop's services.
if terminal=$(command -v xterm) && ! grep -qs '^ *xterm_executable' "$HOME/.gnuradio/config.conf"; then
    export GR_CONF_GRC_XTERM_EXECUTABLE="${GR_CONF_GRC_XTERM_EXECUTABLE:-$terminal}"
fi
exec "$@"
