"""Ray takes a ``worker_process_setup_hook`` in `ray.init` only. Here is how a driver gets one later, for what it submits.

The hook stands in the environment of the worker processes, and so in the runtime environment of a task or an actor: what
these submit themselves inherits it from them, as all of a runtime environment.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, Final

import ray

from ...errors import SettingError
from .worker import JOIN, this_process

# Private, as of Ray 2.60: the variable in which Ray hands on a hook, and the methods that all submissions go through.
HOOK: Final = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
UNHOOKED: Final = {"env_vars": {HOOK: ""}}
"""The runtime environment of tasks and actors whose processes are not to join."""

_TIME: Final = "MESHLOG_RAY_ATTACHED"  # tells the processes of one time from those of another, which have left already

_drivers: dict[str, str] = {}
_undo: list[Any] = []


def is_hooked() -> bool:
    """Tell whether this job's own hook is `join`.

    Raises
    ------
    SettingError
        If it is another.
    """
    hook = _env_vars(ray.get_runtime_context().runtime_env).get(HOOK)
    if hook is not None and not hook.startswith(f"{__package__}."):
        raise SettingError(
            "this job has a worker_process_setup_hook of its own. Call meshlog_handler.integrations.ray.join() in it, and "
            "attach(hooked=True)."
        )
    return hook is not None


def hook_in(driver: str) -> None:
    """Let the tasks and actors that `driver`, this process, submits from here on run where `join` was called first.

    Raises
    ------
    SettingError
        If this version of Ray cannot be told so.
    """
    try:
        from ray._private.utils import get_runtime_env_info
        from ray.actor import ActorClass
        from ray.remote_function import RemoteFunction

        submit, create = RemoteFunction._remote, ActorClass._remote
    except (ImportError, AttributeError) as cause:
        raise SettingError(
            f"Ray {ray.__version__} takes no hook after ray.init(), as far as is known ({cause}). Instead, call "
            f'ray.init(runtime_env={{"worker_process_setup_hook": "meshlog_handler.integrations.ray.join"}}) before attach().'
        ) from cause
    _drivers[driver] = os.urandom(8).hex()
    if _undo:
        return

    @functools.wraps(submit)
    def submit_hooked(
        self: Any, args: Any = None, kwargs: Any = None, serialized_runtime_env_info: str | None = None, **options: Any
    ) -> Any:
        if (time := _attached()) is not None:
            serialized_runtime_env_info = get_runtime_env_info(_hooked(options.get("runtime_env"), time), serialize=True)
        return submit(self, args, kwargs, serialized_runtime_env_info, **options)

    @functools.wraps(create)
    def create_hooked(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        if (time := _attached()) is not None:
            options["runtime_env"] = _hooked(options.get("runtime_env"), time)
        return create(self, args, kwargs, **options)

    RemoteFunction._remote, ActorClass._remote = submit_hooked, create_hooked

    def undo() -> None:
        RemoteFunction._remote, ActorClass._remote = submit, create

    _undo.append(undo)


def hook_off(driver: str) -> None:
    """Undo `hook_in`."""
    _drivers.pop(driver, None)
    if not _drivers:
        while _undo:
            _undo.pop()()


def _attached() -> str | None:
    """Return when this driver has attached; None if it has not, or has left the cluster where it did."""
    return _drivers.get(this_process()) if ray.is_initialized() else None


def _hooked(environment: Mapping[str, Any] | None, time: str) -> Any:
    """Return a runtime environment with the hook, unless it has one."""
    from ray.runtime_env import RuntimeEnv

    return RuntimeEnv(**{**(environment or {}), "env_vars": {HOOK: JOIN, _TIME: time, **_env_vars(environment)}})


def _env_vars(environment: Mapping[str, Any] | None) -> dict[str, str]:
    return (environment or {}).get("env_vars") or {}
