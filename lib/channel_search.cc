/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "channel_search.h"
#include <algorithm>
#include <cmath>

namespace gr {
namespace diffjscc {

using Eigen::MatrixXf;
using Eigen::VectorXcf;

namespace {

// Of the noise, over the power that was received.
constexpr double LEAST_LEVEL = 1e-9;

// A model whose criterion is higher than the best one's by so much is not tried again.
constexpr double HOPELESS = 100;

// Phases and the channel that they refer to are estimated in turn.
constexpr int PHASE_ROUNDS = 3;

} // namespace

channel_search::channel_search(const preset& parameters, const Eigen::MatrixXcf& basis)
    : d_preset(parameters),
      d_basis(basis),
      d_noise(parameters),
      d_fading(parameters, basis),
      d_canceller(parameters)
{
}

void channel_search::undo(resource_grid& received, const Eigen::VectorXd& phase)
{
    for (int symbol = 0; symbol < phase.size(); symbol++)
        received.col(symbol) *= gr_complex(std::polar(1.0, -phase(symbol)));
}

double channel_search::first_level(const known_elements& known) const
{
    double left = 0;
    for (int symbol = 0; symbol < known.whole(); symbol++)
        left += known.seen(symbol).squaredNorm() -
                (d_basis.adjoint() * known.seen(symbol)).squaredNorm();
    const int freedom = known.whole() * (d_basis.rows() - d_basis.cols());
    return std::max(left / std::max(freedom, 1), LEAST_LEVEL);
}

searched_channel channel_search::operator()(const resource_grid& as_received,
                                            const resource_grid& whole,
                                            int rounds,
                                            const std::vector<bool>& lost)
{
    // With a mean power of 1, so that squares fit a float whatever the receiver's gain.
    const double power =
        as_received.cast<gr_complexd>().squaredNorm() / as_received.size();
    const double gain = std::sqrt(std::max(power, 1e-38));
    const resource_grid normal = as_received * float(1 / gain);
    resource_grid received = normal;
    const int carriers = received.rows(), symbols = received.cols();
    MatrixXf weight = MatrixXf::Ones(carriers, symbols);
    double level = first_level(known_elements(d_preset, received, whole, lost));
    searched_channel result;
    fitted_channel best, moving;
    phase_track track;
    bool tracked = false, may_move = true;
    for (int round = 0; round < rounds; round++) {
        const known_elements known(d_preset, received, whole, lost);
        best = d_fading.still(known, weight, 0);
        tracked = false;
        resource_grid turned;
        // A single OFDM symbol has one phase, whatever comes after.
        VectorXcf channel =
            round > 0 && result.phase.size()
                ? VectorXcf(result.estimate.middle)
                : VectorXcf(d_basis * (d_basis.adjoint() * known.seen(0)));
        double noise_var = level;
        for (int i = 0; i < PHASE_ROUNDS; i++) {
            const phase_track found = d_phases(known, channel, weight, noise_var);
            turned = received;
            undo(turned, found.phase);
            const fitted_channel fitted = d_fading.still(
                known_elements(d_preset, turned, whole, lost), weight, found.freedom);
            channel = fitted.channel.col(0);
            noise_var = fitted.noise_var;
            if (i == PHASE_ROUNDS - 1 && found.step > 0 && fitted.score < best.score) {
                best = fitted;
                track = found;
                tracked = true;
            }
        }
        if (may_move) {
            moving = d_fading.moving(known, weight, level, round > 0 ? &moving : nullptr);
            // Far behind the others it stays there, whatever the weights.
            may_move = moving.score < best.score + HOPELESS;
            if (moving.score < best.score) {
                best = moving;
                tracked = false;
            }
        }
        if (!tracked)
            turned = received;
        result.received = turned;
        result.phase = tracked ? track.phase : Eigen::VectorXd();
        level = best.noise_var;
        result.noise = d_noise(
            turned, known_elements(d_preset, turned, whole, lost), best.channel, level);
        result.estimate.middle = best.channel.col(symbols / 2);
        weight = result.noise.carrier.cwiseInverse() *
                 result.noise.symbol.cwiseInverse().transpose();
        const bool moves = best.step >= 0;
        if (!result.noise.uneven && (!moves || round > 0))
            break;
        if (moves && round < rounds - 1)
            received =
                d_canceller(normal,
                            received,
                            whole,
                            best.channel,
                            result.noise.variance().rowwise() + best.error.transpose());
    }
    // Levels that differ by more than a float holds: nothing can be said.
    if (!best.channel.allFinite())
        best.channel.setZero();
    channel_estimate& estimate = result.estimate;
    estimate.channel = best.channel;
    estimate.middle = best.channel.col(symbols / 2);
    estimate.level = level;
    result.noise.level = level;
    estimate.noise_var = result.noise.variance();
    for (int symbol = 0; symbol < symbols; symbol++) {
        float error = best.error(symbol);
        if (tracked)
            error += track.variance(symbol) * best.channel.col(symbol).squaredNorm() /
                     carriers;
        estimate.noise_var.col(symbol).array() += error;
    }
    const int first = symbols > whole.cols() ? whole.cols() : 0;
    const auto payload = Eigen::seq(first, symbols - 1);
    const double snr = estimate.channel(Eigen::all, payload).squaredNorm() /
                       estimate.noise_var(Eigen::all, payload).sum();
    estimate.snr_db =
        10 * std::log10(std::isfinite(snr) ? std::clamp(snr, 1e-6, 1e9) : 1e-6);
    result.drift = 0;
    if (best.step >= 0 && symbols > 1)
        result.drift =
            std::arg(best.channel.leftCols(symbols - 1)
                         .cwiseProduct(best.channel.rightCols(symbols - 1).conjugate())
                         .sum());
    result.drift = -result.drift;
    result.received *= float(gain);
    estimate.channel *= float(gain);
    estimate.middle *= float(gain);
    estimate.noise_var *= float(gain * gain);
    estimate.level *= gain * gain;
    result.noise.level *= gain * gain;
    return result;
}

} // namespace diffjscc
} // namespace gr
