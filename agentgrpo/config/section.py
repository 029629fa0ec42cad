"""What every section of a configuration has in common."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, numbers are finite, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def dead_keys(self) -> dict[str, str]:
        """Return the keys that have no effect beside the others' values, and why."""
        return {}

    def unused(self) -> dict[str, Any]:
        """Return the dead keys of this section and of those in it, as pydantic's `exclude` takes them."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        inner = {name: value.unused() for name, value in values.items() if isinstance(value, Section)}
        return {name: keys for name, keys in inner.items() if keys} | dict.fromkeys(self.dead_keys(), True)

    @model_validator(mode="after")
    def _no_dead_keys(self) -> Self:
        for key, why in self.dead_keys().items():
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise ValueError(f"{key} has no effect {why}")
        return self
