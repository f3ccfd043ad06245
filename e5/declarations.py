"""What a folder says of its model, in the files of sentence-transformers and of the tokenizer.

`modules.json` and the folders that it names, `sentence_bert_config.json`,
`config_sentence_transformers.json`, `tokenizer_config.json` and `special_tokens_map.json` are read
where they are there. What this project does not do (another pooling, a Dense module, other code,
other special tokens) is refused by name; the prompts and the maximum length that they name are
taken. What `config.json` says is read by `e5.mistral`, and what an adapter says by `e5.lora`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e5.errors import WeightsError, quoted
from e5.prompts import E5_PROMPTS, Prompts, prompts_from_names

_MODULES, _TRANSFORMER = "modules.json", "sentence_bert_config.json"
_TOKENIZER, _TOKENS = "tokenizer_config.json", "special_tokens_map.json"
PROMPTS_FILE = "config_sentence_transformers.json"
SERVE_ELSEWHERE = "serve it with its own library, or correct the file if the model is not so"
_SERVED_MODULES = ("Transformer", "Pooling", "Normalize")
# The values that we serve. A key that is absent or null says nothing.
_TRANSFORMER_VALUES: Mapping[str, list[object]] = {
    "do_lower_case": [False],
    "transformer_task": ["feature-extraction"],
    "module_output_name": ["token_embeddings"],
    "processing_kwargs": [{}],
    "tokenizer_name_or_path": [],
    "query_length": [],
    "document_length": [],
    "query_expansion": [],
}
_NORMALIZE_VALUES: Mapping[str, list[object]] = {
    "module_input_name": ["sentence_embedding"],
    "module_output_name": ["sentence_embedding"],
}
_TOKENIZER_VALUES: Mapping[str, list[object]] = {
    "add_bos_token": [True],
    "add_eos_token": [True],
    "bos_token": ["<s>"],
    "eos_token": ["</s>"],
    "truncation_side": ["right"],
    "do_lower_case": [False],
    "auto_map": [{}],
}
# Arguments of transformers that change no vector, or only its precision.
_HARMLESS_ARGUMENTS = {
    *("attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "torch_dtype"),
    *("trust_remote_code", "use_cache", "use_safetensors"),
}


@dataclass(frozen=True)
class Declarations:
    """What a folder says of its model and what this project follows.

    Attributes:
        prompts: its own prompts; None if it names none.
        max_length: the maximum tokens of a text, `<s>` and `</s>` included; None if it names none.
    """

    prompts: Prompts | None = None
    max_length: int | None = None

    @classmethod
    def read(cls, folder: Path) -> "Declarations":
        """Read a folder's files; those that are not there say nothing.

        Raises:
            WeightsError: naming the file, the entry and its value, if this project does otherwise.
        """
        modules = _read_modules(folder)
        prompts = _read_prompts(folder, normalized="Normalize" in modules)
        length = _read_transformer(folder / _TRANSFORMER)
        _check_tokenizer(folder / _TOKENS, _read_object(folder / _TOKENS))
        tokenizer_length = _check_tokenizer(folder / _TOKENIZER, _read_object(folder / _TOKENIZER))
        return cls(prompts, tokenizer_length if length is None else length)


def _read_modules(folder: Path) -> list[str]:
    """The classes of the modules; empty if the folder names none. Each module is checked."""
    path = folder / _MODULES
    entries = _read_json(path)
    if entries is None:  # folders of modules without the list of them
        paths = sorted(config.parent.name for config in folder.glob("[0-9]_[A-Z]*/config.json"))
        named = [(f"sentence_transformers.{at.partition('_')[2]}", at) for at in paths]
        named = [("sentence_transformers.Transformer", ""), *named] if named else []
    else:
        try:
            if not (isinstance(entries, list) and entries):
                raise TypeError
            named = [(str(entry["type"]), str(entry["path"])) for entry in entries]
        except (KeyError, TypeError) as error:
            raise _refusal(path, "not a list of modules with their types and paths") from error
    classes = []
    for number, (kind, at) in enumerate(named):
        package, _, name = kind.rpartition(".")
        if package.partition(".")[0] != "sentence_transformers" or name not in _SERVED_MODULES:
            served = ", ".join(_SERVED_MODULES)
            raise _refusal(path, f"module {number} is {quoted(kind)}, and only {served} are served")
        if at != Path(at).name or (at and name == "Transformer"):
            raise _refusal(path, f"module {number} is in {quoted(at)}, which is not its own folder")
        classes.append(name)
        if name == "Pooling":
            _check_pooling(folder, folder / at / "config.json")
        elif name == "Normalize" and at:
            config = folder / at / "config.json"
            _expect(config, _read_object(config), _NORMALIZE_VALUES)
    if classes and classes not in (list(_SERVED_MODULES), list(_SERVED_MODULES[:2])):
        served = ", ".join(_SERVED_MODULES)
        raise _refusal(path, f"its modules are {', '.join(classes)}, and ours are {served}")
    return classes


def _check_pooling(folder: Path, path: Path) -> None:
    if not path.is_file():  # a download may leave it out
        return
    config = _read_object(path)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
        modes = [key.removeprefix("pooling_mode_") for key in modes] or "mean"  # its default
    if modes not in ("lasttoken", ["lasttoken"]):
        raise _refusal(path, f"the pooling is {quoted(modes)}, and only lasttoken is served")
    size = _read_object(folder / "config.json").get("hidden_size")
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if size is not None and config.get(key, size) != size:
            received = f"{key} is {quoted(config[key])}, and config.json has hidden_size {size}"
            raise _refusal(path, received)


def _read_transformer(path: Path) -> int | None:
    """Check the module that computes the hidden states; its maximum length."""
    config = _read_object(path)
    _expect(path, config, _TRANSFORMER_VALUES)
    text = _mapping(path, _mapping(path, config, "modality_config"), "text")
    _expect(path, text, {"method": ["forward"], "method_output_name": ["last_hidden_state"]})
    lengths = [_length(path, config, "max_seq_length")]
    for part in ("model", "config", "tokenizer", "processor"):
        for arguments in (_mapping(path, config, f"{part}_{name}") for name in ("args", "kwargs")):
            if part in ("tokenizer", "processor"):
                lengths.append(_check_tokenizer(path, arguments))
            elif others := [name for name in arguments if name not in _HARMLESS_ARGUMENTS]:
                raise _refusal(path, f"it sets the model's {quoted(others[0])}")
    return min((length for length in lengths if length is not None), default=None)


def _check_tokenizer(path: Path, config: Mapping[str, Any]) -> int | None:
    """Check what is said of the tokenizer; its maximum length."""
    tokens = {
        name: value["content"] if isinstance(value, dict) and "content" in value else value
        for name, value in config.items()
    }
    _expect(path, tokens, _TOKENIZER_VALUES)
    return _length(path, config, "model_max_length")


def _read_prompts(folder: Path, *, normalized: bool) -> Prompts | None:
    path = folder / PROMPTS_FILE
    config = _read_object(path)
    # Of vectors of length 1 the dot product is the cosine, which is our score.
    similarities: list[object] = ["cosine", "dot"] if normalized else ["cosine"]
    _expect(path, config, {"model_type": ["SentenceTransformer"], "truncate_dim": []})
    _expect(path, config, {"similarity_fn_name": similarities})
    named, default = _mapping(path, config, "prompts"), config.get("default_prompt_name")
    texts = {name: "" if text is None else text for name, text in named.items()}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise _refusal(path, f"the prompt {quoted(name)} is {quoted(text)}, which is no text")
    if default not in [None, "query", "document", *texts]:
        raise _refusal(path, f"default_prompt_name is {quoted(default)}, which names no prompt")
    try:
        prompts = prompts_from_names(texts, default)
    except ValueError as error:
        remedy = 'name one prompt in it that queries begin with, as "query"'
        raise WeightsError(path, str(error), remedy) from error
    if prompts not in (None, E5_PROMPTS):
        _check_control_tokens(path, folder / "tokenizer.json", texts)
    return prompts


def _check_control_tokens(path: Path, tokenizer: Path, texts: Mapping[str, str]) -> None:
    """Refuse prompts with control tokens: written inside a text, they are text here."""
    added = _read_object(tokenizer).get("added_tokens") or []
    tokens = [str(token.get("content")) for token in added if isinstance(token, dict)]
    for name, text in texts.items():
        for token in tokens:
            if token in text:
                received = f"the prompt {quoted(name)} has the control token {quoted(token)}"
                raise _refusal(path, f"{received}, which would be read as text")


def _expect(path: Path, config: Mapping[str, Any], served: Mapping[str, list[object]]) -> None:
    """Refuse the first entry whose value we do not serve."""
    for name, values in served.items():
        value = config.get(name)
        if value is not None and value not in values:
            only = " or ".join(map(quoted, values)) or "null"
            raise _refusal(path, f"{name} is {quoted(value)}, and only {only} is served")


def _length(path: Path, config: Mapping[str, Any], name: str) -> int | None:
    """A maximum length; transformers writes 1e30 for none."""
    value = config.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not value >= 3:
        raise _refusal(path, f"{name} is {quoted(value)}, which is no number of tokens")
    return int(value) if value < 1e9 else None


def _mapping(path: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise _refusal(path, f"{name} is {quoted(value)}, which is no object")
    return dict(value or {})


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no file."""
    value = _read_json(path)
    if value is not None and not isinstance(value, dict):
        raise _refusal(path, f"it holds {quoted(value)}, which is no object")
    return dict(value or {})


def _read_json(path: Path) -> Any:
    """The value in a JSON file; None if there is no file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _refusal(path, f"not readable as JSON ({error})") from error


def _refusal(path: Path, received: str) -> WeightsError:
    return WeightsError(path, received, SERVE_ELSEWHERE)
