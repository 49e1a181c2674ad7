"""Ray drivers that run as separate programs, to check their own stdout and stderr. Run with ``-m`` and a name."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import ray

from meshlog_handler import SettingError
from meshlog_handler.integrations.ray import attach

from . import ray_programs as programs


def start(**options: Any) -> None:
    """Start a small Ray here."""
    ray.init("local", num_cpus=1, include_dashboard=False, **options)


def say(text: str) -> None:
    """Run a task that says something."""
    ray.get(ray.remote(programs.say).remote(text))


def attach_and_detach(log_to_driver: str) -> None:
    """Run the task before, while and after Ray is attached; then attach again, and end without detaching."""
    try:
        attach()
    except SettingError as refused:
        print(refused)
    start(log_to_driver=log_to_driver == "True")
    say("before")
    logs = attach()
    say("attached")
    logs.drain_and_stop()
    say("detached")
    sys.stdin.read()
    attach(relay=True)
    say("at the end")


def own_hook() -> None:
    """Set a hook of the job itself that joins; at the end, shut down Ray before the client."""
    start(runtime_env={"worker_process_setup_hook": programs.hook})
    try:
        attach()
    except SettingError as refused:
        print(refused)
    logs = attach(hooked=True, relay=True)
    say("hooked")
    logs.flush()
    ray.shutdown()
    logs.drain_and_stop()
    assert not ray.is_initialized()


def ours_as_hook() -> None:
    """Give our hook to Ray in the documented way, and have Ray configure logging in the workers."""
    hook = {"worker_process_setup_hook": "meshlog_handler.integrations.ray.join"}
    start(runtime_env=hook, logging_config=ray.LoggingConfig(encoding="TEXT"))
    attach()
    say("hooked")


def init_again() -> None:
    """Start Ray and attach, three times, and never detach: the ids of jobs and workers repeat."""
    for time in ("first", "second", "third"):
        start()
        logs = attach()
        say(time)
        logs.flush()
        ray.shutdown()


def killed(address: str) -> None:
    """Attach to a cluster, create an actor that outlives this driver, then get killed."""
    ray.init(address=address, log_to_driver=False, namespace="killed")
    attach()
    options = {"name": "left", "lifetime": "detached", "max_restarts": 1, "num_cpus": 0}
    ray.get(ray.remote(programs.Counter).options(**options).remote().say.remote("x"))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
