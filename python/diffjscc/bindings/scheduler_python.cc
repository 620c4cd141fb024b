/* SPDX-License-Identifier: GPL-3.0-or-later */

#include <pybind11/pybind11.h>

namespace py = pybind11;

#include <gnuradio/block.h>
#include <gnuradio/block_detail.h>
#include <gnuradio/block_registry.h>
#include <gnuradio/buffer_reader.h>
#include <boost/thread/thread.hpp>
#include <memory>

// What GNU Radio's scheduler knows, and its Python bindings do not tell.
void bind_scheduler(py::module& m)
{
    m.def(
        "stopping",
        [] { return boost::this_thread::interruption_requested(); },
        "Whether the flowgraph of the calling block is being stopped. To be called in "
        "the block's own thread: in work, or in a message handler.");

    m.def(
        "input_ended",
        [](const std::shared_ptr<gr::block>& block) {
            const auto detail = block->detail();
            return detail && detail->ninputs() > 0 && detail->input(0)->done();
        },
        py::arg("block"),
        "Whether the block before a running block's first input has ended.");

    m.def(
        "messages_waiting",
        [](const std::string& block, const std::string& port) -> size_t {
            const auto receiver = global_block_registry.block_lookup(pmt::intern(block));
            const auto name = pmt::intern(port);
            // Without a handler the messages wait for whoever reads the queue.
            if (!receiver || receiver->empty_handled_p(name))
                return 0;
            return receiver->nmsgs(name);
        },
        py::arg("block"),
        py::arg("port"),
        "Messages that a block's handler has not taken yet; 0 for a port without one.");
}
