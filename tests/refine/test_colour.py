# SPDX-License-Identifier: GPL-3.0-or-later
import torch

from diffjscc.refine.colour import COLOUR_FIXES, match_low_frequencies, match_statistics


def images(seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 96, 80, generator=random), torch.rand(2, 3, 96, 80, generator=random) * 0.5 + 0.2


def test_adain_gives_each_channel_the_initial_mean_and_deviation():
    refined, initial = images()
    fixed = match_statistics(refined, initial)
    torch.testing.assert_close(fixed.mean((2, 3)), initial.mean((2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(fixed.std((2, 3)), initial.std((2, 3)), atol=1e-3, rtol=0)


def test_a_colour_cast_is_undone_and_the_detail_kept():
    refined, _ = images()
    cast = refined * 1.0
    cast[:, 0] += 0.2
    torch.testing.assert_close(match_low_frequencies(cast, refined), refined, atol=1e-5, rtol=0)


def test_what_is_right_already_stays():
    refined, _ = images()
    for fix in COLOUR_FIXES.values():
        torch.testing.assert_close(fix(refined, refined), refined, atol=1e-5, rtol=0)
