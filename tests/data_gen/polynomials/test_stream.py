"""Polynomials: every test states a property and the bug it would catch."""

import hashlib
import re
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import chisquare
from sympy import Poly, symbols

from data_gen.batch import Documents
from data_gen.polynomials import ring
from data_gen.polynomials.expressions import OPERATIONS, read_tree, tree_probability
from data_gen.polynomials.stream import Polynomials

RINGS = [(2, 1), (2, 4), (3, 3), (5, 2), (7, 5), (11, 6)]  # from 2 to 1,771,561 elements; the last needs two bytes
FORMATS = [
    Polynomials(),
    Polynomials(high_first=True, pause=5),
    Polynomials(tagged=False, pause=1),
    Polynomials(notation="infix"),
    Polynomials(notation="infix", tagged=False, high_first=True, pause=2),
    Polynomials(p=2, d=1, split="chain", tagged=False, max_operations=9),
    Polynomials(p=3, d=2, split="chain", notation="infix", max_operations=9),
    Polynomials(p=3, d=2, operations=("-", "*"), notation="infix"),
    Polynomials(p=3, d=2, operations=("-",), pause=1),
    Polynomials(p=5, d=3, operations=("+", "o"), split="chain"),
]
CHOICES = [chosen for n in range(1, 5) for chosen in combinations(OPERATIONS, n)]


def token_lists(documents: Documents) -> list[list[int]]:
    """The tokens of each document."""
    return [tokens.tolist() for tokens in np.split(documents.tokens, documents.ends[:-1])]


def answer_of(task: Polynomials, tokens: list[int]) -> tuple[int, ...]:
    """The answer of a document, from degree 0 upwards, read off the names of its tokens."""
    names = [task.token_names[token] for token in tokens]
    coefficients = [int(name.split("X")[0]) for name in names[names.index("=") + 1 : -1]]
    return tuple(coefficients[::-1] if task.high_first else coefficients)


def full_product(a: list[int], b: list[int]) -> list[int]:
    """All coefficients, of all degrees, as integers."""
    result = [0] * (len(a) + len(b) - 1)
    for i, j in product(range(len(a)), range(len(b))):
        result[i + j] += a[i] * b[j]
    return result


def brute_force(tree: tuple, p: int, d: int) -> tuple[int, ...]:
    """The value by the definition, in plain integers: powers are written out, and cut off and reduced only then."""
    if isinstance(tree[0], int):
        return tree
    operation, *operands = tree[0], *(brute_force(branch, p, d) for branch in tree[1:])
    a, b = list(operands[0]), list(operands[-1])
    if operation == "-":
        total = [-coefficient for coefficient in a]
    elif operation == "+":
        total = [x + y for x, y in zip(a, b, strict=True)]
    elif operation == "*":
        total = full_product(a, b)
    else:
        total, power = [0] * d, [1]
        for coefficient in a:
            total = [x + coefficient * y for x, y in zip(total, power + [0] * d, strict=False)]
            power = full_product(power, b)
    return tuple(coefficient % p for coefficient in total[:d])


def by_sympy(tree: tuple, p: int, d: int) -> Poly:
    """The value by sympy's polynomials over F_p."""
    x = symbols("x")
    if isinstance(tree[0], int):
        return Poly(tree[::-1], x, modulus=p)
    values = [by_sympy(branch, p, d) for branch in tree[1:]]
    operate = {"-": lambda a: -a, "+": Poly.add, "*": Poly.mul, "o": Poly.compose}[tree[0]]
    return operate(*values).rem(Poly(x**d, x, modulus=p))


def assert_uniform(counts) -> None:
    """Chi-square at 1 in 10,000: seeds are fixed, so a failure is a change, not bad luck."""
    assert chisquare(list(counts)).pvalue > 1e-4, counts


# --- the ring


@pytest.mark.parametrize("p, d", [*RINGS, (13, 1), (17, 1), (127, 2), (251, 3)])
def test_arithmetic_is_that_of_plain_integers(p, d):
    """No overflow of small types, whatever the axes before the last: the largest coefficients are among the cases."""
    rng = np.random.default_rng(p)
    a, b = rng.integers(0, p, (2, 4, 10, d), ring.ring_dtype(p, d))
    a[0, 0], b[0, 0] = p - 1, p - 1
    results = [ring.negate(a, p), ring.add(a, b, p), ring.multiply(a, b, p), ring.compose(a, b, p)]
    for operation, result in zip(OPERATIONS, results, strict=True):
        for x, y, z in zip(a.reshape(-1, d).tolist(), b.reshape(-1, d).tolist(), result.reshape(-1, d), strict=True):
            operands = [tuple(x)] if operation == "-" else [tuple(x), tuple(y)]
            assert brute_force((operation, *operands), p, d) == tuple(z.tolist()), operation


# --- answers


@pytest.mark.parametrize("p, d", RINGS)
@pytest.mark.parametrize("split", ["uniform", "chain"])
def test_answers_are_those_of_a_brute_force_evaluator(p, d, split):
    """Catches: left and right exchanged in a composition, a value overwritten too early, a neighbour's operand."""
    task = Polynomials(p, d, max_operations=8, split=split)
    documents = task.documents(1667, np.random.default_rng(p * d))
    for tokens in token_lists(documents):
        assert answer_of(task, tokens) == brute_force(task.parse(tokens), p, d), task.text(tokens)


def test_answers_are_those_of_sympy():
    """Both of our evaluators could share a misunderstanding of composition; sympy's has none of our code."""
    for p, d in RINGS[1:]:
        task = Polynomials(p, d)
        for tokens in token_lists(task.documents(100, np.random.default_rng(1))):
            coefficients = by_sympy(task.parse(tokens), p, d).all_coeffs()[::-1]
            padded = tuple(int(c) % p for c in coefficients) + (0,) * (d - len(coefficients))
            assert answer_of(task, tokens) == padded, task.text(tokens)


# --- the distribution of questions


@pytest.mark.parametrize("split", ["uniform", "chain"])
@pytest.mark.parametrize("m", range(1, 11))
def test_operations_and_coefficients_are_uniform(m, split):
    """For every m: a split or a stack that favours an operation would change what m operations mean."""
    documents = Polynomials(3, 3, split=split).of(m).documents(4000, np.random.default_rng(m))
    coefficients, symbols_from = documents.tokens[documents.labels["operand"]], 3 * 3
    operators = documents.tokens[documents.labels["operator"]] - symbols_from
    assert len(operators) == 4000 * m and (documents.labels["m"] == m).all()
    assert_uniform(np.bincount(operators, minlength=4))
    assert_uniform(np.bincount(documents.labels["root"][documents.ends - 1].astype(int), minlength=4))
    for degree in range(3):
        assert_uniform(np.bincount(coefficients[degree::3] - 3 * degree, minlength=3))


@pytest.mark.parametrize("split", ["uniform", "chain"])
@pytest.mark.parametrize("operations", CHOICES, ids="".join)
def test_questions_are_made_of_the_chosen_operations_alone(operations, split):
    """Each of them as often as any other, the answers those of the brute-force evaluator.
    Catches: an operation that was not chosen, the chosen ones known by their places among themselves."""
    task = Polynomials(3, 2, max_operations=6, split=split, operations=operations)
    documents = task.documents(600, np.random.default_rng(1))
    names = [task.token_names[token] for token in documents.tokens[documents.labels["operator"]]]
    assert set(names) == set(operations) and len(names) == documents.labels["m"][documents.ends - 1].sum()
    assert len(operations) == 1 or chisquare(list(Counter(names).values())).pvalue > 1e-4
    for tokens, root in zip(token_lists(documents), documents.labels["root"][documents.ends - 1], strict=True):
        tree = task.parse(tokens)
        assert answer_of(task, tokens) == brute_force(tree, 3, 2) and OPERATIONS[int(root)] == tree[0]
    assert task.token_names == Polynomials(3, 2).token_names


def test_m_is_uniform_over_its_range():
    documents = Polynomials(min_operations=2, max_operations=6).documents(20_000, np.random.default_rng(0))
    counts = np.bincount(documents.labels["m"][documents.ends - 1].astype(int), minlength=7)
    assert counts[:2].sum() == 0
    assert_uniform(counts[2:])


def operations_in(tree: tuple) -> int:
    return 0 if isinstance(tree[0], int) else 1 + sum(map(operations_in, tree[1:]))


@pytest.mark.parametrize("split", ["uniform", "chain"])
@pytest.mark.parametrize("m", [2, 5, 6])
def test_remaining_operations_are_shared_out_as_documented(m, split):
    """Uniform: the left operand of a binary root has 0 to m - 1 of them, evenly. Chain: all or none, evenly."""
    task = Polynomials(2, 1, split=split).of(m)
    trees = [task.parse(tokens) for tokens in token_lists(task.documents(6000, np.random.default_rng(m)))]
    left = Counter(operations_in(tree[1]) for tree in trees if tree[0] != "-")
    assert set(left) == (set(range(m)) if split == "uniform" else {0, m - 1})
    assert_uniform(left.values())


def all_trees(m: int, operands: list[tuple]) -> list[tuple]:
    if m == 0:
        return operands
    trees = [("-", tree) for tree in all_trees(m - 1, operands)]
    for left in range(m):
        pairs = list(product(all_trees(left, operands), all_trees(m - 1 - left, operands)))
        trees += [(operation, *pair) for operation in "+*o" for pair in pairs]
    return trees


@pytest.mark.parametrize("split", ["uniform", "chain"])
@pytest.mark.parametrize("operations", [OPERATIONS, ("-", "o"), ("*",)], ids="".join)
@pytest.mark.parametrize("zeros", [0.0, 0.7, 1.0])
def test_every_question_comes_up_as_often_as_its_stated_probability(zeros, operations, split):
    """All questions of up to two operations over two elements: the probabilities add up to 1 and to what is drawn."""
    task = Polynomials(2, 1, max_operations=2, split=split, operations=operations, zeros=zeros)
    trees = [tree for m in (1, 2) for tree in all_trees(m, [(0,), (1,)])]
    expected = {tree: task.probability(tree) for tree in trees}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-12)
    counts = Counter(map(task.parse, token_lists(task.documents(30_000, np.random.default_rng(0)))))
    assert set(counts) <= set(expected)
    possible = [tree for tree, chance in expected.items() if chance > 0]
    result = chisquare([counts[tree] for tree in possible], [30_000 * expected[tree] for tree in possible])
    assert result.pvalue > 1e-4


@pytest.mark.parametrize("split", ["uniform", "chain"])
def test_probabilities_of_deeper_questions_add_up_to_one(split):
    """With a single element, trees alone: chains of four must not count trees with operations on both sides."""
    for m in (3, 4, 5):
        trees = all_trees(m, [(0,)])
        assert sum(tree_probability(tree, split, 1.0)[0] for tree in trees) == pytest.approx(1, abs=1e-12)
    both_sides = ("+", ("-", (0,)), ("-", (0,)))
    assert (tree_probability(both_sides, "chain", 1.0)[0] == 0) and tree_probability(both_sides, "uniform", 1.0)[0] > 0


@pytest.mark.parametrize("notation", ["postfix", "infix"])
@pytest.mark.parametrize("operations", CHOICES, ids="".join)
def test_the_mean_length_is_that_of_all_questions(operations, notation):
    """Exactly, by their probabilities, and the longest is among them: 3/4 of operations are binary only of all four."""
    task = Polynomials(2, 1, max_operations=3, pause=1, notation=notation, operations=operations)
    total = mean = longest = 0.0
    for tree in (tree for m in (1, 2, 3) for tree in all_trees(m, [(0,), (1,)])):
        written = re.findall(r"[-+*o]|\d", str(tree))
        binary = sum(word in "+*o" for word in written)
        length = len(written) + 2 * binary * (notation == "infix") + 4  # pause, "=", an answer of one token, "end"
        chance = task.probability(tree)
        total, mean, longest = total + chance, mean + chance * length, max(longest, length * (chance > 0))
    assert total == pytest.approx(1, abs=1e-12) and mean == pytest.approx(task.mean_length, abs=1e-10)
    assert longest == task.longest


# --- documents: notation, tokens, labels


@pytest.mark.parametrize("task", FORMATS, ids=str)
def test_every_format_asks_the_same_questions(task):
    """Formats are compared on the same expressions: one that draws or parses otherwise would change the task too."""
    same = dict(max_operations=task.max_operations, split=task.split, operations=task.operations)
    plain = Polynomials(task.p, task.d, **same)
    documents, reference = (t.documents(300, np.random.default_rng(5)) for t in (task, plain))
    for tokens, plain_tokens in zip(token_lists(documents), token_lists(reference), strict=True):
        assert task.parse(tokens) == plain.parse(plain_tokens)
        assert answer_of(task, tokens) == answer_of(plain, plain_tokens)
    held_out, reference = task.held_out("test", 6, 50), plain.held_out("test", 6, 50)
    assert list(map(task.parse, token_lists(held_out))) == list(map(plain.parse, token_lists(reference)))


def test_high_first_turns_each_polynomial_around_and_nothing_else():
    """Turning the whole stretch of two neighbouring operands around would exchange them."""
    for tagged in (True, False):
        low, high = (Polynomials(tagged=tagged, high_first=high_first) for high_first in (False, True))
        pair = [t.documents(200, np.random.default_rng(2)) for t in (low, high)]
        coefficient = pair[0].labels["operand"] | pair[0].labels["answer"]
        tokens, turned = (documents.tokens[coefficient].reshape(-1, 5) for documents in pair)
        assert (tokens == turned[:, ::-1]).all() and (tokens != turned).any()
        assert (pair[0].tokens[~coefficient] == pair[1].tokens[~coefficient]).all()


@pytest.mark.parametrize("task", FORMATS, ids=str)
def test_labels_select_exactly_their_tokens(task):
    """Each label, computed again from the texts of the tokens. Catches: an answer counted as operand, "=" off by one, a
    neighbour's root."""
    documents = task.documents(300, np.random.default_rng(3))
    assert documents.lengths.sum() == len(documents.tokens) and documents.tokens.dtype == np.int32
    first = 0
    for tokens in token_lists(documents):
        labels = {name: label[first : first + len(tokens)].tolist() for name, label in documents.labels.items()}
        first += len(tokens)
        names = [task.token_names[token] for token in tokens]
        tree, equals = task.parse(tokens), names.index("=")
        coefficient = [name[0].isdigit() for name in names]
        in_order = [i % task.d for i in range(sum(coefficient))]  # every polynomial has d coefficients
        degrees = iter([task.d - 1 - i for i in in_order] if task.high_first else in_order)
        assert names[equals - task.pause : equals] == ["pause"] * task.pause == [n for n in names if n == "pause"]
        assert names[-1] == "end" and len(tokens) == equals + task.d + 2 and all(coefficient[equals + 1 : -1])
        assert labels == {
            "operand": [is_one and i < equals for i, is_one in enumerate(coefficient)],
            "operator": [name in OPERATIONS for name in names],
            "pause": [name == "pause" for name in names],
            "equals": [i == equals for i in range(len(names))],
            "answer": [is_one and i > equals for i, is_one in enumerate(coefficient)],
            "degree": [float(next(degrees)) if is_one else -1.0 for is_one in coefficient],
            "m": [float(operations_in(tree))] * len(names),
            "root": [float(OPERATIONS.index(tree[0]))] * len(names),
        }
        if task.tagged:
            powers = [["", "X"].index(n[1:]) if n[1:] in ("", "X") else int(n[3:]) for n in names if n[0].isdigit()]
            assert powers == [degree for degree in labels["degree"] if degree >= 0]


@pytest.mark.parametrize("task", FORMATS, ids=str)
def test_lengths_are_as_expected(task):
    """A mean that is off fills rows in too many draws; a longest that is too small fails late in a training run."""
    documents = task.documents(20_000, np.random.default_rng(0))
    error = documents.lengths.std() / np.sqrt(len(documents))
    assert abs(documents.lengths.mean() - task.mean_length) < 5 * error
    assert documents.lengths.max() <= task.longest
    assert task.of(2).documents(500, np.random.default_rng(0)).lengths.max() == task.of(2).longest
    assert documents.tokens.max() < task.vocab_size == len(set(task.token_names))


def test_packed_rows_hold_whole_documents():
    """Cut anywhere, a question would have another answer."""
    task = Polynomials(3, 3, notation="infix", pause=1)
    batch = task.sample(40, task.longest + 30, np.random.default_rng(0))
    assert batch.tokens.shape == (40, task.longest + 30) and set(batch.labels) == set(
        task.documents(1, np.random.default_rng(0)).labels
    )
    for row, owner in zip(batch.tokens, batch.documents, strict=True):
        assert np.count_nonzero(owner == -1) < task.longest
        for document in np.unique(owner[owner >= 0]):
            tokens = row[owner == document].tolist()
            assert tokens[-1] == task.end and tokens.count(task.equals) == 1
            assert answer_of(task, tokens) == brute_force(task.parse(tokens), 3, 3)


def test_tight_rows_hold_whole_documents_and_little_padding():
    """Notebook 05's ring in rows of 64: 95 % real tokens, of which next-fit makes 82; the same from the same generator.
    Catches: an option that is not passed on, documents cut or mixed up on the way into their rows."""
    task = Polynomials(2, 4)
    batch, again = (task.sample(96, 64, np.random.default_rng(5), tight=True) for _ in range(2))
    assert batch.tokens.shape == (96, 64) and batch.real_tokens > 0.92 * 96 * 64
    assert task.sample(96, 64, np.random.default_rng(5)).real_tokens < 0.86 * 96 * 64
    assert (batch.tokens == again.tokens).all() and (batch.documents == again.documents).all()
    for row, owner, m in zip(batch.tokens, batch.documents, batch.labels["m"], strict=True):
        for document in np.unique(owner[owner >= 0]):
            tokens = row[owner == document].tolist()
            assert tokens[-1] == task.end and tokens.count(task.equals) == 1
            tree = task.parse(tokens)
            assert answer_of(task, tokens) == brute_force(tree, 2, 4)
            assert set(m[owner == document]) == {operations_in(tree)}


def test_a_tree_is_read_as_it_is_written():
    """By hand, so that sampler and parser cannot agree on a wrong order: a(b) with a on the left, in both notations."""
    tree = ("o", (1, 2), ("-", ("*", (0, 1), (2, 0))))
    assert read_tree([(1, 2), (0, 1), (2, 0), "*", "-", "o"], "postfix") == tree
    assert read_tree(["(", (1, 2), "o", "-", "(", (0, 1), "*", (2, 0), ")", ")"], "infix") == tree
    assert read_tree(["(", "-", "-", (0,), "+", (1,), ")"], "infix") == ("+", ("-", ("-", (0,))), (1,))


def test_text_is_readable_whole_or_cut():
    task = Polynomials(5, 3)
    tokens = [task.token_names.index(name) for name in ("2", "3X", "1X^2", "0", "0X", "0X^2", "+", "=")]
    assert task.text(tokens) == "(2+3X+X^2) (0) + ="
    assert task.text(tokens[1:]) == "3X 1X^2 (0) + ="  # a generated answer may be no polynomial at all
    untagged = Polynomials(5, 3, tagged=False, high_first=True)
    assert untagged.text([1, 3, 2, 5, 12]) == "(2+3X+X^2) - ="


@pytest.mark.parametrize("notation", ["postfix", "infix"])
@pytest.mark.parametrize(
    "names",
    [[], ["+"], ["0"], ["pause"], ["-", "-"], ["0X", "0"], ["0", "0X", "+"], ["0", "0X", "0", "0X"], ["(", "0", "0X"]],
)
def test_what_is_no_question_is_refused(names, notation):
    """A generated sequence must not be drawn as a tree with operands missing."""
    task = Polynomials(3, 2, notation=notation)
    with pytest.raises(ValueError, match=f"not an expression in {notation}: .*; give one whole question"):
        task.parse([task.token_names.index(name) for name in names])


@pytest.mark.parametrize("words", [["(", (1,), ")"], ["(", (1,), "+", (1,), "+", (1,), ")"], [(1,), "+", (1,), ")"]])
def test_brackets_that_do_not_match_are_refused(words):
    with pytest.raises(ValueError, match="not an expression in infix"):
        read_tree(words, "infix")


# --- fixed test sets, overlap


def test_held_out_sets_are_fixed_and_differ():
    """The same seed for two sets would choose on the test set; another seed than last year's ends comparability."""
    task, sets = Polynomials(), {}
    for split, m in product(("validation", "test"), range(1, 11)):
        documents = task.held_out(split, m)
        assert len(documents) == 2000 and (documents.labels["m"] == m).all()
        sets[split, m] = set(map(tuple, token_lists(documents)))
    for m in range(1, 11):
        assert len(sets["validation", m] & sets["test", m]) < 40  # by chance: 500 negations each, of 16,807
    other = Polynomials(min_operations=3, max_operations=4, pause=2).held_out("test", 2, 10)  # outside the own range
    assert list(map(task.parse, token_lists(other))) == list(map(task.parse, token_lists(task.held_out("test", 2, 10))))


def test_each_choice_of_operations_has_held_out_sets_of_its_own():
    """Catches: one seed for "+" and "*", whose sets would then be the same questions with other signs."""
    sets = [Polynomials(operations=chosen).held_out("test", 3, 20) for chosen in CHOICES]
    assert len({documents.tokens[documents.labels["operand"]].tobytes() for documents in sets}) == len(CHOICES)
    assert (sets[-1].tokens == Polynomials().held_out("test", 3, 20).tokens).all()


def test_sparse_operands_are_as_sparse_as_stated():
    """Questions differ in their share of zeros, up to the highest. Catches: one share for all, zeros in answers."""
    task = Polynomials(max_operations=1, operations=("*",), zeros=0.8)
    documents = task.documents(20_000, np.random.default_rng(0))
    values = documents.tokens[documents.labels["operand"]].reshape(-1, 10) % 7  # (questions, coefficients)
    blank = (values == 0).mean(axis=1)
    assert blank.mean() == pytest.approx(0.4 + 0.6 / 7, abs=0.005)
    binomial = np.mean([z * (1 - z) for z in 1 / 7 + 6 / 7 * np.linspace(0, 0.8, 1001)]) / 10
    assert blank.var() == pytest.approx(binomial + (6 / 7 * 0.8) ** 2 / 12, rel=0.03)
    for question in token_lists(documents[:200]):
        _, left, right = task.parse(question)
        answer = ring.multiply(*(np.array(operand, ring.ring_dtype(7, 5)) for operand in (left, right)), 7)
        assert (answer + 7 * np.arange(5)).tolist() == list(question[-6:-1])


def test_sparse_questions_have_held_out_sets_of_their_own():
    """Catches: dense test questions that are the sparse ones with other coefficients, or the reverse."""
    sets = [Polynomials(zeros=zeros).held_out("test", 3, 20).tokens for zeros in (0.0, 0.5, 1.0)]
    assert len({tokens.tobytes() for tokens in sets}) == 3
    assert (sets[0] == Polynomials().held_out("test", 3, 20).tokens).all()


def test_operations_that_training_leaves_out_are_never_seen():
    """Unlimited training sees all questions of its own operations, and of the others none."""
    task = Polynomials(2, 1, max_operations=2, operations=("-", "*"))
    held_out = Polynomials(2, 1, max_operations=2).held_out("test", 2, 300)
    names = [{task.token_names[token] for token in tokens} for tokens in token_lists(held_out)]
    own = np.mean([not words & {"+", "o"} for words in names])
    assert 0.1 < own < 0.5 and task.overlap(held_out, 10**7) == pytest.approx(own)


@pytest.mark.parametrize(
    "task, m, samples",
    [
        (Polynomials(2, 1), 1, 40),
        (Polynomials(2, 2, notation="infix"), 2, 1000),
        (Polynomials(2, 1, 2, 3, "chain"), 3, 1000),
        (Polynomials(2, 1, 2, 3, operations=("-", "o")), 3, 300),
    ],
    ids=str,
)
def test_overlap_is_that_of_simulated_training_sets(task, m, samples):
    """Chances multiplied wrongly, or with m taken as given, would miss the mean over 60 drawn training sets."""

    def questions(documents: Documents) -> list[tuple[int, ...]]:
        return [tuple(tokens[: tokens.index(task.equals)]) for tokens in token_lists(documents)]

    held_out, rng, shares = task.held_out("test", m, 200), np.random.default_rng(0), []
    for _ in range(60):
        seen = set(questions(task.documents(samples, rng)))
        shares.append(np.mean([question in seen for question in questions(held_out)]))
    overlap = task.overlap(held_out, samples)
    assert 0.1 < overlap < 0.9
    assert abs(np.mean(shares) - overlap) < 4 * np.std(shares) / np.sqrt(60)


def test_overlap_is_none_out_of_domain_and_grows_with_training():
    """m outside the training range is never seen; otherwise more samples can only see more, up to everything."""
    task = Polynomials(2, 2)
    assert task.overlap(task.held_out("test", 6, 100), 10**9) == 0
    inside = [task.overlap(task.held_out("test", 2, 100), samples) for samples in (0, 1, 100, 10**4, 10**8)]
    assert inside[0] == 0 and (np.diff(inside) > 0).all() and inside[-1] == pytest.approx(1)
    large = Polynomials()  # 2 operands or more: 7^10 pairs, and chances of 1e-10 must not be rounded away
    assert large.overlap(large.held_out("test", 5, 200), 1000) > 0


# --- fixed outputs, errors


@pytest.mark.parametrize(
    "task, digest",
    [
        (Polynomials(), "e507c2265ab75f1b"),
        (Polynomials(2, 4, split="chain", tagged=False, high_first=True, pause=2), "95e214871bab9ca3"),
        (Polynomials(11, 6, notation="infix", max_operations=9), "0750d72921808afb"),
    ],
    ids=str,
)
def test_output_of_a_seed_does_not_change(task, digest):
    """Results are reproducible across machines and versions only as long as the stream is."""
    documents = task.documents(500, np.random.default_rng(7))
    hashed = hashlib.sha256(documents.tokens.astype("<i4").tobytes() + documents.lengths.astype("<i8").tobytes())
    for name in sorted(documents.labels):
        hashed.update(documents.labels[name].astype("<f4").tobytes())
    assert hashed.hexdigest()[:16] == digest


def test_rows_of_a_seed_do_not_change():
    """Next-fit, as all stored trainings of this ring have seen them."""
    batch = Polynomials(2, 4).sample(40, 64, np.random.default_rng(1))
    hashed = hashlib.sha256(batch.tokens.astype("<i4").tobytes() + batch.documents.astype("<i4").tobytes())
    assert hashed.hexdigest()[:16] == "ee733e270088421e"


def test_test_sets_do_not_change():
    """m = 1 to 10, the sets that every figure reports on."""
    tokens = [Polynomials().held_out("test", m).tokens.astype("<i4").tobytes() for m in range(1, 11)]
    assert [hashlib.sha256(item).hexdigest()[:8] for item in tokens] == [
        "951175c9",
        "371368f1",
        "9239753e",
        "f62e31f2",
        "7f928e7c",
        "3ec3a6f1",
        "c2686451",
        "7444f897",
        "08e40a0f",
        "e9206b80",
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"p": 6}, "p=6 must be a prime, such as 2, 3, 5 or 7"),
        ({"p": 1}, "p=1 must be a prime"),
        ({"p": 49}, "p=49 must be a prime"),
        ({"p": -7}, "p=-7 must be a prime"),
        ({"p": 2**61 - 1}, "p=2305843009213693951 and d=5 make 11529215046068469755 coefficients"),
        ({"d": 0}, "d=0 must be at least 1"),
        ({"min_operations": 0}, "min_operations=0 must be at least 1"),
        ({"min_operations": 3, "max_operations": 2}, "max_operations=2 must be at least min_operations=3"),
        ({"split": "even"}, "split='even' must be one of uniform, chain"),
        ({"notation": "prefix"}, "notation='prefix' must be one of postfix, infix"),
        ({"pause": -1}, "pause=-1 must be 0 or more"),
        ({"operations": ()}, "operations=() must be some of -, +, *, o, each once"),
        ({"operations": ("+", "/")}, "operations=('+', '/') must be some of"),
        ({"operations": ("+", "*", "+")}, "operations=('+', '*', '+') must be some of"),
        ({"zeros": 1.5}, "zeros=1.5 must be a share from 0 to 1"),
        ({"zeros": True}, "zeros=True must be a share from 0 to 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Polynomials(**arguments)


def test_requests_that_cannot_be_met_are_named():
    """Also m < 1 by way of `of`; and a row that is too short at once, not when its document happens to be drawn."""
    task, rng = Polynomials(), np.random.default_rng(0)
    assert task.longest == 42
    with pytest.raises(ValueError, match="seq=41 must be at least 42, the longest"):
        task.sample(1, 41, rng)
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        task.documents(0, rng)
    with pytest.raises(ValueError, match="min_operations=0 must be at least 1"):
        task.held_out("test", 0)
    with pytest.raises(ValueError, match="split='train' must be one of validation, test"):
        task.held_out("train", 1)
