"""Chat models behind OpenAI-compatible endpoints: messages in, a message out. Text only: nothing here knows tokens."""
