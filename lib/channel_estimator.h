/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_CHANNEL_ESTIMATOR_H
#define INCLUDED_DIFFJSCC_CHANNEL_ESTIMATOR_H

#include "ofdm_demodulator.h"

namespace gr {
namespace diffjscc {

//! A channel that stands still, with the noise variance of a resource element.
struct header_channel {
    Eigen::VectorXcf channel; //!< carriers
    double noise_var;
};

//! The channel of a whole burst: what an equaliser needs, and what users are told.
struct channel_estimate {
    resource_grid channel;     //!< on each resource element
    Eigen::MatrixXf noise_var; //!< there too: of the noise, and of the estimate's error
    Eigen::VectorXcf middle;   //!< the channel in the burst's middle, carriers
    double snr_db;             //!< mean |h|² of the payload over the noise's variance
    double level = 0;          //!< the noise's variance
    int degree = 0;            //!< of the polynomial in time
};

/*!
 * The channel by least squares over everything that is known: the header (coded again,
 * all of its elements are known) and the payload's pilots.
 *
 * Model: y(k,r) conj(x(k,r)) = h(k,r) + w, with |x| = 1 and
 *
 *     h(k,r) = Σ_d u(r)^d Σ_n b_n(k) c_{nd},    u from -1 to 1 over the burst.
 *
 * The functions b_n are an orthonormal basis of what taps at the delays within the prefix
 * can do on the carriers; directions with small singular values are left out. In time the
 * channel is a polynomial of degree 0 to MAX_DEGREE. Pilots repeat after PILOT_SPACING
 * OFDM symbols, so that the normal equations are a sum of few matrices: the basis's Gram
 * matrix at each pattern's pilots, times sums of powers of u. The degree is raised
 * as long as Akaike's criterion (with its correction for few observations) falls: it stays
 * 0 for a channel that stands still.
 *
 * The noise variance σ² is the residual power over the degrees of freedom. The equaliser
 * also sees the estimate's own error: σ² times parameters over observations, on average.
 *
 * Holds for echoes within the prefix, less the few samples that fractional delays spread
 * to; for Doppler shifts that turn the channel by less than about half a turn in the
 * burst; and for noise that is the same everywhere in the burst.
 */
class channel_estimator
{
public:
    explicit channel_estimator(const preset& parameters);

    //! From the header alone, for a channel that stands still. Both grids are carriers × the
    //! header's OFDM symbols; ``header`` is what was sent there, of unit modulus.
    header_channel from_header(const resource_grid& received,
                               const resource_grid& header) const;

    //! From the header and the payload's pilots. ``received`` begins with the header's OFDM
    //! symbols, and its phase plane has been removed.
    channel_estimate from_burst(const resource_grid& received,
                                const resource_grid& header) const;

    //! What taps within the prefix can do on the carriers: orthonormal columns.
    const Eigen::MatrixXcf& basis() const { return d_basis; }

private:
    struct fit;
    fit fit_polynomials(const resource_grid& received, const resource_grid& header) const;

    const preset& d_preset;
    Eigen::MatrixXcf d_basis; // carriers × basis functions
    // Its rows at the pilots of each OFDM symbol of the pattern, and their Gram matrices.
    std::vector<Eigen::MatrixXcf> d_pilot_basis, d_pilot_gram;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_CHANNEL_ESTIMATOR_H */
