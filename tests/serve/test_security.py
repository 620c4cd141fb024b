# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may connect, and where a server listens: nothing is open to other machines by accident."""

import json
import re
import stat
import subprocess
import sys

import pytest
from serve.peers import Peer
from serve.processes import ServerProcess, image, wait_until

from diffjscc.cli import main
from diffjscc.serve import RefineClient, RefineError, RefineTimeout
from diffjscc.serve.addresses import is_ipv6, is_local
from diffjscc.serve.keys import generate, load_pair, load_public


@pytest.fixture
def keys(tmp_path):
    """Folders of keys: server, radio (allowed), stranger (not), impostor (another server)."""
    for name in ("server", "radio", "stranger"):
        generate(tmp_path / name, name)
    generate(tmp_path / "impostor", "server")
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "radio.key").write_bytes((tmp_path / "radio" / "radio.key").read_bytes())
    return tmp_path


@pytest.fixture
def server(keys):
    with ServerProcess("--keys", keys / "server", "--clients", keys / "clients") as server:
        yield server


def client(server, keys, name="radio", of="server", **options):
    return RefineClient(server.address, keys / of / "server.key", keys / name / f"{name}.key_secret", **options)


def test_a_client_with_the_right_keys_is_served(server, keys):
    with client(server, keys) as radio:
        assert radio.refine(image(), 1.0, "stub").shape == (32, 48, 3)
    assert any("(CURVE)" in line for line in server.log)


def test_wrong_keys_and_none_are_shut_out_and_told_so_by_their_deadline(server, keys):
    outages = []
    attempts = {
        "not allowed": client(server, keys, "stranger", on_outage=outages.append),
        "wrong server key": client(server, keys, of="impostor", on_outage=outages.append),
        "no keys": RefineClient(server.address, on_outage=outages.append),
    }
    jobs = {name: attempt.submit(image(), 1.0, "stub", deadline=3.0) for name, attempt in attempts.items()}
    wait_until(lambda: len(outages) == 3)
    assert all("check the keys" in outage for outage in outages)
    for name, job in jobs.items():
        with pytest.raises(RefineTimeout) as caught:
            job.result(20)
        assert "check the keys" in caught.value.message
        assert not attempts[name].connected
        attempts[name].close()
    with client(server, keys) as radio:
        assert radio.refine(image(), 1.0, "stub").shape == (32, 48, 3)
    assert server.metric("diffjscc_requests_total", outcome="ok") == 1


def test_a_key_that_is_added_counts_at_once(server, keys):
    with client(server, keys, "stranger") as stranger:
        job = stranger.submit(image(), 1.0, "stub", deadline=20.0)
        assert not stranger.connected
        (keys / "clients" / "guest.key").write_bytes((keys / "stranger" / "stranger.key").read_bytes())
        assert job.result(20).shape == (32, 48, 3)


def test_a_key_that_is_removed_ends_its_connections(server, keys):
    outages = []
    with client(server, keys, on_outage=outages.append) as radio:
        assert radio.refine(image(), 1.0, "stub").shape == (32, 48, 3)
        (keys / "clients" / "radio.key").unlink()
        wait_until(lambda: any("radio is disconnected: its key was removed" in line for line in server.log))
        with pytest.raises(RefineTimeout, match="check the keys"):
            radio.refine(image(), 1.0, "stub", deadline=4.0)
        assert server.metric("diffjscc_requests_total") == 1


def test_refused_connections_are_counted_and_logged_and_lines_name_clients(server, keys):
    with client(server, keys, "stranger", on_outage=lambda line: None) as stranger, client(server, keys) as radio:
        stranger.submit(image(), 1.0, "stub", deadline=5.0)
        with pytest.raises(RefineError):
            radio.refine(image(), 1.0, "stub", seed=1)
        wait_until(lambda: server.metric("diffjscc_refused_connections_total") >= 1)
        public = load_public(keys / "stranger" / "stranger.key").decode()
        for words in (
            f"connection from 127.0.0.1 refused: key {public} is not among",
            "client radio connects from 127.0.0.1",
            "of radio: failed: this seed is not to be refined",
        ):
            assert any(words in line for line in server.log), words
        assert server.metric("diffjscc_requests_total", client="radio", outcome="failed") == 1
        assert "failed</th><td>radio: this seed" in server.get()


def test_logs_as_json_have_the_client_as_a_field(keys):
    options = "--keys", keys / "server", "--clients", keys / "clients", "--log", "json"
    with ServerProcess(*options, ready=False) as server, client(server, keys) as radio:
        with pytest.raises(RefineError):
            radio.refine(image(), 1.0, "stub", seed=1)
        wait_until(lambda: any("failed" in line for line in server.log))
        lines = [json.loads(line) for line in server.log]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
        failed = next(line for line in lines if line.get("code") == "failed")
        assert (failed["client"], failed["level"], failed["logger"]) == ("radio", "INFO", "diffjscc.serve.server")


def test_ten_thousand_bad_messages_are_a_few_lines():
    with ServerProcess() as server, Peer(server.address, rcvhwm=0, sndhwm=0) as peer:
        for _ in range(10_000):
            peer.send(b"nonsense")
        peer.receive_all(10_000)
        assert server.metric("diffjscc_bad_messages_total", code="version") == 10_000
        assert 1 <= sum("refused" in line for line in server.log) < 10


def test_a_public_server_without_keys_says_so():
    with ServerProcess("--bind", "tcp://0.0.0.0:*", "--insecure") as server:
        assert any("WARNING" in line and "anybody there can use this server" in line for line in server.log)


@pytest.mark.parametrize(
    "mode, accepted", [(0o600, True), (0o640, True), (0o400, True), (0o666, False), (0o644, False), (0o660, False)]
)
def test_a_secret_key_that_others_can_read_is_refused(keys, mode, accepted):
    secret = keys / "server" / "server.key_secret"
    secret.chmod(mode)
    if accepted:
        assert len(load_pair(secret)) == 2
    else:
        with pytest.raises(ValueError, match=f"mode {mode:04o} lets others read or change a secret key: chmod 600"):
            load_pair(secret)


def test_one_client_cannot_reach_anothers_requests(server, keys):
    (keys / "clients" / "guest.key").write_bytes((keys / "stranger" / "stranger.key").read_bytes())
    peers = {}
    for name in ("radio", "stranger"):
        public, secret = load_pair(keys / name / f"{name}.key_secret")
        curve = {"curve_serverkey": load_public(keys / "server" / "server.key")}
        peers[name] = Peer(server.address, curve_publickey=public, curve_secretkey=secret, **curve)
    with peers["radio"] as radio, peers["stranger"] as stranger:
        radio.ask("mine", seed=20)
        assert radio.receive().type == "accepted"
        stranger.cancel("mine")
        assert stranger.receive().code == "unknown-id"
        stranger.ask("mine", seed=101)
        assert stranger.receive().type == "accepted"
        assert radio.receive().type == "result" and stranger.receive().type == "result"
    assert sorted(server.computed()) == [20, 101]


def test_keygen_writes_a_public_and_a_secret_file_and_never_overwrites(tmp_path, capsys):
    assert main(["serve", "keygen", str(tmp_path / "keys"), "--name", "radio1"]) == 0
    assert "radio1.key_secret" in capsys.readouterr().out
    secret = tmp_path / "keys" / "radio1.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert load_pair(secret)[0] == load_public(tmp_path / "keys" / "radio1.key")
    assert sorted(file.name for file in secret.parent.iterdir()) == ["radio1.key", "radio1.key_secret"]
    before = secret.read_bytes()
    assert main(["serve", "keygen", str(tmp_path / "keys"), "--name", "radio1"]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert secret.read_bytes() == before
    assert main(["serve", "keygen", str(tmp_path / "keys"), "--name", "../x"]) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--bind", "tcp://0.0.0.0:5599"], "can be reached from other machines: give keys"),
        (["--bind", "tcp://*:5599"], "can be reached from other machines"),
        (["--bind", "tcp://[::]:5599"], "can be reached from other machines"),
        (["--status", "0.0.0.0:9199"], "could be seen from other machines"),
        (["--keys", "absent"], "go together"),
        (["--clients", "."], "go together"),
        (["--insecure", "--keys", "absent", "--clients", "."], "--insecure serves without keys, and keys are given"),
        (["--insecure", "--clients", "."], "go together"),
        (["--insecure", "--keys", "absent"], "go together"),
        (["--status", "[::]:9199", "--insecure"], "could be seen from other machines: bind it to 127.0.0.1, or give --public"),
        (["--keys", "absent", "--clients", "."], "no key file"),
        (["--refiner", "absent"], "neither a known name"),
        (["--bind", "nonsense"], "can be reached from other machines"),
        (["--bind", "tcp://127.0.0.1:99999", "--status", "none"], "port 99999 does not exist"),
    ],
)
def test_what_is_unsafe_or_impossible_is_one_line_and_exit_2(arguments, message, capsys):
    assert main(["serve", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_address_that_is_taken_is_one_line_and_exit_2(server, capsys):
    assert main(["serve", "--bind", server.address, "--status", "none"]) == 2
    assert f"cannot bind {server.address}: Address already in use" in capsys.readouterr().err
    assert main(["serve", "--bind", "tcp://127.0.0.1:*", "--status", server.page[7:-1]]) == 2
    assert "cannot bind the status page" in capsys.readouterr().err


def test_a_public_bind_is_possible_with_keys_or_on_purpose(keys):
    script = """
import sys
from diffjscc.serve.server import Server
class Nothing:
    refiners, memory = ("none",), dict
folder = sys.argv[1]
Server(Nothing(), "tcp://0.0.0.0:*", server_keys=f"{folder}/server", clients=f"{folder}/clients").close()
Server(Nothing(), "tcp://0.0.0.0:*", insecure=True).close()
"""
    assert subprocess.run([sys.executable, "-c", script, str(keys)], timeout=60).returncode == 0


@pytest.mark.parametrize(
    "address, expected",
    [
        ("tcp://[::1]:1", True),
        ("tcp://[::]:*", True),
        ("tcp://127.0.0.1:1", False),
        ("tcp://*:1", False),
        ("tcp://localhost:1", False),
        ("ipc:///tmp/x", False),
        ("tcp://no.such.name.invalid:1", False),
    ],
)
def test_which_addresses_need_ipv6(address, expected):
    assert is_ipv6(address) is expected


@pytest.mark.parametrize(
    "address, local",
    [
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.8.8.8:*", True),
        ("tcp://localhost:1", True),
        ("tcp://[::1]:1", True),
        ("ipc:///tmp/x", True),
        ("tcp://10.0.0.1:1", False),
        ("tcp://eth0:1", False),
        ("tcp://127.0.0.1.evil.com:1", False),
        ("pgm://127.0.0.1:1", False),
    ],
)
def test_which_addresses_other_machines_can_reach(address, local):
    assert is_local(address) is local
