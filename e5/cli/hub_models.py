"""The models that can be downloaded: name -> repository, revision, template and known checksums.

All are Mistral 7B v0.1 with E5's tokenizer and a template for queries; `</s>` ends each text, and
its last hidden state is the vector. Template and revision are those of mteb 2.26's registry
(`models/model_implementations`); the last three were trained from E5-Mistral.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from e5.prompts import TEMPLATE


@dataclass(frozen=True)
class HubModel:
    """A checkpoint on the hub.

    Attributes:
        repository: `owner/name`.
        revision: a commit; None for the newest one, which this project has not checked.
        template: the template of a query's prompt; None: what its files say, or E5's.
        checksums: sha256 of weight files by name. A hub that reports others lacks the model.
    """

    repository: str
    revision: str | None
    template: str | None = TEMPLATE
    checksums: Mapping[str, str] = field(default_factory=dict)


E5 = "e5-mistral-7b-instruct"
_SHARD_1 = "e64034d49db4a20999bf89f01d0532e30a1f91455632c942f6a70633b1003319"
_SHARD_2 = "eb61a47325ced7639d02d8ab1b8ca94e6e5efc83c87ba90888ac01801757cbf0"
MODELS = {
    model.repository.partition("/")[2]: model
    for model in (
        HubModel(
            f"intfloat/{E5}",
            "07163b72af1488142a360786df853f237b1a3ca1",
            checksums={
                "model-00001-of-00002.safetensors": _SHARD_1,
                "model-00002-of-00002.safetensors": _SHARD_2,
            },
        ),
        HubModel("Salesforce/SFR-Embedding-Mistral", "938c560d1c236aa563b2dbdf084f28ab28bccb11"),
        HubModel("Linq-AI-Research/Linq-Embed-Mistral", "0c1a0b0589177079acc552433cad51d7c9132379"),
        HubModel("zeta-alpha-ai/Zeta-Alpha-E5-Mistral", "c791d37474fa6a5c72eb3a2522be346bc21fbfc3"),
    )
}
