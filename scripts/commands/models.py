"""The models that can be downloaded: name -> repository, revision, template and known checksums.

All are Mistral 7B v0.1 with E5's tokenizer, `</s>` at the end of each text, whose last hidden state
is the vector, and a query's template. Template and revision are those of mteb 2.26's registry
(`models/model_implementations`); the last three were trained from E5-Mistral. Knows nothing of the
hub's client.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from e5.prompts import TEMPLATE


@dataclass(frozen=True)
class HubModel:
    """A checkpoint on the hub.

    Attributes:
        repository: `owner/name`.
        revision: a commit; None for the newest, which nobody has looked at.
        template: of a query's prompt.
        shards: sha256 of weight files, known from elsewhere: a hub that says otherwise does not
            have the model.
    """

    repository: str
    revision: str | None
    template: str = TEMPLATE
    shards: Mapping[str, str] = field(default_factory=dict)


E5 = "e5-mistral-7b-instruct"
MODELS = {
    E5: HubModel(
        "intfloat/e5-mistral-7b-instruct",
        "07163b72af1488142a360786df853f237b1a3ca1",
        shards={
            "model-00001-of-00002.safetensors": (
                "e64034d49db4a20999bf89f01d0532e30a1f91455632c942f6a70633b1003319"
            ),
            "model-00002-of-00002.safetensors": (
                "eb61a47325ced7639d02d8ab1b8ca94e6e5efc83c87ba90888ac01801757cbf0"
            ),
        },
    ),
    "SFR-Embedding-Mistral": HubModel(
        "Salesforce/SFR-Embedding-Mistral", "938c560d1c236aa563b2dbdf084f28ab28bccb11"
    ),
    "Linq-Embed-Mistral": HubModel(
        "Linq-AI-Research/Linq-Embed-Mistral", "0c1a0b0589177079acc552433cad51d7c9132379"
    ),
    "Zeta-Alpha-E5-Mistral": HubModel(
        "zeta-alpha-ai/Zeta-Alpha-E5-Mistral", "c791d37474fa6a5c72eb3a2522be346bc21fbfc3"
    ),
}
