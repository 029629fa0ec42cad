"""HTTP for tools: a client that retries, keeps its deadline and its size cap, and reaches allowed hosts only."""

from agentgrpo.tools.http.answer import Answer
from agentgrpo.tools.http.auth import Auth
from agentgrpo.tools.http.client import HttpClient, RefusedRequest
from agentgrpo.tools.http.web import web_tools

__all__ = ["Answer", "Auth", "HttpClient", "RefusedRequest", "web_tools"]
