"""The experiment of notebook 05: polynomial arithmetic and generalisation."""
