"""Answers are not lost if the process is killed at any moment; every row is written once, in order."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hdvl.inference.answers_file import AnswersFile

SETTINGS = {"prompt": "What?", "generation": {"max_new_tokens": 4}}


def opened(path: Path, total: int = 4, **settings: Any) -> AnswersFile:
    return AnswersFile(path, settings={**SETTINGS, **settings}, total=total)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_come_out_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    with opened(path) as file:
        assert file.answered == set()
        for number in (2, 0, 3, 1):
            file.append(number, {"answer": f"金額 {number}\n\ud800"})
        file.finish({"seconds": 1.5})
    assert [row["row"] for row in rows(path)] == [0, 1, 2, 3]
    assert rows(path)[0]["answer"].startswith("金額 0\n")
    record = json.loads((tmp_path / "new" / "answers.jsonl.run.json").read_text())
    assert record == {"settings": SETTINGS, "seconds": 1.5}
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "answers.jsonl",
        "answers.jsonl.run.json",
    ]


def test_a_run_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with opened(path) as file:
        file.append(1, {"answer": "one"})
        file.append(3, {"error": "no such image"})
    part = tmp_path / "answers.jsonl.part"
    part.write_bytes(part.read_bytes() + b'{"row": 0, "answ')
    with opened(path) as file:
        assert file.answered == {1}
        for number in (0, 2, 3):
            file.append(number, {"answer": f"late {number}"})
        file.finish(None)
    assert [row["answer"] for row in rows(path)] == ["late 0", "one", "late 2", "late 3"]


def test_rows_with_errors_are_asked_again_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with opened(path, total=2) as file:
        file.append(0, {"answer": "zero"})
        file.append(1, {"error": "no such image"})
        file.finish({"bad": 1})
    with opened(path, total=2) as file:
        assert file.answered == {0}
    assert rows(path)[1] == {"row": 1, "error": "no such image"}  # stopped once more: as it was
    with opened(path, total=2) as file:
        assert file.answered == {0}
        file.append(1, {"answer": "one"})
        file.finish({"bad": 0})
    assert rows(path) == [{"row": 0, "answer": "zero"}, {"row": 1, "answer": "one"}]
    with opened(path, total=2) as file:
        assert file.answered == {0, 1}
        file.finish(None)
    assert len(rows(path)) == 2
    assert json.loads((tmp_path / "answers.jsonl.run.json").read_text())["bad"] == 0


def test_killed_between_the_finished_file_and_the_removal_of_the_part(tmp_path: Path) -> None:
    path, part = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.part"
    with opened(path, total=1) as file:
        file.append(0, {"answer": "zero"})
        kept = part.read_bytes()
        file.finish(None)
    part.write_bytes(kept)
    with opened(path, total=1) as file:
        assert file.answered == {0}
        file.finish(None)
    assert rows(path) == [{"row": 0, "answer": "zero"}] and not part.exists()


def test_other_settings_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with opened(path) as file:
        file.append(0, {"answer": "zero"})
    with pytest.raises(ValueError, match=r"other settings \(prompt was 'What\?' and is 'Who\?'\)"):
        opened(path, prompt="Who?").__enter__()
    with pytest.raises(ValueError, match=r"generation.max_new_tokens was 4 and is 5"):
        opened(path, generation={"max_new_tokens": 5}).__enter__()
    with opened(path) as file:
        assert file.answered == {0}
        with pytest.raises(RuntimeError, match="lacks 3 rows, the first is 1"):
            file.finish(None)
    own = tmp_path / "own.jsonl"
    own.write_text('{"row": 0}\n')
    with pytest.raises(ValueError, match=r"was not written by this command; give another file"):
        opened(own).__enter__()
    assert own.read_text() == '{"row": 0}\n' and not own.with_name("own.jsonl.part").exists()
    with pytest.raises(ValueError, match="outputs must be a file"):
        opened(tmp_path)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with opened(path), pytest.raises(ValueError, match="is being written by another process"):
        opened(path).__enter__()


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path: Path) -> None:
    path, total = tmp_path / "answers.jsonl", 60
    program = (
        "import sys, time\n"
        "from hdvl.inference.answers_file import AnswersFile\n"
        f"with AnswersFile(sys.argv[1], settings={{}}, total={total}) as file:\n"
        f"    for number in range({total}):\n"
        "        if number not in file.answered:\n"
        "            file.append(number, {'answer': 'x' * 5000 + str(number)})\n"
        "            print(number, flush=True)\n"
        "            time.sleep(0.002)\n"
        "    file.finish(None)\n"
    )
    for moment in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(10 + moment):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        assert not path.exists()
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True)
    assert done.returncode == 0
    assert [row["answer"] for row in rows(path)] == ["x" * 5000 + str(n) for n in range(total)]
    assert len(done.stdout.split()) <= total - 30
