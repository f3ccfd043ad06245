"""Make one prediction and print it, with the predictor that the server runs.

    E5_WEIGHTS=weights/e5-mini e5 predict -i query="what is snow" -i document=@notes.txt

Inputs are written as for `cog predict`. E5_WEIGHTS and the other settings choose the model.
"""

import argparse
import asyncio
import inspect
import json
import mimetypes
import runpy
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e5.cli.options import HOME, caller_errors, command_parser
from e5.errors import InputError, one_line, quoted, shortened


def predict_command(arguments: Sequence[str]) -> int:
    """Make the prediction and print it."""
    options = _parse(arguments)
    with caller_errors({}, RuntimeError):
        # Not `import predict`: the caller's folder may hold another one.
        predictor_class = runpy.run_path(str(HOME / "predict.py"), run_name="predict")["Predictor"]
        answer = asyncio.run(_predict(predictor_class, options))
    print(_as_text(answer) if options.json is None else json.dumps(answer))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("predict", __doc__)
    parser.add_argument(
        "-i",
        dest="inputs",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="An input. VALUE is a text, @ and the name of a file whose content is the text, or "
        "JSON for lists, numbers, true and false. May be repeated.",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="",
        metavar="INPUTS",
        help="Print the whole answer as JSON. INPUTS, in place of all -i, is a JSON object, @ and "
        "the name of a file that holds it, or @- for standard input.",
    )
    options = parser.parse_args(arguments)
    if options.json and options.inputs:
        parser.error("write the inputs by -i or as the INPUTS of --json")
    if not (options.json or options.inputs):
        raise InputError("-i", "no input", 'write at least one, as in -i query="what is snow"')
    return options


async def _predict(predictor_class: Any, options: argparse.Namespace) -> dict[str, Any]:
    parameters = inspect.signature(predictor_class.run).parameters
    inputs = _read_json(options.json) if options.json else _read_inputs(options.inputs, parameters)
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


def _read_json(given: str) -> dict[str, Any]:
    """The inputs in a JSON object; a text that begins with @ names a file."""
    content: str | bytes = given
    if given in ("-", "@-"):
        content = sys.stdin.buffer.read()
    elif given.startswith("@"):
        content = _read_file(given[1:], "--json")
    try:
        inputs = json.loads(content)
    except ValueError as error:
        received = f"{shortened(given)}, which is not JSON ({one_line(str(error))})"
        raise InputError("--json", received, "write an object of inputs") from error
    if not isinstance(inputs, dict):
        raise InputError("--json", quoted(inputs), "write an object of inputs")
    return {
        name: _read_value(value, f"--json {name}") if isinstance(value, str) else value
        for name, value in inputs.items()
    }


def _read_inputs(
    texts: Sequence[str], parameters: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """All inputs by name. The parts of a list that is given more than once add up."""
    inputs: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"-i {text}", "no value", f"write -i {name}=VALUE")
        annotation = str(parameters[name].annotation) if name in parameters else "str"
        value = _read_value(value, f"-i {name}")
        if "list[str]" in annotation:
            parsed = _parsed(value)
            inputs.setdefault(name, []).extend(parsed if isinstance(parsed, list) else [value])
        elif name in inputs:
            raise InputError(f"-i {name}", "twice", "write it once")
        else:
            inputs[name] = value if "str" in annotation else _parsed(value)
    return inputs


def _read_value(value: str, option: str) -> str:
    """A value; after an @ the content of the file that it names, as a data URI, as Cog sends it.

    The predictor reads it, here as in the image, and refuses what is no text.
    """
    if not value.startswith("@"):
        return value
    content = b64encode(_read_file(value[1:], option)).decode()
    media_type = mimetypes.guess_type(value)[0] or "application/octet-stream"
    return f"data:{media_type};base64,{content}"


def _read_file(name: str, option: str) -> bytes:
    try:
        return Path(name).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # a home that is not known
        reason = getattr(error, "strerror", None) or error
        received = f"{shortened(f'@{name}')}, which cannot be read ({reason})"
        raise InputError(option, received, "write @ and the name of a file") from error


def _parsed(text: str) -> Any:
    """The value of JSON; any other text unchanged, because the service says what it wants."""
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
