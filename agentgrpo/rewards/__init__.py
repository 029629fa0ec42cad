"""The reward kit: terms an environment can be scored by, and a rubric that weighs them. `docs/rewards.md` has them all.

Pure functions over what an environment knows: neither environments nor models are known here.
"""

from agentgrpo.rewards.answers import fields_match, normalize, number_match, same_value, text_match
from agentgrpo.rewards.changes import changed_paths, side_effects, unexpected
from agentgrpo.rewards.checks import Check, check, check_state, false_completion, outcome, progress
from agentgrpo.rewards.episode import Episode
from agentgrpo.rewards.prove import PUBLISHED_WEIGHTS, published_terms
from agentgrpo.rewards.rubric import Rubric, scaled
from agentgrpo.rewards.toolcalls import TOOL_CALL_WEIGHTS, RequiredCall, tool_call_terms

__all__ = [
    "PUBLISHED_WEIGHTS",
    "TOOL_CALL_WEIGHTS",
    "Check",
    "Episode",
    "RequiredCall",
    "Rubric",
    "changed_paths",
    "check",
    "check_state",
    "false_completion",
    "fields_match",
    "normalize",
    "number_match",
    "outcome",
    "progress",
    "published_terms",
    "same_value",
    "scaled",
    "side_effects",
    "text_match",
    "tool_call_terms",
    "unexpected",
]
