"""Download the weights of a model, or verify a checkpoint.

    e5 download-weights                      14 GB into weights/e5-mistral-7b-instruct
    e5 download-weights NAME                 another model that this project knows
    e5 download-weights OWNER/NAME           any other model of the hub, with a warning
    e5 download-weights --verify [FOLDER]    offline, against the folder's manifest.json

It takes the safetensors, the JSON files and the tokenizer of one revision of the hub's repository,
and no pickles. A file that is in the folder already and has the hub's checksum is not downloaded:
after an interruption, run the command again.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from e5.cli.hub_models import E5, MODELS, HubModel
from e5.cli.options import HOME, command_parser
from e5.errors import E5Error, quoted

_HUB_NAME_PATTERN = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def download_weights_command(arguments: Sequence[str]) -> int:
    """Download or verify, and print what was done."""
    weights = HOME / "weights" if (HOME / "weights").is_dir() else Path("weights")
    parser = command_parser("download-weights", __doc__)
    name = f"{', '.join(MODELS)}, or OWNER/NAME of the hub. The default is %(default)s."
    parser.add_argument("name", nargs="?", default=E5, help=name)
    into = "The folder of the weights. The default is the model's name in weights."
    parser.add_argument("--folder", type=Path, help=into)
    verified = "Download nothing; compare FOLDER, by default that of --folder, with its manifest."
    parser.add_argument("--verify", metavar="FOLDER", nargs="?", const="", help=verified)
    options = parser.parse_args(arguments)
    from e5.cli.hub_download import download, verify

    model = find_model(options.name)
    folder: Path = options.folder or weights / model.repository.partition("/")[2]
    if options.verify is not None:
        verify(Path(options.verify) if options.verify else folder)
        return 0
    if model.revision is None:
        print(
            f"warning: {model.repository} is not one of {', '.join(MODELS)}: its newest revision "
            "is taken, with the prompts that its files name (else E5's) and </s> at the end of "
            "each text. Compare with its model card.",
            file=sys.stderr,
        )
    download(model, folder)
    return 0


def find_model(name: str) -> HubModel:
    """A model of the table, or any `owner/name` of the hub, without a revision.

    Raises:
        E5Error: for a name that is neither.
    """
    models = {model.repository.lower(): model for model in MODELS.values()}
    models |= {short.lower(): model for short, model in MODELS.items()}
    if name.lower() in models:
        return models[name.lower()]
    if not _HUB_NAME_PATTERN.fullmatch(name):
        raise E5Error(
            f"{quoted(name)}: no model of this name; use one of {', '.join(MODELS)}, or the "
            "OWNER/NAME of another on the hub."
        )
    return HubModel(name, revision=None, template=None)
