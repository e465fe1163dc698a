"""What the seccomp mechanism knows of the kernel's layouts, and which calls its filters are about."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from struct import Struct, pack

import pytest

from privbind.grant.decision import may_concern
from privbind.grant.grant import Grant
from privbind.grant.policy import Policy, Ports
from privbind.grant.site import Site
from privbind.linux import binds, call, landlock, notify, seccomp, sockets, target
from privbind.linux.call import UnknownMachineError

SYMBOLS = {
    "SECCOMP_IOCTL_NOTIF_RECV": notify.RECEIVE,
    "SECCOMP_IOCTL_NOTIF_SEND": notify.SEND,
    "SECCOMP_IOCTL_NOTIF_ID_VALID": notify.ID_VALID,
    "SECCOMP_IOW(4, __u64)": notify._SET_FLAGS,  # in the headers by its name from 6.6 on
    "SECCOMP_USER_NOTIF_FLAG_CONTINUE": notify._CONTINUE,
    "sizeof(struct seccomp_notif)": notify._NOTIFICATION.size,
    "offsetof(struct seccomp_notif, pid)": 8,
    "offsetof(struct seccomp_notif, data.nr)": 16,
    "offsetof(struct seccomp_notif, data.arch)": 20,
    "offsetof(struct seccomp_notif, data.args)": 32,
    "sizeof(struct seccomp_notif_resp)": notify._ID.size + notify._RESULT.size,
    "offsetof(struct seccomp_notif_resp, val)": 8,
    "offsetof(struct seccomp_notif_resp, error)": 16,
    "offsetof(struct seccomp_notif_resp, flags)": 20,
    "offsetof(struct seccomp_data, nr)": seccomp._NUMBER,
    "offsetof(struct seccomp_data, arch)": seccomp._ARCH,
    "offsetof(struct seccomp_data, args)": seccomp._ARGS,
    "SECCOMP_SET_MODE_FILTER": seccomp._SET_MODE_FILTER,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": seccomp._NO_MITIGATION,
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": seccomp._NEW_LISTENER,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": seccomp._WAIT_KILLABLE,
    "SECCOMP_RET_USER_NOTIF": seccomp._RET_USER_NOTIF,
    "SECCOMP_RET_ALLOW": seccomp._RET_ALLOW,
    "SECCOMP_RET_KILL_PROCESS": seccomp._RET_KILL_PROCESS,
    "BPF_LD | BPF_W | BPF_ABS": seccomp._LOAD,
    "BPF_JMP | BPF_JEQ | BPF_K": seccomp._JUMP_EQUAL,
    "BPF_JMP | BPF_JGE | BPF_K": seccomp._JUMP_AT_LEAST,
    "BPF_JMP | BPF_JSET | BPF_K": seccomp._JUMP_ANY_BIT,
    "BPF_RET | BPF_K": seccomp._RETURN,
    "AUDIT_ARCH_X86_64": binds.X86_64,
    "AUDIT_ARCH_I386": binds.I386,
    "AUDIT_ARCH_AARCH64": binds.AARCH64,
    "AUDIT_ARCH_ARM": binds.ARM,
    "SYS_BIND": binds._SYS_BIND,
    "sizeof(struct sockaddr_in)": sockets.MIN_ADDRESS,
    "sizeof(struct sockaddr_storage)": sockets.MAX_ADDRESS,
    "sizeof(struct iovec) * 2": target._VECTORS.size,
    "O_EXCL": target._PIDFD_THREAD,
    "LANDLOCK_ACCESS_FS_READ_FILE": landlock._READ_FILE,
    "LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1": landlock._ALL_OF_FIRST_VERSION,
    "LANDLOCK_RULE_PATH_BENEATH": landlock._RULE_PATH_BENEATH,
    "sizeof(struct landlock_path_beneath_attr)": landlock._PATH_BENEATH.size,
}


def test_constants_and_layouts_are_the_headers(tmp_path: Path) -> None:
    """What the C compiler says of each."""
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc")
    headers = ("fcntl", "stddef", "stdio", "sys/ioctl", "sys/socket", "sys/uio", "netinet/in")
    linux = ("audit", "filter", "landlock", "net", "seccomp")
    lines = [f"#include <{name}.h>" for name in (*headers, *(f"linux/{name}" for name in linux))]
    lines += ["int main(void) {", *(f'printf("%llu\\n", (unsigned long long)({name}));' for name in SYMBOLS), "}"]
    source = tmp_path / "values.c"
    source.write_text("\n".join(lines))
    subprocess.run(["cc", "-o", tmp_path / "values", source], check=True)
    values = subprocess.run([tmp_path / "values"], capture_output=True, text=True, check=True).stdout.split()
    told = {name: int(value) & (1 << 32) - 1 for name, value in zip(SYMBOLS, values, strict=True)}
    assert told == SYMBOLS


INSTRUCTION = Struct("=HBBI")
NOTIFY, ALLOW, KILL = "notify", "allow", "kill"
ACTIONS = {seccomp._RET_USER_NOTIF: NOTIFY, seccomp._RET_ALLOW: ALLOW, seccomp._RET_KILL_PROCESS: KILL}


def run(code: list[bytes], arch: int, number: int, *args: int) -> str:
    """What a filter says to a system call: the few instructions that ours are made of, as the kernel runs them."""
    data = pack("=IIQ6Q", number, arch, 0, *args, *(0,) * (6 - len(args)))
    at, value = 0, 0
    while True:
        kind, yes, no, operand = INSTRUCTION.unpack(code[at])
        at += 1
        if kind == seccomp._LOAD:
            value = int.from_bytes(data[operand : operand + 4], "little")
        elif kind == seccomp._JUMP_EQUAL:
            at += yes if value == operand else no
        elif kind == seccomp._JUMP_AT_LEAST:
            at += yes if value >= operand else no
        elif kind == seccomp._JUMP_ANY_BIT:
            at += yes if value & operand else no
        else:
            assert kind == seccomp._RETURN
            return ACTIONS[operand]


class TestFilter:
    """Which calls are handed to the helper."""

    X86 = (
        (binds.X86_64, 49, (3, 1, 16), NOTIFY),
        (binds.X86_64, 49 | 0x40000000, (3, 1, 128), NOTIFY),
        (binds.I386, 361, (3, 1, 28), NOTIFY),
        (binds.I386, 102, (2, 1), NOTIFY),
        (binds.I386, 102, (1, 1), ALLOW),  # socket
        (binds.I386, 102, (2 | 1 << 32, 1), NOTIFY),  # the kernel looks at the low half only
        (binds.X86_64, 49, (3, 1, 15), ALLOW),
        (binds.X86_64, 49, (3, 1, 129), ALLOW),
        (binds.X86_64, 49, (3, 1, 0xFFFFFFFF), ALLOW),
        (binds.X86_64, 49, (3, 1, 16 | 1 << 32), NOTIFY),
        (binds.X86_64, 50, (3, 1, 16), ALLOW),
        (binds.X86_64, 361, (3, 1, 16), ALLOW),
        (binds.X86_64, 102, (2, 1), ALLOW),
        (binds.I386, 49, (3, 1, 16), ALLOW),
        (binds.AARCH64, 49, (3, 1, 16), ALLOW),
    )
    ARM = (
        (binds.AARCH64, 200, (3, 1, 16), NOTIFY),
        (binds.ARM, 282, (3, 1, 128), NOTIFY),
        (binds.AARCH64, 282, (3, 1, 16), ALLOW),
        (binds.ARM, 200, (3, 1, 16), ALLOW),
        (binds.AARCH64, 200, (3, 1, 12), ALLOW),
    )

    @pytest.mark.parametrize(("machine", "rows"), [("x86_64", X86), ("aarch64", ARM)])
    def test_table(
        self, monkeypatch: pytest.MonkeyPatch, machine: str, rows: tuple[tuple[int, int, tuple[int, ...], str], ...]
    ) -> None:
        """Architecture, number, arguments, and what comes of it."""
        monkeypatch.setattr(call, "_MACHINE", machine)
        code = seccomp.notify_binds()
        for arch, number, args, expected in rows:
            assert run(code, arch, number, *args) == expected, (hex(arch), number, args)

    def test_another_machine_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With its name, and no guess."""
        monkeypatch.setattr(call, "_MACHINE", "riscv64")
        with pytest.raises(UnknownMachineError, match="riscv64"):
            seccomp.notify_binds()

    def test_ioctl_of_the_helper(self) -> None:
        """Only the requests named; ioctl without any named kills."""
        arch, ioctl = seccomp.audit_arch(), call.number("ioctl")
        code = seccomp.allow_only(("close",), (notify.SEND, notify.RECEIVE))
        assert run(code, arch, ioctl, 3, notify.SEND) == ALLOW
        assert run(code, arch, ioctl, 3, notify.RECEIVE | 1 << 32) == ALLOW
        assert run(code, arch, ioctl, 3, notify.ID_VALID) == KILL
        assert run(code, arch, call.number("close"), 3) == ALLOW
        assert run(code, arch, call.number("mmap"), 0, 1, 3) == ALLOW
        assert run(code, arch, call.number("mmap"), 0, 1, 7) == KILL
        assert run(code, 0x40000003, call.number("close"), 3) == KILL
        assert run(seccomp.allow_only(("close",)), arch, ioctl, 3, notify.SEND) == KILL


class TestArguments:
    """What bind is called with, as the kernel takes it of the registers."""

    @staticmethod
    def no_memory(tid: int, address: int, size: int) -> bytes:
        """What reads memory where none is to be read."""
        raise AssertionError((tid, address, size))

    def test_registers(self) -> None:
        """Descriptor and length are ints of 32 bits, signed; the pointer is as wide as the register."""
        direct = binds.BindCall(binds.X86_64, 49)
        args = (1 << 32 | 7, 0x7FFF_1234_5678, 1 << 32 | 16, 0, 0, 0)
        assert direct.arguments(args, self.no_memory, 5) == (7, 0x7FFF_1234_5678, 16)
        assert direct.arguments((0xFFFFFFFF, 0, 0xFFFFFFFF, 0, 0, 0), self.no_memory, 5) == (-1, 0, -1)

    def test_socketcall(self) -> None:
        """Three words in memory."""
        asked = []

        def read(tid: int, address: int, size: int) -> bytes:
            asked.append((tid, address, size))
            return pack("=3I", 7, 0xFFFF1234, 16)

        old = binds.BindCall(binds.I386, 102, socketcall=True)
        assert old.arguments((2, 0xFFFF0000, 0, 0, 0, 0), read, 5) == (7, 0xFFFF1234, 16)
        assert asked == [(5, 0xFFFF0000, 12)]


@pytest.mark.parametrize(
    ("family", "port", "expected"),
    [
        *((2, 80, True), (10, 1023, True), (0, 1, True), (2, 0, False), (2, 1024, False), (1, 80, False)),
        *((16, 80, False), (2, 8080, True), (10, 8080, True), (0, 8080, True), (1, 8080, False), (2, 8081, False)),
    ],
)
def test_a_quick_look_at_an_address(family: int, port: int, expected: bool) -> None:
    """Whether a bind could be granted, or its port be one that -r names, before anything is known of the socket."""
    address = pack("=H", family) + port.to_bytes(2, "big") + bytes(12)
    assert may_concern(Grant(Policy(None), 0, [Ports(8080, 8080)]), Site(0, 1024), address) is expected


class TestPage:
    """The request and its answer, in memory that a successor finds."""

    @pytest.fixture
    def listener(self, monkeypatch: pytest.MonkeyPatch) -> notify.Listener:
        """One that belongs to no filter, on a page with a request in it; it counts what it sends."""
        page = notify.new_page()
        listener = notify.Listener(0, page)
        sent: list[bytes] = []
        monkeypatch.setattr(listener, "_send", lambda: sent.append(bytes(page[80:104])))
        monkeypatch.setattr(listener, "sent", sent, raising=False)
        page[:8] = pack("=Q", 7)
        return listener

    def test_undecided(self, listener: notify.Listener) -> None:
        """The kernel goes on."""
        listener.take_over()
        assert listener.sent == [pack("=QqiI", 7, 0, 0, 1)]  # type: ignore[attr-defined]

    def test_decided(self, listener: notify.Listener) -> None:
        """The answer that was written but perhaps not sent."""
        listener._page[80:104] = pack("=QqiI", 7, 0, -98, 0)
        listener.take_over()
        assert listener.sent == [pack("=QqiI", 7, 0, -98, 0)]  # type: ignore[attr-defined]

    def test_half_written(self, listener: notify.Listener) -> None:
        """An answer without its id is none."""
        listener._page[80:104] = pack("=QqiI", 0, 0, -98, 0)
        listener.take_over()
        assert listener.sent == [pack("=QqiI", 7, 0, 0, 1)]  # type: ignore[attr-defined]

    def test_nothing(self, listener: notify.Listener) -> None:
        """No request, no answer."""
        listener._page[:8] = bytes(8)
        listener.take_over()
        assert listener.sent == []  # type: ignore[attr-defined]
