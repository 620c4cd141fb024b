/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_API_H
#define INCLUDED_DIFFJSCC_API_H

#include <gnuradio/attributes.h>

#ifdef gnuradio_diffjscc_EXPORTS
#define DIFFJSCC_API __GR_ATTR_EXPORT
#else
#define DIFFJSCC_API __GR_ATTR_IMPORT
#endif

#endif /* INCLUDED_DIFFJSCC_API_H */
