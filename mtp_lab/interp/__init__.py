"""Instruments that open a trained model. They read a model and never train it.

Where to start: `handmade` holds a model whose circuit is known, because its weights are written by hand. Every
instrument is validated on it. `attention` shows where attention heads look, `ablation` whether they matter, `patching`
and `path_patching` where information travels between the runs of `pairs`. `probes` and `lens` show what the residual
stream holds. `gradients` and `myopia` show what the losses of the horizons ask of the trunk. `adapter` opens a model to
TransformerLens' own tools, and `hooks` names the places where all of them look.

Not here: a model's predictions and losses (`mtp_lab.model.predictions`), numbers about behaviour
(`mtp_lab.evaluation`), and figures (`mtp_lab.figures`).
"""
