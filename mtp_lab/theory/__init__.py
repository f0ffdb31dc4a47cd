"""What theory says about the n-token loss: implicit weights of tokens, and information that future tokens share.

Start with `implicit_weights` (the paper's section 5.1). `information` holds section 5.2 and Appendix L.2. Both work on
exact probabilities of `data_gen` and on the losses of a trained model alike. Not here: the loss (`mtp_lab.model.loss`).
"""
