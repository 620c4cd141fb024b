# SPDX-License-Identifier: GPL-3.0-or-later
"""The authors' checkpoints and Stable Diffusion's, in their formats: in, converted, saved, loaded and run."""

import json
import re

import pytest
import torch
import yaml
from refine.tiny import Authors, diffusion_refiner, flow_refiner, refine
from safetensors.torch import load_file, save_file

from diffjscc import checkpoints
from diffjscc.channel import transmit
from diffjscc.cli import main
from diffjscc.hub import find_model, list_models, load_codec, load_refiner
from diffjscc.refine import convert

pytestmark = pytest.mark.usefixtures("models")


#: A layer of OpenCLIP's text encoder that is used.
TEXT_LAYER = "cond_stage_model.model.transformer.resblocks.0."


def text_encoder(**sizes):
    """The tensors of a text encoder of these sizes."""
    other = Authors()
    other.add_text_encoder(**sizes)
    return {name: value for name, value in other.tensors.items() if name.startswith(convert.TEXT)}


def image(height=64, width=96):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def test_an_imported_checkpoint_is_a_codec_and_a_refiner_by_name(authors, tmp_path, models, capsys):
    assert main(["models", "import", str(authors.write(tmp_path / "DiffJSCC-tiny"))]) == 0
    said = capsys.readouterr().out
    for name in ("betas", "preprocess_model.lpips_metric.net.weight", "cond_encoder.quant_conv.weight"):
        assert f"ignored: {name}\n" in said
    assert f"model 'DiffJSCC-tiny' written to {models / 'DiffJSCC-tiny'}: codec (resnet, awgn, rate 1/128, SNR 0 to 14 dB);" in said
    assert "refiner (takes no prompts: no tokenizer was found)\n" in said
    assert "DiffJSCC-tiny" in {entry.name for entry in list_models()}
    codec, refiner = load_codec("DiffJSCC-tiny"), load_refiner("DiffJSCC-tiny", dtype=torch.float32)
    symbols = codec.encode(image(), 7.0)
    initial = codec.decode(transmit(symbols, 7.0), symbols.header)
    refined = refine(refiner, initial, 7.0, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    assert refined.shape == (3, 64, 96)
    assert torch.isfinite(refined).all()


def test_imported_networks_still_compute_what_the_authors_do(authors, tmp_path):
    checkpoints.import_checkpoint(authors.write(tmp_path / "tiny"))
    refiner = load_refiner("tiny", dtype=torch.float32)
    io = authors.io
    with torch.no_grad():
        predicted = refiner.predict(io["z_t"], io["timesteps"], io["latent_mode_scaled"], io["snr_db"].flatten(), io["context"])
    # Weights went through float16, which the fixture's own did too.
    torch.testing.assert_close(predicted, io["eps"], atol=1e-4, rtol=1e-4)


def test_the_text_encoder_is_openclips_last_layer_but_one(authors):
    """Against the same layers written out: pre-norm attention with a causal mask, GELU, final norm."""
    tensors = convert.split_state(authors.tensors)[0][convert.TEXT]
    encoder = convert.convert_text_encoder(tensors)
    state = {name.removeprefix(convert.TEXT): value for name, value in tensors.items()}
    tokens = torch.tensor([[48, 3, 7, 49, 0, 0, 0, 0]])
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"]
    mask = torch.full((8, 8), -torch.inf).triu(1)
    for layer in range(2):
        p = {k.removeprefix(f"transformer.resblocks.{layer}."): v for k, v in state.items() if f"resblocks.{layer}." in k}
        attention = torch.nn.MultiheadAttention(24, 1, batch_first=True)
        attention.load_state_dict({k.removeprefix("attn."): v for k, v in p.items() if k.startswith("attn.")})
        y = torch.nn.functional.layer_norm(x, (24,), p["ln_1.weight"], p["ln_1.bias"])
        x = x + attention(y, y, y, attn_mask=mask)[0]
        y = torch.nn.functional.layer_norm(x, (24,), p["ln_2.weight"], p["ln_2.bias"])
        y = torch.nn.functional.gelu(y @ p["mlp.c_fc.weight"].T + p["mlp.c_fc.bias"])
        x = x + y @ p["mlp.c_proj.weight"].T + p["mlp.c_proj.bias"]
    x = torch.nn.functional.layer_norm(x, (24,), state["ln_final.weight"], state["ln_final.bias"])
    with torch.no_grad():
        torch.testing.assert_close(encoder(tokens)[0], x, atol=1e-4, rtol=1e-4)


#: A tensor of each network.
ONE_OF_EACH = {
    "codec": "preprocess_model.E.projection.bias",
    "UNet": "model.diffusion_model.out.2.bias",
    "control module": "control_model.middle_block_out.0.bias",
    "VAE": "first_stage_model.post_quant_conv.bias",
    "text encoder": "cond_stage_model.model.ln_final.weight",
}

SPOILT = {
    "missing": (lambda t: t.pop("control_model.middle_block_out.0.weight"), "control module lacks 1 tensors"),
    "missing from the codec": (lambda t: t.pop("preprocess_model.E.projection.bias"), "codec lacks 1 tensors"),
    "missing from the text encoder": (lambda t: t.pop(TEXT_LAYER + "ln_1.bias"), "text encoder lacks 1 tensors"),
    "missing what the text encoder is measured by": (
        lambda t: t.pop(TEXT_LAYER + "mlp.c_fc.bias"),
        r"text encoder lacks .*c_fc\.bias",
    ),
    "missing a layer of the text encoder": (
        lambda t: [t.pop(name) for name in list(t) if "resblocks.1." in name],
        r"text encoder lacks layers: expected 1 to 64, transformer\.resblocks\.0, \.1 and so on",
    ),
    "missing all of the VAE": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith(("first_stage_model.", "cond_encoder."))],
        r"model\.ckpt is no refiner: it holds UNet and control module and text encoder, but no VAE",
    ),
    "extra": (
        lambda t: t.update({"model.diffusion_model.out.9.weight": torch.zeros(1)}),
        "UNet holds 1 tensors of no use, .*out.9",
    ),
    "extra in the codec": (lambda t: t.update({"preprocess_model.E.a": torch.zeros(1)}), "codec has unknown 1 tensors"),
    "extra in the VAE": (lambda t: t.update({"first_stage_model.decoder.a": torch.zeros(1)}), "VAE holds 1 tensors of no use"),
    "of no network": (lambda t: t.update({"teacher.weight": torch.zeros(1)}), "1 tensors that no network has, such as teacher"),
    "misshapen": (
        lambda t: t.update({"first_stage_model.quant_conv.weight": torch.zeros(8, 9, 1, 1)}),
        "cond_encoder.quant_conv.weight differs from the VAE's",
    ),
    "misshapen in the UNet": (
        lambda t: t.update({"model.diffusion_model.out.2.weight": torch.zeros(4, 16, 3, 3)}),
        r"UNet: tensor conv_out.weight is \(4, 16, 3, 3\), the configuration asks for \(4, 32, 3, 3\)",
    ),
    "of whole numbers": (
        lambda t: t.update({"model.diffusion_model.out.2.bias": torch.zeros(4, dtype=torch.int8)}),
        r"UNet: tensor conv_out\.bias is of type torch\.int8, the network computes with floating-point numbers",
    ),
    "of whole numbers in the codec": (
        lambda t: t.update({"preprocess_model.E.projection.bias": torch.zeros(4, dtype=torch.int8)}),
        r"codec: tensor E\.projection\.bias is of type torch\.int8",
    ),
    "a sparse one": (
        lambda t: t.update({"model.diffusion_model.out.2.bias": torch.ones(4).to_sparse()}),
        r"tensor model\.diffusion_model\.out\.2\.bias is not one of plain numbers, but sparse",
    ),
    "a complex one": (
        lambda t: t.update({"preprocess_model.E.projection.bias": torch.zeros(4, dtype=torch.complex64)}),
        r"tensor preprocess_model\.E\.projection\.bias is not one of plain numbers",
    ),
    "a view that repeats one number": (
        lambda t: t.update({"model.diffusion_model.out.2.bias": torch.zeros(1).expand(1 << 40)}),
        r"its tensors are views that repeat the .* MB of the file",
    ),
    "a text encoder for other features": (
        lambda t: [t.update({n: v}) for n, v in text_encoder(width=32).items()],
        "text features have 32 channels, but the UNet takes 24",
    ),
    **{
        f"{kind} in the {network}": (
            lambda t, name=name, value=value: t.update({name: torch.full(t[name].shape, value)}),
            rf"model\.ckpt: tensor {re.escape(name)} does not fit float16: it {words}",
        )
        for kind, network, value, words in (
            *(("NaN", network, float("nan"), "holds NaN or infinite values") for network in ONE_OF_EACH),
            ("infinity", "UNet", float("-inf"), "holds NaN or infinite values"),
            ("more than float16 holds", "codec", 65520.0, r"reaches 6\.552e\+04, float16 ends at 65504"),
        )
        for name in [ONE_OF_EACH[network]]
    },
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_checkpoint_with_a_wrong_tensor_is_refused_and_leaves_nothing(authors, tmp_path, models, spoil):
    change, line = SPOILT[spoil]
    change(authors.tensors)
    with pytest.raises(ValueError, match=line) as refusal:
        checkpoints.import_checkpoint(authors.write(tmp_path / "bad"))
    assert "\n" not in str(refusal.value)
    assert "model.ckpt" in str(refusal.value)
    assert not models.exists() or not list(models.iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["import", "nowhere"], "neither a folder here nor an id on the hub"),
        (["import", "someone/something"], "cannot be fetched from the hub"),
        (["pull", "DiffJSCC-OpenImage-CBR-1-96"], "cannot be fetched from the hub"),
        (["pull", "DiffJSCC-2"], "choose from DiffJSCC-OpenImage-CBR-1-384"),
    ],
)
def test_what_cannot_be_had_is_one_line(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["models", *arguments]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def spoil_file(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.pop("conv_out.bias"), "lacks 1 tensors, such as conv_out.bias"),
        (lambda t: t.update({"conv_out.gain": torch.zeros(8)}), "has unknown 1 tensors, such as conv_out.gain"),
        (lambda t: t.update({"conv_out.bias": torch.zeros(9)}), r"conv_out.bias is \(9,\), the configuration asks for \(8,\)"),
    ],
)
def test_a_refiner_with_a_wrong_tensor_is_refused(tmp_path, change, line):
    flow_refiner().save_pretrained(tmp_path / "flow")
    spoil_file(tmp_path / "flow" / "unet" / "diffusion_pytorch_model.safetensors", change)
    with pytest.raises(ValueError, match=line):
        load_refiner(tmp_path / "flow")


def test_a_refiner_cut_short_is_refused(tmp_path):
    flow_refiner().save_pretrained(tmp_path / "flow")
    file = tmp_path / "flow" / "control" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_refiner(tmp_path / "flow")


def test_a_codec_is_no_refiner_and_a_refiner_no_codec(tmp_path):
    flow_refiner().save_pretrained(tmp_path / "flow")
    with pytest.raises(ValueError, match="has no refiner"):
        load_refiner("lite")
    with pytest.raises(ValueError, match="has no codec"):
        load_codec(tmp_path / "flow")
    assert find_model(tmp_path / "flow", "refiner").codec is None


def test_training_starts_from_a_single_file_of_stable_diffusion(authors, tmp_path):
    tensors = {k: v for k, v in authors.tensors.items() if k.startswith((convert.UNET, convert.VAE, convert.TEXT))}
    torch.save({"state_dict": tensors}, tmp_path / "sd.ckpt")
    (tmp_path / "sd.yaml").write_text(yaml.safe_dump({"model": {"params": authors.config}}))
    refiner = checkpoints.load_stable_diffusion(tmp_path / "sd.ckpt", tmp_path / "sd.yaml")
    _check_fresh_control(refiner)
    with pytest.raises(ValueError, match="the configuration asks for|lacks"):
        checkpoints.load_stable_diffusion(tmp_path / "sd.ckpt")


def test_training_starts_from_a_diffusers_folder_of_stable_diffusion(tmp_path):
    refiner = diffusion_refiner()
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        getattr(refiner, name).save_pretrained(tmp_path / "sd" / name)
    with pytest.raises(ValueError, match="not a diffusers folder"):
        checkpoints.load_stable_diffusion(tmp_path / "sd")
    _write_tokenizer(tmp_path / "sd" / "tokenizer")
    loaded = checkpoints.load_stable_diffusion(tmp_path / "sd")
    _check_fresh_control(loaded)
    loaded.save_pretrained(tmp_path / "model")
    assert refine(load_refiner(tmp_path / "model"), image(), 1.0, "a dog", num_inference_steps=2).shape == (3, 64, 96)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_training_does_not_start_from_random_numbers_or_none(tmp_path, part):
    """diffusers and transformers fill in what a file lacks."""
    refiner = diffusion_refiner()
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        getattr(refiner, name).save_pretrained(tmp_path / "sd" / name)
    _write_tokenizer(tmp_path / "sd" / "tokenizer")
    (file,) = (tmp_path / "sd" / part).glob("*.safetensors")
    name = min(load_file(file))
    spoil_file(file, lambda tensors: tensors.update({name: torch.full_like(tensors[name], torch.nan)}))
    with pytest.raises(ValueError, match=rf"{part}: tensor .*{re.escape(name)} does not fit float16: it holds NaN"):
        checkpoints.load_stable_diffusion(tmp_path / "sd")
    spoil_file(file, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"{part} lacks 1 tensors, such as .*{re.escape(name)}"):
        checkpoints.load_stable_diffusion(tmp_path / "sd")


def _write_tokenizer(folder):
    """A CLIP tokenizer of single letters."""
    folder.mkdir(parents=True)
    letters = [*"abcdefghijklmnopqrstuvw", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvw")]
    words = {word: index for index, word in enumerate([*letters, "x", "y", "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 8, "tokenizer_class": "CLIPTokenizer"}))


@torch.no_grad()
def _check_fresh_control(refiner):
    """A new control module changes nothing, and its weights are the UNet's."""
    z, f_s = torch.randn(2, 1, 4, 8, 8)
    width = refiner.unet.config.cross_attention_dim
    text = torch.randn(1, 8, width)
    with_control = refiner.predict(z, torch.tensor(500), f_s, torch.tensor([1.0]), text)
    alone = refiner.unet(z, 500, encoder_hidden_states=text).sample
    torch.testing.assert_close(with_control, alone)
    assert torch.equal(refiner.control.conv_in.weight, refiner.unet.conv_in.weight)
