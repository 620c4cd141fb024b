/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "burst_receiver.h"
#include "chirp.h"
#include <volk/volk.h>
#include <algorithm>
#include <cmath>
#include <limits>

namespace gr {
namespace diffjscc {

using Eigen::MatrixXcd;
using Eigen::MatrixXcf;
using Eigen::VectorXcd;
using Eigen::VectorXcf;

namespace {

constexpr int MAX_PAYLOAD = 8191;
constexpr uint32_t PAYLOAD_SEED = 3;

// Taps before the strongest path that the preamble is searched for.
constexpr int EARLY = burst_receiver::MARGIN;

// Where the FFT begins before the end of the prefix unless energy says otherwise, and how much more it must say.
constexpr int USUAL_WINDOW = -4;
constexpr float WINDOW_GAIN = 1.02f;

// Against noise where the preamble has no energy: share of a tap's own.
constexpr float PREAMBLE_PRIOR = 0.03f;

// How many times its noise a tap's power must be, to be believed at all.
constexpr float TAP_DOUBT = 2.0f;

// Singular values of the delays' matrix below this share of the largest are left out.
constexpr float BASIS_FLOOR = 3e-3f;

// What the detector's carrier offset may be wrong by, radians/sample; at -5 dB its deviation is 1.4e-3.
constexpr double OFFSET_SEARCH = 5e-3;
// And what may be left of it once the header's pilots have been used.
constexpr double FINER_SEARCH = 1e-3;

constexpr double CLOCK_PRIOR = 60e-6;
constexpr int GAUSS_NEWTON_STEPS = 4;

constexpr int MAX_DEGREE = 3;

} // namespace

burst_receiver::burst_receiver(int fft_len, int cp_len)
    : d_format(fft_len, cp_len), d_turns(qpsk_sequence(MAX_PAYLOAD, PAYLOAD_SEED)), d_fft(fft_len)
{
    const int taps = EARLY + cp_len;
    // Rows whose every tap meets the preamble and nothing behind it.
    const int rows = PREAMBLE_LEN - EARLY;
    MatrixXcf sent = MatrixXcf::Zero(rows, taps);
    for (int n = 0; n < rows; n++) {
        for (int tap = 0; tap < taps; tap++) {
            const int at = n - (tap - EARLY);
            if (at >= 0) {
                const gr_complex value(chirp(at % CHIRP_LEN));
                sent(n, tap) = at < CHIRP_LEN ? value : std::conj(value);
            }
        }
    }
    const MatrixXcf gram = sent.adjoint() * sent + PREAMBLE_PRIOR * PREAMBLE_LEN * MatrixXcf::Identity(taps, taps);
    d_preamble_inverse = gram.ldlt().solve(sent.adjoint());
    d_preamble = sent;
    d_tap_noise = d_preamble_inverse.rowwise().squaredNorm();

    const int carriers = d_format.carriers.size();
    d_delays.resize(carriers, cp_len);
    for (int i = 0; i < carriers; i++)
        for (int delay = 0; delay < cp_len; delay++)
            d_delays(i, delay) = std::polar(1.0f, float(-2 * M_PI * d_format.carriers[i] * delay / fft_len));
    const Eigen::BDCSVD<MatrixXcf> svd(d_delays, Eigen::ComputeThinU);
    const int rank = (svd.singularValues().array() > BASIS_FLOOR * svd.singularValues()(0)).count();
    d_basis = svd.matrixU().leftCols(rank);
    for (const auto& positions : d_format.pilot_positions) {
        MatrixXcf at_pilots(positions.size(), rank);
        for (size_t i = 0; i < positions.size(); i++)
            at_pilots.row(i) = d_basis.row(positions[i]);
        d_pilot_basis.push_back(at_pilots);
        d_pilot_gram.push_back(at_pilots.adjoint() * at_pilots);
    }
}

int burst_receiver::header_span() const
{
    // One payload symbol is always there, and its pilots help.
    return PREAMBLE_LEN + (d_format.header_rows + 1) * d_format.symbol_len();
}

int burst_receiver::burst_span(int length) const
{
    return PREAMBLE_LEN + (d_format.header_rows + d_format.payload_rows(length)) * d_format.symbol_len();
}

double burst_receiver::row_time(int row) const
{
    return PREAMBLE_LEN + row * d_format.symbol_len() + d_format.cp_len + d_window + (d_format.fft_len - 1) / 2.0;
}

void burst_receiver::derotate(const gr_complex* samples, int count, double cfo)
{
    d_samples.resize(MARGIN + count);
    gr_complex phase(std::polar(1.0, 2 * M_PI * cfo * MARGIN));
    const gr_complex step(std::polar(1.0, -2 * M_PI * cfo));
    volk_32fc_s32fc_x2_rotator_32fc(d_samples.data(), samples - MARGIN, step, &phase, MARGIN + count);
}

burst_receiver::spectra burst_receiver::transform(int rows)
{
    const int fft_len = d_format.fft_len, carriers = d_format.carriers.size();
    const float scale = std::sqrt(float(carriers)) / fft_len;
    spectra result(carriers, rows);
    for (int row = 0; row < rows; row++) {
        const int begin = MARGIN + PREAMBLE_LEN + row * d_format.symbol_len() + d_format.cp_len + d_window;
        std::copy_n(d_samples.begin() + begin, fft_len, d_fft.get_inbuf());
        d_fft.execute();
        for (int i = 0; i < carriers; i++)
            result(i, row) = scale * d_fft.get_outbuf()[(d_format.carriers[i] + fft_len) % fft_len];
    }
    return result;
}

VectorXcf burst_receiver::preamble_channel()
{
    const Eigen::Map<const VectorXcf> received(d_samples.data() + MARGIN, d_preamble.rows());
    VectorXcf taps = d_preamble_inverse * received;
    // Most taps are noise: each is weighed by what of it is not (a Wiener gain, from the taps' own powers).
    const float noise_var = (received - d_preamble * taps).squaredNorm() / (d_preamble.rows() - taps.size());
    taps.array() *= (1 - TAP_DOUBT * noise_var * d_tap_noise.array() / taps.array().abs2().max(1e-30f)).max(0.0f);
    // The prefix covers cp_len taps: those with the most energy.
    const int cp_len = d_format.cp_len;
    float most = 0;
    for (int window : { USUAL_WINDOW, -8, -7, -6, -5, -3, -2, -1, 0 }) {
        const float energy = taps.segment(EARLY + window, cp_len).squaredNorm();
        if (energy > most * WINDOW_GAIN) {
            most = energy;
            d_window = window;
        }
    }
    return d_delays * taps.segment(EARLY + d_window, cp_len);
}

// Where the coherent sum of the pilots of each row, matched to the channel, is largest over what may be left of the
// carrier offset, radians/sample up to ``range``. The channel's phase is that of the time ``reference``.
double
burst_receiver::finer_offset(const spectra& received, const VectorXcf& channel, double reference, double range) const
{
    const int rows = received.cols();
    std::vector<gr_complexd> matched(rows);
    for (int row = 0; row < rows; row++) {
        const int pattern = row % burst_format::PILOT_PERIOD;
        const auto& positions = d_format.pilot_positions[pattern];
        for (size_t i = 0; i < positions.size(); i++)
            matched[row] += gr_complexd(received(positions[i], row) *
                                        std::conj(channel(positions[i]) * d_format.pilot_values[pattern][i]));
    }
    const double step = 0.25 / (row_time(rows - 1) - reference);
    double best = 0, most = -std::numeric_limits<double>::infinity();
    const int steps = static_cast<int>(std::ceil(range / step));
    for (int i = -steps; i <= steps; i++) {
        double sum = 0;
        for (int row = 0; row < rows; row++)
            sum += (matched[row] * std::polar(1.0, -i * step * (row_time(row) - reference))).real();
        if (sum > most) {
            most = sum;
            best = i * step;
        }
    }
    return best;
}

std::optional<burst_header> burst_receiver::read_header(const gr_complex* samples, double cfo)
{
    constexpr double reference = (PREAMBLE_LEN - 1) / 2.0;
    derotate(samples, header_span(), cfo);
    const VectorXcf channel = preamble_channel();
    const spectra received = transform(d_format.header_rows + 1);
    const double offset = finer_offset(received, channel, reference, OFFSET_SEARCH);
    d_cfo = cfo + offset / (2 * M_PI);

    std::vector<gr_complex> elements;
    for (int row = 0; row < d_format.header_rows; row++) {
        const gr_complex turn(std::polar(1.0, -offset * (row_time(row) - reference)));
        for (int i : d_format.data_positions[row % burst_format::PILOT_PERIOD])
            elements.push_back(received(i, row) * std::conj(channel(i)) * turn);
    }
    return d_code.decode(elements);
}

//! A channel over the carriers and time: basis · coefficients · (1, u, u², …), u from -1 to 1 over the rows.
struct burst_receiver::fit {
    MatrixXcf polynomials; // carriers × (degree + 1)
    double noise_var;
    double excess; // noise variance that the estimate's own error adds, as a share
};

// Turns back a plane of phase: offset in radians/sample, clock offset as a share, from a reference in samples.
void burst_receiver::undo_phase(
    spectra& received, double phase, double offset, double clock_offset, double reference) const
{
    for (int row = 0; row < received.cols(); row++) {
        const double time = row_time(row) - reference;
        const double slope = 2 * M_PI * clock_offset * time / d_format.fft_len;
        // Neighbouring carriers differ by one factor; the missing one at zero takes two.
        gr_complexd turn = std::polar(1.0, -(phase + offset * time + slope * d_format.carriers[0]));
        const gr_complexd step = std::polar(1.0, -slope);
        for (int i = 0; i < received.rows(); i++) {
            received(i, row) *= gr_complex(turn);
            turn *= step;
            if (d_format.carriers[i] == -1)
                turn *= step;
        }
    }
}

// (phase, offset, clock offset) of the pilots against a channel whose phase is that of the time ``reference``.
Eigen::Vector3d burst_receiver::phase_plane(const spectra& received,
                                            const VectorXcf& channel,
                                            double noise_var,
                                            double reference) const
{
    const int rows = received.cols();
    const double duration = row_time(rows - 1) - row_time(0);
    Eigen::Vector3d plane = Eigen::Vector3d::Zero(); // the offsets times the duration, for the numbers to be alike
    const Eigen::Vector3d prior(0, 0, 1 / std::pow(CLOCK_PRIOR * duration, 2));
    for (int iteration = 0; iteration < GAUSS_NEWTON_STEPS; iteration++) {
        Eigen::Vector3d gradient = Eigen::Vector3d::Zero();
        Eigen::Matrix3d information = Eigen::Matrix3d::Zero();
        for (int row = 0; row < rows; row++) {
            const int pattern = row % burst_format::PILOT_PERIOD;
            const double time = (row_time(row) - reference) / duration;
            for (size_t p = 0; p < d_format.pilot_positions[pattern].size(); p++) {
                const int i = d_format.pilot_positions[pattern][p];
                const Eigen::Vector3d slopes(1, time, 2 * M_PI * d_format.carriers[i] * time / d_format.fft_len);
                const gr_complexd expected(channel(i) * d_format.pilot_values[pattern][p]);
                const gr_complexd error = gr_complexd(received(i, row)) * std::conj(expected) *
                                          std::polar(1.0, -plane.dot(slopes));
                gradient += error.imag() * slopes;
                information += std::norm(expected) * slopes * slopes.transpose();
            }
        }
        const double weight = 2 / noise_var;
        const Eigen::Matrix3d penalty = prior.asDiagonal();
        plane += (weight * information + penalty).ldlt().solve(weight * gradient - penalty * plane);
    }
    plane.tail<2>() /= duration;
    return plane;
}

burst_receiver::fit
burst_receiver::fit_channel(const spectra& received, const spectra& header, int rows) const
{
    // Normal equations, coefficients ordered by degree, so that a lower degree's are a leading part.
    const int rank = d_basis.cols();
    const int terms = (MAX_DEGREE + 1) * rank;
    MatrixXcd gram = MatrixXcd::Zero(terms, terms);
    VectorXcd moments = VectorXcd::Zero(terms);
    std::vector<std::array<double, 2 * MAX_DEGREE + 1>> powers(burst_format::PILOT_PERIOD);
    std::array<double, 2 * MAX_DEGREE + 1> header_powers{};
    double energy = 0;
    int known = 0;
    for (int row = 0; row < rows; row++) {
        const double u = rows > 1 ? 2.0 * row / (rows - 1) - 1 : 0;
        const int pattern = row % burst_format::PILOT_PERIOD;
        const bool whole = row < d_format.header_rows;
        VectorXcf seen;
        if (whole) {
            seen = received.col(row).cwiseProduct(header.col(row).conjugate());
        } else {
            const auto& positions = d_format.pilot_positions[pattern];
            seen.resize(positions.size());
            for (size_t i = 0; i < positions.size(); i++)
                seen(i) = received(positions[i], row) * std::conj(d_format.pilot_values[pattern][i]);
        }
        energy += seen.squaredNorm();
        known += seen.size();
        const VectorXcd moment = ((whole ? d_basis : d_pilot_basis[pattern]).adjoint() * seen).cast<gr_complexd>();
        auto& sums = whole ? header_powers : powers[pattern];
        double power = 1;
        for (int degree = 0; degree <= 2 * MAX_DEGREE; degree++, power *= u) {
            sums[degree] += power;
            if (degree <= MAX_DEGREE)
                moments.segment(degree * rank, rank) += power * moment;
        }
    }
    std::array<MatrixXcd, 2 * MAX_DEGREE + 1> sums;
    for (int degree = 0; degree <= 2 * MAX_DEGREE; degree++) {
        sums[degree] = header_powers[degree] * MatrixXcd::Identity(rank, rank);
        for (int pattern = 0; pattern < burst_format::PILOT_PERIOD; pattern++)
            sums[degree] += powers[pattern][degree] * d_pilot_gram[pattern].cast<gr_complexd>();
    }
    for (int a = 0; a <= MAX_DEGREE; a++)
        for (int b = 0; b <= MAX_DEGREE; b++)
            gram.block(a * rank, b * rank, rank, rank) = sums[a + b];

    fit best{};
    double least = std::numeric_limits<double>::infinity();
    for (int degree = 0; degree <= MAX_DEGREE; degree++) {
        const int count = (degree + 1) * rank;
        if (2 * count > known)
            break;
        const VectorXcd solution = gram.topLeftCorner(count, count).ldlt().solve(moments.head(count));
        const double left = std::max(energy - solution.dot(moments.head(count)).real(), 1e-12 * energy);
        // Akaike's criterion with its correction for few observations, both counted as real numbers.
        const double score = 2 * known * std::log(left / known) +
                             4.0 * count * known / std::max(1, known - count - 1);
        if (score >= least)
            break;
        least = score;
        best.noise_var = std::max(left / (known - count), 1e-30);
        best.excess = double(count) / known;
        best.polynomials =
            d_basis * Eigen::Map<const MatrixXcd>(solution.data(), rank, degree + 1).cast<gr_complex>();
    }
    return best;
}

burst_payload
burst_receiver::read_payload(const gr_complex* samples, const burst_header& header, int usable)
{
    const int total = d_format.header_rows + d_format.payload_rows(header.length);
    const int carriers = d_format.carriers.size();
    // Rows whose FFT lies before the end of what is usable; the header's are there.
    const int rows = std::clamp((usable - PREAMBLE_LEN) / d_format.symbol_len(), d_format.header_rows, total);
    derotate(samples, PREAMBLE_LEN + rows * d_format.symbol_len(), d_cfo);
    spectra received = transform(rows);

    spectra known = spectra::Zero(carriers, d_format.header_rows);
    const auto elements = d_code.encode(header);
    VectorXcf channel = VectorXcf::Zero(carriers);
    double energy = 0;
    for (int row = 0, element = 0; row < d_format.header_rows; row++) {
        const int pattern = row % burst_format::PILOT_PERIOD;
        for (int i : d_format.data_positions[pattern])
            known(i, row) = elements[element++];
        for (size_t p = 0; p < d_format.pilot_positions[pattern].size(); p++)
            known(d_format.pilot_positions[pattern][p], row) = d_format.pilot_values[pattern][p];
        const VectorXcf seen = received.col(row).cwiseProduct(known.col(row).conjugate());
        channel += seen / float(d_format.header_rows);
        energy += seen.squaredNorm() / d_format.header_rows;
    }
    channel = d_basis * (d_basis.adjoint() * channel);
    const double noise_var = std::max((energy - channel.squaredNorm()) / carriers, 1e-9 * energy / carriers);

    const double reference = (row_time(0) + row_time(d_format.header_rows - 1)) / 2;
    const double coarse = finer_offset(received, channel, reference, FINER_SEARCH);
    undo_phase(received, 0, coarse, 0, reference);
    const Eigen::Vector3d plane = phase_plane(received, channel, noise_var, reference);
    undo_phase(received, plane(0), plane(1), plane(2), reference);
    const fit estimate = fit_channel(received, known, rows);

    burst_payload payload;
    payload.symbols.assign(header.length, 0);
    payload.noise_var.assign(header.length, std::numeric_limits<float>::infinity());
    const float noise = estimate.noise_var * (1 + estimate.excess);
    double gain = 0;
    int at = 0;
    VectorXcf now(carriers);
    const auto channel_at = [&](double u) {
        now = estimate.polynomials.col(estimate.polynomials.cols() - 1);
        for (int degree = estimate.polynomials.cols() - 2; degree >= 0; degree--)
            now = now * float(u) + estimate.polynomials.col(degree);
    };
    for (int row = d_format.header_rows; row < rows; row++) {
        channel_at(rows > 1 ? 2.0 * row / (rows - 1) - 1 : 0);
        gain += now.squaredNorm() / carriers;
        for (int i : d_format.data_positions[row % burst_format::PILOT_PERIOD]) {
            if (at == header.length)
                break;
            const float power = std::max(std::norm(now(i)), 1e-30f);
            payload.symbols[at] = received(i, row) * std::conj(now(i) * d_turns[at]) / power;
            payload.noise_var[at] = noise / power;
            at++;
        }
    }
    channel_at(0);
    if (rows == d_format.header_rows)
        gain = now.squaredNorm() / carriers;
    else
        gain /= rows - d_format.header_rows;
    payload.snr_db = 10 * std::log10(std::max(gain / estimate.noise_var, 1e-6));
    payload.cfo = d_cfo + (coarse + plane(1)) / (2 * M_PI);
    payload.clock_offset = -plane(2); // samples that come late turn high carriers back
    payload.channel.assign(d_format.fft_len, 0);
    for (int i = 0; i < carriers; i++)
        payload.channel[d_format.carriers[i] + d_format.fft_len / 2] = now(i);
    return payload;
}

} // namespace diffjscc
} // namespace gr
