# SPDX-License-Identifier: GPL-3.0-or-later
"""Refiners small enough to test with, and the authors' fixture as a checkpoint in their own format."""

import json
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, AutoencoderTiny, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffjscc.refine.control import ControlModule
from diffjscc.refine.pipeline import DiffJSCCPipeline
from diffjscc.refine.samplers import SpacedDDPMScheduler

DATA = Path(__file__).parents[1] / "data"


def shake(network, seed=0):
    """Random weights everywhere, the zero convolutions too, so that nothing is silent."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter += torch.randn(parameter.shape, generator=random) / fan**0.5
    return network.eval()


def diffusion_refiner(seed=0, text=True):
    """A refiner of Stable Diffusion's kind: attention, text, ε-prediction."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        scaling_factor=4.0,
    )
    text_encoder = CLIPTextModel(text_config()) if text else None
    scheduler = SpacedDDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    defaults = {"num_inference_steps": 4, "colour_fix": "wavelet"}
    control = shake(ControlModule.from_unet(unet, defaults=defaults), seed)
    return DiffJSCCPipeline(vae, unet, control, scheduler, text_encoder)


def text_config():
    return CLIPTextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8,
        bos_token_id=48,
        eos_token_id=49,
    )


def flow_refiner(seed=0):
    """A refiner of the bundled one's kind: one step, no text."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2D",
        norm_num_groups=8,
        cross_attention_dim=8,
    )
    vae = AutoencoderTiny(
        latent_channels=8,
        encoder_block_out_channels=(8,) * 3,
        decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    defaults = {"num_inference_steps": 1, "colour_fix": "none", "start_noise": 0.25}
    control = shake(ControlModule.from_unet(unet, defaults=defaults), seed)
    return DiffJSCCPipeline(vae, unet, control, FlowMatchEulerDiscreteScheduler())


class CountingTokenizer:
    """Words to tokens by their length: enough for texts to differ."""

    model_max_length = 8

    def __call__(self, prompts, **kwargs):
        rows = [([48] + [len(word) for word in prompt.split()] + [49] + [0] * 8)[:8] for prompt in prompts]
        return type("Tokens", (), {"input_ids": torch.tensor(rows)})


def tiny_blip2(folder):
    """A random BLIP-2 of twelve words, with its processor, as the real ones are stored."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<image>", "<unk>", "a", "red", "barn", "dog", "on", "the", "hill"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<image>"], **special)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**small, "image_size": 32, "patch_size": 16},
        qformer_config={**small, "encoder_hidden_size": 16, "vocab_size": len(words)},
        text_config={**small, "model_type": "opt", "ffn_dim": 16, "word_embed_proj_dim": 16, "vocab_size": len(words)}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        num_query_tokens=4,
        image_token_index=3,
    )
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config)
    # It always says words, and never ends.
    decoder = model.language_model.model.decoder
    with torch.no_grad():
        decoder.embed_tokens.weight[:5] = -1
        decoder.final_layer_norm.weight.zero_()
        decoder.final_layer_norm.bias.fill_(1)
    model.save_pretrained(folder)
    processor = BlipImageProcessor(size={"height": 32, "width": 32})
    Blip2Processor(processor, tokenizer, num_query_tokens=4).save_pretrained(folder)


def refine(refiner, images, *arguments, **options):
    """The refined images of a tensor, as one: (3, H, W), or (N, 3, H, W) of several."""
    refined = refiner(images, *arguments, output_type="pt", **options).images
    return refined if images.ndim == 4 else refined[0]


class Authors:
    """The authors' small fixture: tensors in their naming, their configuration, inputs and outputs."""

    def __init__(self):
        sizes = json.loads((DATA / "cldm_tiny.json").read_text())
        self.tensors = {k: v.float() for k, v in load_file(DATA / "cldm_tiny.weights.safetensors").items()}
        self.io = load_file(DATA / "cldm_tiny.io.safetensors")
        codec = json.loads((DATA / "jscc_cnn_awgn.json").read_text())
        self.tensors |= load_file(DATA / "jscc_cnn_awgn.weights.safetensors")
        self.config = {
            "linear_start": sizes["linear_start"],
            "linear_end": sizes["linear_end"],
            "timesteps": 1000,
            "scale_factor": sizes["scale_factor"],
            "control_stage_config": {"params": {"in_channels": 4, "use_snr": True, "snr_scale": 100, **sizes["unet"]}},
            "unet_config": {"params": {"in_channels": 4, "out_channels": 4, **sizes["unet"]}},
            "first_stage_config": {"params": {"embed_dim": 4, "ddconfig": sizes["vae"]}},
            "preprocess_config": {
                "target": "model.deepjscc_cnn.DeepJSCC",
                "params": {"SNR_low": 0, "SNR_high": 14, **codec},
            },
        }

    def add_text_encoder(self, words=50, width=24, length=8, layers=3):
        """An OpenCLIP text encoder's tensors, random: the fixture has none."""
        random = torch.Generator().manual_seed(0)

        def tensor(*shape):
            return torch.randn(shape, generator=random) / shape[-1] ** 0.5

        tensors = {
            "positional_embedding": tensor(length, width),
            "text_projection": tensor(width, width),
            "logit_scale": torch.tensor(1.0),
            "token_embedding.weight": tensor(words, width),
            "ln_final.weight": 1 + tensor(width),
            "ln_final.bias": tensor(width),
        }
        for layer in range(layers):
            sizes = {"attn.in_proj": (3 * width, width), "attn.out_proj": (width, width)}
            sizes |= {"mlp.c_fc": (2 * width, width), "mlp.c_proj": (width, 2 * width)}
            for name, (rows, columns) in sizes.items():
                separator = "_" if name.endswith("in_proj") else "."
                tensors[f"transformer.resblocks.{layer}.{name}{separator}weight"] = tensor(rows, columns)
                tensors[f"transformer.resblocks.{layer}.{name}{separator}bias"] = tensor(rows)
            for name in ("ln_1", "ln_2"):
                tensors[f"transformer.resblocks.{layer}.{name}.weight"] = 1 + tensor(width)
                tensors[f"transformer.resblocks.{layer}.{name}.bias"] = tensor(width)
        self.tensors |= {f"cond_stage_model.model.{name}": value for name, value in tensors.items()}

    def write(self, folder):
        """config.yaml and model.ckpt, with the schedule's buffers that a real one holds too."""
        folder.mkdir(parents=True)
        extra = {"betas": torch.zeros(1000), "sqrt_one_minus_alphas_cumprod": torch.zeros(1000)}
        extra |= {"preprocess_model.lpips_metric.net.weight": torch.zeros(3)}
        torch.save({"state_dict": self.tensors | extra, "epoch": 3}, folder / "model.ckpt")
        config = {"target": "model.cldm.ControlLDM", "params": self.config}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder
