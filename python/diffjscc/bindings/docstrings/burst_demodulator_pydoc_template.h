/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "pydoc_macros.h"
#define D(...) DOC(gr, diffjscc, __VA_ARGS__)
/*
  This file contains placeholders for docstrings for the Python bindings.
  Do not edit! These were automatically extracted during the binding process
  and will be overwritten during the build process
 */

static const char* __doc_gr_diffjscc_burst_demodulator = R"doc()doc";

static const char* __doc_gr_diffjscc_burst_demodulator_make = R"doc()doc";

static const char* __doc_gr_diffjscc_burst_demodulator_received = R"doc()doc";

static const char* __doc_gr_diffjscc_burst_demodulator_rejected = R"doc()doc";

static const char* __doc_gr_diffjscc_burst_demodulator_interrupted = R"doc()doc";
