"""Runs on disk: their folder, their episodes, their record, their learning curve. Knows neither torch nor engines."""

from agentgrpo.store.curve import draw_curve
from agentgrpo.store.episodes import EpisodeStore, TrainingRow
from agentgrpo.store.filter import Filter, FilterError, parse_filter
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.record import (
    finish_record,
    hash_folder,
    hash_json,
    hash_source,
    hash_sources,
    resume_record,
    start_record,
)
from agentgrpo.store.redact import redact, redact_text
from agentgrpo.store.rows import EpisodeFilter, EpisodeRow, FacetRow, StepRow, StoredEpisode, parse_key
from agentgrpo.store.run import Metrics, RunDirectory, read_metrics, write_json, write_text
from agentgrpo.store.scores import Rescore, Score, rescores_of, scores_of, write_scores
from agentgrpo.store.train_steps import TrainedGroup, TrainStep, read_train_steps

__all__ = [
    "EpisodeFilter",
    "EpisodeReader",
    "EpisodeRow",
    "EpisodeStore",
    "FacetRow",
    "Filter",
    "FilterError",
    "Metrics",
    "Rescore",
    "RunDirectory",
    "Score",
    "StepRow",
    "StoredEpisode",
    "TrainStep",
    "TrainedGroup",
    "TrainingRow",
    "draw_curve",
    "finish_record",
    "hash_folder",
    "hash_json",
    "hash_source",
    "hash_sources",
    "parse_filter",
    "parse_key",
    "read_metrics",
    "read_train_steps",
    "redact",
    "redact_text",
    "rescores_of",
    "resume_record",
    "scores_of",
    "start_record",
    "write_json",
    "write_scores",
    "write_text",
]
