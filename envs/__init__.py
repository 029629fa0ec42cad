"""The environments agentgrpo ships, by name. Importing this registers them with Gymnasium and imports none of them."""

from __future__ import annotations

import gymnasium

SHIPPED = {"shop": "agentgrpo/Shop-v0", "workspace": "agentgrpo/Workspace-v0", "lockbox": "agentgrpo/Lockbox-v0"}

gymnasium.register("agentgrpo/Shop-v0", entry_point="agentgrpo.envs.shop.env:Shop")
gymnasium.register("agentgrpo/Workspace-v0", entry_point="agentgrpo.envs.workspace.env:Workspace")
gymnasium.register("agentgrpo/Lockbox-v0", entry_point="agentgrpo.envs.lockbox.env:Lockbox")
