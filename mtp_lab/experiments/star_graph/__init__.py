"""The experiment of notebook 07: planning on path-star graphs."""
