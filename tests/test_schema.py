"""What Cog's command line reads of `predict.py` and `e5/cog/output.py`, read in the same way.

Cog makes the published schema from their text, without running them, and some of what Python
allows it drops or misreads in silence. The reader below knows only the forms that Cog reads
rightly, refuses every other one, and must arrive at the schema file that the HTTP tests use.
"""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from e5.prompts import DEFAULT_TASK
from e5.serving import EmbedRequest

ROOT = Path(__file__).parent.parent
PREDICT = (ROOT / "predict.py").read_text(encoding="utf-8")
OUTPUT = (ROOT / "e5" / "cog" / "output.py").read_text(encoding="utf-8")
SCHEMAS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "openapi_schema.json").read_text(encoding="utf-8")
)["components"]["schemas"]

JSON_TYPES = {"str": "string", "bool": "boolean", "int": "integer", "float": "number"}
INPUT_KEYWORDS = {"default", "description", "ge", "choices"}


class UnreadableError(Exception):
    """A form that Cog's parser refuses, drops or misreads."""


def find_run(source: str) -> ast.AsyncFunctionDef:
    """The method `Predictor.run`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "Predictor":
            for method in node.body:
                if isinstance(method, ast.AsyncFunctionDef) and method.name == "run":
                    return method
    raise UnreadableError("no class Predictor with an async run")


def read_input(source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`predict.py` -> the schema of Input, and the schemas of its enumerations by name."""
    arguments = find_run(source).args
    if [argument.arg for argument in arguments.posonlyargs] not in ([], ["self"]):
        raise UnreadableError("positional-only inputs")
    if arguments.vararg or arguments.kwonlyargs:
        raise UnreadableError("*args or keyword-only inputs")
    if arguments.kwarg is not None and arguments.kwarg.annotation is not None:
        raise UnreadableError(f"**{arguments.kwarg.arg} is annotated")
    parameters = [*arguments.posonlyargs, *arguments.args]
    if (
        parameters[0].arg != "self"
        or parameters[0].annotation
        or len(arguments.defaults) != len(parameters[1:])
    ):
        raise UnreadableError("a plain self, then inputs with a default each")
    properties, enumerations = {}, {}
    for order, (parameter, call) in enumerate(zip(parameters[1:], arguments.defaults, strict=True)):
        name = parameter.arg
        if parameter.annotation is None:
            raise UnreadableError(f"{name}: no annotation")
        schema = read_input_type(parameter.annotation)
        given = read_input_call(call, source)
        if given["default"] is None and "nullable" not in schema:
            raise UnreadableError(f"{name}: None as default of a type that is not Optional")
        if "choices" in given:
            enumerations[name] = {
                "title": name,
                "description": "An enumeration.",
                "enum": given["choices"],
                "type": schema["type"],
            }
            schema = {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}
        else:
            schema["title"] = titled(name)
        if "ge" in given:
            schema["minimum"] = given["ge"]
        properties[name] = {
            **schema,
            "default": given["default"],
            "description": given["description"],
            "x-order": order,
        }
    return {"properties": properties, "title": "Input", "type": "object"}, enumerations


def read_input_type(annotation: ast.expr) -> dict[str, Any]:
    """`str`, `bool`, `int`, `float`, `list[...]` or `Optional[...]` of those."""
    match annotation:
        case ast.Name(id=name) if name in JSON_TYPES:
            return {"type": JSON_TYPES[name]}
        case ast.Subscript(value=ast.Name(id="list"), slice=ast.Name(id=name)) if (
            name in JSON_TYPES
        ):
            return {"type": "array", "items": {"type": JSON_TYPES[name]}}
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return {**read_input_type(inner), "nullable": True}
    raise UnreadableError(f"input type {ast.unparse(annotation)}")


def read_input_call(call: ast.expr, source: str) -> dict[str, Any]:
    """`Input(default=..., description=..., ...)` with literals only."""
    if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "Input" and not call.args):
        raise UnreadableError(f"not a call of Input with keywords: {ast.unparse(call)}")
    given = {f"{keyword.arg}": read_literal(keyword.value, source) for keyword in call.keywords}
    if not {"default", "description"} <= given.keys() <= INPUT_KEYWORDS:
        raise UnreadableError(f"Input with {', '.join(given)}")
    return given


def read_literal(node: ast.expr, source: str) -> Any:
    """None, True, a number, a list of literals, or a string that means what is between its quotes.

    Cog takes a string's text as it stands: escapes stay, joined strings keep their inner quotes.
    """
    text = ast.get_source_segment(source, node)
    match node:
        case ast.Constant(value=None | bool() | int() | float()):
            return node.value
        case ast.Constant(value=str(value)) if text == f'"{value}"':
            return value
        case ast.List(elts=items):
            return [read_literal(item, source) for item in items]
    raise UnreadableError(f"not a plain literal: {text}")


def read_output(source: str) -> dict[str, Any]:
    """`e5/cog/output.py` -> the schema of Output, with the models it holds."""
    tree = ast.parse(source)
    if "BaseModel" not in plain_imports(tree).get("pydantic", ()):
        raise UnreadableError("BaseModel is not plainly imported from pydantic")
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return {**read_model(classes, "Output"), "title": "Output"}


def read_model(classes: dict[str, ast.ClassDef], name: str) -> dict[str, Any]:
    """A model whose only base is BaseModel."""
    if [ast.unparse(base) for base in classes[name].bases] != ["BaseModel"]:
        raise UnreadableError(f"{name} must inherit BaseModel and nothing else")
    properties, required = {}, []
    for node in classes[name].body:
        if not isinstance(node, ast.AnnAssign):
            continue
        field = ast.unparse(node.target)
        match node.annotation, node.value:
            case ast.Subscript(value=ast.Name(id="Optional"), slice=inner), ast.Constant(
                value=None
            ):
                schema = {**read_field_type(classes, inner), "nullable": True}
            case annotation, None:
                schema = read_field_type(classes, annotation)
                required.append(field)
            case _:
                raise UnreadableError(f"{name}: {ast.unparse(node)}")
        properties[field] = {**schema, "title": titled(field)}
    return {"properties": properties, "required": required, "type": "object"}


def read_field_type(classes: dict[str, ast.ClassDef], annotation: ast.expr) -> dict[str, Any]:
    """A plain type, a model of the same file, or a list of either."""
    match annotation:
        case ast.Name(id=name) if name in JSON_TYPES:
            return {"type": JSON_TYPES[name]}
        case ast.Name(id=name) if name in classes:
            return read_model(classes, name)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return {"type": "array", "items": read_field_type(classes, inner)}
    raise UnreadableError(f"output type {ast.unparse(annotation)}")


def plain_imports(tree: ast.Module) -> dict[str, set[str]]:
    """Module -> the names imported from it under their own names, at the top of the file."""
    return {
        node.module: {alias.name for alias in node.names if alias.asname is None}
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0
    }


def titled(name: str) -> str:
    """A field's name as Cog titles it."""
    return " ".join(word.capitalize() for word in name.split("_"))


def test_cog_reads_the_inputs_as_the_schema_file_has_them() -> None:
    schema, enumerations = read_input(PREDICT)
    assert schema == SCHEMAS["Input"]
    assert list(schema["properties"]) == list(SCHEMAS["Input"]["properties"])
    assert enumerations == {name: SCHEMAS[name] for name in enumerations}


def test_cog_reads_the_output_as_the_schema_file_has_it() -> None:
    schema = read_output(OUTPUT)
    assert schema == SCHEMAS["Output"]
    assert list(schema["properties"]) == list(SCHEMAS["Output"]["properties"])


def test_the_return_annotation_is_output_imported_from_its_own_module() -> None:
    returns = find_run(PREDICT).returns
    assert returns is not None
    assert ast.unparse(returns) == "Output"
    imports = plain_imports(ast.parse(PREDICT))
    assert "Output" in imports["e5.cog.output"]
    assert {"BaseRunner", "Input", "concurrent"} <= imports["cog"]


def test_unknown_inputs_reach_us_through_an_unannotated_parameter() -> None:
    unknown = find_run(PREDICT).args.kwarg
    assert unknown is not None
    assert unknown.annotation is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("**unknown,  #", "**unknown: object,  #"),
        ('description="A query."', 'description="A " "query."'),
        ('description="A query."', 'description=f"A query."'),
        ('description="A query."', 'description="A \\"query\\"."'),
        ('description="A query."', "description=QUERY"),
        ("query: Optional[str] = Input(default=None", "query: Optional[str] = Input(None"),
        ("ge=1", "ge=MINIMUM"),
        ("default=False", "default_factory=bool"),
        ("query: Optional[str] = Input(default=None", "query: str = Input(default=None"),
        ("query: Optional[str] = Input(", "query = Input("),
        ("query: Optional[str] = Input(", "query: Text = Input("),
        ("queries: Optional[list[str]]", "queries: Optional[list[list[str]]]"),
        ('choices=["float", "base64"]', "choices=FORMATS"),
        ('choices=["float", "base64"]', "regex='float|base64'"),
    ],
)
def test_the_reader_refuses_inputs_that_cog_would_misread(old: str, new: str) -> None:
    assert old in PREDICT
    with pytest.raises(UnreadableError):
        read_input(PREDICT.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class Output(BaseModel):", "class Output(Answer):"),
        ("Optional[list[list[float]]] = None", "Optional[list[list[float] | str]] = None"),
        ("tokens: list[int]", "tokens: Counts"),
    ],
)
def test_the_reader_refuses_outputs_that_cog_would_misread(old: str, new: str) -> None:
    assert old in OUTPUT
    with pytest.raises(UnreadableError):
        read_output(OUTPUT.replace(old, new))


def test_run_and_the_request_have_the_same_inputs_with_the_same_defaults() -> None:
    properties = read_input(PREDICT)[0]["properties"]
    assert list(properties) == list(EmbedRequest.model_fields)
    for name, field in EmbedRequest.model_fields.items():
        not_given = field.default in (None, [])
        assert properties[name]["default"] == (None if not_given else field.default), name


def test_the_default_task_is_the_registrys() -> None:
    assert read_input(PREDICT)[0]["properties"]["task"]["default"] == DEFAULT_TASK


def test_the_image_and_e5_serve_have_the_same_number_of_slots() -> None:
    (decorator,) = find_run(PREDICT).decorator_list
    slots = re.fullmatch(r"concurrent\(max=(\d+)\)", ast.unparse(decorator))
    assert slots is not None, "Cog reads an integer literal only"
    serve = (ROOT / "e5" / "cli" / "serve_command.py").read_text(encoding="utf-8")
    assert re.findall(r"^NUM_SLOTS = (\d+)", serve, re.MULTILINE) == [slots[1]]


def test_the_server_hands_every_input_of_run_to_the_request() -> None:
    calls = [
        node
        for node in ast.walk(find_run(PREDICT))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "prediction.request"
    ]
    handed = {
        keyword.arg: ast.unparse(keyword.value) for call in calls for keyword in call.keywords
    }
    names = list(inspect.signature(EmbedRequest).parameters)
    assert handed.pop(None) == "unknown"
    assert handed == {name: name for name in names}
