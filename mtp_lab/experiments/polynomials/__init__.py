"""The experiment of notebook 05: whether training on several tokens teaches arithmetic of polynomials."""
