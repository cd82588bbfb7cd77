"""CIDEr-D, BLEU and ROUGE-L, and both tokenizers."""

import subprocess
from pathlib import Path

import pytest

from hdvl.evaluation.metrics import caption_tokens
from hdvl.evaluation.metrics.bleu import bleu
from hdvl.evaluation.metrics.caption_tokens import tokenize_captions
from hdvl.evaluation.metrics.cider import cider_d
from hdvl.evaluation.metrics.ptb_tokenizer import tokenize
from hdvl.evaluation.metrics.rouge import mean_rouge_l, rouge_l

REFERENCES = {
    "1": ["a man rides a wave", "a surfer on a big wave"],
    "2": ["a black cat on a table", "a cat sits there"],
    "3": ["two children play soccer"],
}


@pytest.mark.parametrize(
    "caption, tokens",
    [
        ("A man can't see the dog's bowl.", "a man ca n't see the dog 's bowl"),
        ("(x) [y]", "-lrb- x -rrb- -lsb- y -rsb-"),
        ("gonna cannot 'twas", "gon na can not 't was"),
        ("It\u2019s \u201cnew\u201d", "it 's new"),
        ("call 555-123 4567 now", "call 555-123\xa04567 now"),
        ("the U.S. flag, etc.", "the u.s. flag etc."),
        ("\U0001f600 caf\xe9 \u263a\ufe0f", "caf\xe9 \u263a"),
        ("half \xbd 3 1/2", "half 1/2 3\xa01/2"),
        ("Wait!? no...", "wait !? no"),
        ("a/b.c x@y.com http://z.org/?q=1", "a/b c x@y.com http://z.org/?q=1"),
        ("&amp; &lt; &eacute;t\xe9 A&amp;B", "& < &eacute;t\xe9 a&b"),
        ("", ""),
    ],
)
def test_tokens(caption: str, tokens: str) -> None:
    assert tokenize([caption]) == [tokens]


def test_the_next_caption_decides_about_a_period() -> None:
    assert tokenize(["a vitamin C.", "A man"])[0] == "a vitamin c"
    assert tokenize(["a vitamin C.", "a man"])[0] == "a vitamin c."


def test_a_line_break_in_a_caption_does_not_move_the_others() -> None:
    assert tokenize(["a\rb\nc\u2028d", "e", "", "f"]) == ["a b c d", "e", "", "f"]


@pytest.mark.parametrize(
    "caption, tokens",
    [
        ("Mr. Smith of St. Louis, no. 7 and no. dogs.", "mr. smith of st. louis no. 7 and no dogs"),
        ("at 5:30pm or 5 p.m. or 12:30p.m.", "at 5:30 pm or 5 p.m. or 12:30 p.m."),
        ("a man in X. He saw Y. Smith", "a man in x he saw y. smith"),
        ("'em '80s 80's ma'am O'Brien ol' y'all", "'em '80s 80 's ma'am o'brien ol' y' all"),
        ("WON'T they'll 'TWAS 'tisn't n't", "wo n't they 'll 't was 't is n't n't"),
        ("a--b a-----b -5 5+5 .5 -word word-", "a b a ----- b -5 5 +5 .5 word word"),
        ("AT&T black&white $5.99 US$5 \xa35 5\xa2", "at&t black & white $ 5.99 us$ 5 # 5 5 cents"),
        (
            ":) :-D :'( <3 (cat) (555) 123-4567",
            ":-rrb- :-d :'-lrb- < 3 -lrb- cat -rrb- -lrb-555-rrb-\xa0123-4567",
        ),
        ("#tag #1 @you foo_bar end.The x/y w/ <b>", "#tag # 1 @you foo_bar end.the x/y w / <b>"),
        (
            "(see www.foo.com). a bus., wow!! *** a*b",
            "-lrb- see www.foo.com -rrb- a bus. wow !! *** a * b",
        ),
        (
            "3.5-inch 1.5mm 10-year-old 1/2-mile U.S.-based",
            "3.5-inch 1.5 mm 10-year-old 1/2-mile u.s.-based",
        ),
        ("boy.: red.blue.; gonna.: boy.? t-shirt.:", "boy. red.blue. gonna. boy t-shirt."),
        ("a@b.com! HTTP://a.b/c; a@b.com.", "a@b.com! http://a.b/c; a@b.com"),
        ("'10:30 ''80s ''s thre'e ho'use ri'de", "10:30 80s s thre'e ho'use ri de"),
        ("$1,-000 -:5 .5.5 10.-year-old", "$ 1,-000 -:5 .5.5 10.-year-old"),
    ],
)
def test_tokens_that_the_java_program_gave(caption: str, tokens: str) -> None:
    assert tokenize([caption]) == [tokens]


def test_cider_of_the_references_themselves_is_high_and_of_one_image_zero() -> None:
    own = {key: texts[0] for key, texts in REFERENCES.items()}
    result = cider_d(own, REFERENCES)
    assert result.score == pytest.approx(sum(result.per_image) / 3)
    assert result.per_image[2] == pytest.approx(10)  # one reference, repeated
    alone = cider_d({"1": own["1"]}, REFERENCES)
    assert alone.score == 0


def test_cider_depends_on_the_images_that_are_scored() -> None:
    own = {key: texts[0] for key, texts in REFERENCES.items()}
    two = {key: own[key] for key in ("1", "3")}
    assert cider_d(two, REFERENCES).per_image[0] != cider_d(own, REFERENCES).per_image[0]


def test_bleu_is_short_of_one_for_short_captions() -> None:
    assert bleu({"3": "two children play soccer"}, REFERENCES) == pytest.approx((1, 1, 1, 1))
    short = bleu({"3": "two children"}, REFERENCES)
    assert short[0] == pytest.approx(0.36787944)  # exp(1 - 4 / 2)
    assert short[3] < 1e-3


def test_rouge_takes_the_best_precision_and_the_best_recall() -> None:
    assert rouge_l("two children", REFERENCES["3"]) == pytest.approx(2.44 * 0.5 / (0.5 + 1.44))
    assert rouge_l("", REFERENCES["3"]) == 0
    assert (
        mean_rouge_l({"1": "a wave", "3": ""}, REFERENCES) == rouge_l("a wave", REFERENCES["1"]) / 2
    )


def test_java_is_used_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\nsed 's/x/-lrb- x ./'\n")
    program.chmod(0o755)
    jar = tmp_path / "program.jar"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(caption_tokens, "java_program", lambda: jar)
    result = tokenize_captions(["x a\rb", ""])
    assert result.captions == ["-lrb- x a b", ""]
    assert result.tokenizer == "stanford-corenlp-3.4.1"
    assert tokenize_captions(["x"], java=False).tokenizer == "hdvl"
    program.write_text("#!/bin/sh\necho one\n")
    with pytest.raises(ValueError, match="must print a line for each of 4 captions, got 2; pass"):
        tokenize_captions(["a", "b", "c", "d"])
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(subprocess.CalledProcessError):
        tokenize_captions(["a"])


def test_java_can_be_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_tokens, "find_spec", lambda name: None)
    assert tokenize_captions(["A man."]) == caption_tokens.Tokenized(["a man"], "hdvl")
    with pytest.raises(ValueError, match=r"java=True needs Java and stanford-corenlp-3\.4\.1\.jar"):
        tokenize_captions(["A man."], java=True)


def test_the_program_lies_in_pycocoevalcap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pycocoevalcap" / "tokenizer"
    folder.mkdir(parents=True)
    (tmp_path / "pycocoevalcap" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(caption_tokens.shutil, "which", lambda name: "/usr/bin/java")
    assert caption_tokens.java_program() is None
    (folder / caption_tokens.JAR).touch()
    assert caption_tokens.java_program() == folder / caption_tokens.JAR
    monkeypatch.setattr(caption_tokens.shutil, "which", lambda name: None)
    assert caption_tokens.java_program() is None
