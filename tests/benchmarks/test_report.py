"""The report of the benchmarks: made from small results, complete by itself, its verdicts computed from its numbers."""

import base64
import json
import re
import shutil
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"processor": "x86_64", "cores": 2, "threads": 2, "bf16": False, "torch": "2.13.0+cpu", "python": "3.11.7"}
NAMES = ("train_throughput", "loss_memory", "decoding", "data_rates", "study_time")


@pytest.fixture
def bench(monkeypatch):
    """The modules of benchmarks/, which import each other as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import report
    import sections

    return {"report": report, "sections": sections}


def speeds(ours: float, shipped: float, tuned: float) -> list[dict]:
    """One length, tokens a second of three contestants."""
    shape = {"batch": 32, "seq": 128, "seconds": 0.1, "parameters": 10}
    return [
        {"who": "HF Llama sdpa", "precision": "fp32", "shipped": True, "tokens_per_second": shipped, **shape},
        {"who": "HF Llama eager", "precision": "fp32", "tokens_per_second": tuned, **shape},
        {"who": "HF Llama eager", "precision": "fp32", "thresholds": True, "tokens_per_second": 2000.0, **shape},
        {"who": "mtp-lab", "precision": "fp32", "thresholds": True, "tokens_per_second": ours, **shape},
    ]


def decoded(name: str, batch: int, speed: float) -> dict:
    rounds = [speed, 0.9 * speed]
    same = {"contestant": name, "batch": batch, "threads": 1, "tokens_per_forward_pass": 1.0, "attention": None}
    return same | {"tokens_per_second": speed, "slowest": rounds[1], "rounds": rounds}


CONTENT = {
    "train_throughput": {
        "shape": "6 layers",
        "peers": speeds(3200.0, 1500.0, 2000.0),
        "cost_of_four_heads": [{"vocab": 1024, "ratio": 1.31, "operations": 1.29, "seconds": [0.2, 0.262]}],
    },
    "loss_memory": {
        "shape": "16 x 128 tokens",
        "rows": [
            {"vocab": 64, "n": n, "method": method, "megabytes": float(size)}
            for method, sizes in {"naive": (10, 80), "both": (10, 12)}.items()
            for n, size in zip((1, 8), sizes, strict=True)
        ],
    },
    "decoding": {
        "run": "quick-library-n8-0123456789",
        "assistant": None,
        "prompt": 8,
        "new": 8,
        "prompts": 8,
        "rows": [
            decoded("HF generate", 1, 100.0),
            decoded("mtp-lab, k = 1", 1, 200.0),
            decoded("HF generate", 8, 700.0),
        ],
        "ratios": [
            {"threads": 1, "best": "mtp-lab, k = 1", "k = best to k = 1": 1.0}
            | {"k = 1 to HF generate": 2.0, "k = 1 to HF bare loop": 1.8}
        ],
        "differences": [{"row": 3, "gap": -2e-6}],
        "growth": {"fixed_seconds": 1e-3, "seconds_per_token_of_context": 1e-8, "correlation": 0.9, "context": [9.0]},
    },
    "data_rates": {
        "training": "d=64, one thread",
        "rates": [
            {"stream": name, "call": "drawn", "unit": unit, "target": target, "per_second": speed, "size": 10}
            for name, unit, target, speed in (("stories", "documents", 100, 90.0), ("choice process", "tokens", 0, 5.0))
        ],
        "shares": [
            {"task": "stories", "target": 0.05, "share": 0.01, "seconds_per_step": 0.3}
            | {"target_tokens": 25_000, "tokens_per_second": 25_001.0}
        ],
    },
    "study_time": {
        "rows": [
            {"preset": "quick", "notebook": "00_token_streams", "seconds": 50.0},
            {"preset": "quick", "notebook": "02_real_bytes", "seconds": 20.0}
            | {"trainings": 18, "there": 4, "training_seconds": 200.0},
        ]
    },
}


@pytest.fixture
def results(tmp_path) -> Path:
    """What benchmarks leave behind."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / f"{name}.json").write_text(json.dumps({"machine": MACHINE, "date": "2026-11-25", **content}))
    return folder


def written(results: Path) -> tuple[dict, str]:
    return json.loads((results / "report.json").read_text()), (results / "report.html").read_text()


def test_everything_measured_is_reported(bench, results):
    """All six sections, their numbers in JSON and on the page, with a picture each.
    Catches: a section left out, a table without its numbers, a page that is made from something else than the JSON."""
    assert bench["report"].main(["--from-results"], results) == 0
    report, html = written(results)
    assert list(report["sections"]) == ["training", "cost_of_n", "memory", "decoding", "data", "study"]
    assert {section["state"] for section in report["sections"].values()} == {"measured"}
    (table,) = report["sections"]["training"]["tables"]
    assert table["rows"][-1] == ["mtp-lab fp32 + thresholds", 3200.0, 100.0, 10, 1.0]
    assert table["rows"][0][-1] == pytest.approx(3200 / 1500)
    (table,) = report["sections"]["decoding"]["tables"]
    assert table["rows"][1] == ["mtp-lab, k = 1", 200.0, None, 180.0, 1.0]
    (table,) = report["sections"]["study"]["tables"]
    assert table["rows"] == [["00_token_streams", 50.0, None, None, None], ["02_real_bytes", 20.0, 18, 4, 200.0]]
    for words in ("3,200", "no bf16 instructions", "torch 2.13.0+cpu", "2026-11-25", "nanoGPT was not there"):
        assert words in html
    pictures = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 6 and all(base64.b64decode(picture)[:4] == b"\x89PNG" for picture in pictures)
    again, pngs = bench["report"].gathered(results, {})
    assert again == report and bench["report"].page(report, pngs) == html


def test_verdicts_follow_from_the_numbers(bench):
    """A value at the target meets it, and a value just on its wrong side does not, in both directions.
    Catches: a verdict typed in, a comparison the wrong way round, a target for another number than is shown."""
    show = {name: section.show for name, section in bench["sections"].SECTIONS.items()}

    def met(name: str, content: dict) -> list[bool]:
        return [target.as_dict()["met"] for target in show[name](content).targets]

    def trained(*numbers: float) -> dict:
        return CONTENT["train_throughput"] | {"peers": speeds(*numbers)}

    assert met("training", trained(3000.0, 1500.0, 2000.0)) == [True, True]  # 1.5 times the best, 2 times as shipped
    assert met("training", trained(2999.0, 1500.0, 2000.0)) == [False, False]
    assert met("training", trained(3000.0, 1501.0, 2000.0)) == [True, False]
    memory = CONTENT["loss_memory"]
    assert met("memory", memory) == [False]  # 12 / 10
    flat = [row | {"megabytes": 11.0 if row["n"] == 8 else 10.0} for row in memory["rows"]]
    assert met("memory", memory | {"rows": flat}) == [True]
    assert met("decoding", CONTENT["decoding"]) == [False, True, True, False]
    assert met("decoding", CONTENT["decoding"] | {"differences": []}) == [False, True, True, True]
    rates = CONTENT["data_rates"]
    assert met("data", rates) == [False, True, True]
    slow = rates["shares"][0] | {"share": 0.06, "tokens_per_second": 24_999.0}
    assert met("data", rates | {"shares": [slow]}) == [False, False, False]
    assert met("study", CONTENT["study_time"]) == met("cost_of_n", CONTENT["train_throughput"]) == []


def test_the_page_loads_nothing_and_names_no_machine(bench, results):
    """Catches: a script, font or picture from elsewhere; the folder or the name of the machine that measured."""
    bench["report"].main(["--from-results"], results)
    html = re.sub(r"base64,[^\"]*", "", written(results)[1])
    assert "://" not in html and not re.search(r"<(script|link|iframe|object)|@import|url\(", html)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', html))
    for private in (str(ROOT), str(results.parent), socket.gethostname()):
        assert not re.search(rf"(?<!\w){re.escape(private)}(?!\w)", html)


def test_the_committed_results_fit_a_repository(bench, tmp_path):
    """Catches: a change of what a section reads that the last results do not have; a page too large to commit."""
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        shutil.copy(file, tmp_path)
    assert bench["report"].main(["--from-results"], tmp_path) == 0
    report, html = written(tmp_path)
    assert report["sections"]["memory"]["state"] == "measured" and len(html) < 1_500_000


SCRIPT = "import sys, pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"
FAILING = f"{SCRIPT}print('RuntimeError: /secret/place/model.py has no memory left', file=sys.stderr)\nsys.exit(3)\n"


def test_a_benchmark_that_fails_is_named_and_leaves_the_others(bench, results, monkeypatch, tmp_path, capsys):
    """Named with its own words, without the folders of this machine and without numbers of an earlier run; exit code 1.
    Catches: a failure that ends the report or is reported as a success, old numbers under a failed run."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(FAILING if name == "loss_memory" else SCRIPT)
    monkeypatch.setattr(bench["report"], "SCRIPTS", tmp_path)
    assert bench["report"].main([], results) == 1
    assert sorted(path.stem for path in tmp_path.glob("*.ran")) == sorted(NAMES)
    report, html = written(results)
    failed = report["sections"].pop("memory")
    assert failed["state"] == "failed" and failed["why"] == "RuntimeError: model.py has no memory left"
    assert "tables" not in failed and {section["state"] for section in report["sections"].values()} == {"measured"}
    assert "This benchmark failed: RuntimeError: model.py has no memory left" in html
    output = capsys.readouterr()
    assert "FAILED: Memory: RuntimeError" in output.out and "has no memory left" in output.err


def test_only_some_are_run(bench, results, monkeypatch, tmp_path, capsys):
    """Catches: others run, or missing from the report; a name that is not known taken for none."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(SCRIPT)
    (results / "data_rates.json").unlink()
    monkeypatch.setattr(bench["report"], "SCRIPTS", tmp_path)
    assert bench["report"].main(["--only", "study_time"], results) == 0
    assert [path.stem for path in tmp_path.glob("*.ran")] == ["study_time"]
    states = {name: section["state"] for name, section in written(results)[0]["sections"].items()}
    assert states == dict.fromkeys(states, "measured") | {"data": "missing"}
    with pytest.raises(SystemExit) as stop:
        bench["report"].main(["--only", "speed"], results)
    assert stop.value.code == 2 and "speed" in capsys.readouterr().err


def test_results_that_cannot_be_read_are_a_failure(bench, results):
    """Catches: a traceback, or silence, over a file of another version."""
    (results / "loss_memory.json").write_text(json.dumps({"machine": MACHINE, "shape": "x"}))
    assert bench["report"].main(["--from-results"], results) == 1
    assert "loss_memory.json cannot be shown (KeyError: 'rows')" in written(results)[0]["sections"]["memory"]["why"]


def test_study_time_counts_stamps_and_trainings(bench, tmp_path, monkeypatch):
    """Stamps of figures/ and results/, the latter before the former; trainings that are there, a resumed one in full.
    Catches: a preset lost, a stamp taken twice, half the seconds of a training that was resumed."""
    import study_time

    from mtp_lab.experiments.real_bytes.conditions import bytes_configs

    def stamp(folder: str, preset: str, seconds: float) -> None:
        path = tmp_path / folder / "stamp.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"preset": preset, "seconds": seconds, "seeds": 1}))

    stamp("figures/02_real_bytes", "smoke", 9.0)
    stamp("results/smoke/figures/02_real_bytes", "smoke", 5.0)
    stamp("figures/00_token_streams", "full", 7.0)
    assert study_time.gathered(tmp_path) == [
        {"preset": "smoke", "notebook": "02_real_bytes", "seconds": 5.0},
        {"preset": "full", "notebook": "00_token_streams", "seconds": 7.0},
    ]
    for config, timed in zip(bytes_configs("smoke", 1)[:2], (6, 3), strict=True):
        folder = tmp_path / "runs" / config.folder
        folder.mkdir(parents=True)
        facts = {"seconds": 10.0, "steps": 6, "steps_in_seconds": timed}
        (folder / "done.json").write_text(json.dumps(facts))
    smoke = study_time.gathered(tmp_path)[0]
    assert (smoke["trainings"], smoke["there"], smoke["training_seconds"]) == (3, 2, 30.0)


def test_decoding_has_models_of_its_own(bench):
    """The model that notebook 03 trains, so that it is trained once, and a smaller assistant on the same text.
    Catches: a default that no notebook shares, an assistant as slow as what it assists, or for other bytes."""
    import decoding

    from mtp_lab.experiments.self_speculation.conditions import speculation_configs

    model, assistant = decoding.default_configs()
    assert model.folder in {config.folder for config in speculation_configs("quick")}
    assert (model.model.n_future, assistant.model.n_future) == (8, 1)
    assert assistant.task == model.task and assistant.model.max_seq == model.model.max_seq
    assert assistant.model.d_model < model.model.d_model
    assert assistant.model.trunk_depth < model.model.trunk_depth
