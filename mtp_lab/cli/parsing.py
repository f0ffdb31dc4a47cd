"""The classes that the command line parses into, once it is known which task `--task NAME` asks for.

The parser makes an option of every field of a dataclass, and subcommands of a union. So the task's name is read before
it parses, and the classes with a union in them are narrowed to one kind of task. A narrowed class has the fields, and
so the hash, of the one it stands for. What an option means is said where its field is.
"""

from collections.abc import Collection, Sequence
from dataclasses import field, fields, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.tasks import TASKS, BytesTask, Task

ROOT = tyro.conf.arg(name="")  # the options of a class have no name before them


def task_named(words: Sequence[str]) -> type:
    """The kind of task that `--task NAME` asks for among the words of a command; by default bytes.

    Raises:
        ValueError: for a name that no task has.
    """
    parts = [part for word in words for part in word.split("=", 1)]
    named = [name for option, name in pairwise(parts) if option == "--task"] or [BytesTask.name]
    if named[-1] not in TASKS:
        raise ValueError(f"task={named[-1]!r} is not known; use one of {', '.join(TASKS)}")
    return TASKS[named[-1]]


def training(words: Sequence[str]) -> type:
    """TrainConfig for the task that a command asks for; by default the model has its vocabulary and takes its rows."""
    kind = task_named(words)
    task = _task(kind, words)
    model = ModelConfig(vocab_size=task.vocab_size, max_seq=max(ModelConfig.max_seq, task.seq))
    return _narrowed(TrainConfig, task=(kind, field(default_factory=kind)), model=(ModelConfig, field(default=model)))


def sampling(words: Sequence[str], taken: Collection[str]) -> type:
    """The kind of task that a command asks for, its stream's fields as options beside its own.

    Args:
        taken: names of options that the command has itself; the stream's of that name are --stream.NAME.
    """
    kind = task_named(words)
    stream = get_type_hints(kind).get("stream")
    if stream is None:
        return kind
    hints = get_type_hints(stream)
    renamed = {
        own.name: (Annotated[hints[own.name], tyro.conf.arg(name=f"stream.{own.name}")], field(default=own.default))
        for own in fields(stream)
        if own.name in taken
    }
    flat = _narrowed(stream, **renamed)
    return _narrowed(kind, stream=(Annotated[flat, ROOT], field(default_factory=flat)))


def _task(kind: type, words: Sequence[str]) -> Task:
    """The task of a training, from the options among the words of the command that are about it."""
    own: list[str] = []
    about = False
    for word in words:
        if word.startswith("--") or word == "-h":
            about = word.startswith("--task.")
        own += [word] if about else []

    def parsed(task: kind) -> Task:
        return task

    return tyro.cli(parsed, prog="mtp-lab train", args=own, add_help=False)


def _narrowed(config: type, **changes: tuple[Any, Any]) -> type:
    """A config class in which some fields have other types and defaults, under its own name and documentation."""
    namespace = {name: getattr(config, name) for name in ("__module__", "__qualname__", "__doc__")}
    changed = [(name, kind, default) for name, (kind, default) in changes.items()]
    return make_dataclass(config.__name__, changed, bases=(config,), namespace=namespace, frozen=True)
