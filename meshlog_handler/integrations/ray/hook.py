"""Adds a ``worker_process_setup_hook`` after `ray.init`, which is the only place where Ray accepts one.

Ray passes the hook in the environment of worker processes, so it can be part of the runtime environment of a task or an
actor. Tasks and actors that those submit inherit it with the runtime environment.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, Final

import ray

from ...errors import SettingError
from .worker import JOIN, process_name

# Private, as of Ray 2.60: the variable in which Ray passes a hook, and the methods that make all submissions.
HOOK: Final = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
UNHOOKED: Final = {"env_vars": {HOOK: ""}}
"""The runtime environment of tasks and actors whose processes must not join."""

_TOKEN: Final = "MESHLOG_RAY_ATTACHED"  # separates new processes from those that have detached

_drivers: dict[str, str] = {}
_undo: list[Any] = []


def is_hooked() -> bool:
    """Return whether the hook of this job is `join`; raise `SettingError` if it is another hook."""
    hook = _env_vars(ray.get_runtime_context().runtime_env).get(HOOK)
    if hook is not None and not hook.startswith(f"{__package__}."):
        raise SettingError(
            "this job already has a worker_process_setup_hook. Call meshlog_handler.integrations.ray.join() in that hook, and "
            "use attach(hooked=True)."
        )
    return hook is not None


def hook_in(driver: str) -> None:
    """Run `join` first in the processes of later tasks and actors of `driver`, this process.

    Raise `SettingError` if this version of Ray does not support it.
    """
    try:
        from ray._private.utils import get_runtime_env_info
        from ray.actor import ActorClass
        from ray.remote_function import RemoteFunction

        submit, create = RemoteFunction._remote, ActorClass._remote
    except (ImportError, AttributeError) as cause:
        raise SettingError(
            f"Ray {ray.__version__} does not support a hook after ray.init() ({cause}). Call "
            f'ray.init(runtime_env={{"worker_process_setup_hook": "meshlog_handler.integrations.ray.join"}}) before attach().'
        ) from cause
    _drivers[driver] = os.urandom(8).hex()
    if _undo:
        return

    @functools.wraps(submit)
    def submit_hooked(
        self: Any, args: Any = None, kwargs: Any = None, serialized_runtime_env_info: str | None = None, **options: Any
    ) -> Any:
        if (token := _attached()) is not None:
            serialized_runtime_env_info = get_runtime_env_info(_hooked(options.get("runtime_env"), token), serialize=True)
        return submit(self, args, kwargs, serialized_runtime_env_info, **options)

    @functools.wraps(create)
    def create_hooked(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        if (token := _attached()) is not None:
            options["runtime_env"] = _hooked(options.get("runtime_env"), token)
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
    """Return the token of the attachment of this driver; None if it has not attached, or has left that cluster."""
    return _drivers.get(process_name()) if ray.is_initialized() else None


def _hooked(environment: Mapping[str, Any] | None, token: str) -> Any:
    """Return `environment` with the hook, unless it already has one."""
    from ray.runtime_env import RuntimeEnv

    return RuntimeEnv(**{**(environment or {}), "env_vars": {HOOK: JOIN, _TOKEN: token, **_env_vars(environment)}})


def _env_vars(environment: Mapping[str, Any] | None) -> dict[str, str]:
    return (environment or {}).get("env_vars") or {}
