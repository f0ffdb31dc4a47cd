"""Generation, plain and self-speculative, always with the tokens of plain decoding.

Start with `generation` (`generate`, the loop of drafting and verifying). `sampling` decides which drafts are accepted,
`decoder` holds weights and caches, `fused_layers` the layers laid out for decoding, `token_stream` prints text as it
comes. Not here: how often drafts are accepted (`mtp_lab.evaluation.acceptance`).
"""
