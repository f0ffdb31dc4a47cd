"""Children's stories from a grammar, with exact probabilities and renamed characters.

Start with `generator` (Stories, the sampler). It draws a plot from `plots` (the text, as data) through `grammar` and
its compiled form `compiled_grammar`, and names from `names`. `reader` and `cast_reader` compute what an ideal reader
predicts. Not here: how a model is trained on stories (`mtp_lab.tasks.stories`).
"""
