"""What each study notebook trains and measures.

Each experiment has a folder, named as its notebook. Its `conditions` say which models are trained at each preset, and
its `analysis` measures them. `registry` lists the experiments, `presets` holds what they share, `measures` makes one
table of the measures of many runs, and `verdicts` records the conclusions. Figures are in `mtp_lab.figures`, and the
execution of notebooks is in `mtp_lab.batch`.
"""
