"""Files that lie within a page."""

from __future__ import annotations

import base64


def data_uri(mime: str, content: str | bytes) -> str:
    """`content` as an address that needs no network; text is UTF-8."""
    if isinstance(content, str):
        mime, content = f"{mime};charset=utf-8", content.encode()
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
