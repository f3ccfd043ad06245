"""The files in which intfloat/e5-mistral-7b-instruct says what it is, beside its weights."""

import json
from pathlib import Path
from typing import Any

from e5.prompts import TASKS

OLD = "sentence_transformers.models"
HUB = ("web_search_query", "sts_query", "summarization_query", "bitext_query")

E5_FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": f"{OLD}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{OLD}.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{OLD}.Normalize"},
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 4096,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True,
        "include_prompt": True,
    },
    "sentence_bert_config.json": {"max_seq_length": 4096, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "prompts": {name: f"Instruct: {TASKS[name].instruction}\nQuery: " for name in HUB},
        "default_prompt_name": None,
    },
    "tokenizer_config.json": {
        "add_bos_token": True,
        "add_eos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "</s>",
        "tokenizer_class": "LlamaTokenizer",
    },
    "config.json": {"hidden_size": 4096, "model_type": "mistral"},
}


def write_files(folder: Path, files: dict[str, Any]) -> Path:
    """Write each file as JSON; returns the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder
