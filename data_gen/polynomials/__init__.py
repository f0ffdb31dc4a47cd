"""Expressions over F_p[X]/(X^d) and their values, as token streams.

Start with `Polynomials`, the sampler in `stream`. `ring` is the arithmetic, `expressions` draws and evaluates
expressions, and `partial_results` computes the value of every subexpression. Not here: the scoring of a model's answers
(`mtp_lab.evaluation.answers`).
"""

from data_gen.polynomials.expressions import OPERATIONS
from data_gen.polynomials.partial_results import partial_results, with_partial_results
from data_gen.polynomials.stream import Polynomials, polynomial_text

__all__ = ["OPERATIONS", "Polynomials", "partial_results", "polynomial_text", "with_partial_results"]
