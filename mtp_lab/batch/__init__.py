"""Many notebooks at once: what is stale, its execution, reports, and the zoo of trained models.

Start with `plan` (what is to run, and why). `execution` runs notebooks with papermill, `report` says what happened,
`zoo` packs trained runs into small files. Not here: what an experiment trains (`mtp_lab.experiments`).
"""
