"""Readers of conversations, one file a format. A row becomes a conversation in ``hdvl.data.rows``."""

from hdvl.data.readers.hf import DatasetsConversations, ParquetConversations
from hdvl.data.readers.internvl import InternVLConversations
from hdvl.data.readers.llava import LlavaConversations
from hdvl.data.readers.qwen_vl import QwenVLConversations
from hdvl.data.readers.streaming import StreamingConversations
from hdvl.data.readers.webdataset import WebDatasetConversations

__all__ = [
    "DatasetsConversations",
    "InternVLConversations",
    "LlavaConversations",
    "ParquetConversations",
    "QwenVLConversations",
    "StreamingConversations",
    "WebDatasetConversations",
]
