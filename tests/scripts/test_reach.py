"""How the boxes of a pool are told to find each other: options, the file's [pool], and what each process gets."""

import shlex
from pathlib import Path

import pytest

from tokenyard.broker.config import RunDir
from tokenyard.broker.curve import read_keys
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import SetupError
from tokenyard.scripts.placement import WorkerRow
from tokenyard.scripts.plan import Plan, Wishes, fleet_commands, make_plan
from tokenyard.scripts.pool_dir import find_broker, note_broker
from tokenyard.scripts.pool_keys import make_keys
from tokenyard.scripts.reach import Reach
from tokenyard.scripts.supervisor import Supervisor

WORKER = '[[worker]]\nmodel = "demo"\ndevice = "cpu"\n'


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["box2"])
    return tmp_path / "keys"


def plan(folder: Path, pool: str, **wishes: object) -> Plan:
    path = folder / "fleet.toml"
    path.write_text(f"{WORKER}[pool]\n{pool}\n")
    return make_plan(Wishes(reach=Reach(**wishes)), path)  # type: ignore[arg-type]


def test_each_process_of_the_brokers_box_gets_what_it_needs(tmp_path: Path, keys: Path) -> None:
    made = plan(tmp_path, f'bind = "tcp://0.0.0.0:7420"\nkeys = "{keys}"')
    pair = ["--keys", str(keys)]
    assert made.broker_arguments(Path("/run"))[1:5] == ["--bind", "tcp://0.0.0.0:7420", *pair]
    assert made.front_arguments(Path("/run"), 3, 0)[1:3] == pair
    worker = made.worker_arguments(Path("/run"), WorkerRow("demo", "cpu", None))
    assert worker[worker.index("--keys") :][:2] == pair
    assert "--bind" not in worker, "fronts of this box are near"


def test_another_boxs_workers_get_the_brokers_endpoint(tmp_path: Path, keys: Path) -> None:
    pool = f'broker = "tcp://box1:7420"\nworkers_bind = "tcp://10.0.0.2:7500-7509"\nkeys = "{keys / "for" / "box2"}"'
    made = plan(tmp_path, pool, advertise="box2.lan")
    worker = shlex.join(made.worker_arguments(Path("/run"), WorkerRow("demo", "cpu", None)))
    assert f"--broker tcp://box1:7420 --bind tcp://10.0.0.2:7500-7509 --advertise box2.lan --keys {keys}" in worker


def test_the_command_line_goes_before_the_file(tmp_path: Path, keys: Path) -> None:
    made = plan(tmp_path, f'broker = "tcp://box1:7420"\nkeys = "{keys}"', broker="tcp://box9:1")
    assert (made.reach.broker, made.reach.keys) == ("tcp://box9:1", keys)


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ('bind = "tcp://0.0.0.0:7420"', "what leaves this machine must be encrypted"),
        ('broker = "tcp://box1:7420"', "what leaves this machine must be encrypted"),
        ('workers_bind = "tcp://*:*"', "what leaves this machine must be encrypted"),
        ('bind = "tcp://127.0.0.1:*"', "--bind tcp://127.0.0.1:[*]: give it as tcp://HOST:PORT"),
        ('broker = "box1:7420"', "--broker box1:7420: give it as tcp://HOST:PORT"),
        ('broker = "tcp://0.0.0.0:7420"', "is no address to call"),
        ('bind = "tcp://127.0.0.1:1"\nbroker = "tcp://127.0.0.1:2"', "a pool has one broker"),
        ('advertise = "box2"', "give --workers-bind, too"),
        ('keys = "/nowhere-at-all"', "there is no /nowhere-at-all"),
        ("bind = 7420", "a string belongs here"),
    ],
)
def test_mistakes_name_the_file_and_say_what_is_wrong(tmp_path: Path, pool: str, words: str) -> None:
    with pytest.raises(SetupError, match=rf"fleet\.toml line \d: \[pool\].*{words}"):
        plan(tmp_path, pool)


def test_a_box_without_the_broker_runs_an_agent_and_fronts_only_where_they_are_named(
    tmp_path: Path, keys: Path
) -> None:
    path = tmp_path / "fleet.toml"
    pool = f'[pool]\nbroker = "tcp://box1:7420"\nkeys = "{keys / "for" / "box2"}"\n'
    path.write_text(WORKER + pool)
    assert [name for name, _ in fleet_commands(path, Path("/run"))] == ["agent"]
    path.write_text(f"{WORKER}{pool}[front]\ncount = 2\n")
    assert [name for name, _ in fleet_commands(path, Path("/run"))] == ["front-0", "front-1", "agent"]


def test_control_commands_find_the_broker_by_the_agents_run_directory(tmp_path: Path, keys: Path) -> None:
    run_dir = RunDir(tmp_path / "run").create()
    remote = BrokerAddress.of(run_dir.path, "tcp://127.0.0.1:7420", keys)
    note_broker(run_dir, remote)
    assert find_broker(run_dir.path) == remote
    other = find_broker(run_dir.path, "tcp://127.0.0.1:1", keys / "for" / "box2")
    assert (other.front, other.keys) == ("tcp://127.0.0.1:1", read_keys(keys / "for" / "box2"))
    Supervisor(make_plan(Wishes(), None), run_dir, None)  # of a pool with a broker of its own
    assert find_broker(run_dir.path).front == run_dir.front_endpoint
