"""Generation, plain and self-speculative. Both give the same tokens.

Start with `generation` (`generate`, the loop of drafting and verifying). `speculative_sampling` decides which drafts
are accepted, `rows` keeps track of the rows of a batch, `decoder` holds weights and caches, `fused_layers` the layers
laid out for decoding, and `token_stream` prints text while it is generated. Not here: how often drafts are accepted
(`mtp_lab.evaluation.acceptance`).
"""
