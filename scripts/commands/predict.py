"""One prediction from the shell, without Docker: the same `Predictor` that the server runs.

    E5_WEIGHTS=weights/e5-mini ./scripts/predict -i query="what is snow" -i document="Frozen water."

Takes inputs as `cog predict` does; a list or a number is written as JSON. Knows nothing of HTTP.
"""

import argparse
import asyncio
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e5.errors import E5Error
from predict import Predictor


def main() -> int:
    """Parse, predict, print; 1 for an error of the caller, in one sentence."""
    parser = argparse.ArgumentParser(prog="predict", description="One prediction, without Docker.")
    parser.add_argument(
        "-i",
        dest="inputs",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an input; VALUE is text, @file, or JSON for lists, numbers and true/false",
    )
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    arguments = parser.parse_args()
    try:
        answer = asyncio.run(_predict(_inputs(arguments.inputs)))
    except (E5Error, OSError, RuntimeError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(answer) if arguments.json else _as_text(answer))
    return 0


async def _predict(inputs: dict[str, Any]) -> dict[str, Any]:
    predictor = Predictor()
    predictor.setup()
    parameters = inspect.signature(predictor.run).parameters.values()
    named = [
        parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD
    ]
    output = await predictor.run(**(dict.fromkeys(named) | inputs))  # None: not given
    answer: dict[str, Any] = json.loads(output.model_dump().to_json())
    return answer


def _inputs(texts: Sequence[str]) -> dict[str, Any]:
    """All inputs by name; a list may be given in parts, which add up."""
    inputs: dict[str, Any] = {}
    for text in texts:
        name, value = _read_input(text)
        parameter = inspect.signature(Predictor.run).parameters.get(name)
        if parameter is not None and "list[str]" in str(parameter.annotation):
            parts = value if isinstance(value, list) else [value]
            inputs[name] = [*inputs.get(name, []), *parts]
        elif name in inputs:
            raise E5Error(f"-i {name}: received twice; write it once.")
        else:
            inputs[name] = value
    return inputs


def _read_input(text: str) -> tuple[str, Any]:
    """`name=value` as the pair; the value of an input that is no text is JSON.

    Example: `dimensions=8` gives `("dimensions", 8)`, `query=8` gives `("query", "8")`.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise E5Error(f"-i {text}: received no value; write -i {name}=VALUE.")
    if value.startswith("@"):
        value = Path(value[1:]).read_text(encoding="utf-8")
    parameter = inspect.signature(Predictor.run).parameters.get(name)
    if parameter is None or "str" in str(parameter.annotation).replace("list[str]", ""):
        return name, value
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        return name, value  # the service says what it wants instead
    is_list = "list[str]" in str(parameter.annotation)
    return name, value if is_list and not isinstance(parsed, list) else parsed


def _as_text(answer: dict[str, Any]) -> str:
    """The answer for a reader: sizes and scores, the first numbers of each vector."""
    vectors = answer["embeddings"] or answer["embeddings_base64"]
    lines = [f"model   {answer['model']}"]
    for i, (vector, tokens) in enumerate(zip(vectors, answer["usage"]["tokens"], strict=True)):
        cut = ", truncated" if answer["usage"]["truncated"][i] else ""
        shown = vector[:40] if isinstance(vector, str) else " ".join(f"{x:.4f}" for x in vector[:4])
        lines.append(f"text {i}  {shown} ...  ({tokens} tokens{cut})")
    rows = answer["scores"] or []
    lines += ["scores  " + "  ".join(f"{score:.2f}" for score in row) for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
