"""Children's stories from a grammar, with exact probabilities and renamed characters.

Start with `Stories`, the sampler in `generator`. It draws a path through the text (`plots`, as data), which is parsed
by `grammar` and turned into arrays by `compiled_grammar`, and names from the pools of `names`. `exact_probabilities`
and `name_probabilities` compute the predictions of an ideal predictor at every horizon. Not here: how a model is
trained on stories (`mtp_lab.tasks.stories`).
"""

from data_gen.stories.exact_probabilities import StoryReader
from data_gen.stories.generator import N_CHARACTERS, Stories, of_characters
from data_gen.stories.names import NamePools

__all__ = ["N_CHARACTERS", "NamePools", "Stories", "StoryReader", "of_characters"]
