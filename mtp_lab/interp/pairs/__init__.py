"""Pairs of inputs that end in the same way and continue differently: what patching compares.

Start with `base` (`Pairs`). Each other module draws pairs from one kind of stream: stories, polynomials, star graphs.
Not here: what is done with pairs (`mtp_lab.interp.patching`, `mtp_lab.interp.path_patching`).
"""

from mtp_lab.interp.pairs.base import Pairs, logit_difference
from mtp_lab.interp.pairs.polynomials import draw_polynomial_pairs
from mtp_lab.interp.pairs.star_graphs import draw_star_pairs
from mtp_lab.interp.pairs.stories import draw_story_pairs

__all__ = ["Pairs", "draw_polynomial_pairs", "draw_star_pairs", "draw_story_pairs", "logit_difference"]
