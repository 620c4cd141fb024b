# SPDX-License-Identifier: GPL-3.0-or-later
"""The files for operators: what they name exists."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from serve.processes import ServerProcess, image

from diffjscc.cli import main
from diffjscc.serve import RefineClient, RefineError

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def names():
    """Names of all time series of a server that has been used."""
    with ServerProcess() as server, RefineClient(server.address) as client:
        client.refine(image(), 1.0, "stub")
        with pytest.raises(RefineError):
            client.refine(image(), 1.0, "none")
        families = text_string_to_metric_families(server.get("metrics"))
        return {sample.name for family in families for sample in family.samples}


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist(names):
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in configuration["groups"] for rule in group["rules"]]
    used = {name for expression in asked for name in re.findall(r"\b(?:diffjscc|process)_\w+", expression)}
    assert len(used) >= 15 and used <= names, used - names


def unit():
    lines = (DEPLOY / "diffjscc-serve.service").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    return {name: [value for other, value in pairs if other == name] for name, _ in pairs}


def test_the_unit_notifies_is_watched_and_starts_a_command_whose_options_exist(capsys):
    settings = unit()
    assert settings["Type"] == ["notify"] and settings["WatchdogSec"] and settings["User"] and settings["WantedBy"]
    for command in settings["ExecStart"] + settings["ExecStartPre"]:
        program, *arguments = shlex.split(command)
        assert program.endswith("/diffjscc")
        # The options are understood; the folders do not exist here.
        assert main(arguments) == 2
        assert "/etc/diffjscc" in capsys.readouterr().err
    drain = re.search(r"--drain (\d+)", settings["ExecStart"][0])[1]
    assert int(settings["TimeoutStopSec"][0]) > int(drain) + 1


def test_the_image_is_built_from_files_that_exist_and_probes_a_path_that_does():
    text = (DEPLOY / "Dockerfile").read_text()
    root = DEPLOY.parent
    kept = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert {"src", "models", "constraints.txt"} <= set(kept) and all((root / name).exists() for name in kept)
    path = re.search(r"http://127.0.0.1:9155/(\w+)", text)[1]
    with ServerProcess() as server:
        assert server.probe(path) == (200, "ok\n")
