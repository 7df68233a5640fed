"Small checkpoints of real architectures, and ways to change them."

import json
import os

import torch

TEXTS = [
    "computed tomography, head, axial, Normal",
    "plain x-ray, chest, postero-anterior, left pleural effusion",
    "x-ray",
    "magnetic resonance imaging of the lumbar spine, sagittal, disc protrusion at the level of L4",
]


def write_radbert(folder):
    "A masked language model in a pickle of tensors, with a byte-level BPE, as RadBERT lies on the hub."
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM

    folder.mkdir()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS * 4, vocab_size=330, show_progress=False, special_tokens=special)
    bpe.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=330,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.5,
        architectures=["RobertaForMaskedLM"],
    )
    config.save_pretrained(folder)
    torch.save(RobertaForMaskedLM(config).state_dict(), folder / "pytorch_model.bin")
    return folder


def tensors(folder):
    "The tensors of a checkpoint."
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def change_tensors(folder, changes):
    "Replace tensors of a checkpoint; None removes one."
    changed = tensors(folder) | changes
    torch.save({k: v for k, v in changed.items() if v is not None}, folder / "pytorch_model.bin")


class Evil:
    "What a pickle must not be allowed to do: opening $EVIL_FILE stands for any code."

    def __reduce__(self):
        return (open, (os.environ["EVIL_FILE"], "w"))
