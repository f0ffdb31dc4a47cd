"""The experiment of notebook 03: how fast byte models decode with their own drafts."""
