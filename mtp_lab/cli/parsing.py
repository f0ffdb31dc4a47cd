"""The classes that the command line parses into, which depend on the task that `--task NAME` names.

The parser makes an option of every field of a dataclass, and a subcommand of every member of a union. So the name of
the task is read first, and fields that can hold any task are narrowed to one kind. A narrowed class has the same fields
as the original, and so the same hash. The docstring of a field is the help of its option.
"""

from collections.abc import Collection, Sequence
from dataclasses import field, fields, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.tasks import TASKS, BytesTask, Task

ROOT = tyro.conf.arg(name="")  # the options of a class have no prefix


def task_named(words: Sequence[str]) -> type:
    """The kind of task that `--task NAME` names among the words of a command; by default bytes.

    Raises:
        ValueError: if there is no task of that name.
    """
    parts = [part for word in words for part in word.split("=", 1)]
    names = [name for option, name in pairwise(parts) if option == "--task"] or [BytesTask.name]
    if names[-1] not in TASKS:
        raise ValueError(f"task={names[-1]!r} is not known; use one of {', '.join(TASKS)}")
    return TASKS[names[-1]]


def training(words: Sequence[str]) -> Any:
    """TrainConfig for the task of a command; by default, vocabulary and longest row of the model fit the task."""
    kind = task_named(words)
    task = _task(kind, words)
    model = ModelConfig(vocab_size=task.vocab_size, max_seq=max(ModelConfig.max_seq, task.seq))
    config = _narrowed(TrainConfig, task=(kind, field(default_factory=kind)), model=(ModelConfig, field(default=model)))
    return Annotated[config, ROOT]


def sampling(words: Sequence[str], taken: Collection[str]) -> Any:
    """The kind of task of a command; the fields of its stream are options beside its own.

    Args:
        taken: names of the command's own options. A field of the stream with such a name becomes --stream.NAME.
    """
    kind = task_named(words)
    stream = get_type_hints(kind).get("stream")
    if stream is None:
        return Annotated[kind, ROOT]
    hints = get_type_hints(stream)
    renamed = {
        shadowed.name: (
            Annotated[hints[shadowed.name], tyro.conf.arg(name=f"stream.{shadowed.name}")],
            field(default=shadowed.default),
        )
        for shadowed in fields(stream)
        if shadowed.name in taken
    }
    flat = _narrowed(stream, **renamed)
    return Annotated[_narrowed(kind, stream=(Annotated[flat, ROOT], field(default_factory=flat))), ROOT]


def _task(kind: type, words: Sequence[str]) -> Task:
    """The task of a training, from those options among the words that begin with --task."""

    def parsed(task: kind) -> Task:
        return task

    return tyro.cli(parsed, prog="mtp-lab train", args=words, add_help=False, return_unknown_args=True)[0]


def _narrowed(config: type, **changes: tuple[Any, Any]) -> type:
    """A config class with other types and defaults of some fields, but with its own name and documentation."""
    namespace = {name: getattr(config, name) for name in ("__module__", "__qualname__", "__doc__")}
    changed = [(name, kind, default) for name, (kind, default) in changes.items()]
    return make_dataclass(config.__name__, changed, bases=(config,), namespace=namespace, frozen=True)
