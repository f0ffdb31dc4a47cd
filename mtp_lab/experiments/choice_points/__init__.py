"""The experiment of notebook 06: how the n-token loss weighs tokens, and whether the weighting is what helps."""
