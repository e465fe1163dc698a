"""What the bpf mechanism knows of the kernel's layouts, and what it says when something is missing there."""

from __future__ import annotations

import os
import posix
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from privbind.errors import UnsupportedError
from privbind.grant.grant import Grant
from privbind.grant.policy import Policy, parse_ports
from privbind.inspect import watch_program
from privbind.linux import bpf, capabilities, cgroup, ring
from privbind.mechanisms.bpf import compiler, features, own_cgroup
from privbind.mechanisms.bpf.assembly import HELPERS, MAP_VALUE, TESTS, WIDE

ATTR = "union bpf_attr"
SYMBOLS = {
    "BPF_MAP_CREATE": bpf._MAP_CREATE,
    "BPF_MAP_LOOKUP_ELEM": bpf._MAP_LOOKUP_ELEM,
    "BPF_MAP_UPDATE_ELEM": bpf._MAP_UPDATE_ELEM,
    "BPF_PROG_LOAD": bpf._PROG_LOAD,
    "BPF_PROG_ATTACH": bpf._PROG_ATTACH,
    "BPF_PROG_DETACH": bpf._PROG_DETACH,
    "BPF_PROG_GET_FD_BY_ID": bpf._PROG_GET_FD_BY_ID,
    "BPF_MAP_GET_FD_BY_ID": bpf._MAP_GET_FD_BY_ID,
    "BPF_OBJ_GET_INFO_BY_FD": bpf._OBJ_GET_INFO_BY_FD,
    "BPF_PROG_QUERY": bpf._PROG_QUERY,
    "BPF_MAP_FREEZE": bpf._MAP_FREEZE,
    "BPF_PROG_BIND_MAP": bpf._PROG_BIND_MAP,
    "BPF_LINK_CREATE": bpf._LINK_CREATE,
    "BPF_MAP_TYPE_ARRAY": bpf._MAP_TYPE_ARRAY,
    "BPF_MAP_TYPE_RINGBUF": bpf._MAP_TYPE_RINGBUF,
    "BPF_RB_NO_WAKEUP": ring.NO_WAKEUP,
    "BPF_RINGBUF_BUSY_BIT": ring._BUSY,
    "BPF_RINGBUF_DISCARD_BIT": ring._DISCARD,
    "BPF_RINGBUF_HDR_SZ": ring.HEADER,
    "BPF_F_RDONLY_PROG": bpf.MAP_READ_ONLY_IN_PROGRAMS,
    "BPF_F_MMAPABLE": bpf.MAP_MMAPABLE,
    "BPF_PROG_TYPE_CGROUP_SOCK": bpf.PROG_CGROUP_SOCK,
    "BPF_PROG_TYPE_CGROUP_SOCK_ADDR": bpf.PROG_CGROUP_SOCK_ADDR,
    "BPF_CGROUP_INET4_BIND": bpf.INET4_BIND,
    "BPF_CGROUP_INET6_BIND": bpf.INET6_BIND,
    "BPF_CGROUP_INET4_POST_BIND": bpf.INET4_POST_BIND,
    "BPF_CGROUP_INET6_POST_BIND": bpf.INET6_POST_BIND,
    "BPF_F_ALLOW_OVERRIDE": bpf.ALLOW_OVERRIDE,
    "BPF_F_ALLOW_MULTI": bpf.ALLOW_MULTI,
    "BPF_F_REPLACE": bpf._REPLACE,
    "BPF_F_QUERY_EFFECTIVE": bpf._QUERY_EFFECTIVE,
    "BPF_OBJ_NAME_LEN": bpf._NAME_SIZE,
    "sizeof(struct bpf_insn)": bpf._INSTRUCTION_SIZE,
    "BPF_LD | BPF_IMM | BPF_DW": WIDE,
    "BPF_PSEUDO_MAP_VALUE": MAP_VALUE,
    "BPF_JEQ": TESTS["=="],
    "BPF_JGT": TESTS[">"],
    "BPF_JGE": TESTS[">="],
    "BPF_JNE": TESTS["!="],
    "BPF_JLT": TESTS["<"],
    "BPF_JLE": TESTS["<="],
    **{f"BPF_FUNC_{name}": number for name, number in HELPERS.items()},
}
OFFSETS = {
    (ATTR, "map_name"): bpf._CREATE.size - 16,
    (ATTR, "flags"): bpf._ELEMENT.size - 8,
    (ATTR, "value"): 16,
    (ATTR, "license"): 16,
    (ATTR, "log_buf"): 32,
    (ATTR, "prog_flags"): 44,
    (ATTR, "prog_name"): 48,
    (ATTR, "expected_attach_type"): bpf._LOAD.size - 4,
    (ATTR, "attach_flags"): bpf._ATTACH.size - 8,
    (ATTR, "replace_bpf_fd"): bpf._ATTACH.size - 4,
    (ATTR, "query.attach_flags"): bpf._QUERY_FLAGS,
    (ATTR, "query.prog_ids"): 16,
    (ATTR, "query.prog_cnt"): bpf._QUERY_COUNT,
    (ATTR, "prog_bind_map.flags"): bpf._BIND_MAP.size - 4,
    (ATTR, "info.info"): bpf._INFO.size - 8,
    ("struct bpf_prog_info", "id"): bpf._PROGRAM_ID,
    ("struct bpf_prog_info", "nr_map_ids"): bpf._PROGRAM_MAP_COUNT,
    ("struct bpf_prog_info", "map_ids"): bpf._PROGRAM_MAPS,
    ("struct bpf_prog_info", "name"): bpf._PROGRAM_NAME,
    ("struct bpf_map_info", "value_size"): bpf._MAP_VALUE_SIZE,
    ("struct bpf_map_info", "name"): bpf._MAP_NAME,
    ("struct bpf_sock_addr", "user_ip4"): compiler._USER_IP4,
    ("struct bpf_sock_addr", "user_ip6"): compiler._USER_IP6,
    ("struct bpf_sock_addr", "user_port"): compiler._USER_PORT,
    ("struct bpf_sock_addr", "protocol"): compiler._PROTOCOL,
    ("struct bpf_sock", "src_port"): compiler._SRC_PORT,
    (ATTR, "link_create.target_fd"): 4,
    (ATTR, "link_create.attach_type"): 8,
    (ATTR, "link_create.flags"): bpf._LINK.size - 4,
    ("struct bpf_sock_addr", "sk"): watch_program._SK,
}


def test_layouts_are_the_headers(tmp_path: Path) -> None:
    """A C program prints the header's values and offsets; ours are the same."""
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc")
    # A header older than a helper does not name it.
    header = Path("/usr/include/linux/bpf.h").read_text()
    symbols = {
        name: value for name, value in SYMBOLS.items() if not name.startswith("BPF_FUNC_") or f"FN({name[9:]}" in header
    }
    lines = [f'printf("%lu\\n", (unsigned long)({name}));' for name in symbols]
    lines += [f'printf("%lu\\n", (unsigned long)offsetof({kind}, {field}));' for kind, field in OFFSETS]
    source = tmp_path / "layout.c"
    includes = "".join(f"#include <{name}>\n" for name in ("linux/bpf.h", "stddef.h", "stdio.h"))
    source.write_text(f"{includes}int main(void)\n{{\n{''.join(lines)}return 0;\n}}\n")
    subprocess.run(["cc", "-o", tmp_path / "layout", source], check=True)
    printed = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout.split()
    names = [*symbols, *OFFSETS]
    expected = [*symbols.values(), *OFFSETS.values()]
    assert dict(zip(names, map(int, printed), strict=True)) == dict(zip(names, expected, strict=True))


class Kernel:
    """A kernel that takes only some programs: ``lacks`` is what it does not know."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: int, *lacks: object) -> None:
        self.error = error
        self.lacks = lacks
        self.loads = 0
        monkeypatch.setattr(bpf, "load", self.load)
        monkeypatch.setattr(posix, "close", lambda _: None)

    def load(self, name: str, hook: int, code: bytes) -> int:
        assert name == "privbind_trial"
        self.loads += 1
        instructions = [code[i : i + 8] for i in range(0, len(code), 8)]
        used: set[object] = {hook}
        used |= {int.from_bytes(one[4:], "little") for one in instructions if one[0] == 0x85}
        used |= {"lift" for one in instructions if one[0] == 0xB7 and one[1] == 0 and one[4] == compiler.LIFTED}
        if any(what in used or what == "all" for what in self.lacks):
            raise bpf.LoadError(self.error, os.strerror(self.error), "the last words; of the verifier")
        return -1


GRANT = Grant(Policy(None), 3, parse_ports("80"))


@pytest.mark.parametrize(
    ("error", "lacks", "said"),
    [
        (38, "all", "the kernel has no bpf(2) (CONFIG_BPF_SYSCALL)"),
        (22, bpf.INET4_BIND, f"the kernel has no cgroup bind hooks (CONFIG_CGROUP_BPF; {features._FLOOR})"),
        (22, "lift", "a bind hook cannot lift the capability check (Linux 5.14 has all that is needed)"),
        (22, 123, "a bind hook cannot call bpf_get_current_ancestor_cgroup_id (Linux 5.14 has all that is needed)"),
        (22, 122, "a bind hook cannot call bpf_get_netns_cookie (Linux 5.14 has all that is needed)"),
        (22, 49, "a bind hook cannot call bpf_setsockopt (-r needs it)"),
        (22, 187, "a post-bind hook cannot call bpf_set_retval (Linux 5.18; -n needs it)"),
    ],
)
def test_what_is_missing_has_a_name(monkeypatch: pytest.MonkeyPatch, error: int, lacks: object, said: str) -> None:
    Kernel(monkeypatch, error, lacks)
    with pytest.raises(UnsupportedError) as caught:
        features.check(GRANT)
    assert str(caught.value) == f"bpf: {said}"


def test_what_is_not_asked_for_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old kernel serves who wants neither -n nor -r; and a probe loads one program."""
    kernel = Kernel(monkeypatch, 22, 187, 49)
    features.check(Grant(Policy(None)))
    assert kernel.loads == 1


def test_otherwise_the_verifiers_words_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch, 22)
    error = features.missing(GRANT, bpf.LoadError(22, "Invalid argument", "R1 invalid mem access; insn 3"))
    assert str(error) == "bpf: the kernel refuses the program: R1 invalid mem access; insn 3"
    error = features.missing(GRANT, bpf.LoadError(12, "Cannot allocate memory", ""))
    assert str(error) == "bpf: the kernel refuses the program: Cannot allocate memory"


def test_forbidden_for_no_reason_that_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch, 1, "all")
    monkeypatch.setattr(capabilities, "get", lambda: ((1 << 41) - 1,) * 3)
    monkeypatch.setattr(features, "_FIRST_USER_NAMESPACE", os.stat("/proc/self/ns/user").st_ino)
    with pytest.raises(UnsupportedError, match=r"bpf\(2\) is not permitted \(look for a seccomp filter"):
        features.check(GRANT)


class TestLoading:
    """How the verifier's words are found."""

    def test_the_last_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        log = b"0: (b7) r0 = 3\nfirst\nsecond\nthird\nfourth\nprocessed 1 insns (limit 1000000)\n\0rubbish"

        def call(command: int, _: bytearray) -> int:
            assert command == bpf._PROG_LOAD
            raise OSError(22, "Invalid argument")

        real = bpf._load

        def load(name: str, hook: int, code: bytes, buffer: bytearray) -> int:
            buffer[: len(log)] = log[: len(buffer)]
            return real(name, hook, code, buffer)

        monkeypatch.setattr(bpf, "_call", call)
        monkeypatch.setattr(bpf, "_load", load)
        with pytest.raises(bpf.LoadError) as caught:
            bpf.load("name", bpf.INET4_BIND, bytes(8))
        assert caught.value.verifier == "second; third; fourth"
        assert caught.value.errno == 22

    def test_more_programs_than_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Asked for 64, the kernel says how many there are, and is asked again."""
        rooms: list[int] = []

        def call(_: int, attributes: bytearray) -> int:
            room = int.from_bytes(attributes[24:28], "little")
            rooms.append(room)
            attributes[24:28] = (100).to_bytes(4, "little")
            if room < 100:
                raise OSError(28, "No space left on device")
            return 0

        monkeypatch.setattr(bpf, "_call", call)
        assert len(bpf.effective(3, bpf.INET4_BIND)) == 100
        assert rooms == [64, 100]


MOUNTS = """\
22 1 0:20 / /proc rw,nosuid - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
37 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
38 31 0:41 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
99 31 0:41 /a\\040b /mnt/c\\134d rw - cgroup2 none rw,nsdelegate
"""


class TestFinding:
    """How the own cgroup is found from what /proc says."""

    def host(self, monkeypatch: pytest.MonkeyPatch, membership: str | None, mounts: str | None) -> None:
        def read(path: str) -> str:
            text = {"/proc/self/cgroup": membership, "/proc/self/mountinfo": mounts}[path]
            if text is None:
                raise FileNotFoundError(2, "No such file or directory")
            return text

        monkeypatch.setattr(cgroup, "_read", read)

    def test_mounts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host(monkeypatch, None, MOUNTS)
        device = os.makedev(0, 41)
        assert cgroup.mounts("cgroup2") == [(device, "/", "/sys/fs/cgroup/unified"), (device, "/a b", "/mnt/c\\d")]

    @pytest.mark.parametrize(
        ("root", "path", "below"),
        [
            ("/", "/", "/"),
            ("/", "/a/b", "/a/b"),
            ("/a", "/a", ""),
            ("/a", "/a/b", "/b"),
            ("/a", "/ab", None),
            ("/a/b", "/a", None),
            ("/..", "/", None),
            ("/", "/../a", None),
            ("/../..", "/../../a", None),
        ],
    )
    def test_below(self, root: str, path: str, below: str | None) -> None:
        assert cgroup._below(root, path) == below

    @pytest.mark.parametrize(
        ("membership", "mounts", "reason"),
        [
            (None, MOUNTS, "cannot read /proc/self/cgroup: No such file or directory"),
            ("0::/\n", None, "cannot read /proc/self/mountinfo: No such file or directory"),
            ("4:memory:/a\n1:name=systemd:/\n", MOUNTS, "cgroup v2 is not mounted"),
            ("0::/\n", MOUNTS.split("38 ", maxsplit=1)[0], "cgroup v2 is not mounted"),
            ("1:cpu:/\n0::/no/such\n", MOUNTS, "this process's cgroup '/no/such' is not below any cgroup v2 mount"),
        ],
    )
    def test_reasons(
        self, monkeypatch: pytest.MonkeyPatch, membership: str | None, mounts: str | None, reason: str
    ) -> None:
        self.host(monkeypatch, membership, mounts)
        monkeypatch.setattr(cgroup, "_own_identity", lambda: 0)
        with pytest.raises(cgroup.CgroupError) as caught:
            cgroup.own()
        assert str(caught.value).startswith(reason)
        assert caught.value.remedy

    @pytest.mark.parametrize(
        ("number", "reason"), [(30, "read-only"), (1, "may not"), (13, "may not"), (11, "no further")]
    )
    def test_why_none_can_be_made(self, monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
        def mkdir(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(posix, "mkdir", mkdir)
        parent = cgroup.Cgroup("/x", os.open("/", os.O_RDONLY), 1, exact=True)
        try:
            with pytest.raises(cgroup.CgroupError, match=reason):
                own_cgroup.enter_new(parent)
        finally:
            parent.close()
            parent.close()
