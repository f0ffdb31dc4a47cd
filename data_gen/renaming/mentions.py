"""The characters of an English story: which capitalised words are their names, and where they are mentioned.

Rules and short word lists, without a model, so the same text gives the same names everywhere. On the sample tales they
find all names and nothing else (tests/data_gen/renaming/test_rename.py). But the rules were made with these tales, so
check the result on other stories, or pass the names. Left out: pronouns, and several names for one character ("Tom" and
"Thomas" are two characters).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


FIRST_NAMES = _set(
    """Abby Adam Alex Alice Amelia Amir Amy Andy Ann Anna Annie Anne Arthur Ava Bella Ben Benny Beth Betty Bill Billy
    Bob Bobby Brian Charlie Chloe Chris Clara Daisy Dan Daniel Danny Dave David Dora Eddie Ella Ellie Emily Emma Eric
    Ethan Eva Faith Finn Fred Freddy George Grace Hannah Harry Helen Henry Hope Hugo Ivy Jack Jake James Jane
    Jason Jen Jenny Jerry Jill Jim Jimmy Joe Joey John Johnny Josh Joy Julia June Kate Katie Kevin Kim Kitty Laura
    Leo Liam Lila Lily Lisa Liz Lola Lucas Lucy Luke Maggie Mandy Maria Mark Martha Mary Matt Max May Maya Megan
    Mia Michael Mike Millie Milo Molly Nancy Nick Nina Noah Nora Oliver Olivia Oscar Pat Paul Penny Peter Polly
    Poppy Rachel Ray Rob Robin Ron Rose Rosie Ruby Ruth Sally Sam Sammy Sandy Sara Sarah Sophia Sophie Spot Sue
    Susan Susie Ted Teddy Theo Tim Timmy Tina Toby Tom Tommy Tony Violet Walter Wendy Will William Zoe"""
)
ALSO_WORDS = _set(  # names that are also ordinary words at the start of sentences
    "April Art August Bill Chase Chip Dawn Dot Drew Faith Frank Grace Hope Joy June Mark May Pat Patch Penny Poppy Ray "
    "Rich Rob Rose Spot Sue Summer Sunny Ted Violet Will"
)
TITLES = _set("Mr Mrs Ms Dr St Miss")
NOT_NAMES = TITLES | _set(  # capitalised inside sentences, but not characters
    """Monday Tuesday Wednesday Thursday Friday Saturday Sunday Mondays Tuesdays Wednesdays Thursdays Fridays Saturdays
    Sundays January February March July September October November December Christmas Easter Halloween
    Thanksgiving Hanukkah Ramadan Diwali London Paris Rome Berlin York Chicago Boston England Scotland Ireland
    Wales Britain Europe America Africa Asia Australia Canada India China Japan France Germany Italy Spain Russia
    Egypt Norway English French German Spanish Italian Russian Chinese Japanese Indian American British Mom Mommy
    Mum Mummy Mama Mother Dad Daddy Papa Father Grandma Grandpa Granny Grandmother Grandfather Nana Aunt Auntie
    Uncle Sir Madam God Lord TV OK"""
)
ARTICLES = _set("a an the this these those his her its my your our their every each")
AGAINST = ARTICLES | _set("in into on near around across through outside during last next until since")
NEUTRAL = _set("to from at by of")  # before characters, and before places and days
VERBS = _set(  # words after a name at the start of a sentence, besides words in -ed and -ly
    """is was has had does did can could would should might must says said told asked went ran came saw felt heard knew
    thought took gave got made put let found left kept began sat stood held ate drank fell flew sang slept spoke
    swam threw woke wore won wrote grew hid lost met rode rose shook sent bent built brought caught bought drew
    drove cut hit set led paid read shut and or never always just also then still soon who"""
)
WORD = re.compile(r"[DLO]['’][A-Z]\w+|[^\W\d_a-z]\w*(?:-[^\W\d_a-z]\w*)+|\w+")  # O'Brien, Ann-Marie, word
OPENS = re.compile(r"[.!?…:]|\n\s*\n|[\"“‘'(]$")  # between two words, if the second opens a sentence or a quotation
FOLLOWS = re.compile(r"(['’]\w*|[^\w\s]*)\s*(\w*)")  # after a word: text without a space, and the next word
SET_OFF = ("'", "’", ",", ".", "!", "?", ";", ":", "…", "—", "--", '"', "”")


def find_names(text: str, hint: Collection[str] = FIRST_NAMES, least: int = 2) -> list[str]:
    """The characters' names in an English text, in the order of their first mention.

    A name is a word that is mentioned at least `least` times (`find_mentions`) and is capitalised inside sentences,
    where no full stop or quotation mark explains the capital. It must occur there at least `least` times, more often
    than the lower-case word, and more often than after an article or a preposition of place or time ("the Moon", "in
    Thistledown", "on Friday"). "to" and similar words are no evidence. A word of `hint` needs one such place, or none
    if it cannot be another word. Days, holidays, well-known places, titles and "Mom" are never names (NOT_NAMES).

    A word that occurs only next to a name ("Oliver *Mole*", "*King* Rolf") is not a name and does not change. Words
    that occur only together are one name ("Little Owl").

    Raises:
        ValueError: for least < 1.
    """
    if least < 1:
        raise ValueError(f"least={least} must be 1 or more: the number of mentions of a name")
    words = _words(text)
    small = Counter(word.form for word in words if word.form.islower())
    capitalised = [
        word for word in words if word.form[0].isupper() and not word.form.isupper() and word.form not in NOT_NAMES
    ]
    doubtful = _doubtful({word.form for word in capitalised}, words)
    inside = [word for word in capitalised if not word.opens]
    against = Counter(word.form for word in inside if word.before in AGAINST)
    for_it = Counter(word.form for word in inside if word.before not in AGAINST | NEUTRAL)
    mentions = Counter(word.form for word in capitalised if _is_name_here(word, word.form, doubtful))

    def is_name(form: str) -> bool:
        if form in hint:
            return form not in doubtful or for_it[form] > against[form]
        return for_it[form] >= least and for_it[form] > max(against[form], small[form.lower()])

    return _joined(words, {form for form, n in mentions.items() if n >= least and is_name(form)}, doubtful)


class Mention(NamedTuple):
    """A name at text[start:end], without its possessive."""

    start: int
    end: int
    name: str
    shouted: bool
    """In capitals: LILY."""


def find_mentions(text: str, names: Collection[str]) -> list[Mention]:
    """All mentions of the names in the text, as whole words, in order. If two names fit, the longer one counts.

    "Ann" is not in "Anna", "Ann-Marie" or "Mary-Ann", but it is in "Ann's", "Anns'", "ANN" and "Ann-like". A name of
    several words ("Peter Rabbit") needs all of them. A name may also be an ordinary word: it is in ALSO_WORDS, or the
    text has it in lower case. Such a word is a mention
        - inside a sentence, unless an article comes before it
        - at the start of a sentence, only before an apostrophe, a punctuation mark or a verb in the past tense
          ("Will ran.", "Will!", but not "Will you come?", "Mark my words")
        - in capitals, only if it stands alone ("ROSE!")

    Raises:
        ValueError: for a name that does not begin with a capital letter.
    """
    words = _words(text)
    parts = {name: WORD.findall(name) for name in names}
    for name, part in parts.items():
        if not part or not name[0].isupper():
            raise ValueError(f"name {name!r} must begin with a capital letter, such as 'Lily' or 'Peter Rabbit'")
    doubtful = _doubtful(names, words)
    starting = defaultdict(list)  # first word in capitals -> names that begin with it, longest first
    for name in sorted(names, key=lambda name: (-len(parts[name]), name)):
        starting[parts[name][0].upper()].append(name)
    mentions, i = [], 0
    while i < len(words):
        stem = words[i].form[:-1] if words[i].plural else words[i].form
        for name in starting.get(words[i].form.upper()) or starting.get(stem.upper()) or ():
            mention = _mention(words[i : i + len(parts[name])], name, parts[name], doubtful)
            if mention:
                mentions.append(mention)
                i += len(parts[name]) - 1
                break
        i += 1
    return mentions


@dataclass(frozen=True)
class _Word:
    """A word of a text, text[start:end], and its surroundings."""

    form: str
    start: int
    end: int
    before: str
    """The word before in lower case, or "" if more than white space is between, or if a sentence starts here."""
    opens: bool
    """It starts a sentence or a quotation, which explains a capital."""
    glued: str
    """The text that follows without a space: "'s", "," or "."."""
    after: str
    """The next word, or "" if more than `glued` is between."""

    @property
    def plural(self) -> bool:
        """Lilys': the name ends before the s."""
        return self.form.endswith("s") and self.glued in ("'", "’")


def _words(text: str) -> list[_Word]:
    words, last, form = [], 0, ""
    for match in WORD.finditer(text):
        gap = text[last : match.start()]
        title = form in TITLES and gap.startswith(".")
        opens = not last or (not title and OPENS.search(gap) is not None)
        glued, after = FOLLOWS.match(text, match.end()).groups()
        before = form.lower() if gap.isspace() and not opens else ""
        words.append(_Word(match[0], match.start(), match.end(), before, opens, glued, after))
        last, form = match.end(), match[0]
    return words


def _doubtful(names: Iterable[str], words: list[_Word]) -> set[str]:
    """The names that may be ordinary words in this text."""
    small = {word.form for word in words if word.form.islower()}
    return {name for name in names if name in ALSO_WORDS or name.lower() in small}


def _is_name_here(word: _Word, name: str, doubtful: Container[str]) -> bool:
    """Whether a capitalised word is a mention of a name at this place, by the rule of `find_mentions`."""
    if name not in doubtful:
        return True
    shouted = word.form.isupper()
    if not (word.opens or shouted):
        return word.before not in ARTICLES
    if word.glued:
        return word.glued.startswith(SET_OFF) and not word.before
    return not shouted and (
        not word.after or word.after in VERBS or re.fullmatch(r"\w+[^e]ed|\w+ly", word.after) is not None
    )


def _mention(words: list[_Word], name: str, parts: list[str], doubtful: Container[str]) -> Mention | None:
    """The mention of a name of these parts that begins at words[0], if there is one."""
    if len(words) < len(parts) or not all(_joins(*pair) for pair in pairwise(words)):
        return None
    forms = [word.form for word in words]
    plural = words[-1].plural and forms[-1][:-1] in (parts[-1], parts[-1].upper())
    if plural:
        forms[-1] = forms[-1][:-1]
    shouted = forms != parts
    if shouted and (forms != [part.upper() for part in parts] or len(name) < 2):
        return None
    if not _is_name_here(words[0], name, doubtful):
        return None
    return Mention(words[0].start, words[-1].end - plural, name, shouted)


def _joins(word: _Word, next_word: _Word) -> bool:
    """Whether only a space, or the full stop of a title, is between them."""
    return bool(next_word.before) or (word.form in TITLES and word.glued == ".")


def _joined(words: list[_Word], names: set[str], doubtful: Container[str]) -> list[str]:
    """Names of one word and of several, from words that can be names, by the rule of `find_names`."""
    runs, run = [], []
    for word in words:
        if run and not (word.form in names and word.before):
            runs.append(run)
            run = []
        if word.form in names and (run or _is_name_here(word, word.form, doubtful)):
            run.append(word)
    runs.append(run)
    alone = {run[0].form for run in runs if len(run) == 1}
    joined = []  # in the order of the text
    for run in runs:
        single = [word.form for word in run if word.form in alone]
        joined += single or [" ".join(word.form for word in run)]
    return list(dict.fromkeys(filter(None, joined)))
