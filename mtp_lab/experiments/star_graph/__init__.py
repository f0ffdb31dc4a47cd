"""The experiment of notebook 07: whether models plan the first step on a star graph."""
