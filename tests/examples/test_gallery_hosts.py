"""Hosts of the gallery print what is kept beside them, on both backends and with both engines; the
servers among them have many clients (thousands with PYBPFVM_LONG=1). The twins that hosts catch are
caught, and each folder has a page."""

from __future__ import annotations

import os
from functools import partial

import pytest

from pybpfvm.examples.clients import Client
from pybpfvm.scenario import parse, run_scenario
from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.verifier.verdict import Accepted
from tests.support.example_hosts import EXAMPLES, host_of
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

TOPICS = sorted(path.parent.name for path in EXAMPLES.glob("*/twin.bpf.c"))
HOSTS = sorted(path.parent.name for path in EXAMPLES.glob("[12]?_*/*_host.py"))
# In the others a host would do what the scenario does.
LOOP_HOSTS = sorted(path.parent.name for path in EXAMPLES.glob("loop_*/*_host.py"))
LOOP_SERVERS = {"loop_accept": 5000, "loop_echo": 2000}
SERVERS = {"20_accept_loop": 5000, "21_echo": 4000, "22_parser": 3000, "23_proxy": 1500}


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_says_how_to_run_it_and_its_twin(topic: str) -> None:
    page = (EXAMPLES / topic / "README.md").read_text()
    assert f"examples/{topic}/" in page
    assert "**Its twin**" in page


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if topic[0].isdigit()])
def test_the_second_series_is_accepted_without_a_warning(topic: str) -> None:
    contract = (EXAMPLES / topic / "contract.toml").read_text()
    with Machine() as machine:
        obj = machine.load(EXAMPLES / topic / "prog.v2.bpf.o", abi="iouring-v2")
        for program in obj.programs.values():
            verdict = program.verify(contract=contract)
            assert isinstance(verdict, Accepted)
            assert verdict.warnings == ()


def test_every_program_of_the_gallery_has_a_host() -> None:
    assert [topic for topic in TOPICS if topic[0] in "12"] == HOSTS
    assert len(HOSTS) == 17
    for topic in HOSTS:
        (host,) = (EXAMPLES / topic).glob("*_host.py")
        page = (EXAMPLES / topic / "README.md").read_text()
        assert f"    python examples/{topic}/{host.name} --backend kernel\n" in page


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize(("version", "engine"), [("v3", "auto"), ("v2", "auto"), ("v3", "interp")])
@pytest.mark.parametrize("topic", HOSTS)
def test_host(
    topic: str, version: str, engine: str, backend: BackendName, capsys: pytest.CaptureFixture[str]
) -> None:
    need_backend(backend)
    host_of(topic).main(backend, version, engine=engine)
    assert capsys.readouterr().out == (EXAMPLES / topic / "host.out").read_text()


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize(
    ("abi", "engine"), [("loop-7.1", "auto"), ("loop-7.2", "auto"), ("loop-7.2", "interp")]
)
@pytest.mark.parametrize("topic", LOOP_HOSTS)
def test_host_of_a_loop(
    topic: str, abi: str, engine: str, backend: BackendName, capsys: pytest.CaptureFixture[str]
) -> None:
    need_backend(backend)
    host_of(topic).main(backend, abi, engine=engine)
    assert capsys.readouterr().out == (EXAMPLES / topic / "host.out").read_text()


def test_loops_of_files_and_sockets_have_hosts() -> None:
    topics = [
        "accept",
        "broadcast",
        "cat",
        "checksum",
        "copy",
        "echo",
        "group_commit",
        "lines",
        "proxy",
    ]
    assert [f"loop_{topic}" for topic in topics] == LOOP_HOSTS
    for topic in LOOP_HOSTS:
        page = (EXAMPLES / topic / "README.md").read_text()
        line = f"    python examples/{topic}/{topic}_host.py --backend kernel\n"
        assert line in page


def test_a_client_that_waits_for_ever_ends_the_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("loop_echo")
    monkeypatch.setattr(host, "client", lambda number: Client(b"", wanted=1))
    monkeypatch.setattr("pybpfvm.examples.clients._PATIENCE_S", 0.2)
    with pytest.raises(TimeoutError, match="clients wait for the server"):
        host.main("sim", "loop-7.2", 2)


def test_the_parsers_host_takes_no_error_for_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("22_parser")
    monkeypatch.setattr(host, "Ring", partial(Ring, faults="ACCEPT#3=EMFILE"))
    monkeypatch.setattr("pybpfvm.examples.clients._PATIENCE_S", 0.2)
    with pytest.raises(TimeoutError, match="clients wait for the server"):
        host.main("sim", "v3")


@pytest.mark.skipif(not os.environ.get("PYBPFVM_LONG"), reason="PYBPFVM_LONG=1: some seconds each")
@pytest.mark.kernel_ring
@pytest.mark.parametrize("topic", LOOP_SERVERS)
def test_thousands_of_clients_of_a_loop(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    need_backend("kernel")
    clients = LOOP_SERVERS[topic]
    host_of(topic).main("kernel", "loop-7.2", clients)
    out = capsys.readouterr().out
    # One of ten never says a word, or is gone before it is greeted.
    right = {"loop_accept": "greeted and let go: {};", "loop_echo": "{} heard what they said"}
    assert f"{clients} clients were served" in out
    assert right[topic].format(clients * 9 // 10) in out
    assert "False" not in out


@pytest.mark.skipif(not os.environ.get("PYBPFVM_LONG"), reason="PYBPFVM_LONG=1: some seconds each")
@pytest.mark.kernel_ring
@pytest.mark.parametrize("topic", SERVERS)
def test_thousands_of_clients(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    need_backend("kernel")
    clients = SERVERS[topic]
    wide = {"slots": 1000} if topic == "21_echo" else {}
    host_of(topic).main("kernel", "v3", clients, **wide)
    out = capsys.readouterr().out
    # One of ten never says a word, which the echo server does not hear and the greeter lets go.
    right = {
        "20_accept_loop": f"greeted and let go: {clients * 9 // 10};",
        "21_echo": f"{clients * 9 // 10} heard what they said",
        "22_parser": f"{clients} got what was theirs",
        "23_proxy": f"{clients} clients got their answers",
    }
    assert f"{clients} " in out
    assert right[topic] in out
    assert "False" not in out


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_the_host_of_two_rings_catches_its_twin(
    backend: BackendName, capsys: pytest.CaptureFixture[str]
) -> None:
    need_backend(backend)
    topic, line = "26_two_rings", "the copies are alike: False"
    assert f"The host says `{line}`" in (EXAMPLES / topic / "README.md").read_text()
    assert line not in (EXAMPLES / topic / "host.out").read_text().splitlines()
    host_of(topic).main(backend, "v3", program="twin")
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_what_could_not_be_opened_catches_its_twin(backend: BackendName) -> None:
    need_backend(backend)
    folder = EXAMPLES / "05_read_open"
    scenario = parse(folder / "scenario.toml")
    outcome = run_scenario(scenario, backend=backend, object_path=folder / "twin.v3.bpf.o")
    assert any("expect.memory.no_file" in finding.where for finding in outcome.findings)
