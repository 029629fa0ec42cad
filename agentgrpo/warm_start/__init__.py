"""From nothing, or from any model, to one that can act: tiny models, demonstrations, supervised fine-tuning."""
