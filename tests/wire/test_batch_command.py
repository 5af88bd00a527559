"""`narrative-proxy batch run`: a file in, a file of rows out; interrupted and resumed; what failed is named."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from proxy.sandbox.faults import Fault
from tests.batching import chat, line
from tests.conftest import Deployment
from tests.processes import command, run
from tests.scripts import script
from tests.waiting import until_sync


def written(folder: Path, lines: list[str]) -> Path:
    file = folder / "requests.jsonl"
    file.write_text("\n".join(lines))
    return file


def arguments(deployment: Deployment, file: Path) -> list[str]:
    where = ["--url", f"{deployment.url}/v1", "--key", "test-key", "--poll", "0.05"]
    return ["batch", "run", str(file), "--out", str(file.with_name("results.jsonl")), *where]


def results(file: Path) -> dict[str, Any]:
    found = [json.loads(text) for text in file.with_name("results.jsonl").read_text().splitlines()]
    return {row["custom_id"]: row for row in found}


def test_all_rows_are_in_one_file(deployment: Deployment, tmp_path: Path) -> None:
    file = written(tmp_path, [line(f"c{number}") for number in range(5)])
    ended = run(*arguments(deployment, file))
    assert ended.returncode == 0, ended.stderr
    assert results(file).keys() == {f"c{number}" for number in range(5)}
    assert "5 of 5 lines were answered" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["requests.jsonl", "results.jsonl"]


def test_lines_that_failed_are_named(deployment: Deployment, tmp_path: Path) -> None:
    lines = [line("good"), line("bad", chat(script(fail="the model fell over"))), line("worse", chat(model="nobody"))]
    file = written(tmp_path, lines)
    ended = run(*arguments(deployment, file))
    assert ended.returncode == 1
    assert results(file).keys() == {"good", "bad", "worse"}
    assert "bad: narrative_job_failed: " in ended.stderr
    assert "worse: model_not_found: " in ended.stderr
    assert "good:" not in ended.stderr


def test_a_file_that_is_wrong_gets_its_errors_by_line(deployment: Deployment, tmp_path: Path) -> None:
    ended = run(*arguments(deployment, written(tmp_path, [line("a"), line("a"), "{"])))
    assert ended.returncode == 1
    assert "line 2: duplicate_custom_id: " in ended.stderr
    assert "line 3: invalid_json_line: " in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["requests.jsonl"]


def test_a_key_that_is_wrong(deployment: Deployment, tmp_path: Path) -> None:
    ended = run(*arguments(deployment, written(tmp_path, [line("a")])), "--key", "wrong")
    assert ended.returncode == 1
    assert "401: Incorrect API key" in ended.stderr


def test_an_interrupted_command_resumes(make_deployment: Any, tmp_path: Path) -> None:
    deployment: Deployment = make_deployment()
    faults = deployment.sandbox.state.faults
    for operation in ("get_job", "list_jobs"):  # no job is seen to end before the command was interrupted
        faults.add(Fault(kind="stuck", operation=operation))
    file = written(tmp_path, [line(f"c{number}") for number in range(3)])
    process = subprocess.Popen(**command(*arguments(deployment, file)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until_sync(lambda: deployment.jobs_submitted() >= 3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "The batch goes on" in said
    faults.clear()
    ended = run(*arguments(deployment, file))
    assert ended.returncode == 0, ended.stderr
    assert "Resuming batch_" in ended.stderr
    assert len(results(file)) == 3
    assert deployment.jobs_submitted() == 3
    again = run(*arguments(deployment, file))  # nothing is left to resume
    assert "Resuming" not in again.stderr
    assert deployment.jobs_submitted() == 6
