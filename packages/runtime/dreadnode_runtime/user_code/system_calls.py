"""A seccomp filter: the system calls that user code may not make, by architecture.

The filter is a BPF program of the kernel (see `seccomp(2)`). A denied call fails with EPERM, so
that the code gets a `PermissionError` where it made the call.
"""

import ctypes
import errno
import os
import platform
import struct

_PR_SET_SECCOMP, _FILTER = 22, 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_NEW_NAMESPACES = 0x7E020080
"""The flags of `clone` that create a namespace."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000
"""Numbers from here on are those of x86_64's second interface, which nothing needs."""
_CLONE, _CLONE3 = (56, 220), 435
_KILL, _TGKILL, _PRLIMIT = (62, 129), (234, 131), (302, 261)

_DENIED = {
    # Sockets of every kind, Unix ones included, and another way to make them.
    "socket": (41, 198), "io_uring_setup": (425, 425),
    # Mode, owner, times and attributes of files, for which Landlock has no rule.
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "file_setattr": (469, 469),
    "mknod": (133, None), "mknodat": (259, 33),
    # Other processes and their memory.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    # Namespaces and mounts, which could undo the confinement.
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41),
    "mount": (165, 40), "umount2": (166, 39), "mount_setattr": (442, 442), "fsopen": (430, 430),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsmount": (432, 432), "fspick": (433, 433),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # Parts of the kernel that Python does not use.
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "personality": (135, 92),
}  # fmt: skip
_SIGNALS = {
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    # Priority, processors and pages of processes, for which the same user is enough.
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
}  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def deny_system_calls(*, signals: bool) -> bool:
    """Deny the calls above to this process for good; with SIGNALS, signals to others too.

    Returns:
        Whether the kernel accepted the filter.
    """
    found = _ARCHITECTURES.get(platform.machine())
    if found is None:
        return False
    code = b"".join(_instructions(*found, signals=signals))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0)


def _instructions(column: int, architecture: int, *, signals: bool) -> list[bytes]:
    denied = [*_DENIED.values(), *(_SIGNALS.values() if signals else ())]
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, architecture, 1, 0),
        _deny(errno.EPERM),
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, _X32, 0, 1),
        _deny(errno.EPERM),
    ]
    for numbers in denied:
        if (number := numbers[column]) is not None:
            code += [_instruction(_EQUAL, number, 0, 1), _deny(errno.EPERM)]
    # The flags of clone3 are in memory, which a filter cannot read; the C library then uses clone.
    code += [_instruction(_EQUAL, _CLONE3, 0, 1), _deny(errno.ENOSYS)]
    code += _if_argument(_CLONE[column], _ANY_BIT, _NEW_NAMESPACES, deny_if=True)
    if signals:
        code += _if_argument(_KILL[column], _EQUAL, os.getpid(), deny_if=False)
        code += _if_argument(_TGKILL[column], _EQUAL, os.getpid(), deny_if=False)
        code += _if_own(_PRLIMIT[column])
    return [*code, _instruction(_RETURN, _ALLOW)]


def _if_argument(number: int, test: int, value: int, *, deny_if: bool) -> list[bytes]:
    """Allow or deny call NUMBER by a TEST of the lower half of its first argument with VALUE."""
    return [
        _instruction(_EQUAL, number, 0, 4),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(test, value, *((0, 1) if deny_if else (1, 0))),
        _deny(errno.EPERM),
        _instruction(_RETURN, _ALLOW),
    ]


def _if_own(number: int) -> list[bytes]:
    """Allow call NUMBER if its first argument is this process, or 0, which means the caller."""
    return [
        _instruction(_EQUAL, number, 0, 5),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_EQUAL, 0, 2, 0),
        _instruction(_EQUAL, os.getpid(), 1, 0),
        _deny(errno.EPERM),
        _instruction(_RETURN, _ALLOW),
    ]


def _deny(error: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | error)


def _instruction(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, value)
