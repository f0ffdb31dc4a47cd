"""The experiment of notebook 04: when models of stories find induction."""
