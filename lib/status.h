/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_STATUS_H
#define INCLUDED_DIFFJSCC_STATUS_H

#include <gnuradio/block.h>
#include <pmt/pmt.h>
#include <string>

namespace gr {
namespace diffjscc {

//! The message port of status messages.
inline const pmt::pmt_t STATUS = pmt::intern("status");

/*!
 * Publishes what a block logs, as python/diffjscc/logs.py does.
 *
 * \param block  has registered the port STATUS
 * \param event  a word for the kind
 * \param count  events that the line stands for
 * \param line  as in the log
 */
inline void publish_status(gr::block& block,
                           const std::string& event,
                           uint64_t count,
                           const std::string& line)
{
    auto fields = pmt::make_dict();
    const auto add = [&](const char* key, const pmt::pmt_t& value) {
        fields = pmt::dict_add(fields, pmt::intern(key), value);
    };
    add("block", pmt::intern(block.alias()));
    add("event", pmt::intern(event));
    add("count", pmt::from_long(count));
    add("line", pmt::intern(line));
    block.message_port_pub(STATUS, fields);
}

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_STATUS_H */
