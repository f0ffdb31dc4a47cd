"""Real stories with new character names, under any tokenizer.

Start with `rename_characters`: it finds the characters of any texts and gives them names of two tokens. `rename` only
replaces given names by given ones. `mentions` decides which words of a text are names. `sample_tales` are a few tales
to try it on. Not here: generated stories and their names (`data_gen.stories`).
"""

from data_gen.renaming.mentions import find_mentions, find_names
from data_gen.renaming.rename import read_documents, rename, rename_characters, sample_tales

__all__ = ["find_mentions", "find_names", "read_documents", "rename", "rename_characters", "sample_tales"]
