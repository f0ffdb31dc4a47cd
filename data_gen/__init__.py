"""Token streams that know their own structure.

Each module samples one kind of sequence with NumPy (no torch), vectorised and from an explicit
`numpy.random.Generator`, and returns it as a `Batch`: tokens, the document that each token belongs to, and
named marks per token.
"""

from data_gen.batch import Batch

__all__ = ["Batch"]
