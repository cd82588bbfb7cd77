"""Appended rows are not lost, and an incomplete line is skipped."""

from pathlib import Path

from hdvl.appended import append_row, end_torn_line, whole_rows


def test_rows_survive_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert list(whole_rows(path)) == []
    path.write_bytes(b'{"a": 1}\n[2]\n{"a": ')
    with path.open("ab") as file:
        end_torn_line(file, path)
        append_row(file, {"a": "\udc80é"})
        assert [row for _, _, row in whole_rows(path)] == [{"a": 1}, {"a": "\udc80é"}]
    (start, stop, _), *_ = whole_rows(path)
    assert path.read_bytes()[start:stop] == b'{"a": 1}\n'
    with path.open("ab") as file:
        end_torn_line(file, path)  # whole already
    assert path.read_bytes().endswith(b"}\n")
