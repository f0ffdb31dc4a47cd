"""Theory of the n-token loss: implicit weights of tokens, and information that future tokens share.

Start with `implicit_weights` (the paper's section 5.1). `information` holds section 5.2 and Appendix L.2. Both accept
exact losses of an ideal predictor and losses of a trained model. Left out: the loss itself (`mtp_lab.model.loss`).
"""
