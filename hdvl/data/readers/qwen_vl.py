"""Reader of Qwen-VL's format, in which images and boxes are part of the text."""

from hdvl.data.readers.llava import LlavaConversations


class QwenVLConversations(LlavaConversations):
    """Reads JSON or JSONL of {id, conversations: [{from, value}]} with images as ``<img>path</img>``.

    The text numbers the images itself (``Picture 1: <img>a.jpg</img>``), so that the template does not.
    Boxes are written as ``<box>(x1,y1),(x2,y2)</box>`` in thousandths of the image (Bai et al., 2023,
    arXiv:2308.12966). With ``written`` set to that codec, they are rewritten for templates with another one.
    """

    inline = True
