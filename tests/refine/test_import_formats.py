# SPDX-License-Identifier: GPL-3.0-or-later
"""What checkpoints come as: codec and refiner, either alone, in files of several formats, with configurations of several kinds."""

import re
import zipfile

import pytest
import torch
import yaml
from conftest import small_codec
from refine.tiny import DATA
from safetensors.torch import load_file, save_file

from diffjscc.channel import transmit
from diffjscc.checkpoints import import_checkpoint, load_stable_diffusion
from diffjscc.cli import main
from diffjscc.codec import ChannelState
from diffjscc.hub import load_codec, load_refiner
from diffjscc.refine import convert
from diffjscc.refine.checkpoint_file import read_tensors

pytestmark = pytest.mark.usefixtures("models")


def write(folder, config, tensors):
    """config.yaml and model.ckpt, as a training writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"epoch": 3, "state_dict": tensors}, folder / "model.ckpt")
    return folder


def image():
    return torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))


def codec_config(authors):
    return {
        "target": "model.deepjscc_cnn.DeepJSCC",
        "params": authors.config["preprocess_config"]["params"] | {"learning_rate": 1e-3},
    }


def only(authors, *prefixes):
    return {name: value for name, value in authors.tensors.items() if name.startswith(prefixes)}


@torch.no_grad()
def check_codec(codec):
    """It computes what the authors' own code does for the same weights."""
    io = load_file(DATA / "jscc_cnn_awgn.io.safetensors")
    state = ChannelState.awgn(io["csi"].flatten())
    torch.testing.assert_close(codec.analyse(io["x"], state, None), io["latent"], atol=1e-3, rtol=1e-3)


def test_a_codecs_own_training_is_imported_as_a_codec(authors, tmp_path, capsys):
    tensors = {name.removeprefix(convert.CODEC): value for name, value in only(authors, convert.CODEC).items()}
    tensors["lpips_metric.net.lin0.weight"] = torch.zeros(3)
    assert main(["models", "import", str(write(tmp_path / "mine", codec_config(authors), tensors))]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ignored: preprocess_model.lpips_metric.net.lin0.weight\n")
    assert said.endswith(": codec (resnet, awgn, rate 1/128, SNR 0 to 14 dB); no refiner, as the checkpoint has none\n")
    check_codec(load_codec("mine", dtype=torch.float32))
    with pytest.raises(ValueError, match="model 'mine' has no refiner"):
        load_refiner("mine")


def test_a_codec_from_the_whole_system_is_imported_as_a_codec(authors, tmp_path):
    config = {"target": "model.cldm.ControlLDM", "params": {"preprocess_config": authors.config["preprocess_config"]}}
    imported = import_checkpoint(write(tmp_path / "mine", config, only(authors, convert.CODEC)))
    assert imported.model.codec["architecture"] == "resnet" and imported.model.refiner is None
    check_codec(load_codec("mine", dtype=torch.float32))


def test_a_swin_codec_is_imported_without_what_it_computes_itself(tmp_path):
    codec = small_codec("swin")
    tensors = {name: value.half() for name, value in codec.state_dict().items()}
    tensors["encoder.layers.0.blocks.1.attn_mask"] = torch.zeros(4, 64, 64)
    tensors["encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(64, 64, dtype=torch.long)
    params = {
        "embed_dims": [8, 8, 16, 16],
        "depths": [2, 2, 2, 2],
        "num_heads": [2, 2, 2, 2],
        "bottleneck_dim": 8,
        "window_size": 8,
    }
    params |= {"embed_dims_d": [16, 16, 8, 8], "qk_scale": None, "SNR_low": 1, "SNR_high": 13, "channel": "AWGN"}
    config = {"target": "model.deepjscc_swin.DeepJSCC_SWIN", "params": params}
    summary = import_checkpoint(write(tmp_path / "mine", config, tensors)).summary
    assert summary == "codec (swin, awgn, rate 1/64, SNR 1 to 13 dB); no refiner, as the checkpoint has none"
    loaded = load_codec("mine", dtype=torch.float32)
    symbols = loaded.encode(image(), 7.0)
    assert loaded.decode(transmit(symbols, 7.0), symbols.header).shape == (3, 64, 96)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("described", [True, False])
def test_a_checkpoint_without_a_codec_is_imported_as_a_refiner(authors, tmp_path, described, text):
    prefixes = (convert.UNET, convert.CONTROL, convert.VAE, *((convert.TEXT,) if text else ()))
    config = {"target": "model.cldm.ControlLDM", "params": dict(authors.config)}
    if not described:
        del config["params"]["preprocess_config"]
    summary = import_checkpoint(write(tmp_path / "mine", config, only(authors, *prefixes))).summary
    prompts = "no prompts: no tokenizer was found" if text else "no text"
    assert summary == f"no codec, as the checkpoint has none; refiner (takes {prompts})"
    refiner = load_refiner("mine", dtype=torch.float32)
    assert torch.isfinite(refiner.unet.conv_in.weight).all()
    with pytest.raises(ValueError, match="model 'mine' has no codec"):
        load_codec("mine")


@pytest.mark.parametrize(
    ("prefixes", "line"),
    [
        ((convert.CONTROL,), "is no refiner: it holds control module, but no UNet and no VAE"),
        ((convert.UNET, convert.VAE, convert.TEXT), "is no refiner: it holds UNet and VAE and text encoder, but no control module"),
        ((convert.TEXT, convert.CODEC), "is no refiner: it holds text encoder, but no UNet and no control module and no VAE"),
        (("cond_encoder.",), "differs from the VAE's"),
    ],
)
def test_a_part_of_a_refiner_is_none(authors, tmp_path, models, prefixes, line):
    config = {"target": "model.cldm.ControlLDM", "params": authors.config}
    with pytest.raises(ValueError, match=rf"model\.ckpt.* {line}"):
        import_checkpoint(write(tmp_path / "mine", config, only(authors, *prefixes)))
    assert not models.exists()


def test_networks_that_do_not_go_together_are_refused(authors, tmp_path):
    """Each is right in itself: a control module for a UNet without the second level's attention."""
    params = authors.config["control_stage_config"]["params"]
    params["channel_mult"] = [1]
    params["attention_resolutions"] = [1]
    level = re.compile(r"control_model\.(input_blocks\.[23]|zero_convs\.[23]|middle_block)")
    for name in [name for name in authors.tensors if level.match(name)]:
        del authors.tensors[name]
    for name, value in convert_middle(authors).items():
        authors.tensors[name] = value
    with pytest.raises(ValueError, match=r"UNet and control module differ in block_out_channels: \[32, 64\] and \[32\]"):
        import_checkpoint(authors.write(tmp_path / "mine"))


def convert_middle(authors):
    """A middle block for 32 channels: the UNet's first level has blocks of that width."""
    block = only(authors, "control_model.input_blocks.1.")
    tensors = {}
    for index, source in ((0, 0), (1, 1), (2, 0)):
        for name, value in block.items():
            rest = name.removeprefix("control_model.input_blocks.1.")
            if rest.startswith(f"{source}."):
                tensors[f"control_model.middle_block.{index}.{rest[2:]}"] = value
    weight = authors.tensors["control_model.zero_convs.1.0.weight"]
    return tensors | {
        "control_model.middle_block_out.0.weight": weight,
        "control_model.middle_block_out.0.bias": weight[:, 0, 0, 0],
    }


def test_a_control_module_that_is_not_told_the_snr_is_imported_without_its_embedding(authors, tmp_path):
    authors.config["control_stage_config"]["params"]["use_snr"] = False
    import_checkpoint(authors.write(tmp_path / "mine"))
    assert load_refiner("mine", dtype=torch.float32).control.class_embedding is None


def legacy(folder, state):
    torch.save(state, folder / "model.ckpt", _use_new_zipfile_serialization=False)


def safetensors(folder, state):
    save_file({name: value.contiguous() for name, value in state["state_dict"].items()}, folder / "model.safetensors")


def misnamed(folder, state):
    safetensors(folder, state)
    (folder / "model.safetensors").rename(folder / "model.ckpt")


@pytest.mark.parametrize("form", [legacy, safetensors, misnamed])
def test_other_formats_of_the_same_tensors_give_the_same_model(checkpoint, form):
    state = torch.load(checkpoint / "model.ckpt", weights_only=True)
    (checkpoint / "model.ckpt").unlink()
    form(checkpoint, state)
    import_checkpoint(checkpoint, "mine")
    check_codec(load_codec("mine", dtype=torch.float32))
    assert load_refiner("mine", dtype=torch.float32).text_encoder is not None


def compressed(path):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


class Hostile:
    def __reduce__(self):
        return (eval, ("1",))


def save(value):
    return lambda path: torch.save(value, path)


#: What is done to model.ckpt, and what is then said of it.
FILES = {
    "a web page": (lambda p: p.write_text("<!DOCTYPE html><html>404"), "a web page, probably an error's, not a checkpoint"),
    "a web page after white space": (lambda p: p.write_text("\n\n <html>404"), "a web page"),
    "a Git LFS pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "a Git LFS pointer, not the file itself: fetch it with git lfs pull",
    ),
    "JSON": (lambda p: p.write_text('{"error": "not found"}'), "text, not a checkpoint"),
    "empty": (lambda p: p.write_bytes(b""), "an empty file: download it again"),
    "random": (lambda p: p.write_bytes(bytes(range(255, 0, -1))), "damaged, cut short or not a checkpoint of plain tensors"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:5000]), "damaged, cut short or not a checkpoint of plain tensors"),
    "cut short by little": (
        lambda p: p.write_bytes(p.read_bytes()[:-7]),
        "damaged, cut short or not a checkpoint of plain tensors",
    ),
    "without its middle": (lambda p: p.write_bytes(p.read_bytes()[:999] + p.read_bytes()[5999:]), "damaged, cut short"),
    "compressed": (compressed, "a compressed archive: not one that torch.save wrote"),
    "an archive of something else": (
        lambda p: zipfile.ZipFile(p, "w").writestr("a", "b"),
        "damaged, cut short or not a checkpoint",
    ),
    "safetensors cut short": (lambda p: p.write_bytes(b"\xff\0\0\0\0\0\0\0{}"), "damaged or cut short"),
    "safetensors with a wrong header": (lambda p: p.write_bytes(b"\2\0\0\0\0\0\0\0{]"), "damaged or cut short"),
    "safetensors with an enormous header": (lambda p: p.write_bytes(b"\xff" * 7 + b"\0{}"), "damaged or cut short"),
    "a list": (save([torch.zeros(3)]), "holds a list, not tensors by name"),
    "a tensor": (save(torch.zeros(3)), "holds a Tensor, not tensors by name"),
    "a list as its state": (save({"state_dict": [1]}), "holds a list, not tensors by name"),
    "no tensors": (save({"state_dict": {"a": 1}}), "holds no tensors"),
    "nothing": (save({}), "holds no tensors"),
    "tensors by number": (save({1: torch.zeros(3)}), "holds a tensor whose name is 1, not a line of text"),
    "tensors of two lines": (save({"a\nb": torch.zeros(3)}), r"holds a tensor whose name is 'a\nb', not a line of text"),
    "code": (save({"a": Hostile()}), "holds eval besides tensors, which could run code: refused"),
    "code in the old format": (
        lambda p: torch.save({"a": Hostile()}, p, _use_new_zipfile_serialization=False),
        "holds eval besides tensors, which could run code: refused",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_checkpoint_is_one_line_that_says_what_it_is(checkpoint, models, kind, capsys):
    change, line = FILES[kind]
    file = checkpoint / "model.ckpt"
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole)
    change(file)
    assert main(["models", "import", str(checkpoint)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert str(file) in said.err and line in said.err
    # Never PyTorch's advice to trust the file, and nothing of how it is read.
    assert not re.search("weights_only|mmap|trust", said.err)
    assert not models.exists()
    with pytest.raises(ValueError, match=re.escape(line)):
        load_stable_diffusion(file)


def test_a_number_repeated_without_end_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 50)}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="its tensors are views that repeat the 0.0 MB of the file"):
        read_tensors(tmp_path / "model.ckpt")


def test_a_folder_or_nothing_in_the_place_of_a_file_is_one_line(checkpoint):
    with pytest.raises(ValueError, match=r"model\.ckpt is a file: give the folder"):
        import_checkpoint(checkpoint / "model.ckpt")
    (checkpoint / "model.ckpt").unlink()
    for make in (lambda: None, (checkpoint / "model.ckpt").mkdir):
        make()
        with pytest.raises(ValueError, match=r"tiny holds no model\.ckpt or model\.safetensors"):
            import_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="neither a folder here nor an id on the hub"):
        import_checkpoint("a" * 5000, name="x")


def keys(*path, value=None, delete=False):
    """A change to one value of the configuration."""

    def change(config):
        for key in path[:-1]:
            config = config[key]
        if delete:
            del config[path[-1]]
        else:
            config[path[-1]] = value

    return change


PARAMS = ("params",)
UNET = ("params", "unet_config", "params")
CONTROL = ("params", "control_stage_config", "params")
VAE = ("params", "first_stage_config", "params", "ddconfig")
CODEC = ("params", "preprocess_config", "params")

#: Changes to config.yaml, and the line that names the key.
CONFIGS = {
    "no params": (keys("params", delete=True), "params is missing"),
    "params of no kind": (keys("params", value=3), "params: 3 is not a section with named values"),
    "another model": (
        keys("target", value="ldm.models.vq.VQModel"),
        "target is 'ldm.models.vq.VQModel', expected ControlLDM or Lat",
    ),
    "a target of no kind": (keys("target", value=["a"]), r"target is \['a'\], expected ControlLDM or LatentDiffusion"),
    "no UNet": (keys("params", "unet_config", delete=True), r"params\.unet_config is missing"),
    "no parameters": (keys(*UNET, delete=True), r"params\.unet_config\.params is missing"),
    "another UNet": (
        keys("params", "unet_config", "target", value="a.UViT"),
        r"params\.unet_config\.target is 'a\.UViT', expected",
    ),
    "another VAE": (
        keys("params", "first_stage_config", "target", value="ldm.VQModel"),
        r"first_stage_config\.target is 'ldm\.VQModel'",
    ),
    "another control module": (
        keys("params", "control_stage_config", "target", value="T2I"),
        r"control_stage_config\.target is 'T2I'",
    ),
    "another text encoder": (
        keys("params", "cond_stage_config", value={"target": "ldm.FrozenCLIPEmbedder"}),
        r"cond_stage_config\.target is 'ldm\.FrozenCLIPEmbedder', expected FrozenOpenCLIPEmbedder",
    ),
    "another layer": (
        keys("params", "cond_stage_config", value={"params": {"layer": "first"}}),
        r"cond_stage_config\.params\.layer is 'first', expected penultimate or last",
    ),
    "another codec": (
        keys("params", "preprocess_config", "target", value="model.swinir.SwinIR"),
        r"target is 'model\.swinir\.SwinIR'",
    ),
    "a codec without a name": (keys("params", "preprocess_config", "target", delete=True), r"preprocess_config\.target is missing"),
    "no codec": (keys("params", "preprocess_config", delete=True), r"params\.preprocess_config is missing"),
    "another prediction": (keys("params", "parameterization", value="x0"), r"params\.parameterization is 'x0', expected eps or v"),
    "another schedule": (keys("params", "beta_schedule", value="cosine"), r"params\.beta_schedule is 'cosine', expected linear"),
    "a schedule in reverse": (
        keys("params", "linear_end", value=1e-5),
        r"params\.linear_end is 1e-05, expected at least linear_start, 0.0",
    ),
    "no schedule": (keys("params", "linear_start", delete=True), r"params\.linear_start is missing"),
    "no timesteps": (keys("params", "timesteps", value=0), r"params\.timesteps is 0, expected a whole number from 1 to 10000"),
    "a scale that is none": (
        keys("params", "scale_factor", value=float("nan")),
        r"params\.scale_factor is nan, expected a number from",
    ),
    "a scale of the training's": (keys("params", "scale_by_std", value=True), r"params\.scale_by_std is True, expected False"),
    "control of the middle alone": (
        keys("params", "only_mid_control", value=True),
        r"params\.only_mid_control is True, expected False",
    ),
    "heads without channels": (
        keys(*UNET, "num_head_channels", value=0),
        r"unet_config\.params\.num_head_channels is 0, expected a",
    ),
    "heads that do not divide": (
        keys(*UNET, "num_head_channels", value=24),
        r"num_head_channels is 24, expected a divisor of 32, 64",
    ),
    "widths off the norm's groups": (
        keys(*UNET, "model_channels", value=40),
        r"model_channels is 40, expected a multiple of 32 from 32",
    ),
    "a gigantic width": (
        keys(*UNET, "model_channels", value=32 << 40),
        r"model_channels is 35184372088832, expected a multiple of 32",
    ),
    "gigantic multiples": (
        keys(*UNET, "channel_mult", value=[1, 8192]),
        r"channel_mult is \[1, 8192\], expected multiples of model_ch",
    ),
    "no levels": (keys(*UNET, "channel_mult", value=[]), r"channel_mult is \[\], expected a list of 1 to 8 whole numbers"),
    "a number as a list": (keys(*UNET, "channel_mult", value=2), r"channel_mult is 2, expected a list"),
    "a text as a list": (keys(*UNET, "attention_resolutions", value=""), r"attention_resolutions is '', expected a list of 0 to 8"),
    "a truth as a number": (
        keys(*UNET, "num_res_blocks", value=True),
        r"num_res_blocks is True, expected a whole number from 1 to 32",
    ),
    "endless blocks": (keys(*UNET, "num_res_blocks", value=10**9), r"num_res_blocks is 1000000000, expected a whole number from 1"),
    "a list of blocks": (keys(*UNET, "num_res_blocks", value=[1, 1]), r"num_res_blocks is \[1, 1\], expected a whole number"),
    "another SNR scale": (keys(*CONTROL, "snr_scale", value=1), r"control_stage_config\.params\.snr_scale is 1, expected 100"),
    "another least SNR": (keys(*CONTROL, "min_snr", value=-5), r"control_stage_config\.params\.min_snr is -5, expected 0"),
    "a truth of no kind": (keys(*CONTROL, "use_snr", value="yes"), r"use_snr is 'yes', expected True or False"),
    "grey images": (keys(*VAE, "in_channels", value=1), r"ddconfig\.in_channels is 1, expected a whole number from 3 to 3"),
    "no latent": (keys(*VAE, "z_channels", value=0), r"ddconfig\.z_channels is 0, expected"),
    "SNRs in reverse": (
        keys(*CODEC, "SNR_low", value=20),
        r"preprocess_config\.params\.SNR_high is 14, expected at least SNR_low, 20 dB",
    ),
    "an SNR that is none": (keys(*CODEC, "SNR_low", value="low"), r"SNR_low is 'low', expected a number from -100 to 100"),
    "another channel": (keys(*CODEC, "channel", value="Rician"), r"params\.channel is 'Rician', expected AWGN or Rayleigh"),
    "another depth": (keys(*CODEC, "n_downsample", value=2), r"params\.n_downsample is 2, expected a whole number from 4 to 4"),
    "another norm": (keys(*CODEC, "norm", value="instance"), r"params\.norm is 'instance', expected batch"),
    "half a symbol": (keys(*CODEC, "C_channel", value=3), r"params\.C_channel is 3, expected a multiple of 2 from 2 to 512"),
    "another size": (keys(*CODEC, "ngf", value=8), r"codec: tensor .* the configuration asks for"),
    "a nested value": (
        keys(*CODEC, "ngf", value={"a": [1] * 100}),
        r"params\.ngf is \{'a': \[1, 1, 1, 1, 1, 1, \.\.\.\]\}, expected a whole",
    ),
}


def rewrite(file, text):
    """Puts another file in the place of one that may be shared."""
    file.unlink()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_that_is_not_supported_is_one_line_with_file_and_key(checkpoint, models, kind):
    change, line = CONFIGS[kind]
    config = yaml.safe_load((checkpoint / "config.yaml").read_text())
    change(config)
    rewrite(checkpoint / "config.yaml", yaml.safe_dump(config))
    with pytest.raises(ValueError, match=line) as refusal:
        import_checkpoint(checkpoint)
    assert str(refusal.value).startswith((f"{checkpoint / 'config.yaml'}: ", f"{checkpoint / 'model.ckpt'}: "))
    assert "\n" not in str(refusal.value)
    assert not models.exists() or not list(models.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "a: b: c",
        "\0",
        "a: &a [*a]",
        "- " * 5000,
        "x: 0x" + "f" * 9999,
        "a: !!python/object:os.system x",
        b"\xff\xfe\xff",
    ],
    ids=["empty", "list", "broken", "binary", "recursive", "deep", "a long number", "an object", "no text"],
)
def test_a_file_that_is_no_configuration_is_one_line(checkpoint, text):
    rewrite(checkpoint / "config.yaml", text)
    with pytest.raises(ValueError, match=r"config\.yaml: (not a latent-diffusion configuration|params is missing)") as refusal:
        import_checkpoint(checkpoint)
    assert "\n" not in str(refusal.value)


def test_a_configuration_that_is_no_file_is_one_line(checkpoint):
    (checkpoint / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"config\.yaml: no such file; a checkpoint comes with its configuration"):
        import_checkpoint(checkpoint)
    (checkpoint / "config.yaml").mkdir()
    with pytest.raises(ValueError, match=r"config\.yaml: not a latent-diffusion configuration \(.*Is a directory"):
        import_checkpoint(checkpoint)


def test_the_text_features_can_be_those_of_the_last_layer(authors, tmp_path):
    authors.config["cond_stage_config"] = {
        "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "params": {"layer": "last"},
    }
    import_checkpoint(authors.write(tmp_path / "mine"))
    assert load_refiner("mine", dtype=torch.float32).text_encoder.config.num_hidden_layers == 3
