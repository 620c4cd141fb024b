/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "header_code.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

burst_header random_header(std::mt19937& random)
{
    burst_header header{ int(random() % MAX_PAYLOAD) + 1, {} };
    for (auto& byte : header.image)
        byte = random();
    return header;
}

// How many of ``count`` headers are read through noise, at this SNR of an element, dB.
int read_at(double snr_db, int count)
{
    const header_code code;
    std::mt19937 random(1);
    gaussian noise(2);
    int right = 0;
    for (int i = 0; i < count; i++) {
        const auto sent = random_header(random);
        auto elements = code.encode(sent.pack());
        for (auto& element : elements)
            element += noise(std::pow(10, -snr_db / 10));
        const auto read = burst_header::unpack(code.decode(elements));
        right += read && *read == sent;
    }
    return right;
}

} // namespace

BOOST_AUTO_TEST_CASE(a_header_is_decoded_at_any_level)
{
    const header_code code;
    std::mt19937 random(1);
    for (float level : { 1e-12f, 1.0f, 1e12f }) {
        for (int i = 0; i < 20; i++) {
            const auto sent = random_header(random);
            auto elements = code.encode(sent.pack());
            BOOST_REQUIRE_EQUAL(elements.size(), HEADER_ELEMENTS);
            for (auto& element : elements) {
                BOOST_TEST(std::abs(element) == 1.0f,
                           boost::test_tools::tolerance(1e-5f));
                element *= level;
            }
            const auto read = burst_header::unpack(code.decode(elements));
            BOOST_REQUIRE(read);
            BOOST_TEST((*read == sent));
        }
    }
}

BOOST_AUTO_TEST_CASE(headers_are_read_at_minus_five_decibels)
{
    BOOST_TEST(read_at(-5, 500) >= 495);
    // Where the capacity falls below the code's rate, it fails.
    BOOST_TEST(read_at(-12, 100) <= 5);
}

BOOST_AUTO_TEST_CASE(copies_count_by_their_reliability)
{
    // Three of four copies are faded by 20 dB, and the one that is left carries the header
    // at 1 dB. Added without weights the three would bury it in noise.
    const header_code code;
    std::mt19937 random(3);
    gaussian noise(4);
    int right = 0;
    for (int i = 0; i < 100; i++) {
        const auto sent = random_header(random);
        auto elements = code.encode(sent.pack());
        for (int e = 0; e < HEADER_ELEMENTS; e++) {
            const float gain = e < HEADER_ELEMENTS / 4 ? 1.0f : 0.1f;
            elements[e] = (elements[e] * gain + noise(0.8)) * gain;
        }
        const auto read = burst_header::unpack(code.decode(elements));
        right += read && *read == sent;
    }
    BOOST_TEST(right >= 97);
}

BOOST_AUTO_TEST_CASE(every_wrong_bit_is_noticed)
{
    std::mt19937 random(5);
    const auto packed = random_header(random).pack();
    BOOST_REQUIRE(burst_header::unpack(packed));
    for (int bit = 0; bit < HEADER_BITS; bit++) {
        auto wrong = packed;
        wrong[bit / 8] ^= 0x80 >> bit % 8;
        BOOST_TEST(!burst_header::unpack(wrong).has_value());
    }
}

BOOST_AUTO_TEST_CASE(other_versions_and_empty_payloads_are_refused)
{
    // With a right checksum: version and length are the first two bytes.
    const auto checked = [](uint8_t first, uint8_t second) {
        header_bytes bytes{ first, second };
        const uint32_t checksum = crc24(bytes.data(), 13);
        for (int i = 0; i < 3; i++)
            bytes[13 + i] = checksum >> (16 - 8 * i);
        return burst_header::unpack(bytes);
    };
    BOOST_TEST(checked(VERSION << 5, 1).has_value());
    BOOST_TEST(!checked((CALLSIGN_VERSION + 1) << 5, 1).has_value());
    BOOST_TEST(!checked(0, 1).has_value());
    BOOST_TEST(!checked(VERSION << 5, 0).has_value());
}

BOOST_AUTO_TEST_CASE(noise_is_no_header)
{
    const header_code code;
    gaussian noise(6);
    for (int i = 0; i < 2000; i++)
        BOOST_TEST(!burst_header::unpack(code.decode(noise(1.0, HEADER_ELEMENTS))));
}

BOOST_AUTO_TEST_CASE(values_that_are_no_numbers_do_no_harm)
{
    const header_code code;
    std::mt19937 random(7);
    const auto sent = random_header(random);
    auto elements = code.encode(sent.pack());
    elements[3] = NAN;
    elements[500] = gr_complex(INFINITY, -INFINITY);
    code.decode(elements);
    code.decode(std::vector<gr_complex>(HEADER_ELEMENTS, NAN));
    code.decode(std::vector<gr_complex>(HEADER_ELEMENTS, 0));
}

} // namespace diffjscc
} // namespace gr
