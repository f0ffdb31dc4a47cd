"""The experiment of notebook 03: the speed at which byte models decode with their own drafts."""
