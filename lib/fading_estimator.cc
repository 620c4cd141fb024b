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

using Eigen::MatrixXcf;
using Eigen::MatrixXd;
using Eigen::MatrixXf;
using Eigen::VectorXcf;
using Eigen::VectorXd;
using Eigen::VectorXf;

namespace {

// Doppler spreads that are tried: turns in the burst are FIRST_DOPPLER · 2^(steps/2).
constexpr double FIRST_DOPPLER = 0.35;
constexpr int DOPPLER_STEPS = 13;

// The largest of them, turns in an OFDM symbol.
constexpr double MOST_DOPPLER = 0.3;

// Slepian sequences, and directions in frequency, with less power than this share of the
// largest are left out.
constexpr double LEAST_TIME = 3e-4, LEAST_DIRECTION = 1e-4;

// A tap has at least this share of all taps' power: a path may be in a fade where the taps are
// measured.
constexpr float LEAST_TAP = 1e-3f;

// Of the noise: bursts come with a mean power of 1.
constexpr double LEAST_LEVEL = 1e-9;

// Bounds the time that one burst takes: coefficients, as directions × Slepian sequences.
constexpr int MAX_COEFFICIENTS = 240;

// Of a coefficient's variance over that with which all elements together would tell of it.
constexpr double LEAST_INFORMATION = 0.4;

// A spread whose criterion is higher than the best one's by so much ends the search.
constexpr double HOPELESS = 30;

// A step's Doppler spread, turns in an OFDM symbol.
double doppler(int symbols, int steps)
{
    return FIRST_DOPPLER * std::pow(2.0, steps / 2.0) / symbols;
}

} // namespace

// The normal equations of one OFDM symbol after another, of given directions in frequency.
struct fading_estimator::equations {
    MatrixXcf basis;
    std::vector<MatrixXcf> gram;
    std::vector<VectorXcf> moments;
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
        given.gram.push_back(weighted.adjoint() * rows);
        given.moments.push_back(weighted.adjoint() * seen);
    }
    return given;
}

// ``functions`` (symbols × m) in time; ``variances`` (directions × m) of the coefficients, over
// the noise's level; infinity where nothing is known. Directions and functions come with the
// largest first, and coefficients that the elements would not tell from noise are left out.
fitted_channel fading_estimator::solve(const equations& given,
                                       const MatrixXd& functions,
                                       const MatrixXd& variances,
                                       double spent,
                                       bool with_channel) const
{
    const int times = functions.cols(), symbols = functions.rows();
    const double least = LEAST_INFORMATION * given.basis.rows() / given.count;
    std::vector<int> sizes, starts;
    int count = 0;
    for (int a = 0; a < times; a++) {
        sizes.push_back(
            std::max<int>(a == 0, (variances.col(a).array() > least).count()));
        starts.push_back(count);
        count += sizes.back();
    }
    MatrixXcf matrix = MatrixXcf::Zero(count, count);
    VectorXcf moments = VectorXcf::Zero(count);
    VectorXf prior(count);
    for (int a = 0; a < times; a++) {
        prior.segment(starts[a], sizes[a]) =
            variances.col(a).head(sizes[a]).cwiseInverse().cast<float>();
        for (int symbol = 0; symbol < symbols; symbol++) {
            const float value = functions(symbol, a);
            moments.segment(starts[a], sizes[a]) +=
                value * given.moments[symbol].head(sizes[a]);
            for (int b = 0; b <= a; b++)
                matrix.block(starts[a], starts[b], sizes[a], sizes[b]) +=
                    value * float(functions(symbol, b)) *
                    given.gram[symbol].topLeftCorner(sizes[a], sizes[b]);
        }
    }
    // A trace, for directions that no element tells of.
    matrix.diagonal().array() += 1e-6f * matrix.diagonal().real().mean() + 1e-30f;
    matrix.diagonal() += prior.cast<gr_complex>();
    const Eigen::LLT<MatrixXcf, Eigen::Lower> factors(matrix);
    const VectorXcf solution = factors.solve(moments);
    // Weighted residuals: |y|² - 2 Re c'b + c'(A - P)c.
    const double explained =
        solution.dot(moments).real() + prior.dot(solution.cwiseAbs2());
    const double residual = std::max(given.energy - explained, 1e-9 * given.energy);
    // trace(A⁻¹P) is the squared norm of L⁻¹P^½, with A = LL'.
    MatrixXcf root = MatrixXcf::Zero(count, count);
    root.diagonal() = prior.cwiseSqrt().cast<gr_complex>();
    factors.matrixL().solveInPlace(root);
    const double freedom = count - root.squaredNorm() + spent;
    const double left = std::max(given.count - freedom, 1.0);
    fitted_channel fitted;
    fitted.noise_var = std::max(residual / left, LEAST_LEVEL);
    fitted.score =
        2.0 * given.count * std::log(std::max(residual / given.count, LEAST_LEVEL)) +
        4.0 * freedom * given.count / std::max(left - 1, 1.0);
    fitted.step = -1;
    if (!with_channel)
        return fitted;
    const int directions = given.basis.cols();
    MatrixXcf coefficients = MatrixXcf::Zero(directions, times);
    const MatrixXcf inverse = factors.solve(MatrixXcf::Identity(count, count));
    // The directions are orthonormal: over the carriers their errors add up.
    MatrixXf common(times, times);
    for (int a = 0; a < times; a++) {
        coefficients.col(a).head(sizes[a]) = solution.segment(starts[a], sizes[a]);
        for (int b = 0; b < times; b++) {
            const int both = std::min(sizes[a], sizes[b]);
            common(a, b) = inverse.block(starts[a], starts[b], both, both).trace().real();
        }
    }
    const MatrixXf values = functions.cast<float>();
    fitted.channel = given.basis * (coefficients * values.transpose());
    fitted.error = (values * common).cwiseProduct(values).rowwise().sum() *
                   float(fitted.noise_var / given.basis.rows());
    return fitted;
}

fitted_channel fading_estimator::still(const known_elements& known,
                                       const MatrixXf& weight,
                                       double spent) const
{
    const equations given = set_up(known, weight, d_basis);
    return solve(
        given,
        MatrixXd::Ones(known.symbols(), 1),
        MatrixXd::Constant(d_basis.cols(), 1, std::numeric_limits<double>::infinity()),
        spent,
        true);
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
    const double turns = 2 * doppler(symbols, steps);
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
    return d_functions[{ symbols, steps }] = {
        parts.eigenvectors().rightCols(count).rowwise().reverse(),
        parts.eigenvalues().tail(count).reverse()
    };
}

// The directions that taps of these powers have, with what a fit along them needs.
struct fading_estimator::profile {
    equations given;
    VectorXd powers; // of the directions
};

fading_estimator::profile fading_estimator::along(const known_elements& known,
                                                  const MatrixXf& weight,
                                                  const VectorXf& taps) const
{
    const MatrixXcf projected = d_basis.adjoint() * d_response;
    const Eigen::SelfAdjointEigenSolver<MatrixXcf> parts(projected * taps.asDiagonal() *
                                                         projected.adjoint());
    const VectorXd powers = parts.eigenvalues().cast<double>().cwiseMax(1e-30).reverse();
    const int count =
        std::max<int>(1, (powers.array() > LEAST_DIRECTION * powers(0)).count());
    return { set_up(known,
                    weight,
                    d_basis * parts.eigenvectors().rightCols(count).rowwise().reverse()),
             powers.head(count) };
}

fitted_channel fading_estimator::moving(const known_elements& known,
                                        const MatrixXf& weight,
                                        double noise_var,
                                        const fitted_channel* before)
{
    const int symbols = known.symbols();
    const double least = LEAST_INFORMATION * d_basis.rows() / known.count();
    VectorXf powers;
    int chosen = 0;
    if (before) {
        powers = taps(before->channel, 0);
        chosen = before->step;
    } else {
        resource_grid whole(d_basis.rows(), known.whole());
        for (int symbol = 0; symbol < known.whole(); symbol++)
            whole.col(symbol) = known.seen(symbol);
        powers = taps(whole, noise_var);
    }
    fitted_channel best;
    for (int pass = before ? 1 : 0; pass < 2; pass++) {
        const profile along = this->along(known, weight, powers);
        const auto attempt = [&](int step, bool with_channel) {
            const slepian& times = functions(symbols, step);
            const MatrixXd variances =
                along.powers / noise_var * times.powers.transpose();
            fitted_channel fitted;
            fitted.score = std::numeric_limits<double>::infinity();
            const bool too_many = doppler(symbols, step) > MOST_DOPPLER ||
                                  (variances.array() > least).count() > MAX_COEFFICIENTS;
            if (step == 0 || !too_many || with_channel)
                fitted = solve(along.given, times.functions, variances, 0, with_channel);
            fitted.step = step;
            return fitted;
        };
        // Octaves around what the burst before had; then half octaves around the best one.
        double score = std::numeric_limits<double>::infinity();
        const auto climb = [&](int step, int by) {
            for (; step >= 0 && step < DOPPLER_STEPS; step += by) {
                const double now = attempt(step, false).score;
                if (now < score) {
                    score = now;
                    chosen = step;
                } else if (std::isfinite(score) &&
                           (!(now < score + HOPELESS) || pass > 0)) {
                    return;
                }
            }
        };
        const int start = pass == 0 ? d_usual : chosen, by = pass == 0 ? 2 : 1;
        climb(start, by);
        if (chosen == start || pass == 0)
            climb(start - by, -by);
        best = attempt(chosen, true);
        noise_var = best.noise_var;
        powers = taps(best.channel, 0);
    }
    d_usual = chosen;
    return best;
}

} // namespace diffjscc
} // namespace gr
