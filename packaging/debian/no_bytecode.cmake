# SPDX-License-Identifier: GPL-3.0-or-later
# Bytecode is made where the package is installed, by that machine's Python.
file(GLOB_RECURSE bytecode "${CPACK_TEMPORARY_DIRECTORY}/*.pyc" "${CPACK_TEMPORARY_DIRECTORY}/*.pyo")
if(bytecode)
  file(REMOVE ${bytecode})
endif()
