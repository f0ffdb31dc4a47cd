"""Token streams with exactly known structure, sampled with NumPy.

Each sampler draws one kind of sequence from an explicit `numpy.random.Generator` and returns a `Batch`: tokens, the
document of each token, and labels of each token.

    choice_process, star_graph      the smallest tasks, one module each
    stories, polynomials            packages: children's stories, and arithmetic in a polynomial ring
    renaming                        real stories with new names, under any tokenizer
    bytes, prose                    real text as bytes
    batch, packing                  what all of them share

Start with `choice_process`, the smallest one. Not here: models, and how they are trained on these streams (`mtp_lab`).
"""

from data_gen.batch import Batch

__all__ = ["Batch"]
