"""Confines this process as far as the system allows, and says which limits hold.

Where unprivileged user namespaces are allowed, the process gets namespaces of its own: an empty
root with read-only binds of what Python needs, no network, and no other process. Landlock and a
seccomp filter are added there, and are all there is elsewhere.

| limit | with namespaces | without |
| --- | --- | --- |
| network, Unix sockets included | a network namespace, seccomp | seccomp, else Landlock for TCP |
| files | only Python's exist, read-only | Landlock: only Python's can be opened, read-only |
| mode, owner, times, attributes | read-only mounts, seccomp | seccomp |
| other processes | a process namespace, without /proc | seccomp: no signals, tracing or limits |
| memory, open files, output | resource limits | resource limits |
"""

import ctypes
import importlib
import os
import resource
import signal
import sys
import sysconfig
from pathlib import Path
from typing import Any

from dreadnode_runtime.user_code.system_calls import deny_system_calls

_NEW_NAMESPACES = 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x00020000
"""User, process, network, IPC, UTS and mount namespaces."""
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 38, 24
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV, _DETACH = 4096, 16384, 1 << 18, 2, 4, 2
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_RDONLY_ATTRIBUTE, _NOSUID_ATTRIBUTE, _NODEV_ATTRIBUTE = 1, 2, 4
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


class _Ruleset(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("files", "network", "scoped"))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def confine(memory: int, root: str, *, namespaces: bool = True) -> list[str]:
    """Confine this process, and return the limits that hold, for the job's log.

    Args:
        memory: Bytes of address space.
        root: An empty folder, on which the new root is mounted.
        namespaces: Whether to use namespaces where the system allows them.
    """
    _limit_resources(memory)
    limits = [f"at most {memory >> 20} MiB of memory"]
    if not sys.platform.startswith("linux"):
        return limits
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # The standard library loads it late, when the files may be out of reach.
    importlib.import_module("encodings.idna")
    isolated = namespaces and _enter_namespaces(libc)
    rooted = isolated and _change_root(libc, root)
    _drop_capabilities(libc)
    landlock = _restrict_files(libc)
    filtered = deny_system_calls(signals=not isolated)
    if rooted:
        alone = ["no network", "no sight of other processes"]
        return [*alone, "no files but Python's own, read-only", *limits]
    if isolated or filtered:
        limits = ["no network", *limits]
    elif landlock >= 4:
        limits = ["no TCP connections", *limits]
    if landlock:
        limits.append("no file opened but Python's own, read-only (names and sizes of others show)")
    if filtered:
        limits.append("no change of files' modes, owners, times or attributes")
        limits.append("no signals to other processes, no tracing and no change of them")
    return limits


def _limit_resources(memory: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _enter_namespaces(libc: Any) -> bool:
    """Continue in a child process that has namespaces of its own; return whether that is so."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_NAMESPACES):
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # Only a child is in the new process namespace; when it ends, so does all that it started.
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NPROC, (64, 64))
    return True


def _change_root(libc: Any, root: str) -> bool:
    """Make a new root with nothing but what Python needs; return whether that worked."""
    pivot_root = _PIVOT_ROOT.get(os.uname().machine)
    if pivot_root is None:
        return False
    try:
        _mount(libc, None, "/", None, _REC | _PRIVATE)
        _mount(libc, "tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,nr_inodes=4k,mode=755")
        for path in needed_paths():
            _bind(libc, path, root, read_only=True)
        for path in _DEVICES:
            _bind(libc, path, root, read_only=False)
        _set_attributes(libc, root, _RDONLY_ATTRIBUTE | _NOSUID_ATTRIBUTE, 0)
        os.chdir(root)
        _check(libc.syscall(pivot_root, b".", b"."), "pivot_root")
        # The old root is now mounted over the new one, at the same place.
        _check(libc.umount2(b".", _DETACH), "umount2")
        os.chdir("/")
    except OSError:
        return False
    return True


def needed_paths() -> list[str]:
    """Return the files and folders that Python needs, without those inside another of them."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = {sysconfig.get_path(name) for name in names}
    paths |= {str(Path(sys.base_prefix, "lib")), str(Path(sys.base_exec_prefix, "lib"))}
    paths |= {sys.executable, os.path.realpath(sys.executable), str(Path(sys.prefix, "pyvenv.cfg"))}
    paths |= {*_LIBRARIES, *_FILES}
    kept: list[str] = []
    for path in sorted(path for path in paths if path and os.path.lexists(path)):
        if not any(path.startswith(f"{folder}/") for folder in kept):
            kept.append(path)
    return kept


def _bind(libc: Any, path: str, root: str, *, read_only: bool) -> None:
    """Show PATH in ROOT, at the same place."""
    source, target = Path(path), Path(root + path)
    if not os.path.lexists(path):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink() and source.is_dir():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    _mount(libc, os.path.realpath(path), str(target), None, _BIND | _REC)
    if read_only:
        attributes = _RDONLY_ATTRIBUTE | _NOSUID_ATTRIBUTE | _NODEV_ATTRIBUTE
        _set_attributes(libc, str(target), attributes, _AT_RECURSIVE)


def _mount(
    libc: Any, source: str | None, target: str, kind: str | None, flags: int, options: str = ""
) -> None:
    encoded = (None if text is None else text.encode() for text in (source, target, kind))
    _check(libc.mount(*encoded, flags, options.encode()), f"mount {target}")


def _check(failed: int, call: str) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), call)


def _set_attributes(libc: Any, path: str, attributes: int, flags: int) -> None:
    """Set mount ATTRIBUTES of PATH; unlike a remount, this reaches the mounts below it."""
    wanted = _MountAttributes(attributes, 0, 0, 0)
    size = ctypes.sizeof(wanted)
    arguments = (_AT_FDCWD, path.encode(), flags, ctypes.byref(wanted), size)
    _check(libc.syscall(_MOUNT_SETATTR, *arguments), f"mount_setattr {path}")


def _drop_capabilities(libc: Any) -> None:
    """Give up every capability, those inside a user namespace too."""
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capset(header, nothing)


def _restrict_files(libc: Any) -> int:
    """Close the file system with Landlock, but for what Python needs; return its version, or 0."""
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return 0
    files = (1 << 13) - 1  # Version 1 knows 13 kinds of access; later ones add to them.
    files |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    files |= 1 << 15 if version >= 5 else 0
    rules = _Ruleset(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return 0
    for path in (*needed_paths(), *_DEVICES):
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = _EXECUTE | _READ_FILE | (_READ_DIR if Path(path).is_dir() else 0)
        beneath = _PathBeneath(allowed, folder)
        libc.syscall(_ADD_RULE, ruleset, 1, ctypes.byref(beneath), 0)
        os.close(folder)
    failed = libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return 0 if failed else int(version)
