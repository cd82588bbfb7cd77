"""Images in text: only files of one folder can be read."""

import os
from pathlib import Path

import pytest

from hdvl.inference.inline import MAX_PATH_BYTES, take_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "images"
    (inside / "图").mkdir(parents=True)
    for name in ("a.png", "图/狗.png", "x" * 250 + ".png"):
        (inside / name).write_bytes(b"p")
    (tmp_path / "secret.png").write_bytes(b"s")
    (inside / "link.png").symlink_to(inside / "a.png")
    (inside / "out.png").symlink_to(tmp_path / "secret.png")
    (inside / "up").symlink_to(tmp_path)
    (inside / "loop").symlink_to(inside / "loop")
    return inside


def test_paths_become_images_where_they_stood(folder: Path) -> None:
    text = "Picture 1: <img>a.png</img>\nPicture 2:<img>图/狗.png</img>\nCompare."
    words, files = take_images(text, folder)
    assert words == "Picture 1: <image>\nPicture 2:<image>\nCompare."
    assert files == (folder / "a.png", folder / "图/狗.png")
    assert take_images("no image", folder) == ("no image", ())


def test_links_and_absolute_paths_inside_the_folder(folder: Path) -> None:
    text = f"<img>link.png</img><img>{folder}/a.png</img><img>图/../a.png</img>"
    words, files = take_images(text, str(folder))
    assert words == "<image>" * 3 and set(files) == {folder / "a.png"}


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "图/../../secret.png",
        "out.png",
        "up/secret.png",
        "absent.png",
        "图",
        "",
        ".",
    ],
)
def test_no_files_outside_the_folder(path: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="must name a file inside image_folder, got "):
        take_images(f"<img>{path}</img>?", folder)


def test_absolute_paths_outside_give_no_information(folder: Path) -> None:
    """The message is the same whether the file exists or not."""
    messages = []
    for name in ("secret.png", "none.png"):
        with pytest.raises(ValueError) as caught:
            take_images(f"<img>{folder.parent}/{name}</img>", folder)
        messages.append(str(caught.value).replace(name, ""))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "path",
    ["http://x/a.png", "HTTPS://x/a", "file:///a.png", "data:image/png;base64,AA", " ftp://x"],
)
def test_urls_are_not_fetched(path: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"got the URL .* which is not fetched"):
        take_images(f"<img>{path}</img>", folder)


def test_paths_have_at_most_254_bytes(folder: Path) -> None:
    """255 and 256 bytes pass the published tokenizer and crash its model."""
    name = "x" * 250 + ".png"
    assert len(name) == MAX_PATH_BYTES == 254
    assert take_images(f"<img>{name}</img>", folder)[1] == (folder / name,)
    for long in ("./" + name, "图" * 85):
        size = len(long.encode())
        with pytest.raises(ValueError, match=f"at most 254 bytes, got {size}"):
            take_images(f"<img>{long}</img>", folder)


@pytest.mark.parametrize("path", ["a\0b", "loop", "loop/a.png", "a.png/b", "\udcff.png"])
def test_paths_that_no_file_can_have(path: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="<img> must name a file"):
        take_images(f"<img>{path}</img>", folder)


def test_a_pipe_is_no_image(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(ValueError, match="inside image_folder"):
        take_images("<img>pipe.png</img>", folder)


@pytest.mark.parametrize(
    "text",
    [
        "<img>a.png",
        "a</img>",
        "<img>a.png</img> and <img>",
        "<img><img>a.png</img></img>",
        "<img>a.png</img></img>",
    ],
)
def test_open_tags(text: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="every <img> must be closed by </img>"):
        take_images(text, folder)


def test_two_ways_at_once_and_no_folder(folder: Path) -> None:
    with pytest.raises(ValueError, match="as <image> or as <img>path</img>, not both"):
        take_images("<image><img>a.png</img>", folder)
    with pytest.raises(ValueError, match="image_folder must be a folder, got"):
        take_images("<img>a.png</img>", folder / "a.png")
