"""Measurements of a trained model's behaviour, with their uncertainty.

Start with `answers` (exact match, pass@k), `acceptance` (drafts) and `in_context` (use of the context); `losses` holds
units. `statistics` gives intervals and tests over seeds, `snapshots` any measurement at every snapshot. `flops` and
`peak_memory` measure computation. Not here: predictions themselves (`mtp_lab.model.predictions`) and the inside of a
model (`mtp_lab.interp`).
"""
