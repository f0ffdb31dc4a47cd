"""Shared by the benchmark scripts: fresh processes for contestants, and one JSON file per benchmark.

Torch is imported inside functions, so that processes without it start ten times as fast.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from mtp_lab.files import write_atomic

RESULTS = Path(__file__).parent / "results"


def fresh_process(script: str, task: dict[str, Any], timeout: int = 600) -> dict[str, Any]:
    """Runs `script --worker <task as JSON>` in a new interpreter and returns the JSON it prints last.

    Raises:
        RuntimeError: with the worker's own message if it fails, or if it takes longer than `timeout` seconds.
    """
    command = [sys.executable, script, "--worker", json.dumps(task)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    settings = {name: value for name, value in task.items() if not isinstance(value, list | dict)}
    where = f"in a worker of {Path(script).name}, {settings}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"not finished after {timeout} s; {where}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode} without a message"]
        raise RuntimeError(f"{lines[-1]}; {where}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def existing_file(path: str) -> str:
    """The path if it is a file; otherwise an error for argparse."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path} is not a file")
    return path


def machine() -> dict[str, Any]:
    """The machine and software that the numbers were measured on."""
    import torch

    from mtp_lab.training.hardware import bf16_is_fast

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16": bf16_is_fast("cpu"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save(name: str, content: dict[str, Any]) -> None:
    """Writes benchmarks/results/<name>.json."""
    content = {"machine": machine(), "date": datetime.date.today().isoformat(), **content}
    write_atomic(RESULTS / f"{name}.json", json.dumps(content, indent=1) + "\n")
    print(f"written: benchmarks/results/{name}.json")
