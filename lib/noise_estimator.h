/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_NOISE_ESTIMATOR_H
#define INCLUDED_DIFFJSCC_NOISE_ESTIMATOR_H

#include "known_elements.h"

namespace gr {
namespace diffjscc {

//! How noise is spread over a burst: level · carrier(k) · symbol(r).
struct noise_profile {
    double level;            //!< variance on a resource element
    Eigen::VectorXf carrier; //!< factors about 1
    Eigen::VectorXf symbol;
    bool uneven; //!< whether any factor differs from 1

    Eigen::MatrixXf variance() const
    {
        return float(level) * carrier * symbol.transpose();
    }
};

/*!
 * The noise variance of each carrier and of each OFDM symbol, given the channel: interference
 * is seldom white. A tone or a narrow-band transmitter is on few carriers; WiFi, radar or an
 * ignition is in few symbols.
 *
 * Model: the noise of element (k,r) has the variance v = level · a(k) · b(r). Three sorts of
 * elements tell of it. Of a known one the residual e = y conj(x) - h has the power v. Of a data
 * element only |y|² is known; data have unit power on average, so that its expectation is
 * |h|² + v. There are twelve times as many, and where the noise is as strong as the signal they
 * tell more than pilots do. Images' symbols are not quite Gaussian: the variance of |x|² is
 * taken as SPREAD.
 *
 * Fisher scoring: with z the power seen, V its expectation and v²/var(z) the information on
 * log v, one step moves log a(k) by
 *
 *     d = Σ_r w (z - V)/v / (Σ_r w),     w = v²/var(z),
 *
 * with the variance 1/Σ_r w. Carriers and symbols take turns.
 *
 * What was estimated from few elements is itself noisy, and weights that are wrong cost more
 * than equal ones where the noise is white. So d is drawn towards 0 by τ²/(τ² + 1/Σw), τ² the
 * variance that the d have in excess of their estimation errors. Where d is OUTLIER times its
 * standard deviation or more it is believed as it is. Where neither the excess nor any single d
 * is significant, the factors are exactly 1.
 */
class noise_estimator
{
public:
    explicit noise_estimator(const preset& parameters) : d_preset(parameters) {}

    /*!
     * \param received  the burst
     * \param known  its known elements
     * \param channel  on each resource element
     * \param level  the noise variance of a mean element, a first guess
     */
    noise_profile operator()(const resource_grid& received,
                             const known_elements& known,
                             const resource_grid& channel,
                             double level) const;

private:
    const preset& d_preset;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_NOISE_ESTIMATOR_H */
