"""Make one prediction and print it, with the predictor that the server runs.

    E5_WEIGHTS=weights/e5-mini e5 predict -i query="what is snow" -i document="Frozen water."

Inputs are written as for `cog predict`. E5_WEIGHTS and the other settings choose the model.
"""

import asyncio
import inspect
import json
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e5.cli.options import HOME, caller_errors, command_parser, read_text
from e5.errors import InputError


def predict_command(arguments: Sequence[str]) -> int:
    """Make the prediction and print it."""
    parser = command_parser("predict", __doc__)
    parser.add_argument(
        "-i",
        dest="inputs",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="An input. VALUE is a text, @ and the name of a file that holds it, or JSON for "
        "lists, numbers, true and false. May be repeated.",
    )
    parser.add_argument("--json", action="store_true", help="Print the whole answer as JSON.")
    options = parser.parse_args(arguments)
    with caller_errors({}, RuntimeError):
        # Not `import predict`: the caller's folder may hold another one.
        predictor_class = runpy.run_path(str(HOME / "predict.py"), run_name="predict")["Predictor"]
        answer = asyncio.run(_predict(predictor_class, options.inputs))
    print(json.dumps(answer) if options.json else _as_text(answer))
    return 0


async def _predict(predictor_class: Any, texts: Sequence[str]) -> dict[str, Any]:
    parameters = inspect.signature(predictor_class.run).parameters
    inputs = _read_inputs(texts, parameters)
    predictor = predictor_class()
    predictor.setup()
    not_given = {
        name: None
        for name, parameter in parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
    output = await predictor.run(**(not_given | inputs))
    answer: dict[str, Any] = json.loads(output.model_dump().to_json())
    return answer


def _read_inputs(
    texts: Sequence[str], parameters: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """All inputs by name. The parts of a list that is given more than once add up."""
    inputs: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"-i {text}", "no value", f"write -i {name}=VALUE")
        if value.startswith("@"):
            value = read_text(Path(value[1:]), f"-i {name}")
        annotation = str(parameters[name].annotation) if name in parameters else "str"
        if "list[str]" in annotation:
            parsed = _parsed(value)
            inputs.setdefault(name, []).extend(parsed if isinstance(parsed, list) else [value])
        elif name in inputs:
            raise InputError(f"-i {name}", "twice", "write it once")
        else:
            inputs[name] = value if "str" in annotation else _parsed(value)
    return inputs


def _parsed(text: str) -> Any:
    """The value of JSON; another text as it is, because the service says what it wants instead."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _as_text(answer: Mapping[str, Any]) -> str:
    """The model, the first numbers of each vector with its text's tokens, and the scores."""
    vectors = answer["embeddings"] or answer["embeddings_base64"]
    lines = [f"model   {answer['model']}"]
    for i, (vector, tokens) in enumerate(zip(vectors, answer["usage"]["tokens"], strict=True)):
        truncated = ", truncated" if answer["usage"]["truncated"][i] else ""
        shown = vector[:40] if isinstance(vector, str) else " ".join(f"{x:.4f}" for x in vector[:4])
        lines.append(f"text {i}  {shown} ...  ({tokens} tokens{truncated})")
    rows = answer["scores"] or []
    lines += ["scores  " + "  ".join(f"{score:.2f}" for score in row) for row in rows]
    return "\n".join(lines)
