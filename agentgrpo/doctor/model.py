"""Part 2: the model folder, read before anything is loaded: whole files, right architecture, enough memory."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.config.run import Config
from agentgrpo.doctor import machine
from agentgrpo.doctor.report import Finding, fail, need, ok, warn
from agentgrpo.doctor.subject import ModelFacts, Subject
from agentgrpo.errors import ModelError, first_line
from agentgrpo.types import JsonObject

_ADVICE = "Fetch it again: the file is cut off or is a pointer (git lfs pull), not the weights."


def check_model(subject: Subject) -> Iterator[Finding]:
    """Find whether the model can be loaded, fits the engine, the tokenizer, the adapter and the memory."""
    path = need(subject.model_path, "needs the model folder")
    config = read_config(path)
    shapes = read_shapes(path)
    subject.model = facts = _facts(subject.config, config, shapes, path)
    yield ok(
        f"{config.get('model_type', '?')}, {facts.parameters / 1e6:,.2f} M parameters as {_dtype(subject.config)}, "
        f"context of {config.get('max_position_embeddings') or '?'} tokens",
        {
            "parameters": facts.parameters,
            "bytes": facts.parameters * facts.dtype_bytes,
            "context": config.get("max_position_embeddings"),
        },
    )
    problems = [*check_architecture(config), *_fits_memory(facts)]
    subject.is_usable = not problems and facts.adapter_parameters > 0
    yield from problems
    yield from check_tokenizer(path, config, shapes)
    yield from check_targets(path, subject.config.model.lora.targets)


def read_config(path: Path) -> JsonObject:
    """Return config.json of a model folder.

    Raises:
        ModelError: it is missing or not JSON.
    """
    try:
        data = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        there = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise ModelError(f"'{path}' has no config.json, only: {there}\nGive [model] path a model's folder.") from error
    except ValueError as error:
        raise ModelError(f"'{path}/config.json' is not JSON: {error}\n{_ADVICE}") from error
    return dict(data)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the folder's safetensors files, read from their headers.

    Raises:
        ModelError: there are none, or one is broken.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"'{path}' has no .safetensors file\nSave the model with save_pretrained, or fetch it again.")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"'{file}' is broken: {error}\n{_ADVICE}") from error
    return shapes


def check_architecture(config: JsonObject) -> Iterator[Finding]:
    """Find whether the engine computes this model's attention."""
    try:
        causal_lm.check_attention(_Configured(AutoConfig.for_model(**config)))  # type: ignore[arg-type]
    except ModelError as error:
        yield fail(str(error), "the learner could train it, but the engine would sample from another model")
    except (TypeError, ValueError) as error:
        yield fail(f"config.json describes no known architecture: {first_line(error)}"[:300])


class _Configured:
    """A model of which only the config is known: all that is read to judge its attention."""

    def __init__(self, config: object) -> None:
        self.config = config


def check_tokenizer(path: Path, config: JsonObject, shapes: dict[str, tuple[int, ...]]) -> Iterator[Finding]:
    """Find whether the tokenizer's ids all have an embedding."""
    size = len(AutoTokenizer.from_pretrained(path))
    rows = embedding_rows(shapes) or int(config.get("vocab_size") or 0)
    if size > rows:
        yield fail(
            f"the tokenizer has {size} tokens, the embedding only {rows} rows: {size - rows} of them crash the run",
            "take the tokenizer that came with these weights, or resize the embeddings and save the model",
        )
    elif rows - size > max(1024, rows // 20):
        yield warn(f"the embedding has {rows} rows for {size} tokens: are these the tokenizer of these weights?")
    else:
        yield ok(f"tokenizer: {size} tokens for {rows} rows of the embedding")


def embedding_rows(shapes: dict[str, tuple[int, ...]]) -> int | None:
    """Return the rows of the input embedding, as far as its name tells which tensor it is."""
    found = [shape for name, shape in shapes.items() if re.search(r"(embed_tokens|wte|word_embeddings)\.weight$", name)]
    return found[0][0] if found else None


def check_targets(path: Path, targets: str | Sequence[str]) -> Iterator[Finding]:
    """Find whether [model.lora] targets names layers of this model."""
    linears = linear_layers(path)
    chosen = chosen_layers(linears, targets)
    kinds = sorted({name.rpartition(".")[2] for name in linears})
    if not chosen:
        yield fail(
            f"[model.lora] targets = {targets!r} matches no layer of this model",
            f'take "all-linear", or some of: {", ".join(kinds)}',
        )
        return
    unmatched = [t for t in targets if not chosen_layers(linears, [t])] if not isinstance(targets, str) else []
    if unmatched:
        yield fail(f"[model.lora] targets: {unmatched} match no layer", f"known here: {', '.join(kinds)}")
    names = ", ".join(sorted({name.rpartition(".")[2] for name in chosen}))
    yield ok(f"adapter on {len(chosen)} layers: {names}", {"layers": len(chosen)})


def linear_layers(path: Path) -> dict[str, tuple[int, int]]:
    """Return {name: (out, in)} of the model's linear layers except its head; no weight is loaded."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    head = model.get_output_embeddings()
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def chosen_layers(linears: dict[str, tuple[int, int]], targets: str | Sequence[str]) -> list[str]:
    """Return the layers peft would put an adapter on: a string is a pattern, a list holds ends of names."""
    if targets == "all-linear":
        return list(linears)
    if isinstance(targets, str):
        return [name for name in linears if re.fullmatch(targets, name)]
    return [name for name in linears if any(name == t or name.endswith(f".{t}") for t in targets)]


def _facts(config: Config, read: JsonObject, shapes: dict[str, tuple[int, ...]], path: Path) -> ModelFacts:
    device = causal_lm.pick_device(config.model.device)
    linears = linear_layers(path)
    chosen = chosen_layers(linears, config.model.lora.targets)
    return ModelFacts(
        config=read,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        dtype_bytes=causal_lm.pick_dtype(config.model.dtype, device).itemsize,
        file_bytes=sum(file.stat().st_size for file in path.glob("*.safetensors")),
        linear_parameters=sum(math.prod(linears[name]) for name in chosen),
        adapter_parameters=sum(sum(linears[name]) for name in chosen) * config.model.lora.rank,
    )


def _fits_memory(facts: ModelFacts) -> Iterator[Finding]:
    limit, wanted = machine.memory().limit, facts.parameters * facts.dtype_bytes
    if torch.cuda.is_available():
        limit = torch.cuda.mem_get_info()[1]
    if wanted > 0.9 * limit:
        yield fail(
            f"the weights alone take {machine.size(wanted)}, this machine has {machine.size(limit)}",
            'take a smaller model, or dtype = "bfloat16" ([model])',
        )


def find_folder(name: str) -> Path:
    """Return the folder of a model: the path itself, or where the hub's files are kept on this machine.

    Raises:
        ModelError: it is neither here nor fetched.
    """
    path = Path(name)
    if path.is_dir():
        return path
    try:
        if name.count("/") == 1 and causal_lm.is_hub_name(name):
            return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"'{name}' is no folder, and not fetched from the hub yet\n"
            f"Fetch it, then ask again: hf download {name} (or give [model] path a folder)"
        ) from error
    raise causal_lm.no_folder(name)


def _dtype(config: Config) -> str:
    device = causal_lm.pick_device(config.model.device)
    return str(causal_lm.pick_dtype(config.model.dtype, device)).removeprefix("torch.")
