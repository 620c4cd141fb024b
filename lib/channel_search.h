/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_CHANNEL_SEARCH_H
#define INCLUDED_DIFFJSCC_CHANNEL_SEARCH_H

#include "channel_estimator.h"
#include "fading_estimator.h"
#include "intercarrier_canceller.h"
#include "noise_estimator.h"
#include "phase_tracker.h"

namespace gr {
namespace diffjscc {

//! What fits a burst for which a still channel in white noise does not.
struct searched_channel {
    //! The burst, with the phases below undone, and without what the channel's motion
    //! spreads between carriers.
    resource_grid received;
    channel_estimate estimate; //!< of that
    Eigen::VectorXd phase;     //!< of each OFDM symbol, radians; empty: one phase for all
    //! How far a moving channel turns on average from one OFDM symbol to the next, radians: its
    //! Doppler spectrum's centre, or a carrier offset that was not found.
    double drift;
    noise_profile noise;
};

/*!
 * Explains a burst that is not a still channel in white noise.
 *
 *     ┌► still channel ─────────────────────────┐
 *     ├► still channel, a phase for each symbol ┼► lowest criterion ─► noise profile ─┐
 *     ├► moving channel ────────────────────────┘                                     │
 *     └──────────────────────────────── weights ◄─────────────────────────────────────┘
 *
 * Whether a residual is noise or a channel that was not followed can only be told together:
 * the three models compete by one criterion (Akaike's, corrected) with the elements weighted
 * by the noise of the round before, and the noise profile is estimated against the winner. A
 * still channel with a phase for each symbol is tried before one that moves on its own on every
 * tap, because it needs fewer parameters.
 *
 * The noise's first level is what the wholly known OFDM symbols leave over, each fitted by
 * itself, which no change from one symbol to another affects.
 *
 * This takes some 30 ms for 3072 symbols; bursts that need none of it are to be spared it.
 */
class channel_search
{
public:
    channel_search(const preset& parameters, const Eigen::MatrixXcf& basis);

    //! Rounds after which little changes.
    static constexpr int ENOUGH = 3;

    /*!
     * \param received  the burst
     * \param whole  what its first OFDM symbols are known to hold
     * \param rounds  at most so many; one is enough to tell which model it will be
     * \param lost  of each OFDM symbol: whether nothing of it came, none of the known
     *              ones; empty where all came
     */
    searched_channel operator()(const resource_grid& received,
                                const resource_grid& whole,
                                int rounds = ENOUGH,
                                const std::vector<bool>& lost = {});

    //! Turns each OFDM symbol back by its phase.
    static void undo(resource_grid& received, const Eigen::VectorXd& phase);

private:
    double first_level(const known_elements& known) const;

    const preset& d_preset;
    const Eigen::MatrixXcf d_basis;
    const noise_estimator d_noise;
    const phase_tracker d_phases{};
    fading_estimator d_fading;
    intercarrier_canceller d_canceller;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_CHANNEL_SEARCH_H */
