"""How good a trained model is, and how sure one can be of it.

Start with `statistics` for intervals and tests over seeds. `losses`, `answers` and `acceptance` measure a model,
`in_context` its use of the context, `over_training` any measure at every snapshot, `flops` and `peak_memory` what it
takes. Not here: predictions themselves (`mtp_lab.model.predictions`) and a model's insides (`mtp_lab.interp`).
"""
