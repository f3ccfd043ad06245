"""The training loop: it trains a student on training batches.

A training that was stopped continues at its last saved step, bit for bit.

The loss of a step has three parts: 1 - cosine with the targets, the mean squared error of the
matrix of cosines within the batch, and InfoNCE (van den Oord et al. 2018) of queries with their
answers. InfoNCE finds answers at the cost of similarity. So the final part of the steps gives it
less weight; there the learning rate rises once more, to a lower peak.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import MistralModel

from training.batches import FINAL_KIND_SHARES, KIND_SHARES, BatchSampler, TrainingBatch
from training.student import forward

RATE, EMBEDDING_RATE = 1.2e-3, 2.5e-3
TEMPERATURE = 0.05  # of InfoNCE
LOSS_WEIGHTS = {"cosine": 1, "matrix": 10, "answers": 0.3}
FINAL_RATE, FINAL_LOSS_WEIGHTS = 0.3, {"cosine": 1, "matrix": 10, "answers": 0.1}


@dataclass(frozen=True)
class Schedule:
    """When the learning rate changes and when the state is saved.

    Attributes:
        warm_up: steps in which the rate rises, in the main and in the final part.
        final_part: the divisor that gives the length of the final part: 8 for an eighth.
        save_every: steps between two writes of the state.
    """

    warm_up: int = 100
    final_part: int = 8
    save_every: int = 500

    def rate(self, step: int, steps: int) -> float:
        """The share of the full learning rate: it rises from 0, falls to 0 and stays there."""
        falling = (steps - step) / max(1, steps - self.warm_up)
        return max(0.0, min((step + 1) / self.warm_up, falling))


def train(
    model: MistralModel,
    batches: BatchSampler,
    steps: int,
    state: Path,
    schedule: Schedule | None = None,
) -> list[dict[str, float]]:
    """Train the model in place, from the step that the file `state` holds.

    Returns:
        The parts of the loss at every 20th step.
    """
    schedule = schedule or Schedule()
    torch.manual_seed(0)
    embeddings = [model.embed_tokens.weight]
    others = [p for p in model.parameters() if p is not embeddings[0]]
    optimizer = torch.optim.AdamW(
        [{"params": others, "lr": RATE}, {"params": embeddings, "lr": EMBEDDING_RATE}],
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    main = steps - steps // schedule.final_part
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            schedule.rate(step, main) or FINAL_RATE * schedule.rate(step - main - 1, steps - main)
        ),
    )
    start, curve = 0, []
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        rates.load_state_dict(saved["schedule"])
        start, curve = saved["step"], json.loads(saved["curve"])
    model.train()
    with tqdm(total=steps, initial=start, desc="training", unit="step") as bar:
        for step in range(start, steps):
            kind_shares, weights = (
                (KIND_SHARES, LOSS_WEIGHTS)
                if step < main
                else (FINAL_KIND_SHARES, FINAL_LOSS_WEIGHTS)
            )
            losses = _losses(model, batches.batch(step, kind_shares))
            total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(total)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rates.step()
            if step % 20 == 0:
                values = {name: loss.item() for name, loss in losses.items()}
                curve.append({"step": step} | {k: round(v, 5) for k, v in values.items()})
                bar.set_postfix({k: f"{v:.3f}" for k, v in values.items()}, refresh=False)
            bar.update()
            if (step + 1) % schedule.save_every == 0 or step + 1 == steps:
                saved = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": rates.state_dict(),
                    "step": step + 1,
                    "curve": json.dumps(curve),
                }
                temporary = state.with_suffix(".tmp")
                torch.save(saved, temporary)
                temporary.rename(state)
    model.eval()
    return curve


def _losses(model: MistralModel, batch: TrainingBatch) -> dict[str, torch.Tensor]:
    targets = torch.from_numpy(batch.targets)
    vectors = F.normalize(forward(model, batch.token_ids), dim=-1)
    losses = {
        "cosine": 1 - (vectors * targets).sum(dim=-1).mean(),
        "matrix": F.mse_loss(vectors @ vectors.T, targets @ targets.T),
        "answers": torch.zeros(()),
    }
    if batch.answers:
        queries, answers = torch.tensor(batch.answers).T
        scores = vectors[queries] @ vectors[answers].T / TEMPERATURE
        losses["answers"] = F.cross_entropy(scores, torch.arange(len(queries)))
    return losses
