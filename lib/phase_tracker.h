/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_PHASE_TRACKER_H
#define INCLUDED_DIFFJSCC_PHASE_TRACKER_H

#include "known_elements.h"

namespace gr {
namespace diffjscc {

//! A phase for each OFDM symbol, common to all carriers.
struct phase_track {
    Eigen::VectorXd phase;    //!< radians
    Eigen::VectorXd variance; //!< of each, radians²
    double step;              //!< variance of the step from one OFDM symbol to the next
    double freedom;           //!< effective number of complex parameters
};

/*!
 * The phase noise of oscillators: a phase for each OFDM symbol.
 *
 * Model: y(k,r) conj(x(k,r)) = h(k) e^{jφ(r)} + w. Matched to the channel, the known elements
 * of a symbol sum to m(r) = Σ seen conj(h)/v, whose phase is φ(r) with the variance
 * 1/(2 Σ|h|²/v). Oscillators' phases are random walks: φ(r+1) = φ(r) + ε, with a variance of ε
 * that is not known. A Kalman filter runs over the burst for several, and the likelihood of
 * its innovations chooses; then a smoother (Rauch, Tung and Striebel) runs back. With the
 * variance 0 all symbols have one phase.
 *
 * The innovation is the phase of m(r) against the prediction, within half a turn, so that no
 * phase has to be unwrapped. Steps are therefore followed up to about half a turn.
 */
class phase_tracker
{
public:
    /*!
     * \param known  elements, as they were received
     * \param channel  carriers; its phase is that of the track's
     * \param weight  of each resource element, 1 over its share of the noise's level
     * \param noise_var  the noise's level
     */
    phase_track operator()(const known_elements& known,
                           const Eigen::VectorXcf& channel,
                           const Eigen::MatrixXf& weight,
                           double noise_var) const;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_PHASE_TRACKER_H */
