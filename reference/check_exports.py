"""Loads what `luthier export` wrote the way a Python user would, and compares logits with Luthier's own.

Usage: $LUTHIER_REFERENCE_VENV/bin/python reference/check_exports.py --rows ROWS.jsonl [--base DIR]
           [--hf DIR]... [--peft DIR]... [--adapterhub DIR]...

ROWS.jsonl is what `luthier predict RUN INPUT --logits` prints: JSON lines with a text, perhaps a second one, and
`logits` in the order of the label ids. `--base` is the model that peft and adapter directories go on. Fails when a
tensor is missing, superfluous or of another shape, when a logit is off by more than the tolerance, or when the label
names of a full model disagree with `prediction`.

AdapterHub's library lives in an environment of its own: the script starts itself there for these directories.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"  # a directory that is not there must not become a model of the Hub

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()


class Mismatch(Exception):
    """An export that does not load or does not compute what Luthier computes."""


def logits_of(model, tokenizer, rows, arguments):
    """What the model says, one batch of 32 at a time: [rows, labels]."""
    model.eval()
    found = []
    for start in range(0, len(rows), 32):
        encoded = []
        for row in rows[start : start + 32]:
            texts = [row[arguments.text], row.get(arguments.pair)]
            encoded.append(tokenizer(*(text for text in texts if text is not None), truncation=True))
        with torch.no_grad():
            found.append(model(**tokenizer.pad(encoded, return_tensors="pt")).logits)
    return torch.cat(found)


def load_hf(directory, rows, arguments):
    """A full model directory, its own tokenizer and label names."""
    model, report = AutoModelForSequenceClassification.from_pretrained(
        directory, output_loading_info=True, dtype=torch.float32
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise Mismatch(f"tensors do not fit the model: {wrong}")
    for number, row in enumerate(rows, 1):
        best = max(range(len(row["logits"])), key=row["logits"].__getitem__)
        name = model.config.id2label[best]
        if row.get("prediction", name) != name:
            raise Mismatch(f"row {number}: label {best} is {name!r} in config.json, {row['prediction']!r} in the rows")
    return model, AutoTokenizer.from_pretrained(directory)


def base_model(rows, arguments):
    """The pretrained model with a head of as many labels as the rows have."""
    return AutoModelForSequenceClassification.from_pretrained(
        arguments.base, num_labels=len(rows[0]["logits"]), dtype=torch.float32
    )


def load_peft(directory, rows, arguments):
    """A peft directory on the base model; what peft only warns of is an error here."""
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base_model(rows, arguments), directory)
    for warning in caught:
        if "adapter" in str(warning.message).lower():
            raise Mismatch(f"peft warns: {warning.message}")
    return model, AutoTokenizer.from_pretrained(arguments.base)


def load_adapterhub(directory, rows, arguments, **options):
    """An AdapterHub directory on the base model, in a static class or, when the head asks for it, a flexible one."""
    import adapters

    head = json.loads((pathlib.Path(directory) / "head_config.json").read_text())
    if head["model_class"].endswith("AdapterModel"):
        model = adapters.AutoAdapterModel.from_pretrained(arguments.base)
    else:
        model = base_model(rows, arguments)
        adapters.init(model)
    report = {}
    model.load_adapter(directory, set_active=True, loading_info=report, **options)
    wrong = {kind: names for kind, names in report.items() if names}
    if wrong:
        raise Mismatch(f"tensors do not fit the model: {wrong}")
    return model, AutoTokenizer.from_pretrained(arguments.base)


def check(name, load, rows, arguments):
    """Loads and compares; prints one line. True when all is well."""
    try:
        model, tokenizer = load()
        expected = torch.tensor([row["logits"] for row in rows])
        found = logits_of(model, tokenizer, rows, arguments)
        if found.shape != expected.shape:
            raise Mismatch(f"logits have shape {list(found.shape)}, Luthier's {list(expected.shape)}")
        worst = (found - expected).abs().max().item()
        if not worst <= arguments.tolerance:
            raise Mismatch(f"a logit is off by {worst:.2e}, allowed {arguments.tolerance:.0e}")
    except (Mismatch, KeyError, ValueError, RuntimeError, OSError) as error:
        print(f"FAIL {name}: {type(error).__name__}: {error}")
        return False
    print(f"ok   {name}: {len(rows)} rows, largest difference {worst:.2e}")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--base")
    for kind in ["hf", "peft", "adapterhub"]:
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="DIR")
    parser.add_argument("--text", default="text", help="name of the text in a row")
    parser.add_argument("--pair", default="pair", help="name of the second text")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    if (arguments.peft or arguments.adapterhub) and not arguments.base:
        parser.error("--peft and --adapterhub need --base")
    with open(arguments.rows, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    for row in rows:
        if isinstance(row.get("logits"), dict):  # by label, in the order of the label ids
            row["logits"] = list(row["logits"].values())
    if not rows:
        parser.error(f"{arguments.rows} holds no rows")

    results = []
    for directory in arguments.hf:
        results.append(check(f"hf {directory}", lambda: load_hf(directory, rows, arguments), rows, arguments))
    for directory in arguments.peft:
        results.append(check(f"peft {directory}", lambda: load_peft(directory, rows, arguments), rows, arguments))
    elsewhere = pathlib.Path(f"{sys.prefix}-adapters/bin/python")
    if arguments.adapterhub and elsewhere.exists():
        command = [elsewhere, __file__, "--rows", arguments.rows, "--base", arguments.base, "--text", arguments.text]
        command += ["--pair", arguments.pair, "--tolerance", str(arguments.tolerance)]
        sys.stdout.flush()
        results.append(subprocess.run(command + [f"--adapterhub={d}" for d in arguments.adapterhub]).returncode == 0)
    else:
        for directory in arguments.adapterhub:
            for options in [{}, {"use_safetensors": True}]:
                name = " ".join(["adapterhub", directory, *options])
                load = lambda: load_adapterhub(directory, rows, arguments, **options)
                results.append(check(name, load, rows, arguments))
    if not results:
        parser.error("nothing to check: give --hf, --peft or --adapterhub")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
