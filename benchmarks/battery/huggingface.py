"""Hugging Face architectures from small random configurations; nothing is downloaded.

They are sized so that half of the channels is a question: at least four heads, several key and value heads
with more than one query head each, widths that no other size repeats by design.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

Made = tuple[nn.Module, Any]
Sizes = dict[str, Any]

_VOCABULARY = 120
_BERT: Sizes = {
    "vocab_size": _VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 160, "max_position_embeddings": 40,
}  # fmt: skip
_LLAMA: Sizes = {**_BERT, "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 96}
_VIT: Sizes = {
    "image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 160,
}  # fmt: skip


def _text(length: int = 10) -> Sizes:
    return {"input_ids": torch.randint(3, _VOCABULARY, (2, length))}


def _masked_text() -> Sizes:
    return {**_text(), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}


def _pair() -> Sizes:
    return {**_text(), "decoder_input_ids": torch.randint(3, _VOCABULARY, (2, 7))}


def _image(side: int = 32) -> Sizes:
    return {"pixel_values": torch.randn(2, 3, side, side)}


def _clip_inputs() -> Sizes:
    return {**_text(), **_image()}


def _sam_inputs() -> Sizes:
    return {**_image(64), "input_points": torch.rand(2, 1, 2, 2) * 64}


def _sound() -> Sizes:
    return {"input_values": torch.randn(2, 1200)}


def _mel() -> Sizes:
    return {
        "input_features": torch.randn(2, 20, 60),
        "decoder_input_ids": torch.randint(3, _VOCABULARY, (2, 7)),
    }


def _whisper() -> Sizes:
    return {
        "vocab_size": _VOCABULARY, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 160,
        "decoder_ffn_dim": 160, "num_mel_bins": 20, "max_source_positions": 30, "max_target_positions": 20,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    }  # fmt: skip


def _clip() -> Sizes:
    return {
        "text_config": {**_BERT, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0},
        "vision_config": dict(_VIT),
        "projection_dim": 48,
    }


def _detr() -> Sizes:
    from transformers import ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], out_features=["stage2"], layer_type="basic"
    )
    return {
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
        "backbone_config": backbone, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 160,
        "decoder_ffn_dim": 160, "num_queries": 12,
    }  # fmt: skip


def _sam() -> Sizes:
    vision = {
        "hidden_size": 64, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 64, "patch_size": 8, "mlp_dim": 160, "window_size": 3, "global_attn_indexes": [1],
        "num_pos_feats": 16,
    }  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 8, "image_embedding_size": 8,
              "mask_input_channels": 8}  # fmt: skip
    mask = {"hidden_size": 32, "num_attention_heads": 4, "mlp_dim": 96, "num_hidden_layers": 2,
            "iou_head_hidden_dim": 48}  # fmt: skip
    return {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": mask}


_SPEECH: Sizes = {
    **_BERT, "conv_dim": [32, 32, 32], "conv_stride": [5, 4, 2], "conv_kernel": [10, 8, 4],
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}  # fmt: skip

#: Name -> model class, configuration class, sizes, inputs.
_ARCHITECTURES: dict[str, tuple[str, str, Callable[[], Sizes] | Sizes, Callable[[], Sizes]]] = {
    "bert": ("BertForMaskedLM", "BertConfig", _BERT, _masked_text),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _BERT, _masked_text),
    "distilbert": (
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {"vocab_size": _VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 160},
        _masked_text,
    ),
    "albert": ("AlbertForMaskedLM", "AlbertConfig", {**_BERT, "embedding_size": 48}, _masked_text),
    "electra": ("ElectraForTokenClassification", "ElectraConfig", {**_BERT, "embedding_size": 48}, _text),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": _VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 40},
        _text,
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _BERT, _text),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {"vocab_size": _VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "ffn_dim": 160, "max_position_embeddings": 40, "word_embed_proj_dim": 64},
        _masked_text,
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA, _text),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_LLAMA, "sliding_window": 6}, _text),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**_LLAMA, "tie_word_embeddings": True}, _text),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_LLAMA, "head_dim": 16}, _text),
    "phi": ("PhiForCausalLM", "PhiConfig", _LLAMA, _text),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": _VOCABULARY, "d_model": 64, "d_kv": 12, "d_ff": 160, "num_layers": 2, "num_heads": 4,
         "feed_forward_proj": "gated-gelu"},
        _pair,
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        {"vocab_size": _VOCABULARY, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 160,
         "decoder_ffn_dim": 160, "max_position_embeddings": 40},
        _pair,
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", _VIT, _image),
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", _VIT, _image),
    "beit": (
        "BeitForImageClassification",
        "BeitConfig",
        {**_VIT, "use_relative_position_bias": True},
        _image,
    ),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [4, 8],
         "window_size": 4},
        partial(_image, 64),
    ),
    "clip": ("CLIPModel", "CLIPConfig", _clip, _clip_inputs),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _VIT, _image),
    "sam": ("SamModel", "SamConfig", _sam, _sam_inputs),
    "detr": ("DetrForObjectDetection", "DetrConfig", _detr, partial(_image, 64)),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {"num_encoder_blocks": 3, "depths": [1, 1, 1], "sr_ratios": [4, 2, 1], "hidden_sizes": [32, 48, 64],
         "patch_sizes": [7, 3, 3], "strides": [4, 2, 2], "num_attention_heads": [2, 4, 4],
         "mlp_ratios": [2, 2, 2], "decoder_hidden_size": 40},
        partial(_image, 64),
    ),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", _SPEECH, _sound),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", _whisper, _mel),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": _VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
        _text,
    ),
}  # fmt: skip


def _made(name: str) -> Made:
    import transformers

    model_class, config_class, sizes, inputs = _ARCHITECTURES[name]
    config = getattr(transformers, config_class)(**(sizes() if callable(sizes) else sizes))
    return getattr(transformers, model_class)(config), inputs()


def architectures() -> Iterator[tuple[str, Callable[[], Made]]]:
    """All of them."""
    for name in _ARCHITECTURES:
        yield name, partial(_made, name)
