"""The words of a script are read without executing it."""

from pathlib import Path

import pytest

from hdvl.evaluation.judging.wording import Script

SCRIPT = '''
raise SystemExit("never executed")
WORDS = {"a": "b", "n": [1]}
def ask(row, key):
    """Doc."""
    text = 'Is {it} "' + row["question"]
    text += f'"? {key} says: {row[key]}'
    whole = "Say {}. {}".format(text, "Now")
    call(messages=[{"role": "system", "content": "Be just."}, {"role": "user", "content": whole}])
    strange = call()
'''


def test_texts_become_templates(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(SCRIPT)
    script = Script(path)
    text = script.template("text", "ask")
    assert text == 'Is {{it}} "{row_question}"? {key} says: {row_key}'
    assert text.format(row_question="{q}", key="k", row_key="x") == 'Is {it} "{q}"? k says: x'
    assert script.template("whole") == "Say {text}. Now"
    assert script.constant("WORDS") == {"a": "b", "n": [1]} and script.system() == "Be just."
    for lacking in ("strange", "absent"):
        with pytest.raises(ValueError, match=f"must have the text {lacking}"):
            script.template(lacking)
    with pytest.raises(ValueError, match="the function f"):
        script.template("text", "f")
    with pytest.raises(ValueError, match="a plain value of text"):
        script.constant("text")
    path.write_text("a = 1")
    with pytest.raises(ValueError, match="a system message"):
        Script(path).system()
    path.write_text("a = ")
    with pytest.raises(ValueError, match="must be a Python script"):
        Script(path)
