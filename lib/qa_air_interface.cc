/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

// The receiver's side of the air interface is the transmitter's: src/diffjscc/air, by the
// test vectors that it makes.

#include "burst_receiver.h"
#include "qa_signals.h"
#include "qa_vectors.h"
#include <boost/test/unit_test.hpp>
#include <map>

namespace gr {
namespace diffjscc {

namespace {

// Half a unit of the vectors' last decimal.
constexpr float ROUNDED = 0.6e-4f;

void check_equal(const std::vector<gr_complex>& ours,
                 const std::vector<gr_complex>& theirs,
                 float tolerance)
{
    BOOST_REQUIRE_EQUAL(ours.size(), theirs.size());
    for (size_t i = 0; i < ours.size(); i++)
        BOOST_TEST_CONTEXT("value " << i)
    BOOST_TEST(std::abs(ours[i] - theirs[i]) < tolerance);
}

std::string bit_digits(const header_bytes& bytes)
{
    std::string digits;
    for (uint8_t byte : bytes)
        for (int bit = 7; bit >= 0; bit--)
            digits += byte >> bit & 1 ? '1' : '0';
    return digits;
}

} // namespace

BOOST_AUTO_TEST_CASE(constants_are_the_transmitters)
{
    const std::map<std::string, double> ours = {
        { "VERSION", VERSION },
        { "CALLSIGN_VERSION", CALLSIGN_VERSION },
        { "MIN_CALLSIGN", MIN_CALLSIGN },
        { "MAX_CALLSIGN", MAX_CALLSIGN },
        { "CHIRP_LEN", CHIRP_LEN },
        { "PREAMBLE_LEN", PREAMBLE_LEN },
        { "BANDWIDTH", BANDWIDTH },
        { "PILOT_SPACING", PILOT_SPACING },
        { "PILOT_STEP", PILOT_STEP },
        { "HEADER_ELEMENTS", HEADER_ELEMENTS },
        { "MAX_PAYLOAD", MAX_PAYLOAD },
        { "PILOT_SEED", PILOT_SEED },
        { "HEADER_SEED", HEADER_SEED },
        { "PAYLOAD_SEED", PAYLOAD_SEED },
        { "CALLSIGN_SEED", CALLSIGN_SEED },
        { "HEADER_BITS", HEADER_BITS },
        { "VERSION_BITS", VERSION_BITS },
        { "IMAGE_BITS", IMAGE_BITS },
        { "CRC_BITS", CRC_BITS },
        { "CRC_POLYNOMIAL", CRC_POLYNOMIAL },
        { "CRC_INITIAL", CRC_INITIAL },
        { "CONSTRAINT", CONSTRAINT },
        { "COPY_SHIFT", COPY_SHIFT },
    };
    const json& theirs = vectors().get_child("constants");
    for (const auto& [name, value] : theirs) {
        if (name == "GENERATORS") {
            const auto generators = numbers<int>(value);
            BOOST_TEST(generators == GENERATORS, boost::test_tools::per_element());
        } else {
            BOOST_REQUIRE_MESSAGE(ours.count(name), name + " is not in air_interface.h");
            BOOST_TEST_CONTEXT(name)
            BOOST_TEST(value.get_value<double>() == ours.at(name));
        }
    }
    BOOST_TEST(theirs.size() == ours.size() + 1);
}

BOOST_AUTO_TEST_CASE(sequences_are_the_transmitters)
{
    for (const auto& [key, pair] : vectors().get_child("mix")) {
        const auto values = numbers<uint32_t>(pair);
        BOOST_TEST(mix(values[0]) == values[1]);
    }
    for (const auto& [count, order] : vectors().get_child("scattered_order"))
        BOOST_TEST(scattered_order(std::stoi(count)) == numbers<int>(order),
                   boost::test_tools::per_element());
    for (const auto& [seed, digits] : vectors().get_child("qpsk_sequence")) {
        const auto theirs = qpsk(digits.get_value<std::string>());
        check_equal(qpsk_sequence(theirs.size(), std::stoi(seed)), theirs, 1e-6f);
    }
}

BOOST_AUTO_TEST_CASE(the_preamble_is_the_transmitters)
{
    check_equal(
        preamble(), complex_numbers(vectors().get_child("preamble")), 2 * ROUNDED);
}

BOOST_AUTO_TEST_CASE(presets_are_the_transmitters)
{
    for (const auto& [name, theirs] : vectors().get_child("presets")) {
        BOOST_TEST_CONTEXT(name)
        {
            const preset ours(theirs.get<int>("fft_len"), theirs.get<int>("cp_len"));
            BOOST_TEST(ours.carriers == numbers<int>(theirs.get_child("carriers")),
                       boost::test_tools::per_element());
            BOOST_TEST(ours.header_symbols == theirs.get<int>("header_symbols"));
            int pattern = 0;
            for (const auto& [key, positions] : theirs.get_child("pilot_positions"))
                BOOST_TEST(ours.pilot_positions[pattern++] == numbers<int>(positions),
                           boost::test_tools::per_element());
            BOOST_TEST(pattern == PILOT_SPACING);
            pattern = 0;
            for (const auto& [key, positions] : theirs.get_child("data_positions"))
                BOOST_TEST(ours.data_positions[pattern++] == numbers<int>(positions),
                           boost::test_tools::per_element());
            BOOST_TEST(pattern == PILOT_SPACING);
            pattern = 0;
            for (const auto& [key, digits] : theirs.get_child("pilot_values"))
                check_equal(ours.pilot_values[pattern++],
                            qpsk(digits.get_value<std::string>()),
                            1e-6f);
            BOOST_TEST(pattern == PILOT_SPACING);
        }
    }
}

BOOST_AUTO_TEST_CASE(the_checksum_is_the_transmitters)
{
    for (const auto& [key, pair] : vectors().get_child("crc24")) {
        const auto text = pair.front().second.get_value<std::string>();
        const auto data = reinterpret_cast<const uint8_t*>(text.data());
        BOOST_TEST(crc24(data, text.size()) == pair.back().second.get_value<uint32_t>());
    }
}

BOOST_AUTO_TEST_CASE(headers_are_the_transmitters)
{
    const header_code code;
    for (const auto& [key, theirs] : vectors().get_child("headers")) {
        burst_header header{ theirs.get<int>("length"), {} };
        const auto image = bytes(theirs.get<std::string>("image"));
        BOOST_REQUIRE_EQUAL(image.size(), header.image.size());
        std::copy(image.begin(), image.end(), header.image.begin());

        BOOST_TEST(bit_digits(header.pack()) == theirs.get<std::string>("bits"));
        const auto elements = unit_values(theirs.get<std::string>("elements"), 0);
        check_equal(code.encode(header.pack()), elements, 1e-6f);
        const auto read = burst_header::unpack(code.decode(elements));
        BOOST_REQUIRE(read);
        BOOST_TEST((*read == header));
    }
}

BOOST_AUTO_TEST_CASE(callsigns_are_the_transmitters)
{
    const header_code code(CALLSIGN_SEED);
    for (const auto& [key, theirs] : vectors().get_child("callsigns")) {
        const auto callsign = theirs.get<std::string>("callsign");
        BOOST_TEST(bit_digits(pack_callsign(callsign)) ==
                   theirs.get<std::string>("bits"));
        const auto elements = unit_values(theirs.get<std::string>("elements"), 0);
        check_equal(code.encode(pack_callsign(callsign)), elements, 1e-6f);
        BOOST_TEST(unpack_callsign(code.decode(elements)).value_or("") == callsign);
    }
    for (const char* wrong : { "", "A1", "n0call", "N0 CALL", "N0CALL_1" })
        BOOST_TEST(!unpack_callsign(pack_callsign(wrong)));
}

BOOST_AUTO_TEST_CASE(a_burst_with_a_callsign_is_received)
{
    const json& burst = vectors().get_child("burst_with_callsign");
    const json& preset =
        vectors().get_child("presets." + burst.get<std::string>("preset"));
    burst_receiver receiver(preset.get<int>("fft_len"), preset.get<int>("cp_len"));
    const auto payload = complex_numbers(preset.get_child("burst.payload"));
    auto samples = complex_numbers(burst.get_child("samples"));
    const int count = samples.size();
    BOOST_TEST(count == receiver.burst_span(payload.size(), true));
    samples.insert(samples.begin(), burst_receiver::MARGIN, 0);
    const gr_complex* first = samples.data() + burst_receiver::MARGIN;
    const auto start = receiver.read_header(first, 0);
    BOOST_REQUIRE(start);
    BOOST_TEST(start->header.with_callsign);
    const auto received = receiver.read_payload(first, *start, count);
    BOOST_TEST(received.callsign == burst.get<std::string>("callsign"));
    check_equal(received.symbols, payload, 0.02f);
}

BOOST_AUTO_TEST_CASE(bursts_of_the_transmitter_are_received)
{
    for (const auto& [name, theirs] : vectors().get_child("presets")) {
        BOOST_TEST_CONTEXT(name)
        {
            burst_receiver receiver(theirs.get<int>("fft_len"),
                                    theirs.get<int>("cp_len"));
            const auto payload = complex_numbers(theirs.get_child("burst.payload"));
            auto samples = complex_numbers(theirs.get_child("burst.samples"));
            const int count = samples.size();
            BOOST_TEST(count == receiver.burst_span(payload.size()));
            samples.insert(samples.begin(), burst_receiver::MARGIN, 0);

            const gr_complex* first = samples.data() + burst_receiver::MARGIN;
            const auto start = receiver.read_header(first, 0);
            BOOST_REQUIRE(start);
            BOOST_TEST(start->header.length == int(payload.size()));
            BOOST_TEST(start->header.image ==
                           bytes(theirs.get<std::string>("burst.image")),
                       boost::test_tools::per_element());
            // What is left over is the channel estimate's error at frequencies outside its
            // basis, and the vectors' rounding.
            const auto received = receiver.read_payload(first, *start, count);
            check_equal(received.symbols, payload, 0.02f);
            BOOST_TEST(received.snr_db > 40);
            BOOST_TEST(std::abs(received.cfo) < 1e-6);
        }
    }
}

} // namespace diffjscc
} // namespace gr
