"""Files and folders are written atomically, and errors of the disk name them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hdvl.files import WriteError, atomic_folder, atomic_write, remove, write_text


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(autouse=True)
def no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as part:
        part.write_text("words")
        assert part.parent == path.parent and not path.exists()
    assert path.read_text() == "words" and names(tmp_path) == ["new", "new/a.txt"]
    assert path.stat().st_mode == tmp_path.joinpath("new").stat().st_mode & 0o666 | 0o100000
    write_text(path, "wörter")
    assert path.read_bytes() == "wörter".encode()


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model"
    for number in range(2):
        with atomic_folder(path) as part:
            (part / "inner").mkdir()
            (part / "inner" / f"{number}.txt").write_text("words")
            assert part.parent == path.parent and names(path) == ["inner", "inner/0.txt"] * number
    assert names(tmp_path) == ["new", "new/model", "new/model/inner", "new/model/inner/1.txt"]


def test_a_link_to_a_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for target in ("real", "absent"):
        remove(tmp_path / "model")
        (tmp_path / "model").symlink_to(tmp_path / target)
        with atomic_folder(tmp_path / "model") as part:
            (part / "a").touch()
        assert names(tmp_path) == ["model", "model/a", "real"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_after_a_failure_the_old_file_remains(tmp_path: Path, error: BaseException) -> None:
    file, folder = tmp_path / "a.txt", tmp_path / "b"
    file.write_text("before")
    folder.mkdir()
    (folder / "before").touch()
    with pytest.raises(type(error)), atomic_write(file) as part:
        part.write_text("half")
        raise error
    with pytest.raises(type(error)), atomic_folder(folder) as part:
        (part / "half").touch()
        raise error
    assert file.read_text() == "before" and names(tmp_path) == ["a.txt", "b", "b/before"]


def test_a_rename_that_fails_puts_the_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "b", Path.rename
    folder.mkdir()
    (folder / "before").touch()
    monkeypatch.setattr(
        Path, "rename", lambda self, to: full() if ".new" in self.name else rename(self, to)
    )
    with pytest.raises(WriteError, match=r"could not write .*b: No space"), atomic_folder(folder):
        pass
    assert names(tmp_path) == ["b", "b/before"]


@pytest.mark.parametrize("way", [atomic_write, atomic_folder])
def test_durable_writes_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., Any]
) -> None:
    kept: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: kept.append(os.readlink(f"/proc/self/fd/{handle}"))
    )
    with way(tmp_path / "a") as part:
        file = part if way is atomic_write else part / "inner" / "file"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        inside = [part] if way is atomic_write else [part, file.parent, file]
    assert sorted(kept[:-1]) == sorted(map(str, inside)) and kept[-1] == str(tmp_path)
    kept.clear()
    with atomic_write(tmp_path / "b", durable=False) as part:
        part.touch()
    assert not kept


def test_a_full_disk_names_what_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(
            WriteError, match=r"^could not write .*/a: No space left on device$"
        ) as caught,
        atomic_write(tmp_path / "a") as part,
    ):
        part.symlink_to("/dev/full")
        part.write_text("words")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"could not write .*/a: No space left on device"):
        write_text(tmp_path / "a", "words")
    with (
        pytest.raises(WriteError, match=r"could not write .*/b: No space left on device"),
        atomic_folder(tmp_path / "b") as part,
    ):
        (part / "file").touch()
    assert names(tmp_path) == []


def test_flushing_is_left_out_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", unknown)
    write_text(tmp_path / "a", "words")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["file/a", "file/a/b", "a" * 255])
def test_places_that_cannot_be_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=f"could not write .*/{name}: (Not a dir|File )"):
        write_text(tmp_path / name, "words")
    with pytest.raises(WriteError, match=f"could not write .*/{name}: (Not a dir|File )"):
        with atomic_folder(tmp_path / name):
            pass
    assert names(tmp_path) == ["file"]


def test_no_folder_or_device_is_replaced(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(
            ValueError, match=f"cannot write a file to '{path}', it is no file; give"
        ):
            write_text(path, "words")


def test_errors_of_other_files_are_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), atomic_write(tmp_path / "a"):
        (tmp_path / "absent").read_text()
    with pytest.raises(OSError, match=r"^of another kind$"), atomic_folder(tmp_path / "a"):
        raise OSError("of another kind")
    assert names(tmp_path) == []
