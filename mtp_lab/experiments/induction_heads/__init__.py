"""The experiment of notebook 04: when models of stories learn induction."""
