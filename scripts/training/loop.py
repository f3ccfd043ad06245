"""The training loop: lessons -> a trained student. Stops and goes on at any step, bit for bit.

Loss of a step, by `WEIGHTS`: 1 - cosine with the targets, the mean squared error of the step's own
matrix of cosines, and InfoNCE (van den Oord et al. 2018) of queries with their answers. InfoNCE
finds answers at the cost of likeness; so the last eighth of the steps, at a rate that rises once
more to less, is for likeness.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import MistralModel

from training.lessons import KINDS, LAST_KINDS, Lesson, Lessons
from training.student import forward

RATE, EMBEDDING_RATE, WARM_UP = 1.2e-3, 2.5e-3, 100
TEMPERATURE = 0.05  # of InfoNCE
WEIGHTS = {"cosine": 1, "matrix": 10, "answers": 0.3}
LAST_PART, LAST_RATE, LAST_WEIGHTS = 8, 0.3, {"cosine": 1, "matrix": 10, "answers": 0.1}
SAVE_EVERY = 500


def train(model: MistralModel, lessons: Lessons, steps: int, state: Path) -> list[dict[str, float]]:
    """Train in place, from the step that `state` holds; returns the loss every 20 steps."""
    torch.manual_seed(0)
    embeddings = [model.embed_tokens.weight]
    others = [p for p in model.parameters() if p is not embeddings[0]]
    optimizer = torch.optim.AdamW(
        [{"params": others, "lr": RATE}, {"params": embeddings, "lr": EMBEDDING_RATE}],
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    main = steps - steps // LAST_PART
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: _rate(step, main) or LAST_RATE * _rate(step - main - 1, steps - main),
    )
    start, curve = 0, []
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        start, curve = saved["step"], json.loads(saved["curve"])
    model.train()
    with tqdm(total=steps, initial=start, desc="training", unit="step") as bar:
        for step in range(start, steps):
            kinds, weights = (KINDS, WEIGHTS) if step < main else (LAST_KINDS, LAST_WEIGHTS)
            losses = _losses(model, lessons.lesson(step, kinds))
            total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(total)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 20 == 0:
                curve.append(
                    {"step": step} | {name: round(loss.item(), 5) for name, loss in losses.items()}
                )
                bar.set_postfix(
                    {name: f"{loss.item():.3f}" for name, loss in losses.items()}, refresh=False
                )
            bar.update()
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                saved = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                    "curve": json.dumps(curve),
                }
                aside = state.with_suffix(".tmp")
                torch.save(saved, aside)
                aside.rename(state)
    model.eval()
    return curve


def _rate(step: int, steps: int) -> float:
    """A share of the full rate: up from nothing, down to nothing, nothing ever after."""
    return max(0.0, min((step + 1) / WARM_UP, (steps - step) / max(1, steps - WARM_UP)))


def _losses(model: MistralModel, lesson: Lesson) -> dict[str, torch.Tensor]:
    targets = torch.from_numpy(lesson.targets)
    vectors = F.normalize(forward(model, lesson.token_ids), dim=-1)
    losses = {
        "cosine": 1 - (vectors * targets).sum(dim=-1).mean(),
        "matrix": F.mse_loss(vectors @ vectors.T, targets @ targets.T),
        "answers": torch.zeros(()),
    }
    if lesson.answers:
        queries, answers = torch.tensor(lesson.answers).T
        scores = vectors[queries] @ vectors[answers].T / TEMPERATURE
        losses["answers"] = F.cross_entropy(scores, torch.arange(len(queries)))
    return losses
