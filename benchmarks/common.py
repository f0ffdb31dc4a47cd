"""What the benchmark scripts share: fresh processes for contestants, and one JSON file a benchmark."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def fresh_process(script: str, task: dict[str, Any], timeout: int = 600) -> dict[str, Any]:
    """Runs `script --worker <task as JSON>` in a new interpreter and returns the JSON it prints last.

    Raises:
        RuntimeError: with the worker's own words, if it fails.
    """
    command = [sys.executable, script, "--worker", json.dumps(task)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    if done.returncode:
        raise RuntimeError(f"{task} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save(name: str, content: dict[str, Any]) -> None:
    """Writes benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine(), **content}, indent=1) + "\n")
    print(f"written: benchmarks/results/{name}.json")
