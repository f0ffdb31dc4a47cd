"""The story grammar's prefix trees: expansion, shares, and the rules that make probabilities exact."""

import pytest

from data_gen.stories.grammar import Grammar, alternatives, trees

TWO = "a {toy} for {A} . > more"


def grammar(*more: str, scenery: tuple[str, ...] = ()) -> Grammar:
    words = {"toy": ("ball", "kite"), "shade": ("red", "blue")}
    return Grammar(words, {"toy": "shade"}, {"arrival": (TWO.replace("> more", ">> more"),), "more": more}, scenery)


def test_brackets_expand_to_every_combination():
    assert list(alternatives("a ( b | c ( d | ) ) e")) == [list("abe"), list("acde"), list("ace")]
    with pytest.raises(ValueError, match="do not match"):
        list(alternatives("a ( b"))


def test_weights_are_shares_of_the_stories_that_come_this_way():
    """Passages are equally likely, so are the expansions of each, and scenery has its own probability."""
    tree_of = trees(grammar("( very | so | so ) good . > end", "{A} slept . > end", scenery=("it rained .",)), 0.2)
    root = tree_of["more", True]
    shares = {code: child.weight for code, child in root.children.items()}
    assert shares == pytest.approx(
        {("word", "it"): 0.2, ("word", "very"): 0.4 / 3, ("word", "so"): 0.8 / 3, ("name", "A"): 0.4}
    )
    assert root.children["word", "very"].future == root.children["word", "so"].future, "no later token differs"
    assert sum(child.weight for child in tree_of["more", False].children.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "passages, message",
    [
        (("{B} came . > end", "it rained . > end"), "{B} competes with 'it'"),
        (("{toy} . > end", "red . > end"), "{shade} competes with 'red'"),
        (("it rained . > end", "it rained . it snowed . > end"), "a passage ends where another one continues"),
        (("it rained . > arrival",), "lead in a circle"),
        (("it rained . > nowhere",), "'nowhere' follows a passage, but has no text"),
        (("it rained .",), "must end in"),
        (("{A.them} . > end",), "{A.them} is not a pronoun"),
        (("{house} . > end",), "{house} is not a slot"),
    ],
)
def test_text_without_exact_probabilities_is_refused(passages, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        trees(grammar(*passages), 0.2)
