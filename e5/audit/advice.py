"""One sentence of what to do about a verdict."""

from collections.abc import Mapping, Sequence

_EOS = "end every list of token ids with one </s> (id 2), after truncating"
_PROMPT = "give each query the prompt 'Instruct: {task}\\nQuery: {query}' once"

ADVICE: Mapping[str, str] = {
    "no_eos": f"{_EOS}: transformers 5 and what is built on it leave it out",
    "no_bos": "begin every list of token ids with <s> (id 1): set add_bos_token",
    "no_bos_no_eos": "put <s> before and </s> after the token ids: set add_special_tokens",
    "double_bos": "put <s> before the token ids once: the text or the template has another",
    "double_eos": "put </s> after the token ids once: the tokenizer and the code both add it",
    "special_tokens_parsed": "tokenise <s> and </s> in texts as text: set split_special_tokens",
    "no_leading_space": "load tokenizer.json: the bare tokenizer.model can lose the first ▁",
    "no_instruction": f"{_PROMPT}: they were sent bare",
    "instruction_on_document": "send documents without a prompt",
    "double_instruction": f"{_PROMPT}: the caller and the engine both add it",
    "other_instruction": "use the task's own instruction, or name the one that you meant",
    "no_blank_after_query": "put a blank between 'Query:' and the query",
    "e5_prefix": f"{_PROMPT}: 'query: ' and 'passage: ' belong to the older E5 models",
    "newlines_replaced": "keep line breaks, which a client replaces by blanks",
    "stripped": "keep the blanks and line breaks around texts: something strips them",
    "lowercased": "keep capitals: set do_lower_case to false",
    "truncated": "raise the engine's maximum length (max_seq_length, max_model_len, --ctx-size)",
    "truncated_left": "truncate at the end: set truncation_side to right",
    "mean": "pool the last token: set pooling_mode to lasttoken (--pooling last)",
    "mean_with_instruction_masked": "pool the last token: set pooling_mode to lasttoken",
    "first_token": "pool the last token: set pooling_mode to lasttoken (--pooling last)",
    "before_norm": "take the hidden states after the final norm: last_hidden_state",
    "padding_read": "read each text's own last token: by its length, or pad on the left",
    "bidirectional": "use causal attention: set is_causal, not use_bidirectional_attention",
    "adapter_missing": "load the adapter that E5_ADAPTER names, or merge it into the weights",
    "shuffled": "put vectors beside their own texts: sort an answer's data by its index",
    "duplicated": "put vectors beside their own texts: some have those of other texts",
    "another_model": "look for the model that made them, or for what mixed their numbers",
    "unknown": "no known mistake explains them for certain: audit the engine itself, or more rows",
}


NO_DIRECTION = "they are zeros, or not finite"


def advice_on(names: Sequence[str], alternatives: Sequence[str]) -> str:
    """What to do, as one sentence.

    Args:
        names: the names of a verdict, without values.
        alternatives: of `unknown`, the hypotheses that come nearest; none if vectors are zeros.

    Example:
        >>> advice_on(["right"], [])
        'Nothing need be done.'
        >>> advice_on(["newlines_replaced"], [])
        'Keep line breaks, which a client replaces by blanks; then embed again.'
    """
    todo = [ADVICE[name] for name in names if name in ADVICE]
    if not todo:
        return "Nothing need be done."
    sentence = "; ".join(todo)
    sentence = sentence[0].upper() + sentence[1:]
    if "unknown" in names:
        nearest = f"the nearest: {', '.join(alternatives)}" if alternatives else NO_DIRECTION
        return f"{sentence} ({nearest})."
    after = "" if {"another_model", "shuffled"} & set(names) else "; then embed again"
    return f"{sentence}{after}."
