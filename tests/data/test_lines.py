"""Rows of JSON files, found without being parsed."""

import json
import pickle

import pytest

from hdvl.data.lines import JsonRows

ROWS = [{"a": 1}, {"b": ["ü", "]", "\n,["]}, [], 3, {"c": {"d": None}}]


def layouts():
    lines = "\n".join(json.dumps(row) for row in ROWS)
    return {
        "array": json.dumps(ROWS),
        "indented": "\n " + json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n",
        "lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS[:2] + ROWS[3:]),
        "blank lines": "\n\n" + lines.replace("\n[]", "") + "\n \n",
        "windows": lines.replace("\n[]", "").replace("\n", "\r\n"),
        "mark": "\ufeff" + json.dumps(ROWS),
    }


@pytest.mark.parametrize("layout", layouts())
def test_rows_come_out_of_any_layout(tmp_path, layout):
    path = tmp_path / "data"
    path.write_bytes(layouts()[layout].encode())
    rows = JsonRows(path)
    wanted = ROWS if layout in ("array", "indented", "mark") else ROWS[:2] + ROWS[3:]
    assert [rows[i] for i in range(len(rows))] == wanted
    copy = pickle.loads(pickle.dumps(rows))
    assert copy[1] == rows[1]


@pytest.mark.parametrize("text", ["[{", "[1 2]", '[{"a": 1},', "[1,", "hello", "{"])
def test_faulty_files_are_named(tmp_path, text):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"data.json must hold a JSON array or JSON lines"):
        JsonRows(path)


@pytest.mark.parametrize("text", ["", "[]", "\n\n"])
def test_empty_files_are_named(tmp_path, text):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no conversations"):
        JsonRows(path)


def test_a_broken_line_is_named_where_it_is_asked_for(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n{"b": \n{"c": 3}\n')
    rows = JsonRows(path)
    assert len(rows) == 3 and rows[2] == {"c": 3}
    with pytest.raises(ValueError, match="row 1 is neither"):
        rows[1]
