"""Runs on disk: their folder, their episodes, their record, their learning curve. Knows neither torch nor engines."""

from agentgrpo.store.curve import draw_curve
from agentgrpo.store.episodes import EpisodeStore, TrainingRow
from agentgrpo.store.filter import Filter, FilterError, parse_filter
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.record import finish_record, hash_folder, hash_json, hash_source, resume_record, start_record
from agentgrpo.store.redact import redact, redact_text
from agentgrpo.store.rows import EpisodeFilter, EpisodeRow, FacetRow, StepRow, StoredEpisode, TaskRow, parse_key
from agentgrpo.store.run import Metrics, RunDirectory, read_metrics, write_json, write_text

__all__ = [
    "EpisodeFilter",
    "EpisodeReader",
    "EpisodeRow",
    "EpisodeStore",
    "FacetRow",
    "Filter",
    "FilterError",
    "Metrics",
    "RunDirectory",
    "StepRow",
    "StoredEpisode",
    "TaskRow",
    "TrainingRow",
    "draw_curve",
    "finish_record",
    "hash_folder",
    "hash_json",
    "hash_source",
    "parse_filter",
    "parse_key",
    "read_metrics",
    "redact",
    "redact_text",
    "resume_record",
    "start_record",
    "write_json",
    "write_text",
]
