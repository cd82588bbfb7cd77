"""Images as a request gave them. vLLM would turn them by EXIF and convert them to RGB on white.

hdvl's tilers read orientation, colour profile and transparency themselves, as their options say.
"""

from typing import Any

from PIL import Image
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataParser

_READ_BY_TILERS = ("exif", "icc_profile", "transparency")


class OriginalImages(ImageProcessorItems):  # type: ignore[misc]
    """The images of a prompt, with the bytes of those that were sent as files."""

    def get(self, index: int) -> Any:
        """An image: bytes of a file within ``MediaWithBytes``, a Pillow image or an array."""
        return self.data[index]

    def get_item_for_hash(self, index: int) -> Any:
        """What tells an image from others: its pixels, and what tilers read besides."""
        item = self.data[index]
        if not isinstance(item, Image.Image):
            return item
        return [item, *(repr(item.info.get(name)) for name in _READ_BY_TILERS)]


class OriginalImageParser(MultiModalDataParser):  # type: ignore[misc]
    """Parser of multi-modal data that leaves images as they are."""

    def _parse_image_data(self, data: Any) -> OriginalImages | None:
        if data is None:
            return None
        return OriginalImages(data if isinstance(data, list | tuple) else [data])


def source_of(item: Any) -> Any:
    """What a tiler reads: the bytes of a file, a Pillow image or an array."""
    return item.original_bytes if isinstance(item, MediaWithBytes) else item
