"""Makes fixtures/bert-tiny, fixtures/lora, fixtures/metrics.json and fixtures/tokenize.json.

Usage: $LUTHIER_REFERENCE_VENV/bin/python reference/fixtures.py

A two-layer BERT with random weights, and what transformers and peft compute with it. Making them again with the
versions that `made_by.json` names gives the same files.
"""

import json
import shutil

import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer, BertConfig, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertTokenizer,
)

from golden import (
    EXAMPLES, FIXTURES, LABELS, encode, note_maker, pack, packed_batch, randomise, record, save, write_json,
)

BERT = FIXTURES / "bert-tiny"
MASK_EVERY = 3  # every third word piece is predicted

WORDS = """the a an cat dog sat on mat not good bad film was is it i you and of to in this that very no odd hat walk
rain with cell gene ##ing ##ed ##ly ##er ##est""".split()
PUNCTUATION = list(".,!?'-()\"")
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = (
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + PUNCTUATION + list("0123456789") + LETTERS
    + ["##" + letter for letter in LETTERS] + WORDS[1:] + ["the", "中", "国", "ß", "##ß"]
)
VOCABULARY = list(dict.fromkeys(VOCABULARY))  # "a" and "i" are words and letters


def make_bert():
    """The model directory: encoder, pooler and language-model head, as a published checkpoint has them."""
    shutil.rmtree(BERT, ignore_errors=True)
    BERT.mkdir(parents=True)
    (BERT / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = BertTokenizer(vocab=str(BERT / "vocab.txt"), do_lower_case=True, model_max_length=64)
    tokenizer.save_pretrained(BERT)
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=64, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12, pad_token_id=0,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, architectures=["BertForMaskedLM"],
    )
    config.save_pretrained(BERT)
    model = BertForPreTraining(config)
    randomise(model.named_parameters(), 0.3, seed=1)
    # The decoder is the word embedding, and the next-sentence head is nobody's.
    dropped = ("cls.seq_relationship.", "cls.predictions.decoder.", "bert.embeddings.position_ids")
    save({k: v for k, v in model.state_dict().items() if not k.startswith(dropped)}, BERT / "model.safetensors")


def bert_with_classifier():
    """The model with a random classifier of three labels, the same one in every fixture."""
    labels = dict(enumerate(LABELS))
    model = BertForSequenceClassification.from_pretrained(
        BERT, id2label=labels, label2id={label: i for i, label in labels.items()}, attn_implementation="eager",
        dtype=torch.float32,
    )
    randomise([(f"classifier.{name}", p) for name, p in model.classifier.named_parameters()], 0.3, seed=2)
    return model


def classifier_weights(model):
    """The head that the base directory lacks."""
    return {f"weight.classifier.{name}": p.detach() for name, p in model.classifier.state_dict().items()}


def make_classify():
    """Full fine-tuning on labels: classify.safetensors."""
    batch = encode(AutoTokenizer.from_pretrained(BERT))
    model = bert_with_classifier()

    def forward(model):
        output = model(**batch, output_hidden_states=True)
        return output.loss, {"logits": output.logits, "hidden": pack(output.hidden_states[-1], batch["attention_mask"])}

    found = record(model, forward, lambda m: dict(m.named_parameters()), learning_rate=1e-3, weight_decay=0.01)
    start = packed_batch(batch) | {"labels": batch["labels"].int()} | classifier_weights(model)
    save(start | found, BERT / "classify.safetensors")
    write_json(
        {
            "labels": LABELS,
            "examples": [{"text": text, "pair": pair, "label": LABELS[label]} for text, pair, label in EXAMPLES],
            "optimizer": {
                "kind": "AdamW", "learning_rate": 1e-3, "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.01,
                "not_decayed": "biases and LayerNorm weights", "steps": 10,
            },
        },
        BERT / "classify.json",
    )


def masked_batch():
    """The batch with every third word piece hidden, its labels, and the hidden places."""
    tokenizer = AutoTokenizer.from_pretrained(BERT)
    batch = encode(tokenizer)
    del batch["labels"]
    special = torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
    chosen = ~special & (torch.arange(special.numel()).reshape(special.shape) % MASK_EVERY == 1)
    labels = batch["input_ids"].masked_fill(~chosen, -100)
    batch["input_ids"] = batch["input_ids"].masked_fill(chosen, tokenizer.mask_token_id)
    return batch, labels, chosen


def make_mlm():
    """Full fine-tuning on masked tokens, with the word embedding as the decoder and with one of its own: mlm.safetensors
    and untied.safetensors."""
    batch, labels, chosen = masked_batch()
    mask = batch["attention_mask"]
    positions = pack(chosen, mask).nonzero()[:, 0]
    start = packed_batch(batch) | {"positions": positions.int(), "targets": labels[chosen].int()}

    def forward(model):
        output = model(**batch, labels=labels)
        return output.loss, {"logits": pack(output.logits, mask)[positions]}

    def load(**options):
        return BertForMaskedLM.from_pretrained(BERT, attn_implementation="eager", dtype=torch.float32, **options)

    found = record(load(), forward, lambda m: dict(m.named_parameters()), learning_rate=1e-3, weight_decay=0.01)
    save(start | found, BERT / "mlm.safetensors")

    model = load(tie_word_embeddings=False)
    decoder = [(f"cls.predictions.decoder.{name}", p) for name, p in model.cls.predictions.decoder.named_parameters()]
    randomise(decoder, 0.3, seed=7)
    # The bias beside the decoder's own has no part in it.
    used = lambda m: {name: p for name, p in m.named_parameters() if name != "cls.predictions.bias"}
    weights = {f"weight.{name}": p.detach().clone() for name, p in decoder}
    found = record(model, forward, used, learning_rate=1e-3, weight_decay=0.01)
    save(start | weights | found, BERT / "untied.safetensors")


def make_lora():
    """A LoRA directory as peft writes it, and a training step with it: lora/."""
    from peft import LoraConfig, TaskType, get_peft_model
    from peft.utils import get_peft_model_state_dict

    directory = FIXTURES / "lora"
    shutil.rmtree(directory, ignore_errors=True)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["query", "value"],
    )
    model = get_peft_model(bert_with_classifier(), config)
    randomise([(n, p) for n, p in model.named_parameters() if "lora_" in n], 0.3, seed=3)
    model.peft_config["default"].base_model_name_or_path = "fixtures/bert-tiny"
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)  # a blank form
    saved_config = json.loads((directory / "adapter_config.json").read_text())
    saved_config["target_modules"].sort()  # a set: written in another order every time
    write_json(saved_config, directory / "adapter_config.json")

    def trained(model):
        """The trained parameters under the names that the saved file has."""
        by_storage = {p.data_ptr(): p for p in model.parameters() if p.requires_grad}
        return {name: by_storage[t.data_ptr()] for name, t in get_peft_model_state_dict(model).items()}

    saved = load_file(directory / "adapter_model.safetensors")
    assert saved.keys() == trained(model).keys()
    assert len(saved) == sum(p.requires_grad for p in model.parameters())
    batch = encode(AutoTokenizer.from_pretrained(BERT))

    def forward(model):
        output = model(**batch)
        return output.loss, {"logits": output.logits}

    found = record(model, forward, trained, learning_rate=1e-2, weight_decay=0.0)
    save(packed_batch(batch) | {"labels": batch["labels"].int()} | found, directory / "golden.safetensors")
    note_maker(directory, __file__, ["torch", "transformers", "peft"])


def make_metrics():
    """Scores by scikit-learn on random labels: metrics.json."""
    import numpy
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    generator = numpy.random.default_rng(4)
    pairs = [
        (generator.integers(0, classes, size), generator.integers(0, guesses, size))
        for classes, guesses, size in [(2, 2, 20), (3, 3, 30), (5, 5, 40), (7, 3, 40), (3, 7, 40), (10, 10, 12)]
    ]
    right = generator.integers(0, 4, 25)
    pairs.append((right, right))  # all right
    pairs.append((right, numpy.zeros_like(right)))  # always the same guess
    pairs.append((numpy.ones(5, int), numpy.ones(5, int)))  # one class only: Matthews has no denominator
    pairs.append((numpy.array([0, 1, 1]), numpy.array([1, 0, 0])))  # all wrong
    noisy = generator.integers(0, 6, 200)
    pairs.append((noisy, numpy.where(generator.random(200) < 0.7, noisy, generator.integers(0, 6, 200))))
    cases = [
        {
            "gold": gold.tolist(),
            "predicted": predicted.tolist(),
            "accuracy": float(accuracy_score(gold, predicted)),
            "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0)),
            "micro_f1": float(f1_score(gold, predicted, average="micro", zero_division=0)),
            "matthews": float(matthews_corrcoef(gold, predicted)),
        }
        for gold, predicted in pairs
    ]
    (FIXTURES / "metrics.json").write_text(
        '{"cases": [\n' + ",\n".join(json_line(case) for case in cases) + "\n]}\n"
    )


def make_tokenize():
    """What the tokenizer makes of awkward texts: tokenize.json."""
    tokenizer = AutoTokenizer.from_pretrained(BERT)
    texts = [
        ("", None), ("   \t\n ", None), ("The CAT sat on the mat.", None), ("walking, walked; walker!", None),
        ("Café déjà-vu naïve Ångström", None), ("cafe\u0301", None), ("中国人 the cat", None), ("a🙂b 👩‍👩‍👧 c", None),
        ("don't (stop)... \"now\"", None), ("x" * 120, None), ("[MASK] the [SEP] cat [unk] [PAD]", None),
        ("zero\u200bwidth\u00a0space\u00adhyphen", None), ("tab\tand\x00null\ufffd\x07bell", None),
        ("Straße ẞ ﬁ İ", None), ("123 4.5e-6 $7 #8", None), ("the cat", "the dog"), ("", ""), ("good film", ""),
        ("中", "ß?"), ("مرحبا שלום привет", "γειά"),
    ]
    cases = []
    for text, pair in texts:
        encoded = tokenizer(text, pair) if pair is not None else tokenizer(text)
        cases.append(
            {"text": text, "pair": pair, "ids": encoded["input_ids"], "token_type_ids": encoded["token_type_ids"]}
        )
    (FIXTURES / "tokenize.json").write_text(
        '{"tokenizer": "bert-tiny", "cases": [\n' + ",\n".join(json_line(case) for case in cases) + "\n]}\n"
    )


def json_line(value):
    """One line of JSON in ASCII, so that no editor changes an invisible character."""
    return json.dumps(value, ensure_ascii=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    FIXTURES.mkdir(exist_ok=True)
    make_bert()
    make_classify()
    make_mlm()
    note_maker(BERT, __file__, ["torch", "transformers", "tokenizers"])
    make_lora()
    make_metrics()
    make_tokenize()
    note_maker(FIXTURES, __file__, ["transformers", "tokenizers", "scikit-learn"])
