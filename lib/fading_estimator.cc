/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "channel_response.h"
#include "fading_estimator.h"
#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>

namespace gr {
namespace diffjscc {

using Eigen::MatrixXcd;
using Eigen::MatrixXcf;
using Eigen::MatrixXd;
using Eigen::MatrixXf;
using Eigen::VectorXcd;
using Eigen::VectorXd;
using Eigen::VectorXf;

namespace {

// Doppler spreads that are tried: turns in the burst are FIRST_DOPPLER · 2^(steps/2).
constexpr double FIRST_DOPPLER = 0.35;
constexpr int DOPPLER_STEPS = 11;

// The largest of them, turns in an OFDM symbol.
constexpr double MOST_DOPPLER = 0.2;

// Slepian sequences, and directions in frequency, with less power than this share of the
// largest are left out.
constexpr double LEAST_TIME = 1e-4, LEAST_DIRECTION = 1e-4;

// A tap has at least this share of all taps' power: a path may be in a fade where the taps are
// measured.
constexpr float LEAST_TAP = 3e-3f;

// Of the noise: bursts come with a mean power of 1.
constexpr double LEAST_LEVEL = 1e-9;

// Bounds the time that one burst takes: coefficients, as directions × Slepian sequences.
constexpr int MAX_COEFFICIENTS = 300;

} // namespace

// The normal equations of one OFDM symbol after another, of given directions in frequency.
struct fading_estimator::equations {
    MatrixXcf basis;
    std::vector<MatrixXcd> gram;
    std::vector<VectorXcd> moments;
    double energy = 0;
    int count = 0;
};

fading_estimator::fading_estimator(const preset& parameters, const MatrixXcf& basis)
    : d_preset(parameters),
      d_basis(basis),
      d_response(channel_response(parameters))
{
}

fading_estimator::equations fading_estimator::set_up(const known_elements& known,
                                                     const MatrixXf& weight,
                                                     const MatrixXcf& basis) const
{
    equations given{ basis, {}, {}, 0, known.count() };
    MatrixXcf rows, weighted;
    for (int symbol = 0; symbol < known.symbols(); symbol++) {
        const auto& at = known.positions(symbol);
        const auto& seen = known.seen(symbol);
        rows.resize(at.size(), basis.cols());
        weighted.resize(at.size(), basis.cols());
        for (size_t p = 0; p < at.size(); p++) {
            rows.row(p) = basis.row(at[p]);
            weighted.row(p) = weight(at[p], symbol) * rows.row(p);
            given.energy += weight(at[p], symbol) * std::norm(seen(p));
        }
        given.gram.push_back((weighted.adjoint() * rows).cast<gr_complexd>());
        given.moments.push_back((weighted.adjoint() * seen).cast<gr_complexd>());
    }
    return given;
}

// ``functions`` (symbols × m) in time; ``prior`` holds one over each coefficient's variance,
// times the noise's level, directions within functions.
fitted_channel fading_estimator::solve(const equations& given,
                                       const MatrixXd& functions,
                                       const VectorXd& prior,
                                       double spent) const
{
    const int directions = given.basis.cols(), times = functions.cols();
    const int count = directions * times, symbols = functions.rows();
    MatrixXcd matrix = MatrixXcd::Zero(count, count);
    VectorXcd moments = VectorXcd::Zero(count);
    for (int symbol = 0; symbol < symbols; symbol++) {
        for (int a = 0; a < times; a++) {
            moments.segment(a * directions, directions) +=
                functions(symbol, a) * given.moments[symbol];
            for (int b = 0; b <= a; b++)
                matrix.block(a * directions, b * directions, directions, directions) +=
                    functions(symbol, a) * functions(symbol, b) * given.gram[symbol];
        }
    }
    matrix.diagonal() += prior.cast<gr_complexd>();
    const Eigen::LLT<MatrixXcd, Eigen::Lower> factors(matrix);
    const VectorXcd solution = factors.solve(moments);
    const MatrixXcd inverse = factors.solve(MatrixXcd::Identity(count, count));
    const VectorXd variances = inverse.diagonal().real();

    // Weighted residuals: |y|² - 2 Re c'b + c'(A - P)c.
    const double explained =
        solution.dot(moments).real() + prior.dot(solution.cwiseAbs2());
    const double residual = std::max(given.energy - explained, 1e-12 * given.energy);
    const double freedom = count - prior.dot(variances) + spent;
    const double left = std::max(given.count - freedom, 1.0);
    fitted_channel fitted;
    fitted.noise_var = std::max(residual / left, LEAST_LEVEL);
    fitted.score =
        2.0 * given.count * std::log(std::max(residual / given.count, LEAST_LEVEL)) +
        4.0 * freedom * given.count / std::max(left - 1, 1.0);
    const Eigen::Map<const MatrixXcd> coefficients(solution.data(), directions, times);
    fitted.channel =
        given.basis *
        (coefficients * functions.transpose().cast<gr_complexd>()).cast<gr_complex>();
    // The directions are orthonormal: over the carriers their errors add up.
    MatrixXd common = MatrixXd::Zero(times, times);
    for (int a = 0; a < times; a++)
        for (int b = 0; b < times; b++)
            common(a, b) =
                inverse.block(a * directions, b * directions, directions, directions)
                    .trace()
                    .real();
    fitted.error = ((functions * common).cwiseProduct(functions).rowwise().sum() *
                    (fitted.noise_var / given.basis.rows()))
                       .cast<float>();
    fitted.doppler = 0;
    return fitted;
}

fitted_channel fading_estimator::still(const known_elements& known,
                                       const MatrixXf& weight,
                                       double spent) const
{
    const equations given = set_up(known, weight, d_basis);
    // No prior, but for directions that no element tells of.
    return solve(given,
                 MatrixXd::Ones(known.symbols(), 1),
                 VectorXd::Constant(d_basis.cols(), 1e-6 * weight.mean()),
                 spent);
}

// The powers of the taps, mean over OFDM symbols.
VectorXf fading_estimator::taps(const resource_grid& channel, double noise_var) const
{
    const int carriers = d_response.rows();
    const MatrixXcf matched = d_response.adjoint() * channel / float(carriers);
    VectorXf powers = matched.rowwise().squaredNorm() / float(channel.cols());
    powers.array() -= noise_var / carriers;
    return powers.cwiseMax(LEAST_TAP * std::max(powers.cwiseMax(0).sum(), 1e-20f));
}

// Slepian sequences of a Doppler spread, by its step.
const fading_estimator::slepian& fading_estimator::functions(int symbols, int steps)
{
    const auto found = d_functions.find({ symbols, steps });
    if (found != d_functions.end())
        return found->second;
    // Bursts of one stream have one length, and an image's last one another.
    if (d_functions.size() > 4 * DOPPLER_STEPS)
        d_functions.clear();
    const double turns = 2 * FIRST_DOPPLER * std::pow(2.0, steps / 2.0) / symbols;
    MatrixXd covariance(symbols, symbols);
    for (int a = 0; a < symbols; a++)
        for (int b = 0; b < symbols; b++) {
            const double x = M_PI * turns * (a - b);
            covariance(a, b) = a == b ? 1 : std::sin(x) / x;
        }
    const Eigen::SelfAdjointEigenSolver<MatrixXd> parts(covariance);
    const int count =
        (parts.eigenvalues().array() > LEAST_TIME * parts.eigenvalues()(symbols - 1))
            .count();
    return d_functions[{ symbols, steps }] = { parts.eigenvectors().rightCols(count),
                                               parts.eigenvalues().tail(count) };
}

fitted_channel fading_estimator::moving(const known_elements& known,
                                        const MatrixXf& weight,
                                        double noise_var)
{
    const int symbols = known.symbols();
    resource_grid whole(d_basis.rows(), known.whole());
    for (int symbol = 0; symbol < known.whole(); symbol++)
        whole.col(symbol) = known.seen(symbol);
    VectorXf powers = taps(whole, noise_var);
    fitted_channel best;
    best.score = std::numeric_limits<double>::infinity();
    int chosen = -1;
    for (int pass = 0; pass < 2; pass++) {
        const MatrixXcf projected = d_basis.adjoint() * d_response;
        const Eigen::SelfAdjointEigenSolver<MatrixXcf> parts(
            projected * powers.asDiagonal() * projected.adjoint());
        const auto& sizes = parts.eigenvalues();
        const int directions =
            (sizes.array() > LEAST_DIRECTION * sizes(sizes.size() - 1)).count();
        const VectorXd variances = sizes.tail(directions).cast<double>();
        const equations given =
            set_up(known, weight, d_basis * parts.eigenvectors().rightCols(directions));
        const int first = pass == 0 ? 0 : std::max(0, chosen - 1);
        const int last = pass == 0 ? DOPPLER_STEPS - 1 : chosen + 1;
        best.score = std::numeric_limits<double>::infinity();
        int worse = 0;
        for (int steps = first; steps <= last && worse < 2; steps++) {
            const double doppler = FIRST_DOPPLER * std::pow(2.0, steps / 2.0) / symbols;
            if (doppler > MOST_DOPPLER && steps > 0)
                break;
            const slepian& times = functions(symbols, steps);
            const int count = times.powers.size();
            if (directions * count > MAX_COEFFICIENTS && steps > first)
                break;
            VectorXd prior(directions * count);
            for (int a = 0; a < count; a++)
                prior.segment(a * directions, directions) =
                    noise_var / times.powers(a) * variances.cwiseInverse();
            fitted_channel fitted = solve(given, times.functions, prior, 0);
            fitted.doppler = doppler;
            if (fitted.score < best.score) {
                best = std::move(fitted);
                chosen = steps;
                worse = 0;
            } else {
                worse++;
            }
        }
        noise_var = best.noise_var;
        powers = taps(best.channel, 0);
    }
    return best;
}

} // namespace diffjscc
} // namespace gr
