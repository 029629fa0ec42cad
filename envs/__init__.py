"""The environments agentgrpo ships, by name. Importing this registers them with Gymnasium and imports none of them."""

from __future__ import annotations

import gymnasium

SHIPPED = {"shop": "agentgrpo/Shop-v0", "lockbox": "agentgrpo/Lockbox-v0"}
# Environments of others, played unchanged: each needs its package, or a server, and is told which (docs). And several
# environments in one run.
ADAPTERS = {
    "gym": "agentgrpo/Gym-v0",
    "openenv": "agentgrpo/OpenEnv-v0",
    "bfcl": "agentgrpo/Bfcl-v0",
    "reasoning_gym": "agentgrpo/ReasoningGym-v0",
    "verifiers": "agentgrpo/Verifiers-v0",
    "mixture": "agentgrpo/Mixture-v0",
}

gymnasium.register("agentgrpo/Shop-v0", entry_point="agentgrpo.envs.shop.env:Shop")
gymnasium.register("agentgrpo/Lockbox-v0", entry_point="agentgrpo.envs.lockbox.env:Lockbox")
gymnasium.register("agentgrpo/Mixture-v0", entry_point="agentgrpo.envs.mixture:Mixture")
gymnasium.register("agentgrpo/Gym-v0", entry_point="agentgrpo.envs.gym_text.env:GymText")
gymnasium.register("agentgrpo/OpenEnv-v0", entry_point="agentgrpo.envs.openenv.env:OpenEnv")
gymnasium.register("agentgrpo/Bfcl-v0", entry_point="agentgrpo.envs.bfcl.env:Bfcl")
gymnasium.register("agentgrpo/ReasoningGym-v0", entry_point="agentgrpo.envs.reasoning.env:ReasoningGym")
gymnasium.register("agentgrpo/Verifiers-v0", entry_point="agentgrpo.envs.verifiers.env:Verifiers")
