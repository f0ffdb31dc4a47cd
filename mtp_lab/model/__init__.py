"""The model of the paper: one trunk, n prediction heads, one unembedding; its targets, its loss, its predictions.

Start with `transformer` (the model), then `targets` and `loss` (Eq. 2 and Figure 2). `layers` holds the parts of one
layer, `predictions` the losses and predictions of a model on a batch, `llama` the conversion to and from Hugging Face.
Not here: optimizers (`mtp_lab.training`) and generation (`mtp_lab.decoding`).
"""
