"""Tiny pretrained weights: a BERT as sentence-transformers keeps it, word vectors, and backbones by timm's names."""

import json
from functools import cache

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

BYTES = set(pre_tokenizers.ByteLevel.alphabet())
WORDS = ["red", "green", "blue", "pale", "thing", "a"]


def randomise(network, seed=0):
    """Give a network weights and statistics under which each of them matters, and return them."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = tensor
            continue
        drawn = torch.randn(tensor.shape, generator=generator)
        is_gain = name.endswith(("weight", "gamma")) and tensor.ndim == 1
        state[name] = drawn.abs() + 0.5 if name.endswith("running_var") else drawn * 0.1 + is_gain
        if tensor.ndim >= 2:
            state[name] = drawn * tensor[0].numel() ** -0.5
    network.load_state_dict(state)
    return state


def write_bert(folder, *, pooling="mean_tokens"):
    """Write a sentence encoder with the names of transformers."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *map(str, range(10)), *(f"##{n}" for n in range(10))]
    facts = {
        "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 20, "type_vocab_size": 2, "pad_token_id": 0,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"embeddings.{name}_embeddings.weight": torch.randn(rows, 16, generator=generator)
        for name, rows in (("word", len(words)), ("position", 20), ("token_type", 2))
    }
    sizes = {f"attention.self.{name}": (16, 16) for name in ("query", "key", "value")}
    sizes |= {"attention.output.dense": (16, 16), "intermediate.dense": (24, 16), "output.dense": (16, 24)}
    for layer in range(2):
        for name, (rows, columns) in sizes.items():
            matrix = torch.randn(rows, columns, generator=generator) * columns**-0.5
            weights[f"encoder.layer.{layer}.{name}.weight"] = matrix
            weights[f"encoder.layer.{layer}.{name}.bias"] = torch.randn(rows, generator=generator)
    norms = [f"encoder.layer.{n}.{part}.LayerNorm" for n in range(2) for part in ("attention.output", "output")]
    for name in ("embeddings.LayerNorm", *norms):
        weights[f"{name}.weight"] = 1 + torch.randn(16, generator=generator) * 0.1
        weights[f"{name}.bias"] = torch.randn(16, generator=generator) * 0.1
    weights["pooler.dense.weight"], weights["pooler.dense.bias"] = torch.zeros(16, 16), torch.zeros(16)
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_act": "gelu", **facts}))
    save_file(weights, folder / "model.safetensors")
    encoder = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    encoder.normalizer = normalizers.BertNormalizer()
    encoder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    encoder.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    encoder.enable_padding(length=18)  # as all-MiniLM's has it
    encoder.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")


def write_decoder(folder, kind, max_shard_size="1GB"):
    """Write a language model as transformers does, and return it: a byte-level vocabulary, 16 channels, two blocks."""
    from transformers import AutoConfig, AutoModelForCausalLM

    pieces = {character: number for number, character in enumerate(["!", *sorted(BYTES - {"!"})])}
    encoder = Tokenizer(models.BPE(pieces, []))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save(str(folder / "tokenizer.json"))
    sizes = {"vocab_size": len(pieces), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "max_position_embeddings": 20, "num_key_value_heads": 1, "head_dim": 8}
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    network.save_pretrained(folder, max_shard_size=max_shard_size)
    return network


def write_words(folder):
    """Write a list of words and their vectors, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 12)).astype(np.float16)
    save_file({"embedding.weight": torch.from_numpy(vectors)}, folder / "vectors.safetensors")
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    return vectors.astype(np.float32)


def table_of(path, **more):
    """Return the table of weights at a path."""
    return {"path": str(path), "license": "MIT", **more}


def write_backbone(path, architecture, image_size):
    """Write a backbone with the layer of its classes, and return it as timm has it."""
    network = make_backbone(architecture, image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)
    return network


@cache
def make_backbone(architecture, image_size):
    import timm

    options = {"img_size": image_size} if "patch" in architecture else {}
    network = timm.create_model(architecture, num_classes=3, **options).eval()
    randomise(network)
    return network
