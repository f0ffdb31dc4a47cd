"""The experiment of notebook 02: byte models of n future bytes on real code."""
