"""OpenAPI documents as tools: the operations an author selects, called through an `HttpClient`."""

from agentgrpo.tools.openapi.tools import openapi_tools

__all__ = ["openapi_tools"]
