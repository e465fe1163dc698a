"""What a file of grants may say, and the one line about each mistake in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.standing.annotations import KNOWN
from privbind.standing.entries import Entry, GrantFileError, parse

COMMAS = "(rules are written with single commas between them: tcp:80,tcp:443)"
FILE = "/etc/privbind/grants.d/web.toml"
HOW = '(write user = "NAME" or a number)'
RULES_HOW = '(write rules in quotes, as in allow = "tcp:80")'
PORTS = {("https", "tcp"): 443, ("https", "udp"): 443, ("mixed", "tcp"): 512, ("mixed", "udp"): 513}


def services(name: str, protocol: str) -> int:
    """A small /etc/services."""
    try:
        return PORTS[name, protocol]
    except KeyError:
        raise OSError("service/proto not found") from None


def read(text: str | bytes) -> tuple[Entry, ...]:
    """The entries of a file with this text."""
    return parse(text if isinstance(text, bytes) else text.encode(), FILE, services)


def refusal(text: str | bytes) -> str:
    """The line about a file that is refused, without the file's name."""
    with pytest.raises(GrantFileError) as caught:
        read(text)
    assert caught.value.status == 125
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(FILE + ":")
    return message.removeprefix(FILE + ":")


def test_all_that_an_entry_may_say() -> None:
    first, second, third = read(
        """
# who serves the web
[[grant]]
user = ["alice", 1001, "alice"]
group = "web"
allow = ["tcp:80", "https", "tcp:[::1]:81,udp:82"]
subids = true

[[grant]]
group = [33]
allow = "tcp:mixed"

[[ grant ]] # one more
container = { "io.kubernetes.pod.uid" = "1", "io.kubernetes.cri.sandbox-name" = "ingress" }
allow = ["tcp:80"]
"""
    )
    assert (first.users, first.groups, first.container) == (("alice", 1001), ("web",), ())
    assert str(first.policy) == "tcp:80,443,tcp:[::1]:81,udp:82"
    assert first.subids
    assert (second.users, second.groups, str(second.policy)) == ((), (33,), "tcp:512")
    assert not second.subids
    assert third.container == (
        ("io.kubernetes.cri.sandbox-name", "ingress"),
        ("io.kubernetes.pod.uid", "1"),
    )
    assert [entry.source for entry in (first, second, third)] == [f"{FILE}:{line}" for line in (3, 9, 13)]


@pytest.mark.parametrize("text", ["", "# nothing\n", "grant = []\n"])
def test_a_file_may_grant_nothing(text: str) -> None:
    assert read(text) == ()


def test_a_service_with_two_ports_is_two_rules() -> None:
    assert str(read('[[grant]]\nuser = "alice"\nallow = "mixed"\n')[0].policy) == "tcp:512,udp:513"


def test_lines_are_those_of_headers_whatever_strings_and_comments_look_like() -> None:
    text = '''#"""
[[grant]]
container = { "io.kubernetes.pod.name" = """
[[grant]]
\\"""" }
allow = "tcp:80" # '[[grant]]
[[grant]] # "
container = { "io.kubernetes.pod.name" = \'\'\'
[[grant]]
\'\'\', "io.kubernetes.pod.uid" = '"', "io.kubernetes.pod.namespace" = "'" }
allow = "tcp:81"
'''
    assert [entry.line for entry in read(text)] == [2, 7]
    assert [entry.line for entry in read(text.replace("\n", "\r\n"))] == [2, 7]


@pytest.mark.parametrize(
    "text",
    [
        'grant = [{ user = "alice", allow = "tcp:80" }, { user = "bob", allow = "tcp:0" }]',
        '[["grant"]]\nuser = "alice"\nallow = "tcp:80"\n[[grant]]\nuser = "bob"\nallow = "tcp:0"\n',
    ],
)
def test_where_lines_are_not_known_the_entry_is_counted(text: str) -> None:
    assert refusal(text) == (
        " entry 2: rule 'tcp:0': port '0' is not a whole number from 1 to 65535"
        " (port 0 means any free port, which needs no grant)"
    )
    assert [entry.line for entry in read(text.replace("tcp:0", "tcp:1"))] == [0, 0]
    assert read(text.replace("tcp:0", "tcp:1"))[0].source == FILE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[[grant]\n",
            "1: not TOML: Expected ']]' at the end of an array declaration at column 8 (see privbind-grants(5))",
        ),
        ("\n\n[[grant]]\nallow = [tcp:80]\n", "4: not TOML: Invalid value at column 10 (see privbind-grants(5))"),
        ("[[grant]]\nuser =", "2: not TOML: Invalid value (see privbind-grants(5))"),
        (
            '[[grant]]\nuser = "a"\nuser = "b"\n',
            "3: not TOML: Cannot overwrite a value at column 11 (see privbind-grants(5))",
        ),
        (b"[[grant]]\n# \xe4\n", "2: byte 0xe4 is not UTF-8 (save the file as UTF-8)"),
        ("a = " + "[" * 100_000, " not TOML: nested too deeply (see privbind-grants(5))"),
        ('\nusers = "alice"\n', "2: unknown key 'users' (a grant begins with [[grant]])"),
        ("# x\n[defaults]\n", "2: unknown key 'defaults' (a grant begins with [[grant]])"),
        ('"user" = 1\n', " unknown key 'user' (a grant begins with [[grant]])"),
        ('\n[grant]\nuser = "a"\n', "2: 'grant' is not a list of tables (a grant begins with [[grant]])"),
        ("grant = 1\n", "1: 'grant' is not a list of tables (a grant begins with [[grant]])"),
        ("grant = [1]\n", "1: 'grant' is not a list of tables (a grant begins with [[grant]])"),
    ],
)
def test_what_is_wrong_with_a_file(text: str | bytes, message: str) -> None:
    assert refusal(text) == message


def test_a_number_of_thousands_of_digits_is_no_traceback() -> None:
    assert refusal("a = " + "1" * 5000).startswith(" not TOML: Exceeds the limit")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('users = "a"', "unknown key 'users' (did you mean user?)"),
        ('user = "a"\nports = [80]', "unknown key 'ports' (did you mean allow?)"),
        ('user = "a"\ndeny = "80"', "unknown key 'deny' (known are user, group, allow, subids, container)"),
        ('allow = "80"', "it is nobody's grant (say whose: user or group, or container)"),
        ('user = []\ngroup = []\nallow = "80"', "it is nobody's grant (say whose: user or group, or container)"),
        ("user = true", f"user: true is neither a name nor a uid {HOW}"),
        ("user = 3.5", f"user: the number 3.5 is neither a name nor a uid {HOW}"),
        ("user = [[1001]]", f"user: a list is neither a name nor a uid {HOW}"),
        ("user = { name = 1 }", f"user: a table is neither a name nor a uid {HOW}"),
        ("user = 2026-11-24", f"user: a date or time is neither a name nor a uid {HOW}"),
        ('user = ""', f"user: a name is empty {HOW}"),
        ('user = "1001"', 'user: "1001" would be a name (a uid is written without quotes: 1001)'),
        ('group = ["33"]', 'group: "33" would be a name (a gid is written without quotes: 33)'),
        ("user = -1", "user: -1 is not a uid from 1 to 4294967294"),
        ("user = 4294967295", "user: 4294967295 is not a uid from 1 to 4294967294"),
        ("group = 4294967295", "group: 4294967295 is not a gid from 1 to 4294967294"),
        (
            'user = ["a", "root"]',
            "user: root may bind every port without a grant (name the user that the server runs as)",
        ),
        ("user = 0", "user: root may bind every port without a grant (name the user that the server runs as)"),
        ('group = "root"', "group: group 0 cannot hold a grant (name another group, or the users)"),
        ("group = 0", "group: group 0 cannot hold a grant (name another group, or the users)"),
        ('user = "a"', 'allow is missing or empty (say what may be bound, as in allow = "tcp:80")'),
        ('user = "a"\nallow = []', 'allow is missing or empty (say what may be bound, as in allow = "tcp:80")'),
        ('user = "a"\nallow = 80', f"allow: the number 80 is not a rule {RULES_HOW}"),
        ('user = "a"\nallow = ["80", 443]', f"allow: the number 443 is not a rule {RULES_HOW}"),
        ('user = "a"\nallow = ""', f"rule '': it is empty {COMMAS}"),
        ('user = "a"\nallow = ["80,"]', f"rule '': it is empty {COMMAS}"),
        ('user = "a"\nallow = "sctp:80"', "rule 'sctp:80': unknown protocol 'sctp' (tcp or udp)"),
        (
            'user = "a"\nallow = "any reserved port"',
            "rule 'any reserved port': 'any reserved port' is neither a port from 1 to 65535 nor a known service",
        ),
        (
            'user = "a"\nallow = "10.0.0.1/8:80"',
            "rule '10.0.0.1/8:80': 10.0.0.1/8 has bits set below its prefix (write 10.0.0.0/8:80)",
        ),
        (
            f'user = "a"\nallow = {json.dumps(["80"] * 1001)}',
            "1001 rules are more than 1000 (write neighbouring ports as a range: 8000-8080)",
        ),
        (
            'user = "a"\nallow = "80"\nsubids = "yes"',
            "subids: text is neither true nor false (write subids = true, or leave it out)",
        ),
        (
            'container = {}\nallow = "80"',
            'container: an empty table names no container (write container = { "ANNOTATION" = "VALUE" })',
        ),
        (
            'container = "ingress"\nallow = "80"',
            'container: text names no container (write container = { "ANNOTATION" = "VALUE" })',
        ),
        (
            'container = { io.namespace = "x" }\nallow = "80"',
            "container: the value of 'io' is a table, not text (a name with dots needs quotes)",
        ),
        (
            'container = { "a" = 1 }\nallow = "80"',
            "container: the value of 'a' is the number 1, not text (write it in quotes)",
        ),
        (
            'container = { "org.privbind.allow" = "80" }\nallow = "80"',
            "container: no runtime sets 'org.privbind.allow' itself, so an image or a pod could (known are "
            + ", ".join(KNOWN)
            + ")",
        ),
        *(
            (f'container = {{ a = "b" }}\n{line}', f"{key} and container cannot stand together (write two grants)")
            for key, line in (("user", 'user = "a"'), ("group", 'group = "a"'), ("subids", "subids = true"))
        ),
    ],
)
def test_what_is_wrong_with_an_entry(entry: str, message: str) -> None:
    """The line is that of the entry's header."""
    assert refusal(f'[[grant]]\nuser = "ok"\nallow = "80"\n\n[[grant]]\n{entry}\n') == f"5: {message}"


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    st.lists(
        st.tuples(
            TEXT,
            st.sampled_from(["'''", '"""', '"']),
            st.integers(0, 3),
            st.sampled_from(["", " # [[grant]]", "\n[[ grant ]]x"]),
        ),
        max_size=5,
    )
)
def test_headers_are_found_beside_any_text(parts: list[tuple[str, str, int, str]]) -> None:
    """Each entry's line is the one on which its header was put, whatever text and comments stand around it."""
    lines: list[int] = []
    text = ""
    for value, quotes, blank, comment in parts:
        text += "\n" * blank + "# " + comment.replace("\n", " ") + "\n"
        lines.append(text.count("\n") + 1)
        text += "[[grant]]" + comment.partition("\n")[0] + '\ncontainer = { "io.kubernetes.pod.name" = '
        if quotes == '"':
            text += json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        elif quotes == '"""':
            inner = json.dumps(value, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")
            text += '"""' + inner.replace("\\n", "\n[[grant]]\n") + '"""'
        else:
            clean = "".join(char for char in value if char.isprintable() and char != "'")
            text += "'''\n[[grant]]\n" + clean + "'''"
        text += ' }\nallow = "80"\n'
    assert [entry.line for entry in read(text)] == lines


@given(st.binary(max_size=300) | TEXT.map(lambda text: ("[[grant]]\n" + text).encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Whatever is in a file, the answer is entries or a GrantFileError."""
    try:
        parse(data, FILE, services)
    except GrantFileError:
        pass
