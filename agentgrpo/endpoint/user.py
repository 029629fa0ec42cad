"""A user played by a chat model: what `agentgrpo.users.User` asks for, over an OpenAI-compatible endpoint.

It knows no environment. One that uses it must run in isolation "thread": a reply waits for the network. An endpoint
that gives no answer ends the episode as failed, never scored.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentgrpo.blocking import run_blocking
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.errors import EngineFailure
from agentgrpo.types import Message, Sampling

END = "GOODBYE"
_PROMPT = f"""You play a person who talks to an assistant. Say what that person would say, in one or two sentences.
{{brief}}
Tell what you know only when the assistant asks for it. Never do the assistant's work, and make nothing up.
When the assistant has done what you want, or can not do it, say only {END}."""
_GREETING: Message = {"role": "user", "content": "Hello, what can I do for you?"}
_SILENCE = "(says nothing)"


class ModelUser:
    """A user whose words a chat model chooses; ask no more of it than a `User`.

    Args:
        url: Where `/chat/completions` is found, such as "https://host/v1".
        model: The name the endpoint knows the model by.
        brief: Who the user is, wants and knows, as the model is told.
        api_key_env: The environment variable that holds the key; None: the endpoint asks for none.
        temperature: As in sampling; at 0 most endpoints answer nearly the same each time.
        max_tokens: Of one reply.
        seconds: Deadline of one reply, repetitions included.
        patience: Replies until the user has had enough and ends the conversation.

    Raises:
        ConfigError: the URL is none, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        brief: str,
        api_key_env: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = 200,
        seconds: float = 60.0,
        patience: int = 10,
    ) -> None:
        self._where, self._key_env, self._seconds, self.patience = (url, model), api_key_env, seconds, patience
        self._sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        self._system: Message = {"role": "system", "content": _PROMPT.format(brief=brief.strip())}
        self._endpoint()  # what is wrong with URL or key is said now

    def reply(self, messages: Sequence[Message]) -> str | None:
        """Answer the last message, or return None to end the conversation.

        Raises:
            EngineFailure: there was no answer in time, or none that can be read.
            UserError: the endpoint refuses this key, URL or model.
        """
        if sum(message["role"] == "user" for message in messages) > self.patience:
            return None
        said = run_blocking(self._ask([self._system, _GREETING, *map(_seen_from_there, messages)])).strip()
        if not said:
            raise EngineFailure(f"{self._where[1]}, who plays the user, said nothing")
        return None if END in said else said

    async def _ask(self, messages: Sequence[Message]) -> str:
        async with self._endpoint() as endpoint:
            reply = await endpoint.chat(messages, sampling=self._sampling, seconds=self._seconds)
        return reply.message.content

    def _endpoint(self) -> Endpoint:
        # One per reply: replies of one environment come from whatever thread and event loop it is stepped in.
        return Endpoint(*self._where, api_key_env=self._key_env, concurrency=1, attempt_seconds=self._seconds)


def _seen_from_there(message: Message) -> Message:
    """Return a message with the roles exchanged: for the model, the agent is who it talks to."""
    role = "assistant" if message["role"] == "user" else "user"
    return {"role": role, "content": str(message["content"]).strip() or _SILENCE}
