"""From a config to a finished run on disk.

Start with `runs`: `get_run(config)` loads, resumes or trains a run. `loop` is the training itself, with `optimizers`,
`checkpoints`, `self_distillation` and `hardware`. `named_runs` finds finished runs by a short name, `zoo_files`
stores a run in one small file, `housekeeping` lists and prunes runs. Not here: the loss (`mtp_lab.model.loss`), the
data (`mtp_lab.tasks`) and measurements of trained models (`mtp_lab.evaluation`).
"""
