"""What MCP servers say, as text a model reads. It does not know who reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentgrpo.tooling import one_line

if TYPE_CHECKING:
    from mcp.types import BlobResourceContents, CallToolResult, ContentBlock, TextResourceContents

_SHOWN = 100  # characters of an address or a type


def result_text(result: CallToolResult) -> str:
    """Return the text of a result; what is no text is named with its type and size."""
    if not result.content and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return content_text(result.content)


def content_text(blocks: Sequence[ContentBlock]) -> str:
    """Return the text of content, block by block."""
    return "\n".join(_block(block) for block in blocks) if blocks else "ok"


def _block(block: ContentBlock) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return f"[{block.type}, {one_line(block.mime_type, _SHOWN)}, {_size(block.data)}: not shown]"
        case "resource_link":
            return f"[link to {one_line(block.uri, _SHOWN)}]"
        case "resource":
            return resource_text(block.resource)


def resource_text(resource: TextResourceContents | BlobResourceContents) -> str:
    """Return a resource's text, or what it is when it has none."""
    text = getattr(resource, "text", None)
    if isinstance(text, str):
        return text
    kind = one_line(resource.mime_type or "unknown type", _SHOWN)
    return f"[resource {one_line(resource.uri, _SHOWN)}, {kind}, {_size(getattr(resource, 'blob', ''))}: not shown]"


def _size(base64_text: str) -> str:
    return f"{len(base64_text) * 3 // 4:,} bytes"
