"""Tools of MCP servers: where servers are, sessions with them, and their tools as tools of an environment."""
