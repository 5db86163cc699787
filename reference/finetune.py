"""Fine-tunes with transformers and peft, for a comparison with the same recipe in Luthier.

Usage: $LUTHIER_REFERENCE_VENV/bin/python reference/finetune.py --model DIR --train FILE [...] >RESULT.json

This is what most people run: Trainer with its defaults, texts tokenised beforehand, every batch padded to its longest
text. `--expert` also batches texts of like length. Prints one JSON document at the end, and progress to standard error.

tokens_per_second   real tokens (without padding) that went through training, per second from the first step's start to
                    the last one's end; the final evaluation is not in it
evaluation_seconds   what the scores of a split took, tokenising left out
seconds_to_first_step   from the start of the process to the end of the first optimiser step
peak_memory_bytes   the largest resident size of the process, at the end; `_training` before the evaluation
"""

import argparse
import csv
import json
import math
import os
import pathlib
import random
import resource
import sys
import tempfile
import time


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help="model directory")
    add("--objective", choices=["classify", "mlm"], default="classify")
    add("--train", required=True, help="CSV with a header, JSON lines, or (mlm) text, one example a line")
    add("--test", help="scored after training")
    add("--text", default="text", help="column of the text")
    add("--pair", help="column of the second text")
    add("--label", default="label", help="column of the label")
    add("--rows", help="file of row numbers of --train, from 0, one a line: train on these alone")
    add("--dev-fraction", type=float, default=0.0, help="share of --train put aside at random, and scored")
    add("--method", choices=["full", "lora", "bitfit", "top"], default="full")
    add("--rank", type=int, default=8)
    add("--alpha", type=float, default=16)
    add("--on", default="query,value", help="modules that LoRA goes on")
    add("--train-pooler", action="store_true", help="lora, bitfit: train the pooler too, not the classifier alone")
    add("--epochs", type=float, default=3)
    add("--steps", type=int, help="instead of --epochs")
    add("--batch", type=int, default=32)
    add("--lr", type=float, default=5e-5)
    add("--schedule", default="linear", help="linear, cosine, constant_with_warmup")
    add("--warmup", type=float, default=0.0, help="share of the steps")
    add("--weight-decay", type=float, default=0.0)
    add("--clip", type=float, default=1.0, help="largest gradient norm")
    add("--dropout", type=float, help="instead of what the model's config says")
    add("--max-length", type=int, default=512, help="tokens of a text, the rest is cut")
    add("--mask", type=float, default=0.15, help="mlm: share of tokens predicted")
    add("--seed", type=int, default=0)
    add("--precision", choices=["f32", "bf16"], default="f32")
    add("--threads", type=int, default=2)
    add("--expert", action="store_true", help="batch texts of like length together")
    add("--parts", type=int, default=1, help="classify: batches in so many parts of like length: as exact, less padded")
    add("--save", help="directory for the result")
    return parser.parse_args()


def read(path, arguments):
    """[(text, second text or None, label or None)] of a file."""
    path = pathlib.Path(path)
    with path.open(encoding="utf-8", newline="" if path.suffix == ".csv" else None) as file:
        if path.suffix == ".csv":
            rows = list(csv.DictReader(file))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in file if line.strip()]
        else:
            rows = [{arguments.text: line.strip()} for line in file if line.strip()]
    label = arguments.label if arguments.objective == "classify" else None
    return [
        (row[arguments.text], row[arguments.pair] if arguments.pair else None, str(row[label]) if label else None)
        for row in rows
    ]


def split(rows, arguments):
    """Training and dev rows."""
    if arguments.rows:
        with open(arguments.rows, encoding="utf-8") as file:
            return [rows[int(line)] for line in file if line.strip()], []
    rows = list(rows)
    held = round(len(rows) * arguments.dev_fraction)
    if held:
        random.Random(arguments.seed).shuffle(rows)
    return rows[held:], rows[:held]


def blocks(texts, tokenizer, length):
    """Texts end to end, cut into sequences of `length` tokens; the last one is shorter."""
    tokens = [token for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for token in ids]
    parts = [tokens[i : i + length - 2] for i in range(0, len(tokens), length - 2)]
    whole = [[tokenizer.cls_token_id, *part, tokenizer.sep_token_id] for part in parts]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in whole]


def tokenise(rows, tokenizer, label_ids, arguments):
    """One dictionary per row, as Trainer wants them."""
    texts = [text for text, _, _ in rows]
    if arguments.objective == "mlm" and arguments.train.endswith(".txt"):
        return blocks(texts, tokenizer, min(arguments.max_length, tokenizer.model_max_length))
    pairs = [pair for _, pair, _ in rows] if arguments.pair else None
    limit = min(arguments.max_length, tokenizer.model_max_length)
    encoded = tokenizer(texts, pairs, truncation=True, max_length=limit)
    items = [{key: encoded[key][i] for key in encoded} for i in range(len(rows))]
    if label_ids:
        for item, (_, _, label) in zip(items, rows):
            item["labels"] = label_ids[label]
    return items


def build(arguments, labels):
    """The model with what moves set to move."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

    options = {"dtype": torch.float32}
    if arguments.dropout is not None:
        options |= {"hidden_dropout_prob": arguments.dropout, "attention_probs_dropout_prob": arguments.dropout}
    if arguments.objective == "mlm":
        model = AutoModelForMaskedLM.from_pretrained(arguments.model, **options)
        head = ("cls.", "lm_head.")
    else:
        id2label = dict(enumerate(labels))
        label2id = {label: i for i, label in id2label.items()}
        model = AutoModelForSequenceClassification.from_pretrained(
            arguments.model, id2label=id2label, label2id=label2id, **options
        )
        head = ("classifier.",)
    if arguments.method == "bitfit":
        for name, parameter in model.named_parameters():
            pooler = arguments.train_pooler and ".pooler." in name
            parameter.requires_grad = name.endswith(".bias") or name.startswith(head) or pooler
    elif arguments.method == "top":
        last = f".layer.{model.config.num_hidden_layers - 1}."
        for name, parameter in model.named_parameters():
            parameter.requires_grad = last in name or ".pooler." in name or name.startswith(head)
    elif arguments.method == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="SEQ_CLS" if arguments.objective == "classify" else None, r=arguments.rank,
            lora_alpha=arguments.alpha, target_modules=arguments.on.split(","),
            modules_to_save=["pooler"] if arguments.train_pooler else None,
        )
        model = get_peft_model(model, config)
    return model


def scores(trainer, items, objective):
    """What the trained model makes of a data set."""
    output = trainer.predict(items)
    if objective == "mlm":
        return {"loss": output.metrics["test_loss"], "perplexity": math.exp(output.metrics["test_loss"])}
    from sklearn.metrics import accuracy_score, f1_score

    gold, predicted = output.label_ids, output.predictions.argmax(-1)
    return {
        "loss": output.metrics["test_loss"],
        "accuracy": float(accuracy_score(gold, predicted)),
        "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0)),
    }


def peak_memory():
    """The largest resident size so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    arguments = parse()
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"]:
        os.environ[name] = str(arguments.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"

    import psutil
    import torch
    import transformers
    from transformers import (
        AutoTokenizer, DataCollatorForLanguageModeling, DataCollatorWithPadding, Trainer, TrainerCallback,
        TrainingArguments,
    )

    torch.set_num_threads(arguments.threads)
    transformers.set_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    every_row = read(arguments.train, arguments)
    train_rows, dev_rows = split(every_row, arguments)
    test_rows = read(arguments.test, arguments) if arguments.test else []
    labels = sorted({label for _, _, label in every_row}) if arguments.objective == "classify" else []
    label_ids = {label: i for i, label in enumerate(labels)}
    train = tokenise(train_rows, tokenizer, label_ids, arguments)
    model = build(arguments, labels)

    pad = (
        DataCollatorForLanguageModeling(tokenizer, mlm_probability=arguments.mask)
        if arguments.objective == "mlm" else DataCollatorWithPadding(tokenizer)
    )
    batches = []  # (real tokens, tokens with padding) of each batch, in order

    class InParts(Trainer):
        """Computes a batch's mean loss in parts of like length, each padded to its own longest text."""

        def compute_loss(self, model, inputs, return_outputs=False, **_):
            if return_outputs or arguments.parts == 1:
                return super().compute_loss(model, inputs, return_outputs=return_outputs)
            lengths = inputs["attention_mask"].sum(1)
            loss = 0
            for part in lengths.argsort().chunk(arguments.parts):
                longest = int(lengths[part].max())
                cut = {key: v[part][:, :longest] if v.dim() > 1 else v[part] for key, v in inputs.items()}
                loss = loss + model(**cut).loss * (len(part) / len(lengths))
            return loss

    def collate(items):
        batch = pad(items)
        batches.append((int(batch["attention_mask"].sum()), batch["attention_mask"].numel()))
        return batch

    class Clock(TrainerCallback):
        """When the first step began, when it ended, and when the last one did."""

        began = first = last = None

        def on_step_begin(self, *_, **__):
            self.began = self.began or time.time()

        def on_step_end(self, *_, **__):
            self.last = time.time()
            self.first = self.first or self.last

    steps = arguments.steps or math.ceil(arguments.epochs * math.ceil(len(train) / arguments.batch))
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        trainer = InParts(
            model=model, train_dataset=train, data_collator=collate, callbacks=[clock],
            args=TrainingArguments(
                output_dir=directory, max_steps=steps, per_device_train_batch_size=arguments.batch,
                per_device_eval_batch_size=arguments.batch, learning_rate=arguments.lr,
                lr_scheduler_type=arguments.schedule, warmup_steps=round(arguments.warmup * steps),
                weight_decay=arguments.weight_decay, max_grad_norm=arguments.clip, seed=arguments.seed, use_cpu=True,
                bf16=arguments.precision == "bf16", logging_steps=1, save_strategy="no", report_to="none",
                train_sampling_strategy="group_by_length" if arguments.expert else "random", disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
        )
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        trainer.train()
    seconds = clock.last - clock.began
    real, padded = (sum(column) for column in zip(*batches[:steps]))
    result = {
        "steps": steps,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tokens": real,
        "padded_tokens": padded,
        "seconds": seconds,
        "tokens_per_second": real / seconds,
        "seconds_to_first_step": clock.first - psutil.Process().create_time(),
        "peak_memory_bytes_training": peak_memory(),
        "scores": {},
        "evaluation_seconds": {},
    }
    for name, rows in [("dev", dev_rows), ("test", test_rows)]:
        if rows:
            transformers.set_seed(arguments.seed)  # the masks of mlm
            items = tokenise(rows, tokenizer, label_ids, arguments)
            began = time.time()
            result["scores"][name] = scores(trainer, items, arguments.objective)
            result["evaluation_seconds"][name] = time.time() - began
    result["peak_memory_bytes"] = peak_memory()
    result["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    result["arguments"] = vars(arguments)
    if arguments.save:
        model.save_pretrained(arguments.save)
        tokenizer.save_pretrained(arguments.save)
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
