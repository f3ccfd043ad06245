"""What a folder says of its model is taken, or refused by name if we do otherwise."""

from pathlib import Path
from typing import Any

import pytest
from damages import edit_json
from declared import E5_FILES, OLD, write_files

from e5.declarations import Declarations
from e5.errors import WeightsError
from e5.prompts import E5_PROMPTS, TASKS, TEMPLATE, Prompts

MODULES, TRANSFORMER = "modules.json", "sentence_bert_config.json"
PROMPTS, TOKENIZER = "config_sentence_transformers.json", "tokenizer_config.json"
TOKENS = "special_tokens_map.json"
POOLING, NORMALIZE = "1_Pooling/config.json", "2_Normalize/config.json"
NEW = "sentence_transformers.base.modules"
WEB = f"Instruct: {TASKS['web_search_query'].instruction}\nQuery: "
LAW = "Instruct: Given a legal question, retrieve statutes\nQuery: "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path, E5_FILES)


def modules(*kinds: str) -> list[dict[str, str]]:
    """Entries of modules.json."""
    paths = (f"{i}_{kind.rpartition('.')[2]}" if i else "" for i, kind in enumerate(kinds))
    return [{"type": kind, "path": path} for kind, path in zip(kinds, paths, strict=True)]


# What is as we do it


def test_e5s_own_folder_says_what_we_do(folder: Path) -> None:
    declared = Declarations.read(folder)
    assert declared == Declarations(E5_PROMPTS, 4096)
    assert declared.prompts == Prompts(TEMPLATE, "", {})


def test_a_folder_without_these_files_says_nothing(tmp_path: Path) -> None:
    assert Declarations.read(tmp_path) == Declarations(None, None)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (POOLING, {"include_prompt": False}),  # the last token is none of the prompt's
        (PROMPTS, {"similarity_fn_name": "cosine", "model_type": "SentenceTransformer"}),
        (PROMPTS, {"similarity_fn_name": "dot", "truncate_dim": None}),  # behind a Normalize
        (PROMPTS, {"__version__": {"transformers": "9"}}),
        (TRANSFORMER, {"transformer_task": "feature-extraction", "query_expansion": None}),
        (
            TRANSFORMER,
            {
                "modality_config": {
                    "text": {"method": "forward", "method_output_name": "last_hidden_state"}
                },
                "module_output_name": "token_embeddings",
            },
        ),
        (TRANSFORMER, {"model_args": {"torch_dtype": "float16", "attn_implementation": "sdpa"}}),
        (TRANSFORMER, {"tokenizer_args": {"padding_side": "left"}, "config_kwargs": {}}),
        (TOKENIZER, {"padding_side": "left", "chat_template": "x", "truncation_side": "right"}),
        (TOKENIZER, {"eos_token": {"content": "</s>", "lstrip": False}, "add_eos_token": None}),
        (NORMALIZE, {"module_input_name": "sentence_embedding"}),
    ],
)
def test_what_changes_no_vector_is_no_reason_to_refuse(
    folder: Path, name: str, changes: dict[str, Any]
) -> None:
    write_files(folder, {NORMALIZE: {}})
    edit_json(folder / name, **changes)
    assert Declarations.read(folder) == Declarations(E5_PROMPTS, 4096)


@pytest.mark.parametrize(
    "files",
    [
        {MODULES: modules(f"{OLD}.Transformer", f"{OLD}.Pooling")},
        {MODULES: modules(f"{NEW}.transformer.Transformer", f"{NEW}.pooling.Pooling")},
        {POOLING: {"embedding_dimension": 4096, "pooling_mode": "lasttoken"}},
        {POOLING: {"embedding_dimension": 4096, "pooling_mode": ["lasttoken"]}},
        {PROMPTS: {"prompts": {"query": "", "document": ""}, "default_prompt_name": None}},
        {PROMPTS: {"prompts": {"query": None}, "default_prompt_name": "query"}},
        {PROMPTS: {"prompts": None}},
        {"3_Dense.json": {}},
    ],
)
def test_other_ways_to_say_the_same(folder: Path, files: dict[str, Any]) -> None:
    assert (Declarations.read(write_files(folder, files)).prompts or E5_PROMPTS) == E5_PROMPTS


def test_what_a_download_left_out_and_other_folders_say_nothing(folder: Path) -> None:
    (folder / POOLING).unlink()
    assert Declarations.read(folder) == Declarations(E5_PROMPTS, 4096)
    (folder / MODULES).unlink()
    write_files(folder, {"2024_runs/config.json": {"pooling_mode": "mean"}})
    assert Declarations.read(folder) == Declarations(E5_PROMPTS, 4096)


# What is another kind of model


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        ([f"{OLD}.Transformer", f"{OLD}.Pooling", f"{OLD}.Dense"], f'module 2 is "{OLD}.Dense"'),
        ([f"{NEW}.transformer.Transformer", f"{NEW}.router.Router"], "module 1 is "),
        (["custom_st.Transformer", f"{OLD}.Pooling"], 'module 0 is "custom_st.Transformer"'),
        (["Transformer", f"{OLD}.Pooling"], 'module 0 is "Transformer"'),
        ([f"{OLD}.Transformer", "pooling.Pooling"], 'module 1 is "pooling.Pooling"'),
        ([f"{OLD}.Transformer", f"{OLD}.WeightedLayerPooling"], "module 1 is "),
        ([f"{OLD}.Transformer", f"{OLD}.Pooling", f"{OLD}.LayerNorm"], "module 2 is "),
        ([f"{OLD}.StaticEmbedding"], "module 0 is "),
        ([f"{OLD}.Transformer"], "its modules are Transformer, and ours are Transformer, Pooling,"),
        (
            [f"{OLD}.Transformer", f"{OLD}.Normalize", f"{OLD}.Pooling"],
            "its modules are Transformer, Normalize, Pooling, and ours",
        ),
        ([f"{OLD}.Transformer", f"{OLD}.Pooling", f"{OLD}.Pooling"], "Pooling, Pooling, and ours"),
    ],
)
def test_other_modules_are_refused_by_their_class(
    folder: Path, kinds: list[str], named: str
) -> None:
    entries = modules(*kinds)
    for entry in entries:
        if entry["type"].endswith(".Pooling"):
            entry["path"] = "1_Pooling"
    write_files(folder, {MODULES: entries})
    with pytest.raises(WeightsError) as refusal:
        Declarations.read(folder)
    assert str(refusal.value).startswith(f"{folder / MODULES}: ")
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({}, "not a list of modules"),
        ([], "not a list of modules"),
        ([{"path": ""}], "not a list of modules"),
        ([7], "not a list of modules"),
        ([{"type": f"{OLD}.Transformer", "path": "0_Transformer"}], 'is in "0_Transformer"'),
        ([*modules(f"{OLD}.Transformer"), {"type": f"{OLD}.Pooling", "path": "../x"}], '"../x"'),
    ],
)
def test_a_list_of_modules_that_is_none(folder: Path, content: Any, named: str) -> None:
    write_files(folder, {MODULES: content})
    with pytest.raises(WeightsError, match=f"^{folder / MODULES}: ") as refusal:
        Declarations.read(folder)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_mean_tokens": True}, 'the pooling is ["mean_tokens"], and only lasttoken'),
        ({"pooling_mode_cls_token": True}, 'the pooling is ["cls_token"]'),
        ({"pooling_mode_max_tokens": True, "pooling_mode_lasttoken": True}, '"max_tokens"'),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean_tokens"),
        ({"pooling_mode_lasttoken": False}, 'the pooling is "mean"'),  # its default
        ({"word_embedding_dimension": 4096}, 'the pooling is "mean"'),
        ({}, 'the pooling is "mean"'),
        ({"pooling_mode": "mean"}, 'the pooling is "mean"'),
        ({"pooling_mode": "weightedmean"}, 'the pooling is "weightedmean"'),
        ({"pooling_mode": ["lasttoken", "mean"]}, 'the pooling is ["lasttoken", "mean"]'),
        ({"pooling_mode": "mean", "pooling_mode_lasttoken": True}, 'the pooling is "mean"'),
        ({"pooling_mode": 7}, "the pooling is 7"),
        (
            {"pooling_mode": "lasttoken", "embedding_dimension": 1024},
            "embedding_dimension is 1024, and config.json has hidden_size 4096",
        ),
        ({"pooling_mode": "lasttoken", "word_embedding_dimension": 3}, "dimension is 3, and"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_another_pooling_is_refused(
    folder: Path, pooling: dict[str, Any], named: str, listed: bool
) -> None:
    if not listed:
        (folder / MODULES).unlink()
    write_files(folder, {POOLING: pooling})
    with pytest.raises(WeightsError) as refusal:
        Declarations.read(folder)
    assert str(refusal.value).startswith(f"{folder / POOLING}: ")
    assert named in str(refusal.value)


def test_the_pooling_is_read_where_the_list_says(folder: Path) -> None:
    entries = modules(f"{OLD}.Transformer", f"{OLD}.Pooling")
    entries[1]["path"] = "elsewhere"
    write_files(folder, {MODULES: entries, "elsewhere/config.json": {"pooling_mode": "cls"}})
    with pytest.raises(WeightsError, match=f"{folder / 'elsewhere/config.json'}: the pooling is "):
        Declarations.read(folder)


def test_a_folder_of_a_dense_layer_needs_no_list_to_be_seen(folder: Path) -> None:
    (folder / MODULES).unlink()
    write_files(folder, {"3_Dense/config.json": {"in_features": 4096}})
    with pytest.raises(WeightsError, match=r'module 2 is "sentence_transformers\.Dense"'):
        Declarations.read(folder)


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        (TRANSFORMER, {"do_lower_case": True}, "do_lower_case is true, and only false is served"),
        (TRANSFORMER, {"transformer_task": "fill-mask"}, 'transformer_task is "fill-mask"'),
        (TRANSFORMER, {"query_length": 32}, "query_length is 32, and only null is served"),
        (TRANSFORMER, {"document_length": 512}, "document_length is 512"),
        (TRANSFORMER, {"query_expansion": {"length": 3}}, "query_expansion is "),
        (TRANSFORMER, {"processing_kwargs": {"text": {"x": 1}}}, "processing_kwargs is "),
        (TRANSFORMER, {"config_args": {"is_causal": False}}, 'it sets the model\'s "is_causal"'),
        (TRANSFORMER, {"model_kwargs": {"subfolder": "x"}}, 'it sets the model\'s "subfolder"'),
        (TRANSFORMER, {"model_args": [1]}, "model_args is [1], which is no object"),
        (TRANSFORMER, {"processor_kwargs": {"add_eos_token": False}}, "add_eos_token is false"),
        (TRANSFORMER, {"tokenizer_args": {"truncation_side": "left"}}, "truncation_side is "),
        (TRANSFORMER, {"max_seq_length": "512"}, 'max_seq_length is "512", which is no number'),
        (TRANSFORMER, {"max_seq_length": 0}, "max_seq_length is 0"),
        (TRANSFORMER, {"tokenizer_name_or_path": "other/one"}, "tokenizer_name_or_path is "),
        (
            TRANSFORMER,
            {"modality_config": {"text": {"method": "get_text_features"}}},
            'method is "get_text_features", and only "forward" is served',
        ),
        (
            TRANSFORMER,
            {"modality_config": {"text": {"method_output_name": "pooler_output"}}},
            "method_output_name is ",
        ),
        (PROMPTS, {"model_type": "CrossEncoder"}, 'model_type is "CrossEncoder"'),
        (PROMPTS, {"model_type": "SparseEncoder"}, 'only "SentenceTransformer" is served'),
        (PROMPTS, {"similarity_fn_name": "euclidean"}, 'only "cosine" or "dot" is served'),
        (PROMPTS, {"similarity_fn_name": "manhattan"}, "similarity_fn_name is "),
        (PROMPTS, {"truncate_dim": 256}, "truncate_dim is 256, and only null is served"),
        (PROMPTS, {"prompts": ["query: "]}, "prompts is "),
        (PROMPTS, {"prompts": {"query": 7}}, 'the prompt "query" is 7, which is no text'),
        (PROMPTS, {"default_prompt_name": "law"}, 'default_prompt_name is "law", which names no'),
        (PROMPTS, {"default_prompt_name": ["x"]}, "default_prompt_name is "),
        (TOKENIZER, {"add_eos_token": False}, "add_eos_token is false, and only true is served"),
        (TOKENIZER, {"add_bos_token": False}, "add_bos_token is false"),
        (TOKENIZER, {"eos_token": "<|im_end|>"}, 'eos_token is "<|im_end|>", and only "</s>" is'),
        (TOKENIZER, {"eos_token": {"content": "<end>"}}, 'eos_token is "<end>"'),
        (TOKENIZER, {"bos_token": "[CLS]"}, 'bos_token is "[CLS]"'),
        (TOKENIZER, {"truncation_side": "left"}, 'truncation_side is "left"'),
        (TOKENIZER, {"do_lower_case": True}, "do_lower_case is true"),
        (TOKENIZER, {"auto_map": {"AutoTokenizer": ["own.T", None]}}, "auto_map is "),
        (TOKENIZER, {"model_max_length": -1}, "model_max_length is -1"),
        (TOKENS, {"eos_token": {"content": "<|im_end|>"}}, 'eos_token is "<|im_end|>"'),
        (TOKENS, {"bos_token": "<|im_start|>"}, 'bos_token is "<|im_start|>"'),
        (NORMALIZE, {"module_input_name": "token_embeddings"}, "module_input_name is "),
    ],
)
def test_what_we_do_otherwise_is_refused_in_one_sentence(
    folder: Path, name: str, changes: dict[str, Any], named: str
) -> None:
    write_files(folder, {NORMALIZE: {}, TOKENS: {"eos_token": "</s>"}})
    edit_json(folder / name, **changes)
    with pytest.raises(WeightsError) as refusal:
        Declarations.read(folder)
    assert str(refusal.value).startswith(f"{folder / name}: ")
    assert named in str(refusal.value)
    assert "; serve it with its own library, or correct the file" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_dot_product_of_vectors_of_any_length_is_another_score(folder: Path) -> None:
    write_files(folder, {MODULES: modules(f"{OLD}.Transformer", f"{OLD}.Pooling")})
    edit_json(folder / PROMPTS, similarity_fn_name="dot")
    with pytest.raises(WeightsError, match='similarity_fn_name is "dot", and only "cosine" is'):
        Declarations.read(folder)


@pytest.mark.parametrize("name", [MODULES, POOLING, TRANSFORMER, PROMPTS, TOKENIZER])
@pytest.mark.parametrize("text", ["", "{", "7", '"x"', "[[]]", "\0"])
def test_a_file_that_cannot_be_read_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(WeightsError, match=f"^{folder / name}: ") as refusal:
        Declarations.read(folder)
    assert "\n" not in str(refusal.value)


# The maximum length


@pytest.mark.parametrize(
    ("transformer", "tokenizer", "length"),
    [
        (
            {"max_seq_length": 512},
            {"model_max_length": 300},
            512,
        ),  # as sentence-transformers has it
        ({}, {"model_max_length": 300}, 300),
        ({"max_seq_length": None}, {"model_max_length": 300}, 300),
        ({"tokenizer_args": {"model_max_length": 200}}, {"model_max_length": 300}, 200),
        ({"max_seq_length": 512, "processor_kwargs": {"model_max_length": 99}}, {}, 99),
        ({}, {"model_max_length": 1e30}, None),
        ({}, {}, None),
    ],
)
def test_the_length_is_the_one_that_sentence_transformers_takes(
    tmp_path: Path, transformer: dict[str, Any], tokenizer: dict[str, Any], length: int | None
) -> None:
    write_files(tmp_path, {TRANSFORMER: transformer, TOKENIZER: tokenizer})
    assert Declarations.read(tmp_path).max_length == length


# The prompts; tests/test_prompts.py tests what they mean


@pytest.mark.parametrize(
    ("said", "prompts"),
    [
        (
            {"prompts": {"query": "query: ", "passage": "passage: "}},
            Prompts("query: {query}", "passage: "),
        ),
        (
            {"prompts": {"law": LAW}, "default_prompt_name": "law"},
            Prompts(TEMPLATE, "", {"law": LAW, "web_search_query": LAW}),
        ),
        ({"prompts": {"law": LAW}}, Prompts(TEMPLATE, "", {"law": LAW})),
    ],
)
def test_the_prompts_that_it_names_are_taken(
    folder: Path, said: dict[str, Any], prompts: Prompts
) -> None:
    write_files(folder, {PROMPTS: said})
    assert Declarations.read(folder).prompts == prompts


def test_prompts_of_which_none_is_certain_are_refused(folder: Path) -> None:
    write_files(folder, {PROMPTS: {"prompts": {"sts": "STS: "}}})
    with pytest.raises(
        WeightsError, match=f"^{folder / PROMPTS}: it has prompts, and none that .*; name one"
    ):
        Declarations.read(folder)


def test_a_prompt_with_a_control_token_is_refused_because_it_would_be_text(folder: Path) -> None:
    write_files(folder, {PROMPTS: {"prompts": {"query": "<instruct>Find it.\n<query>"}}})
    tokens = [{"id": 3, "content": "<query>", "special": True}]
    assert Declarations.read(folder).prompts is not None
    write_files(folder, {"tokenizer.json": {"added_tokens": tokens}})
    with pytest.raises(WeightsError, match='the prompt "query" has the control token "<query>"'):
        Declarations.read(folder)
