"""The experiment of notebook 06: what the n-token loss weighs."""
