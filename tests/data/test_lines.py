"""Rows of JSON files are located without parsing them."""

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
def test_rows_are_found_in_any_layout(tmp_path, layout):
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


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_that_is_no_utf8_is_named_with_its_row(tmp_path, mark):
    path = tmp_path / "a.json"
    path.write_bytes(mark + b'[{"a": 1},\n{"a": "x\xe9y"}]')
    place = len(mark) + 19
    with pytest.raises(
        ValueError, match=rf"a.json must be UTF-8, byte {place} in row 1 is not: 0xe9"
    ):
        JsonRows(path)
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(mark + b'{"a": 1}\n{"a": "x\xe9y"}\n')
    with pytest.raises(ValueError, match=rf"byte {len(mark) + 17} in row 1 is not: 0xe9"):
        JsonRows(lines)[1]
    assert JsonRows(lines)[0] == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[{"a": 1}]\n[{"a": 2}]',
            r"after 1 rows .* nothing may follow the array, .*line 2 column 1",
        ),
        ('[{"a": 1}] {"a": 2}', r"nothing may follow the array, got .*line 1 column 12"),
        ('[{"a": 1}', r"the array has no end: line 1 column 10"),
        ('[{"a": 1} {"a": 2}]', r"a comma or \] must follow an element: line 1 column 11"),
        ('[{"a": }]', r"after 0 rows .*Expecting value"),
        ("[" * 100_000, r"the array has no end"),
    ],
)
def test_damage_between_rows_is_an_error_with_its_position(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        JsonRows(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('[{"a": 1}]'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-32"), "UTF-32"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04", "a zip archive"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, kind):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.json must be JSON in UTF-8, it is .*{kind}"):
        JsonRows(path)


def test_a_bad_first_row_is_no_error_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{oops\n{"a": 1}\n')
    assert JsonRows(path)[1] == {"a": 1}
    with pytest.raises(ValueError, match="row 0 is neither"):
        JsonRows(path)[0]
