"""Expressions over F_p[X]/(X^d) and their values, as token streams.

Start with `stream` (Polynomials, the sampler). `ring` is the arithmetic, `expressions` draws and evaluates expression
trees, `partial_results` finds the value of every subexpression. Not here: scoring of a model's answers
(`mtp_lab.evaluation.answers`).
"""
