"""Qwen-VL's conversations: images and boxes inside the text."""

from hdvl.data.readers.llava import LlavaConversations


class QwenVLConversations(LlavaConversations):
    """A JSON list, or lines, of {id, conversations: [{from, value}]} with images as ``<img>path</img>``.

    The text numbers the images itself (``Picture 1: <img>a.jpg</img>``), so the template does not.
    Boxes are ``<box>(x1,y1),(x2,y2)</box>`` in thousandths (Bai et al., 2023, arXiv:2308.12966), which
    ``written`` says; a template with another codec gets them as it writes them.
    """

    inline = True
