# SPDX-License-Identifier: GPL-3.0-or-later
"""What gnuradio-companion makes of the blocks' forms; test_examples.py has the examples."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml
from gnuradio import diffjscc

from diffjscc.checkpoints import PUBLISHED
from diffjscc.symbols import parse_rate

ROOT = Path(__file__).parents[2]
FORMS = {
    path.name.removeprefix("diffjscc_").removesuffix(".block.yml"): yaml.safe_load(path.read_text())
    for path in sorted((ROOT / "grc").glob("*.block.yml"))
}
BLOCKS = list(FORMS)

#: Of a form, what becomes the block's one parameter ``refinement``.
REFINEMENT = {"refine", "refiner", "address", "server_key", "secret_key", "refine_deadline"}

#: Forms begin with these instead of the constructor's defaults.
OTHER_DEFAULTS = {("image_file_sink", "folder"), ("camera_source", "source"), ("folder_source", "folder")}

#: What must exist when a block is made: {(block, parameter): path}. PyAV takes an image for a video of one frame.
EXISTING = {("camera_source", "source"): ROOT / "examples/coffee.jpg", ("folder_source", "folder"): ROOT / "examples"}


def rendered(platform, name, **parameters):
    """The Python expression that the companion makes of a form, with its defaults but for ``parameters``."""
    return filled_in(platform, name, **parameters).templates.render("make")


def filled_in(platform, name, variables=None, **parameters):
    """The companion's block of a form, with its defaults but for ``parameters``, in a flowgraph with ``variables``."""
    flowgraph = platform.make_flow_graph()
    for variable, value in (variables or {}).items():
        made = flowgraph.new_block("variable")
        made.params["id"].set_value(variable)
        made.params["value"].set_value(value)
    block = flowgraph.new_block(f"diffjscc_{name}")
    for parameter, value in ({"id": "block"} | parameters).items():
        block.params[parameter].set_value(value)
    flowgraph.rewrite()
    flowgraph.validate()
    return block


def in_red(block):
    """What the companion shows in red about a block's values: not that its ports are not connected."""
    return [text for element, text in block.iter_error_messages() if "Port is not connected" not in text]


def built(expression):
    return eval(expression, {"diffjscc": diffjscc})


@pytest.mark.parametrize("name", BLOCKS)
def test_a_form_makes_its_block_by_keywords_with_the_block_s_own_defaults(platform, application, name):
    make = rendered(platform, name, **{key: str(path) for (block, key), path in EXISTING.items() if block == name})
    if name.startswith("qt_"):
        # What follows puts its widget into the flowgraph's window.
        make = make.strip().splitlines()[0]
    assert built(make).name() == name
    call = ast.parse(make, mode="eval").body
    given = {keyword.arg: eval(ast.unparse(keyword.value)) for keyword in call.keywords}
    assert not call.args
    form = FORMS[name]
    ids = {parameter["id"] for parameter in form["parameters"]} - {"gui_hint"}
    constructor = getattr(diffjscc, name).__init__
    if not inspect.isfunction(constructor):
        # C++ blocks tell no signature; they refuse keywords that they do not know.
        assert given.keys() == ids
        return
    own = {key: value.default for key, value in list(inspect.signature(constructor).parameters.items())[1:]}
    if "refinement" in own:
        assert ids == own.keys() - {"refinement"} | REFINEMENT
        assert own.pop("refinement") is None
    else:
        assert ids == own.keys()
    assert given.keys() == own.keys()
    for key, default in own.items():
        # A rate is a number in the form, and its text in the block.
        same = parse_rate(given[key]) == parse_rate(default) if key == "rate" else given[key] == default
        assert same or (name, key) in OTHER_DEFAULTS, f"{key}: {given[key]} in the form, {default} in the block"


@pytest.mark.parametrize("name", ["jscc_sink", "jscc_rx"])
def test_a_form_builds_the_refinement_object(platform, name):
    def refinement(**parameters):
        block = built(rendered(platform, name, **parameters))
        return (block if name == "jscc_sink" else block._sink)._refinement

    assert refinement() is None
    local = refinement(refine="local", queue_size="3", on_full="drop")
    assert isinstance(local, diffjscc.LocalRefinement) and (local._size, local._on_full) == (3, "drop")
    remote = refinement(refine="remote", refiner="other", address="tcp://127.0.0.1:9", refine_deadline="7", queue_size="2")
    assert isinstance(remote, diffjscc.RemoteRefinement) and (remote._size, remote._on_full) == (16, "wait")
    assert (remote._refiner_name, remote._deadline, remote._client.address) == ("other", 7.0, "tcp://127.0.0.1:9")


#: {parameter: values that are red in every form that has it}
RED = {
    "codec": ("toaster", "mini", "3"),
    "rate": ("0", "-1/128", "1/3", "1/256", "'fast'", "1e999", "float('nan')", ""),
    "snr_db": ("1e9", "1j", "float('inf')", "float('nan')", "'loud'"),
    "effort": ("-1", "1.5", "10001", "'a'", ""),
    "guard": ("-1", "1.5", "'a'", "float('inf')", ""),
    "gap": ("-1", "1.5", "'a'", ""),
    "length_tag": ("",),
    "device": ("toaster", "", "3", "cuda:x"),
    "burst_symbols": ("0", "8192", "1.5", "'a'"),
    "callsign": ("A1", "N0CALL-PORTABLE", "N0 CALL", "N0CALL_1", "3"),
    "clip_db": ("0", "-3", "float('inf')", "float('nan')", "'a'", ""),
    "amplitude": ("0", "-1", "float('inf')", "float('nan')", "'a'"),
    "queue_size": ("0", "1.5", "'a'", ""),
    "address": ("", "gpu.local", "tcp://gpu.local", "tcp://gpu.local:70000", "tcp://*:5555", "3"),
    "refiner": ("",),
    "deadline": ("0", "-1", "float('inf')", "'a'"),
    "refine_deadline": ("0", "-1", "float('inf')", "'a'", ""),
    "server_key": ("server.key",),
    "secret_key": ("radio.key_secret",),
    "false_alarm_rate": ("0", "1", "-1", "float('nan')", "'a'"),
    "max_offset": ("0", "0.21", "float('nan')", "'a'"),
    "fft_len": ("128", "64.5", "'a'"),
    "cp_len": ("0", "65", "16.5", "'a'"),
    "suffix": (".txt", "", "png"),
    "length": ("0", "201", "1.5", "'a'"),
    "code": ("wifi-7/8", "", "3"),
    "constellation": ("qam16", ""),
    "on_failure": ("cry", ""),
    "width": ("31", "8193", "1.5", "'a'"),
    "height": ("31", "8193", "1.5", "'a'"),
    "keep": ("-1", "1.5", "'a'"),
    "fps": ("0", "241", "float('nan')", "'a'"),
    "audio_rate": ("5999", "192001", "8000.5", "'a'"),
    "peak": ("0", "-1", "float('inf')", "float('nan')", "'a'"),
    "vox": ("-0.1", "11", "float('nan')", "'a'"),
}

#: Parameters of which every value that the companion takes means something, or of which only a running flowgraph can tell.
ANY_VALUE = {"source", "repeat", "folder", "csi", "status", "title", "gui_hint", "compact", "existing"}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_wrong_value_is_red_and_names_the_parameter(platform, name):
    assert not in_red(filled_in(platform, name))
    # HEVC takes any multiple of 1/256.
    rates = {"separate_source": tuple(rate for rate in RED["rate"] if rate != "1/256")}
    for parameter in FORMS[name]["parameters"]:
        key, label = parameter["id"], re.sub(r" \(.*", "", parameter["label"])
        if key in ANY_VALUE or parameter["dtype"] == "enum":
            continue
        # The service's parameters count only where there is one.
        others = {"refine": "remote"} if "refine" in (p["id"] for p in FORMS[name]["parameters"]) and key in REFINEMENT else {}
        if key == "refiner" and others:
            assert in_red(filled_in(platform, name, refine="local", refiner="toaster"))
            continue
        for value in rates.get(name, RED[key]) if key == "rate" else RED[key]:
            said = in_red(filled_in(platform, name, **others, **{key: value}))
            assert said, f"{key} = {value!r} is not red"
            told = any(
                label in text or parameter["label"] in text or "cannot be evaluated" in text or "invalid for" in text
                for text in said
            )
            assert told or ("key" in key and "both keys" in said[0]), said


def test_an_empty_folder_is_red_where_images_must_go_somewhere(platform):
    assert in_red(filled_in(platform, "image_file_sink", folder=""))
    assert not in_red(filled_in(platform, "jscc_sink", folder=""))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("jscc_source", {"rate": "v", "snr_db": "w", "source": "photos/*.png", "codec": "models/mine", "device": "cuda:1"}),
        ("jscc_tx", {"rate": "'1/64'", "effort": "40", "clip_db": "'auto'", "callsign": "DL/N0CALL-9"}),
        ("jscc_sink", {"codec": "", "snr_db": "-3", "deadline": "None", "folder": "~/received"}),
        ("jscc_rx", {"refine": "remote", "address": "tcp://[::1]:5555", "server_key": "s.key", "secret_key": "r.key_secret"}),
        ("jscc_rx", {"address": "none at all", "refine_deadline": "0", "server_key": "s.key", "refiner": "other"}),
        ("refine_client", {"refiner": "other", "address": "ipc:///tmp/service"}),
    ],
)
def test_good_values_are_not_red(platform, name, parameters):
    block = filled_in(platform, name, {"v": "1.0/64", "w": "7"}, **parameters)
    assert not in_red(block)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_parameter_and_port_of_a_form_is_documented(name):
    form = FORMS[name]
    # "Label: …" and "Label, Label: …"
    told = {
        label.strip()
        for line in form["documentation"].splitlines()
        for label in line.partition(": ")[0].split(", ")
        if ": " in line
    }
    labels = [re.sub(r" \(.*\)$", "", p["label"]) for p in form["parameters"] if p["dtype"] != "gui_hint"]
    labels += [port.get("label") or port["id"] for port in form.get("inputs", []) + form.get("outputs", [])]
    assert not set(labels) - told
    assert form["doc_url"] == f"https://gr-diffjscc.readthedocs.io/en/latest/blocks/{name}.html"
    assert form["category"] in {f"[DiffJSCC]/{folder}" for folder in ("Codec", "Air interface", "Refinement", "Display")}
    assert max(map(len, form["documentation"].splitlines())) <= 110


def test_the_companion_takes_no_assert_of_one_block_for_that_of_another():
    """It keeps what an expression gave, by its text, until the next change."""
    texts = [text for form in FORMS.values() for text in form["asserts"]]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("name", BLOCKS)
def test_models_devices_and_files_are_offered_and_others_can_be_typed(name):
    parameters = {parameter["id"]: parameter for parameter in FORMS[name]["parameters"]}
    for key, first in (("codec", "lite"), ("refiner", "mini")):
        if key in parameters:
            assert parameters[key]["dtype"] == "string"
            assert [option for option in parameters[key]["options"] if option] == [first, *PUBLISHED]
    if "device" in parameters:
        assert parameters["device"]["dtype"] == "string" and parameters["device"]["options"][:3] == ["cpu", "cuda", "cuda:0"]
    if "rate" in parameters:
        assert parameters["rate"]["options"] == ["1/128", "1/64", "1/32", "1/16"]
    kinds = {"source": "file_open", "folder": "dir_select", "server_key": "file_open", "secret_key": "file_open"}
    for key in parameters.keys() & kinds:
        assert parameters[key]["dtype"] == kinds[key]


@pytest.mark.parametrize(
    ("name", "key"), [("jscc_sink", "snr_db"), ("jscc_sink", "deadline"), ("jscc_rx", "deadline"), ("jscc_decoder", "snr_db")]
)
def test_an_empty_field_stands_for_none_where_none_is_a_value(platform, name, key):
    block = filled_in(platform, name, **{key: ""})
    assert not in_red(block) and f"{key}=None" in block.templates.render("make")
    assert all("None" in callback for callback in block.get_callbacks() if key in callback)
