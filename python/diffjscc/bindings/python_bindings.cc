/* SPDX-License-Identifier: GPL-3.0-or-later */

#include <pybind11/pybind11.h>

namespace py = pybind11;

// Headers for binding functions
/**************************************/
// The following comment block is used for
// gr_modtool to insert function prototypes
// Please do not delete
/**************************************/
// BINDING_FUNCTION_PROTOTYPES(
void bind_burst_demodulator(py::module& m);
void bind_burst_detector(py::module& m);
void bind_driver_threads(py::module& m);
void bind_scheduler(py::module& m);
// ) END BINDING_FUNCTION_PROTOTYPES

PYBIND11_MODULE(diffjscc_python, m)
{
    // Allow access to base block methods
    py::module::import("gnuradio.gr");

    /**************************************/
    // The following comment block is used for
    // gr_modtool to insert binding function calls
    // Please do not delete
    /**************************************/
    // BINDING_FUNCTION_CALLS(
    bind_burst_demodulator(m);
    bind_burst_detector(m);
    bind_driver_threads(m);
    bind_scheduler(m);
    // ) END BINDING_FUNCTION_CALLS
}
