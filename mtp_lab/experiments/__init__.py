"""What each notebook trains and measures.

There is one folder an experiment, named as its notebook: `conditions` says which models are trained at each preset,
`analysis` what is measured on them. `registry` lists the experiments, `presets` holds what they share, `conditions` one
table of measures over many runs, `verdicts` what was concluded. Not here: figures (`mtp_lab.figures.theme`) and how notebooks
are executed (`mtp_lab.batch`).
"""
