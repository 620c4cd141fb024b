/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_FADING_ESTIMATOR_H
#define INCLUDED_DIFFJSCC_FADING_ESTIMATOR_H

#include "known_elements.h"
#include <map>

namespace gr {
namespace diffjscc {

//! A channel that may change during the burst, by one model of how fast it does.
struct fitted_channel {
    resource_grid channel; //!< on each resource element
    Eigen::VectorXf error; //!< the estimate's mean error variance in each OFDM symbol
    double noise_var;      //!< level of the noise; a profile multiplies it
    double score;          //!< Akaike's criterion; lower is better
    int step; //!< of the Doppler spreads that were tried; -1 for a still channel
};

/*!
 * The channel by linear MMSE over all known elements, in time and frequency.
 *
 * Model: y(k,r) conj(x(k,r)) = h(k,r) + w, w of variance v(k,r), with
 *
 *     h(k,r) = Σ_m Σ_n t_m(r) b_n(k) c_{mn},    c_{mn} ~ CN(0, λ_m g_n).
 *
 * In frequency, taps within the prefix have the powers p(d), independent of each other. The
 * covariance of the channel on the carriers is then R diag(p) R', R the taps' response; b_n
 * and g_n are its eigenvectors and eigenvalues. A channel with few paths has few of them, so
 * that little has to be estimated. The powers p come from the wholly known OFDM symbols, one by
 * one, since the channel may turn from one to the next; then once more from the whole burst's
 * estimate.
 *
 * In time each tap is a stationary process whose Doppler spectrum is flat within ±f: its
 * covariance over OFDM symbols is sinc(2f(r - r')), with the Slepian sequences as eigenvectors
 * t_m and eigenvalues λ_m. About 2f·symbols + 2 of them matter. A few f are tried, from a third
 * of a turn in the burst up to MOST_DOPPLER turns in an OFDM symbol, and f = 0 with one constant
 * function. Akaike's criterion chooses, with its correction for few observations and with the
 * effective number of parameters of a linear smoother, trace(A⁻¹ Φ'V⁻¹Φ).
 *
 * The coefficients solve A c = Φ'V⁻¹ y, A = Φ'V⁻¹Φ + diag(1/λg). Their covariance A⁻¹ gives the
 * estimate's error in each OFDM symbol, largest at the burst's ends.
 *
 * Holds for channels that are nearly still within one OFDM symbol: at f = 0.2 the change
 * within a symbol acts as noise 13 dB below the signal.
 */
class fading_estimator
{
public:
    //! ``basis``: what taps within the prefix can do on the carriers, orthonormal columns.
    fading_estimator(const preset& parameters, const Eigen::MatrixXcf& basis);

    /*!
     * A channel that stands still.
     *
     * \param weight  of each resource element: 1 over its share of the noise's level
     * \param spent  parameters that were estimated before, for the criterion
     */
    fitted_channel
    still(const known_elements& known, const Eigen::MatrixXf& weight, double spent) const;

    /*!
     * The best of several Doppler spreads above 0.
     *
     * \param noise_var  the level's first guess
     * \param before  what was found with other weights, where to begin; or none
     */
    fitted_channel moving(const known_elements& known,
                          const Eigen::MatrixXf& weight,
                          double noise_var,
                          const fitted_channel* before);

private:
    struct equations;
    struct profile;
    struct slepian {
        Eigen::MatrixXd functions; // symbols × functions
        Eigen::VectorXd powers;
    };

    equations set_up(const known_elements& known,
                     const Eigen::MatrixXf& weight,
                     const Eigen::MatrixXcf& basis) const;
    fitted_channel solve(const equations& given,
                         const Eigen::MatrixXd& functions,
                         const Eigen::MatrixXd& variances,
                         double spent,
                         bool with_channel) const;
    profile along(const known_elements& known,
                  const Eigen::MatrixXf& weight,
                  const Eigen::VectorXf& taps) const;
    Eigen::VectorXf taps(const resource_grid& channel, double noise_var) const;
    const slepian& functions(int symbols, int steps);

    const preset& d_preset;
    const Eigen::MatrixXcf d_basis, d_response;
    std::map<std::pair<int, int>, slepian> d_functions;
    int d_usual = 0; // the Doppler spread's step that the search begins with
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_FADING_ESTIMATOR_H */
