"""Real stories with new character names, under any tokenizer.

Start with `rename` (`renamed` and `rename`). `mentions` finds which words of a text are names of characters. `tales`
holds a few tales to try it on. Not here: the generated stories, whose names come from `data_gen.stories.generator.names`.
"""
