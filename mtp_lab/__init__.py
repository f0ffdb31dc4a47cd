"""mtp_lab: train, decode and open up transformers that predict several future tokens.

    import mtp_lab as mtp

    run = mtp.load("stars/n2-seed0")                      # a trained model of the zoo, or of runs/
    config = mtp.TrainConfig(model=mtp.ModelConfig(n_future=4), steps=400)
    run = mtp.get_run(config)                             # trained once, found again afterwards
    generation = mtp.generate(run.model(), [list(b"def ")], max_new_tokens=120)

The names below are the public API. They load on first use, so that `import mtp_lab` does not wait for torch. Everything
else is in the packages: `model`, `training`, `decoding`, `tasks`, `evaluation`, `theory`, `interp`, `experiments`,
`figures`, `batch`, `cli`. The token streams are in `data_gen`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_gen.batch import Batch
    from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
    from mtp_lab.decoding.decoder import Decoder
    from mtp_lab.decoding.generation import generate
    from mtp_lab.model.loss import mtp_loss
    from mtp_lab.model.transformer import MTPTransformer
    from mtp_lab.tasks import BytesTask, ChoiceProcessTask, PolynomialsTask, StarGraphTask, StoriesTask
    from mtp_lab.training.named_runs import load
    from mtp_lab.training.runs import Run, get_run, get_runs

__all__ = [
    "Batch",
    "BytesTask",
    "ChoiceProcessTask",
    "Decoder",
    "MTPTransformer",
    "ModelConfig",
    "OptimizerConfig",
    "PolynomialsTask",
    "Run",
    "StarGraphTask",
    "StoriesTask",
    "TrainConfig",
    "generate",
    "get_run",
    "get_runs",
    "load",
    "mtp_loss",
]

_MODULES = {
    "Batch": "data_gen.batch",
    "BytesTask": "mtp_lab.tasks",
    "ChoiceProcessTask": "mtp_lab.tasks",
    "Decoder": "mtp_lab.decoding.decoder",
    "MTPTransformer": "mtp_lab.model.transformer",
    "ModelConfig": "mtp_lab.config",
    "OptimizerConfig": "mtp_lab.config",
    "PolynomialsTask": "mtp_lab.tasks",
    "Run": "mtp_lab.training.runs",
    "StarGraphTask": "mtp_lab.tasks",
    "StoriesTask": "mtp_lab.tasks",
    "TrainConfig": "mtp_lab.config",
    "generate": "mtp_lab.decoding.generation",
    "get_run": "mtp_lab.training.runs",
    "get_runs": "mtp_lab.training.runs",
    "load": "mtp_lab.training.named_runs",
    "mtp_loss": "mtp_lab.model.loss",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mtp_lab' has no attribute {name!r}; the public names are {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
