"""The Ray cluster that workers run on: whether it answers, and whether it has room for them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping

import ray

from dreadnode_engine.errors import Refused
from dreadnode_engine.settings import GIB, Settings

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
"""How long what listens there may take to answer as Ray does. Ray itself would try for minutes."""


def connect(settings: Settings) -> list[dict[str, float]]:
    """Join the cluster of SETTINGS, and return the resources of each of its machines.

    Raises:
        Refused: no cluster answers, or this machine is not part of it.
    """
    address = settings.ray_address
    _check_answers(str(address))
    # Ray would write a stack trace whenever the engine is asked to end.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    try:
        ray.init(address=address, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as problem:
        raise Refused(
            f"This machine is not part of the Ray cluster at {address} ({_line(str(problem), 0)}); "
            "run `ray start --address=…` on it, or start the engine on a machine of the cluster"
        ) from None
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _check_answers(address: str) -> None:
    silent = Refused(
        f"No Ray cluster answers at {address}; start one with `ray start --head`, or set "
        "`--ray-address` to its HOST:PORT"
    )
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError):
            raise silent from None
    # In a process of its own: within this one, nothing can end a connection that waits.
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        check = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise silent from None
    if check.returncode != 0:
        raise Refused(f"The Ray cluster at {address} cannot be used: {_line(check.stderr, -1)}")


def _line(text: str, index: int) -> str:
    lines = text.strip().splitlines()
    return lines[index].strip() if lines else "Ray does not say why"


def needs_of_a_worker(
    settings: Settings, machines: Iterable[Mapping[str, float]]
) -> dict[str, float]:
    """Return what a worker asks Ray for, by the names of Ray's resources.

    Raises:
        Refused: The MACHINES have too little for all workers.
    """
    machines = list(machines)
    if settings.device == "cuda":
        needs = {"GPU": 1.0}
    else:
        needs = {"CPU": float(settings.threads or _threads(settings.workers, machines))}
        if settings.memory_gib is not None:
            needs["memory"] = settings.memory_gib * GIB
    if (room := _room(needs, machines)) < settings.workers:
        raise Refused(
            f"The Ray cluster at {settings.ray_address} has room for {room} of {settings.workers} "
            f"workers: each needs {_describe(needs)} of one machine; add machines, or start fewer "
            "workers"
        )
    return needs


def _threads(workers: int, machines: list[Mapping[str, float]]) -> int:
    """Return the largest number of cores that each of the WORKERS can have."""
    most = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
    fitting = (n for n in range(most, 1, -1) if _room({"CPU": n}, machines) >= workers)
    return next(fitting, 1)


def _room(needs: Mapping[str, float], machines: Iterable[Mapping[str, float]]) -> int:
    return sum(
        min(int(machine.get(name, 0) // amount) for name, amount in needs.items())
        for machine in machines
    )


def _describe(needs: Mapping[str, float]) -> str:
    if "GPU" in needs:
        return "1 GPU"
    cores = f"{needs['CPU']:g} CPU core{'s' if needs['CPU'] > 1 else ''}"
    return f"{cores} and {needs['memory'] / GIB:g} GiB" if "memory" in needs else cores
