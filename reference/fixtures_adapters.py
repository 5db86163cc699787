"""Makes fixtures/pfeiffer and fixtures/houlsby with AdapterHub's library.

Usage: $LUTHIER_REFERENCE_VENV-adapters/bin/python reference/fixtures_adapters.py      (after fixtures.py)

Each is an adapter directory as the library writes it, in both of its file kinds, on fixtures/bert-tiny with the
classifier of classify.safetensors, and a training step with it: golden.safetensors. The pooler is the model's and stays
as it is; the adapters and the classifier are trained.
"""

import json
import shutil

import adapters
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForSequenceClassification

from golden import FIXTURES, LABELS, encode, note_maker, packed_batch, randomise, record, save, write_json

BERT = FIXTURES / "bert-tiny"
CONFIGURATIONS = {"pfeiffer": "seq_bn", "houlsby": "double_seq_bn"}


def make(name, configuration):
    """One directory: the library's defaults with a reduction factor of 2, weights drawn anew."""
    directory = FIXTURES / name
    shutil.rmtree(directory, ignore_errors=True)
    labels = dict(enumerate(LABELS))
    model = BertForSequenceClassification.from_pretrained(
        BERT, id2label=labels, label2id={label: i for i, label in labels.items()}, attn_implementation="eager",
        dtype=torch.float32,
    )
    head = load_file(BERT / "classify.safetensors")
    model.classifier.load_state_dict({part: head[f"weight.classifier.{part}"] for part in ["weight", "bias"]})
    adapters.init(model)
    model.add_adapter(name, config=adapters.AdapterConfig.load(configuration, reduction_factor=2))
    model.train_adapter(name)
    added = [(n, p) for n, p in model.named_parameters() if f".adapters.{name}." in n]
    randomise(added, 0.3, seed=5)
    for safetensors in [False, True]:
        model.save_adapter(directory, name, use_safetensors=safetensors)
    for config in ["adapter_config.json", "head_config.json"]:
        content = json.loads((directory / config).read_text())
        content["model_name"] = "fixtures/bert-tiny"  # not the folder of whoever ran this
        write_json(content, directory / config)

    saved = load_file(directory / "adapter.safetensors") | load_file(directory / "model_head.safetensors")
    pickled = torch.load(directory / "pytorch_adapter.bin", weights_only=True)
    assert all(torch.equal(saved[key], tensor) for key, tensor in pickled.items())
    assert saved.keys() == {n for n, p in model.named_parameters() if p.requires_grad}

    batch = encode(AutoTokenizer.from_pretrained(BERT))

    def forward(model):
        output = model(**batch)
        return output.loss, {"logits": output.logits}

    found = record(
        model, forward, lambda m: {n: p for n, p in m.named_parameters() if p.requires_grad},
        learning_rate=1e-2, weight_decay=0.0,
    )
    save(packed_batch(batch) | {"labels": batch["labels"].int()} | found, directory / "golden.safetensors")
    note_maker(directory, __file__, ["torch", "transformers", "adapters"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, configuration in CONFIGURATIONS.items():
        make(name, configuration)
