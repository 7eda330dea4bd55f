"""Plans by shares: a router for each route in use, and NGINX weights in front."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from planner.export.nginx_split import SPLIT_SCRIPT
from planner.export.vllm import export_vllm
from planner.export.vllm_rules import caveats
from planner.flow_routing import with_shares
from planner.kv_flow import RouteShare
from tests.planner.export.conftest import Run
from tests.planner.export.plans import shares, two_slices

NGINX = """#!/usr/bin/env bash
[[ "$1 $3" == "-p -c" && "$4" == "$2"* ]] && cat "$4"
"""
"""A stand-in that prints the configuration it is given, in the folder it is given."""


def run_split(folder: Path, hosts: str | None = None) -> subprocess.CompletedProcess:
    """Run the script of `shares` with `hosts` in place of its addresses."""
    files = export_vllm(shares())
    for name in ("hosts.env", SPLIT_SCRIPT):
        (folder / name).write_text(files[name], encoding="utf-8")
    if hosts is not None:
        with (folder / "hosts.env").open("a", encoding="utf-8") as file:
            file.write(hosts)
    (folder / "nginx").write_text(NGINX)
    (folder / "nginx").chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(folder / SPLIT_SCRIPT)],
        env={"PATH": path, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


def test_weights_are_the_shares_of_the_routes(tmp_path):
    done = run_split(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    servers = re.findall(r"server (\S+):(\d+) weight=(\d+);", done.stdout)
    # All three routers are on the node of the prefill replicas.
    assert servers == [
        ("node0", "30000", "400"),
        ("node0", "30001", "100"),
        ("node0", "30002", "500"),
    ]
    assert done.stdout.count("{") == done.stdout.count("}")
    assert "listen 8000;" in done.stdout


def test_what_nginx_writes_and_deletes_is_in_a_folder_of_its_own(tmp_path):
    """It deletes its pid file when it ends: as root, even a device."""
    done = run_split(tmp_path)
    assert "/dev/" not in done.stdout
    assert re.search(r"^pid nginx\.pid;$", done.stdout, re.MULTILINE)
    paths = re.findall(r"(\w+)_temp_path (\S+);", done.stdout)
    assert len(paths) == 5
    assert all(name == path for name, path in paths)
    # Two connections a request: the 512 of NGINX are 256 requests under way.
    assert int(re.findall(r"worker_connections (\d+);", done.stdout)[0]) >= 16_384


def test_each_router_has_the_two_ends_of_its_route(run_script: Run):
    files = export_vllm(shares())
    ends = []
    for number in range(3):
        argv, _ = run_script(files, f"router-{number}.sh")
        prefill, decode = argv.index("--prefill"), argv.index("--decode")
        assert (argv.count("--prefill"), argv.count("--decode")) == (1, 1)
        ends.append((argv[prefill + 1], argv[decode + 1]))
    assert ends == [
        ("http://node0:8100", "http://node1:8100"),
        ("http://node0:8100", "http://node1:8101"),
        ("http://node0:8101", "http://node1:8101"),
    ]


@pytest.mark.parametrize("address", ["a; }", "a b", "$(id)", ""])
def test_an_address_that_would_be_a_directive_stops_the_script(tmp_path, address):
    done = run_split(tmp_path, f"HOST_0='{address}'\n")
    assert done.returncode == 2
    assert "HOST_0: not an address" in done.stderr
    assert done.stdout == ""


def test_only_plans_by_shares_are_split():
    assert SPLIT_SCRIPT not in export_vllm(two_slices())
    assert any("NGINX" in text for text in caveats(shares()))
    assert not any("its share is 0" in text for text in caveats(shares()))
    alone = [RouteShare(source="prefill-1", target="decode-1", share_frac=1.0)]
    one = replace(shares(), deployment=with_shares(shares().deployment, alone))
    assert "No request goes to prefill-0, decode-0: its share is 0." in caveats(one)
    assert not any("NGINX" in text for text in caveats(one))
    assert SPLIT_SCRIPT not in export_vllm(one)  # one router has nothing to share out
    readme = export_vllm(shares())["README.md"]
    assert "router of 2 replicas, 40.0%" in readme
    assert "Clients talk to its port" in readme
