"""What all the fixtures share: the batch, the recording of a training step, and the note of what made a directory.

A golden file holds sequences packed end to end, as Luthier computes them: `input_ids` [total], `token_type_ids`
[total], `offsets` [sequences + 1]. The library computes them padded, with an attention mask, and the padding is taken
out of what is stored. The arithmetic is double precision from weights that are exact in single precision, so that a
golden number is the value itself and not one rounding of it; `record` also runs in single precision and prints how far
that is off, which is what a single-precision implementation may be expected to reach.
"""

import copy
import hashlib
import json
import pathlib
import platform
from importlib import metadata

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
LABELS = ["bad", "good", "neutral"]

# (text, second text or None, label): an empty text gives a sequence of two tokens, the last example is the longest.
EXAMPLES = [
    ("the cat sat on the mat", None, 1),
    ("", None, 0),
    ("is it a good film ?", "no , it was very bad !", 0),
    ("dogs", None, 2),
    ("this film was not very good , and i walked in the rain with an odd hat", None, 2),
]


def encode(tokenizer):
    """The batch as the tokenizer gives it, padded, with `labels`."""
    texts = [(text, pair) if pair is not None else text for text, pair, _ in EXAMPLES]
    rows = [tokenizer(*([item] if isinstance(item, str) else item)) for item in texts]
    batch = dict(tokenizer.pad(rows, return_tensors="pt"))
    batch["labels"] = torch.tensor([label for _, _, label in EXAMPLES])
    return batch


def pack(values, attention_mask):
    """[sequences, longest, ...] -> [total, ...] without the padding."""
    return values[attention_mask.bool()]


def packed_batch(batch):
    """The integer tensors that every golden file starts with."""
    mask = batch["attention_mask"]
    lengths = mask.sum(1)
    return {
        "input_ids": pack(batch["input_ids"], mask).int(),
        "token_type_ids": pack(batch["token_type_ids"], mask).int(),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int(),
    }


def randomise(named_parameters, scale, seed):
    """Draws every parameter anew: gains of normalisations around 1, all else around 0; larger than a trained model's,
    so that a mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in named_parameters:
            draw = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(1 + draw if name.endswith("LayerNorm.weight") else draw)


def train(model, forward, trained, learning_rate, weight_decay, steps=10):
    """Outputs and gradients of the first step, then `steps` steps of AdamW on the same batch.

    `forward(model)` returns (loss, other outputs); `trained` maps the name under which a tensor is stored to its
    parameter. Biases and normalisations do not decay. `losses10[i]` is the loss before step i + 1 is taken.
    """
    kept = [p for name, p in trained.items() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for p in trained.values() if all(p is not other for other in kept)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}],
        lr=learning_rate, betas=(0.9, 0.999), eps=1e-8,
    )
    model.train()
    found, losses = {}, []
    for step in range(steps):
        optimizer.zero_grad()
        loss, outputs = forward(model)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            found["loss"] = loss.detach()
            found |= {name: value.detach() for name, value in outputs.items()}
            found |= {f"grad.{name}": p.grad.clone() for name, p in trained.items()}
        optimizer.step()
    found["losses10"] = torch.tensor(losses, dtype=torch.float64)
    found |= {f"after10.{name}": p.detach().clone() for name, p in trained.items()}
    return found


def record(model, forward, trained_of, learning_rate, weight_decay):
    """`train` in double precision, as float32 tensors. `trained_of(model)` gives the map of trained parameters.

    A bias of the keys shifts all scores of a query alike, so its gradient is zero, and in single precision AdamW
    follows the rounding error of that zero: no two programs agree on it, and nothing depends on it.
    """
    exact = copy.deepcopy(model).double()
    found = train(exact, forward, trained_of(exact), learning_rate, weight_decay)
    single = copy.deepcopy(model).float()
    rounded = train(single, forward, trained_of(single), learning_rate, weight_decay)
    for kind in ["loss", "logits", "grad.", "losses10", "after10."]:
        errors = [
            ((rounded[name].double() - value).norm() / value.norm().clamp_min(1e-6)).item()
            for name, value in found.items() if name.startswith(kind) and not name.endswith("key.bias")
        ]
        print(f"  {kind:9} single precision is off by at most {max(errors):.1e}, relative")
    return {name: value.float().contiguous() for name, value in found.items()}


def save(tensors, path):
    """Writes a safetensors file, with the size that a fixture may have."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)
    size = path.stat().st_size
    assert size < 200_000, f"{path} has {size} bytes: too large for a fixture"
    print(f"{path.relative_to(ROOT)}: {len(tensors)} tensors, {size} bytes")


def write_json(value, path):
    """Indented JSON with a final newline; text stays readable."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def note_maker(directory, script, libraries):
    """Writes `made_by.json`: which script, in which state, with which libraries."""
    sources = [pathlib.Path(script).resolve(), pathlib.Path(__file__).resolve()]
    write_json(
        {
            "script": f"reference/{sources[0].name}",
            "sha256": {source.name: hashlib.sha256(source.read_bytes()).hexdigest() for source in sources},
            "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in libraries},
        },
        directory / "made_by.json",
    )
