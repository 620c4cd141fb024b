/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "channel_estimator.h"
#include "channel_response.h"
#include <Eigen/Cholesky>
#include <Eigen/SVD>
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

// Singular values of the taps' response below this share of the largest are left out.
constexpr float BASIS_FLOOR = 3e-3f;

constexpr int MAX_DEGREE = 3;

// u of an OFDM symbol: -1 to 1 over the burst.
double position(int symbol, int symbols)
{
    return symbols > 1 ? 2.0 * symbol / (symbols - 1) - 1 : 0;
}

// The channel at u, from polynomials (carriers × (degree + 1)).
VectorXcf evaluate(const MatrixXcf& polynomials, double u)
{
    const int degree = polynomials.cols() - 1;
    VectorXcf channel = polynomials.col(degree);
    for (int d = degree - 1; d >= 0; d--)
        channel = channel * float(u) + polynomials.col(d);
    return channel;
}

} // namespace

struct channel_estimator::fit {
    MatrixXcf polynomials; // carriers × (degree + 1)
    double noise_var;
    double excess; // what the estimate's error adds to the noise variance, as a share
};

channel_estimator::channel_estimator(const preset& parameters) : d_preset(parameters)
{
    const Eigen::BDCSVD<MatrixXcf> svd(channel_response(parameters), Eigen::ComputeThinU);
    const auto& sizes = svd.singularValues();
    const int rank = (sizes.array() > BASIS_FLOOR * sizes(0)).count();
    d_basis = svd.matrixU().leftCols(rank);
    for (const auto& positions : parameters.pilot_positions) {
        MatrixXcf at_pilots(positions.size(), rank);
        for (size_t p = 0; p < positions.size(); p++)
            at_pilots.row(p) = d_basis.row(positions[p]);
        d_pilot_basis.push_back(at_pilots);
        d_pilot_gram.push_back(at_pilots.adjoint() * at_pilots);
    }
}

header_channel channel_estimator::from_header(const resource_grid& received,
                                              const resource_grid& header) const
{
    const int carriers = header.rows(), symbols = header.cols();
    VectorXcf channel = VectorXcf::Zero(carriers);
    double energy = 0;
    for (int symbol = 0; symbol < symbols; symbol++) {
        const VectorXcf seen =
            received.col(symbol).cwiseProduct(header.col(symbol).conjugate());
        channel += seen / float(symbols);
        energy += seen.squaredNorm() / symbols;
    }
    channel = d_basis * (d_basis.adjoint() * channel);
    const double noise_var =
        std::max((energy - channel.squaredNorm()) / carriers, 1e-9 * energy / carriers);
    return { channel, noise_var };
}

channel_estimator::fit
channel_estimator::fit_polynomials(const resource_grid& received,
                                   const resource_grid& header) const
{
    const int symbols = received.cols(), rank = d_basis.cols();
    // Coefficients are ordered by degree, so that those of a lower degree come first.
    const int terms = (MAX_DEGREE + 1) * rank;
    MatrixXcd gram = MatrixXcd::Zero(terms, terms);
    VectorXcd moments = VectorXcd::Zero(terms);
    using power_sums = std::array<double, 2 * MAX_DEGREE + 1>; // Σ u^d, d = 0 …
    std::vector<power_sums> pilot_powers(PILOT_SPACING);
    power_sums header_powers{};
    double energy = 0;
    int known = 0;
    for (int symbol = 0; symbol < symbols; symbol++) {
        const double u = position(symbol, symbols);
        const int pattern = symbol % PILOT_SPACING;
        const bool whole = symbol < header.cols();
        VectorXcf seen;
        if (whole) {
            seen = received.col(symbol).cwiseProduct(header.col(symbol).conjugate());
        } else {
            const auto& positions = d_preset.pilot_positions[pattern];
            seen.resize(positions.size());
            for (size_t p = 0; p < positions.size(); p++)
                seen(p) = received(positions[p], symbol) *
                          std::conj(d_preset.pilot_values[pattern][p]);
        }
        energy += seen.squaredNorm();
        known += seen.size();
        const VectorXcd moment =
            ((whole ? d_basis : d_pilot_basis[pattern]).adjoint() * seen)
                .cast<gr_complexd>();
        auto& sums = whole ? header_powers : pilot_powers[pattern];
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
        for (int pattern = 0; pattern < PILOT_SPACING; pattern++)
            sums[degree] +=
                pilot_powers[pattern][degree] * d_pilot_gram[pattern].cast<gr_complexd>();
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
        const VectorXcd solution =
            gram.topLeftCorner(count, count).ldlt().solve(moments.head(count));
        const double residual =
            std::max(energy - solution.dot(moments.head(count)).real(), 1e-12 * energy);
        // Observations and parameters are complex: both count twice.
        const double score = 2 * known * std::log(residual / known) +
                             4.0 * count * known / std::max(1, known - count - 1);
        if (score >= least)
            break;
        least = score;
        best.noise_var = std::max(residual / (known - count), 1e-30);
        best.excess = double(count) / known;
        best.polynomials =
            d_basis * Eigen::Map<const MatrixXcd>(solution.data(), rank, degree + 1)
                          .cast<gr_complex>();
    }
    return best;
}

channel_estimate channel_estimator::from_burst(const resource_grid& received,
                                               const resource_grid& header) const
{
    const fit fitted = fit_polynomials(received, header);
    const int carriers = received.rows(), symbols = received.cols();
    channel_estimate estimate;
    estimate.channel.resize(carriers, symbols);
    for (int symbol = 0; symbol < symbols; symbol++)
        estimate.channel.col(symbol) =
            evaluate(fitted.polynomials, position(symbol, symbols));
    estimate.noise_var.setConstant(
        carriers, symbols, fitted.noise_var * (1 + fitted.excess));
    estimate.middle = evaluate(fitted.polynomials, 0);
    estimate.level = fitted.noise_var;
    estimate.degree = fitted.polynomials.cols() - 1;

    const int payload = symbols - header.cols();
    double gain = 0;
    for (int symbol = header.cols(); symbol < symbols; symbol++)
        gain += estimate.channel.col(symbol).squaredNorm() / carriers;
    gain = payload > 0 ? gain / payload : estimate.middle.squaredNorm() / carriers;
    estimate.snr_db = 10 * std::log10(std::max(gain / fitted.noise_var, 1e-6));
    return estimate;
}

} // namespace diffjscc
} // namespace gr
